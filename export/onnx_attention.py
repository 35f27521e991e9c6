"""Attention as one ONNX node per layer: GroupQueryAttention of ONNX Runtime's own operators (com.microsoft).

Traced as it stands, grouped attention copies each key and value head for every query head it serves, the whole cache
at every token. The operator reads the cache where it lies, and appends to it. It takes causal attention over whole or
right-padded prompts; what is masked at the left of a batch is not seen by it, as in the graphs of transformers.js and
of onnxruntime-genai.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "edgekit_group_query_attention"
OPERATOR = "com.microsoft::GroupQueryAttention"


@dataclass
class _Trace:
    """The cache of the forward being traced: what goes into each layer, and what came out."""

    past: list[Tensor] = field(default_factory=list)
    present: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    lengths: Tensor | None = None
    total: Tensor | None = None


@contextmanager
def grouped(text: nn.Module) -> Iterator[nn.Module]:
    """A decoder like `Split.text_decoder` that is traced to one attention node per layer; it cannot be run.

    Args:
        text: `Split.text`; its configuration is put back at the end.
    """
    from torch import nn
    from transformers import AttentionInterface, DynamicCache

    trace = _Trace()
    model: Any = text
    config = model.text_model.config
    AttentionInterface.register(NAME, lambda *args, **kwargs: (_attend(trace, *args, **kwargs), None))
    before, config._attn_implementation = config._attn_implementation, NAME

    class Cache(DynamicCache):  # type: ignore[misc]
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            """The new keys and values alone: the operator appends them."""
            return key_states, value_states

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = text

        def forward(
            self, inputs_embeds: Any, attention_mask: Any, position_ids: Any, past: list[Any], deepstack: Any = None
        ) -> tuple[Any, ...]:
            import torch

            trace.past = list(past)
            trace.present.clear()
            trace.lengths = (attention_mask.sum(1) - 1).to(torch.int32)
            trace.total = torch.full((), attention_mask.shape[1], dtype=torch.int32)
            logits = self.text(inputs_embeds, attention_mask, position_ids, Cache(config=config), deepstack)
            present = [tensor for layer in sorted(trace.present) for tensor in trace.present[layer]]
            return (logits, *present)

    try:
        yield Decoder().eval()
    finally:
        config._attn_implementation = before


def _attend(
    trace: _Trace,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """What transformers calls for each layer: (B, H, T, D) -> (B, T, H, D)."""
    import torch

    layer = int(module.layer_idx)
    past = trace.past[2 * layer : 2 * layer + 2]
    batch, heads, tokens, width = query.shape
    kept = (batch, key.shape[1], past[0].shape[2] + tokens, width)
    rows = [part.transpose(1, 2).reshape(batch, tokens, -1) for part in (query, key, value)]
    mixed, *present = torch.onnx.ops.symbolic_multi_out(
        OPERATOR,
        [*rows, *past, trace.lengths, trace.total],
        {
            "num_heads": heads,
            "kv_num_heads": key.shape[1],
            "scale": float(scaling if scaling is not None else width**-0.5),
            "local_window_size": int(sliding_window) if sliding_window else -1,
            "do_rotary": 0,
        },
        dtypes=(query.dtype, key.dtype, value.dtype),
        shapes=(rows[0].shape, kept, kept),
        version=1,
    )
    trace.present[layer] = (present[0], present[1])
    return mixed.reshape(batch, tokens, heads, width)
