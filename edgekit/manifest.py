"""manifest.json of a bundle: what it says, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NOT_RUN = "lowered, not run"
"""`verified_by` of a bundle that nothing on the exporting machine runs."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a component."""

    name: str
    dtype: str
    """NumPy's name, such as float32 or int64."""
    shape: tuple[int | str, ...]
    """A number is fixed; a name is free, the same name the same size."""


@dataclass(frozen=True)
class Component:
    """One of the modules a student is split into."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str | None = None
    """Common name of its own weights; null where the bundle's is all that is said."""


@dataclass(frozen=True)
class Precision:
    """How the weights are stored."""

    common: str
    """fp32, fp16, int8, ...: the same word for every target."""
    native: str
    """The target's own word for it."""


@dataclass(frozen=True)
class Text:
    """Where tokenizer and template are, and the ids a loop must know."""

    tokenizer: str
    chat_template: str
    image_token_id: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Cache:
    """Shape of the key-value cache."""

    layers: int
    kv_heads: int
    head_dim: int
    in_place: bool = False
    """The decoder takes one buffer as past and as present, longer than what is in it, and appends to it."""
    rewinds: bool = True
    """Its last tokens can be forgotten; else another text begins with an empty cache."""


@dataclass(frozen=True)
class Bucket:
    """A vision encoder, and the images it is for."""

    component: str
    """Its name among the components."""
    grid: tuple[int, ...] | None
    """Of the one image it takes, as the family counts it; null for tiles, any number of them; empty for one view of any
    size (schema 4)."""
    tokens: int
    """Image tokens of an image, or of a tile; of any view the most there are."""


@dataclass(frozen=True)
class Manifest:
    """What a bundle is."""

    schema_version: int
    name: str
    target: str
    precision: Precision
    family: str
    """File name in edgekit/families."""
    files: dict[str, FileEntry]
    """Every file but the manifest itself, by relative POSIX name."""
    components: dict[str, Component]
    """vision_encoder, or vision_encoder_448x448 and so on, one for each bucket; token_embedding, text_decoder."""
    preprocessing: dict[str, Any]
    """Image parameters, as the family reads them."""
    text: Text
    cache: Cache
    vocab_size: int
    student_sha256: str
    """Of the checkpoint this was exported from."""
    teacher_sha256: str | None = None
    run: str | None = None
    tools: dict[str, str] = field(default_factory=dict)
    """Versions of what made it."""
    parity: dict[str, Any] | None = None
    """Measured at export, against the PyTorch modules; `verified_by` NOT_RUN where no runtime was there to run it, and
    `passed` is null then."""
    buckets: dict[str, Bucket] = field(default_factory=dict)
    """Vision encoders by bucket; the only one is named "". Empty in schema 1, whose one encoder took tiles."""
    position_axes: int = 1
    """3 where position_ids are (3, B, T), M-RoPE's frame, row and column; else 1."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the target keeps of how it was made; gguf: types, fallbacks, how llama.cpp's programs see a prompt."""
    deepstack: int = 0
    """Decoder layers that the vision encoder's second output is added behind."""
    generation: dict[str, Any] | None = None
    """The model's own generation settings by transformers' names, those that are set (edgekit/checkpoint/generation.py
    says what each does); null in bundles from before, which have them in generation_config.json."""
    seal: str = ""
    """SHA-256 of manifest.json as it would be with 64 zeros here; empty in schema 1 and 2, which had none."""

    def view_tokens(self, component: str) -> int | None:
        """Tokens of the largest view that a vision encoder of any view takes; None for other components."""
        views = (bucket for bucket in self.buckets.values() if bucket.grid == ())
        return next((bucket.tokens for bucket in views if bucket.component == component), None)

    def encoders(self) -> dict[str, tuple[str, tuple[int, ...] | None]]:
        """Component and grid of each bucket, of any schema."""
        if not self.buckets:
            return {"": ("vision_encoder", None)}
        return {name: (bucket.component, bucket.grid) for name, bucket in self.buckets.items()}
