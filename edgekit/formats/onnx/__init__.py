"""ONNX: how its graphs are looked into."""

HEAD, ROTATED = 8, 16
"""Divisors of the widths of heads that GroupQueryAttention takes, and that it rotates (ONNX Runtime 1.31)."""
