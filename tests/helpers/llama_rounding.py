"""What llama.cpp rounds in a vision encoder, in PyTorch: patches cut in float16, GELU read from a table of float16."""

from __future__ import annotations

import copy
from typing import Any


def rounded(encoder: Any) -> Any:
    """A copy of a vision encoder that rounds as llama.cpp does, and is exact elsewhere.

    Source: llama.cpp, ggml-cpu/ops.cpp (im2col to float16, beside a kernel in float16) and vec.h (GGML_GELU_FP16: a
    table over all float16 between -10 and 10).
    """
    import torch
    from torch import nn

    def half(values: Any) -> Any:
        return values.half().float()

    class Table(nn.Module):
        def forward(self, x: Any) -> Any:
            inside = half(nn.functional.gelu(half(x), approximate="tanh"))
            return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, inside))

    class Patches(nn.Module):
        def __init__(self, conv: Any) -> None:
            super().__init__()
            self.weight, self.bias, self.stride = conv.weight, conv.bias, conv.stride

        def forward(self, x: Any) -> Any:
            return nn.functional.conv2d(half(x), half(self.weight), self.bias, self.stride)

    twin = copy.deepcopy(encoder)
    for part in list(twin.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, nn.Conv2d):
                setattr(part, name, Patches(child))
            elif type(child).__name__ in ("GELUTanh", "PytorchGELUTanh") or isinstance(child, nn.GELU):
                setattr(part, name, Table())
    return twin
