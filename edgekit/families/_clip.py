"""How llama.cpp's clip names and reads a family's vision encoder: what a family file says for GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Names = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class MmProj:
    """A family's vision encoder as a mmproj file.

    Attributes:
        projector: llama.cpp's name for its kind.
        tensors: Parameter names of the whole model, without `.weight` and `.bias`, a star for a number, to GGUF names.
            Several names take equal parts of the rows, as of a joint query, key and value.
        metadata: What stands under `clip.vision.` beside the sizes that `sizes` gives.
        sizes: image_size and patch_size (pixels), embedding_length, feed_forward_length, block_count and
            attention.head_count.
        placeholder: Text that stands for an image in a rendered prompt, with what clip puts around it by itself.
        pieces: Texts that the vocabulary must hold as one piece each; llama.cpp ends the process without them.
        cls_last: GGUF names whose first row goes to the end, where llama.cpp looks for the class token's.
        flat_kernels: GGUF names of linear layers over the flattened pixels (P, P, 3) of a patch, which llama.cpp has as
            a kernel (3, P, P).
        image_tokens: Least and most tokens of one of edgekit's prepared parts: with them mtmd leaves it as it is.
    """

    projector: str
    tensors: Names
    metadata: Mapping[str, Any]
    sizes: Mapping[str, int]
    placeholder: str
    pieces: tuple[str, ...]
    cls_last: frozenset[str] = field(default_factory=frozenset)
    flat_kernels: frozenset[str] = field(default_factory=frozenset)
    image_tokens: tuple[int, int] | None = None


def vit(prefix: str, names: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    """The names of one encoder layer, below `prefix`, as GGUF's `v.blk.*`."""

    def place(name: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return f"v.blk.*.{name}" if isinstance(name, str) else tuple(f"v.blk.*.{one}" for one in name)

    return {f"{prefix}.*.{ours}": place(theirs) for ours, theirs in names.items()}


SIGLIP: Names = {
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
}
"""Names of an encoder layer of SigLIP's towers, for `vit`."""
