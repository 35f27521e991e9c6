"""Attention as one ONNX node per layer: GroupQueryAttention of ONNX Runtime's own operators (com.microsoft).

Traced as it stands, grouped attention copies each key and value head for every query head it serves, the whole cache
at every token. The operator reads the cache where it lies, and appends to it. It takes causal attention over whole or
right-padded prompts; what is masked at the left of a batch is not seen by it, as in the graphs of transformers.js and
of onnxruntime-genai.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.families import Split
from edgekit.formats.onnx import HEAD, ROTATED

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "edgekit_group_query_attention"
OPERATOR = "com.microsoft::GroupQueryAttention"


def fits(split: Split) -> bool:
    """Whether the operator can stand for a decoder's attention; else it is traced as it stands.

    It takes heads of a multiple of HEAD, and lets no token see a later one.
    """
    return "blocks" not in split.needs() and split.head_dim % HEAD == 0


@dataclass
class _Trace:
    """The cache of the forward being traced, by layer and kind: what goes into each layer, and what came out."""

    past: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    present: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    lengths: Tensor | None = None
    total: Tensor | None = None


@contextmanager
def grouped(split: Split) -> Iterator[nn.Module]:
    """A decoder like `Split.text_decoder` that is traced to one attention node per layer; it cannot be run.

    Args:
        split: The configuration of its text model is put back at the end.
    """
    from torch import nn
    from transformers import AttentionInterface, DynamicCache

    trace = _Trace()
    tensors = [(tensor.layer, tensor.kind) for tensor in split.states]
    text: Any = split.text
    config = text.text_model.config
    AttentionInterface.register(NAME, lambda *args, **kwargs: (_attend(trace, *args, **kwargs), None))
    before, config._attn_implementation = config._attn_implementation, NAME

    class Cache(DynamicCache):  # type: ignore[misc]
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            """The new keys and values alone: the operator appends them."""
            return key_states, value_states

        def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Any:
            """The last inputs of a convolution."""
            return trace.past[layer_idx, "conv"]

        def update_conv_state(self, conv_states: Any, layer_idx: int, state_idx: int = 0, **kwargs: Any) -> Any:
            """The new inputs behind the last ones, whose place the newest take."""
            import torch

            past = trace.past[layer_idx, "conv"]
            whole = torch.cat([past, conv_states], dim=-1)
            trace.present[layer_idx, "conv"] = whole[..., -past.shape[-1] :]
            return whole

        def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Any:
            """The matrices of a layer."""
            return trace.past[layer_idx, "recurrent"]

        def update_recurrent_state(self, recurrent_states: Any, layer_idx: int, state_idx: int = 0, **_: Any) -> Any:
            """The new ones in their place."""
            trace.present[layer_idx, "recurrent"] = recurrent_states
            return recurrent_states

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = text

        def forward(
            self,
            inputs_embeds: Any,
            attention_mask: Any,
            position_ids: Any,
            past: list[Any],
            features: Sequence[Any] = (),
        ) -> tuple[Any, ...]:
            import torch

            trace.past = dict(zip(tensors, past, strict=True))
            trace.present.clear()
            trace.lengths = (attention_mask.sum(1) - 1).to(torch.int32)
            trace.total = torch.full((), attention_mask.shape[1], dtype=torch.int32)
            logits = self.text(inputs_embeds, attention_mask, position_ids, Cache(config=config), *features)
            return (logits, *(trace.present[name] for name in tensors))

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
    past = [trace.past[layer, kind] for kind in ("key", "value")]
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
    trace.present[layer, "key"], trace.present[layer, "value"] = present
    return mixed.reshape(batch, tokens, heads, width)


def drop_round_trips(model: Any) -> int:
    """Take out reshapes that only undo one another, as tracing leaves them around heads: a dozen in a layer.

    Args:
        model: onnx_ir's; a value at the end of a chain of reshapes is replaced by the first of the chain with the same
            shape, free sizes of one name being one size.

    Returns:
        How many values were replaced.
    """
    dropped = 0
    for node in list(model.graph):
        if node.op_type != "Reshape":
            continue
        value, source, same = node.outputs[0], node.inputs[0], None
        while source is not None:
            if source.shape is not None and value.shape is not None and source.shape == value.shape:
                same = source
            maker = source.producer()
            source = maker.inputs[0] if maker is not None and maker.op_type == "Reshape" else None
        if same is not None and not value.is_graph_output():
            value.replace_all_uses_with(same)
            dropped += 1
    if dropped:
        _drop_unused(model)
    return dropped


def _drop_unused(model: Any) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def drop_statistics(model: Any) -> int:
    """Leave out the means and deviations that fused norms would write and nothing reads: two buffers a norm.

    Measured at the shape of SmolVLM-256M in int4: a token takes 3 to 4 % less time.

    Args:
        model: onnx_ir's.

    Returns:
        How many were left out.
    """
    dropped = 0
    for node in model.graph:
        if node.op_type == "SkipSimplifiedLayerNormalization":
            for value in node.outputs:
                if value.name and not value.uses() and not value.is_graph_output():
                    value.name = ""  # how ONNX writes an optional output that is not wanted
                    dropped += 1
    return dropped


MAX_TABLES = 2**25  # bytes; above it the angles are computed as they come
# Angles of these depend on nothing but the position.
FIXED_ROPE = frozenset({"default", "linear", "llama3"})


def rotary_tables(split: Split) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Cosines and sines (P, D_head / 2) of every position a decoder knows.

    Returns:
        None where angles depend on more than one position, the operator cannot rotate such heads, or the tables would
        be large.
    """
    import torch

    text: Any = split.text
    config = text.text_model.config
    rotary = getattr(text.text_model, "rotary_emb", None)
    length = int(getattr(config, "max_position_embeddings", 0))
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rotary is None or split.position_axes != 1 or kind not in FIXED_ROPE or split.head_dim % ROTATED:
        return None
    if not 0 < 4 * length * split.head_dim <= MAX_TABLES:
        return None
    with torch.no_grad():
        tables = rotary(torch.zeros(1, 1, split.width), torch.arange(length)[None])
    half = split.head_dim // 2
    cos, sin = (np.ascontiguousarray(table[0, :, :half].numpy()) for table in tables)
    return cos, sin


