"""Hugging Face folders looked into as a target's bundles are."""
