"""Small models of well-known shapes with random weights, and their conversion by coremltools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def convert(model: nn.Module, example: tuple[Tensor, ...], folder: Path, *, fp32: bool = False, **options: Any) -> Any:
    """Trace and convert with coremltools and save; the converted model."""
    import coremltools as ct

    from edgekit.export.coreml_patches import patched

    with torch.no_grad(), patched():
        traced = torch.jit.trace(model.eval(), example)
        options.setdefault("inputs", [ct.TensorType(f"in{at}", shape=part.shape) for at, part in enumerate(example)])
        precision = ct.precision.FLOAT32 if fp32 else ct.precision.FLOAT16
        options.setdefault("outputs", [ct.TensorType("out")])
        converted = ct.convert(
            traced,
            minimum_deployment_target=options.pop("target", ct.target.iOS18),
            compute_precision=precision,
            skip_model_load=True,
            **options,
        )
    converted.save(str(folder))
    return converted


class Residual(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.short = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


def settled(model: nn.Module) -> nn.Module:
    """Batch statistics that are not all zero and one."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return model.eval()


def resnet(width: int = 16) -> nn.Module:
    """Stem with max pooling, four residual blocks, average pooling, classifier."""
    return settled(
        nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            Residual(width, width, 1),
            Residual(width, 2 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )
    )


class Inverted(nn.Module):
    """MobileNet V3's block: expansion, depthwise convolution, squeeze and excitation."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Sequential(
            nn.Conv2d(wide, wide, 5, stride, 2, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.SiLU(), nn.Conv2d(8, wide, 1))
        self.project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.same = width == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.expand(x))
        y = self.project(y * functional.hardsigmoid(self.gate(y)))
        return x + y if self.same else y


def mobilenet() -> nn.Module:
    """Stem, three inverted residuals, classifier."""
    return settled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            Inverted(8, 8, 1),
            Inverted(8, 16, 2),
            Inverted(16, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
            nn.LogSoftmax(-1),
        )
    )


class Bert(nn.Module):
    """Embeddings, two encoder layers with a padding mask, a tanh pooler."""

    def __init__(self, width: int = 64, vocabulary: int = 100) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList([Layer(width) for _ in range(2)])
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1])
        x = self.norm(self.words(ids) + self.places(at))
        added = (1.0 - mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            x = layer(x, added)
        return torch.tanh(self.pool(x[:, 0]))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        shares = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask, -1)
        x = self.first(x + self.out((shares @ v).transpose(1, 2).flatten(2)))
        return self.second(x + self.down(functional.gelu(self.up(x))))


class Decoder(nn.Module):
    """A decoder that keeps keys and values in buffers: x (1, T, D), mask (1, 1, T, S) with S the length after it."""

    def __init__(
        self, width: int = 32, layers: int = 2, context: int = 24, vocabulary: int = 50, mlp: int = 64
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CachedLayer(width, mlp) for _ in range(layers)])
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        for at in range(layers):
            for kind in "kv":
                self.register_buffer(f"{kind}_{at}", torch.zeros(1, 2, context, width // 4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for at, layer in enumerate(self.layers):
            x = layer(x, mask, getattr(self, f"k_{at}"), getattr(self, f"v_{at}"))
        return self.head(self.norm(x))

    def states(self) -> list[Any]:
        """Its buffers as coremltools' states."""
        import coremltools as ct
        import numpy as np

        return [
            ct.StateType(wrapped_type=ct.TensorType(shape=buffer.shape, dtype=np.float16), name=name)
            for name, buffer in self.named_buffers()
        ]


class CachedLayer(nn.Module):
    """RMSNorm, attention with 4 query heads on 2 key heads, gated MLP."""

    def __init__(self, width: int, mlp: int) -> None:
        super().__init__()
        self.heads = 4
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(width, width // 2, bias=False), nn.Linear(width, width // 2, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, mlp, bias=False), nn.Linear(width, mlp, bias=False)
        self.down = nn.Linear(mlp, width, bias=False)
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        y = self.first(x)
        q = self.q(y).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = (part(y).unflatten(-1, (2, -1)).transpose(1, 2) for part in (self.k, self.v))
        end = mask.shape[-1]
        start = end - q.shape[-2]
        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        k, v = (part[:, :, :end].repeat_interleave(2, 1) for part in (keys, values))
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.o(found.transpose(1, 2).flatten(2))
        y = self.second(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


def causal(tokens: int, end: int) -> Tensor:
    """(1, 1, T, S): 0 where a token may look, else -1e4."""
    return torch.triu(torch.full((tokens, end), -1e4), end - tokens + 1)[None, None]
