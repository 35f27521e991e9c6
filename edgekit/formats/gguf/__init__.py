"""GGUF: llama.cpp in a process of its own, the header of its files, and what stands in them."""
