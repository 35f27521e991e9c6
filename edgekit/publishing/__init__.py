"""Handing a run on: its card, and the hub."""
