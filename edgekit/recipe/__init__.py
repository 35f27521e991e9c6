"""Recipes: the model, its checks, and how they are read from YAML."""
