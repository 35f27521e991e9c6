"""ONNX: how its graphs are looked into."""
