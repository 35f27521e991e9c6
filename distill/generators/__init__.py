"""Generators write responses: one file each, holding

sample(model, processor, prompts, count, settings, seed) -> for each prompt `count` lists of token ids.
"""
