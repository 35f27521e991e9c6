"""The gated delta rule as one ONNX node per layer: LinearAttention of ONNX Runtime's own operators (com.microsoft).

The operator goes from token to token by itself, so one graph is right for a prompt of any length and for one token.
Written in plain operators the same is a Scan over tokens, whose every step starts a session's worth of small nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OPERATOR = "com.microsoft::LinearAttention"


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A `Rule` that is traced to one node; it cannot be run."""
    import torch

    assert state is not None
    batch, tokens, heads, width = value.shape
    rows = [part.reshape(batch, tokens, -1) for part in (query, key, value)]
    out, after = torch.onnx.ops.symbolic_multi_out(
        OPERATOR,
        [*rows, state, decay, beta],
        {
            "q_num_heads": heads,
            "kv_num_heads": heads,
            "scale": float(query.shape[-1] ** -0.5),
            "update_rule": "gated_delta",
        },
        dtypes=(value.dtype, state.dtype),
        shapes=(rows[2].shape, state.shape),
        version=1,
    )
    return out.reshape(batch, tokens, heads, width), after
