"""Core AI: how its assets are called, in a process of their own, and looked into."""