def pack_rotary(model: Any, cos: NDArray[np.float32], sin: NDArray[np.float32]) -> int:
    """Hand queries, keys and values to the attention node as one product makes them, unrotated; it rotates them.

    The node counts positions by itself, from the lengths that it has of the mask. An input for them that nothing reads
    any longer is taken out of the graph.

    Args:
        model: onnx_ir's, after `drop_round_trips`; layers of another make stay as they are.
        cos, sin: From `rotary_tables`.

    Returns:
        How many layers were changed.
    """
    import onnx_ir

    held = {}
    for name, table in (("cos_cache", cos), ("sin_cache", sin)):
        held[name] = onnx_ir.Value(
            name=name,
            const_value=onnx_ir.tensor(table, name=name),
            type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
            shape=onnx_ir.Shape(table.shape),
        )
    changed = 0
    for node in list(model.graph):
        packed = _packed(node, cos.shape[1]) if node.op_type == "GroupQueryAttention" else None
        if packed is None:
            continue
        attributes = dict(node.attributes) | {"do_rotary": onnx_ir.AttrInt64("do_rotary", 1)}
        inputs = [packed, None, None, *node.inputs[3:7], held["cos_cache"], held["sin_cache"]]
        new = onnx_ir.Node(node.domain, node.op_type, inputs, attributes.values(), outputs=_moved(node))
        model.graph.insert_before(node, new)
        model.graph.remove(node, safe=True)
        changed += 1
    if changed:
        for value in held.values():
            model.graph.register_initializer(value)
        _drop_unused(model)
        for value in [value for value in model.graph.inputs if value.name == "position_ids" and not value.uses()]:
            model.graph.inputs.remove(value)
    return changed


def _packed(node: Any, half: int) -> Any:
    """The product that an attention node's three inputs are split from; None where they are made in another way."""
    if any(value is None for value in node.inputs[:3]):
        return None  # packed already
    rotated = [value.producer() for value in node.inputs[:2]]
    if any(maker is None or maker.op_type != "RotaryEmbedding" for maker in rotated):
        return None
    if list(rotated[0].inputs[1:]) != list(rotated[1].inputs[1:]):
        return None
    for maker in rotated:
        attributes = {name: attribute.value for name, attribute in maker.attributes.items()}
        if attributes.get("interleaved", 0) or attributes.get("rotary_embedding_dim", 0) not in (0, 2 * half):
            return None
    parts = [*(maker.inputs[0] for maker in rotated), node.inputs[2]]
    source = parts[0].producer()
    if source is None or source.op_type != "Split" or list(source.outputs) != parts:
        return None
    return source.inputs[0]


def _moved(node: Any) -> list[Any]:
    """Values with the names of a node's outputs, taken over by all that read them."""
    import onnx_ir

    moved = []
    for value in node.outputs:
        new = onnx_ir.Value(name=value.name, type=value.type, shape=value.shape)
        value.replace_all_uses_with(new, replace_graph_outputs=True)
        moved.append(new)
    return moved
