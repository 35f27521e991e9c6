"""Reports: the model, what is said of it in words, on a page and in plots, and what two of them differ in."""
