"""From messages and images to a model's inputs, without transformers."""
