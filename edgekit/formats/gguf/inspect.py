"""Inside GGUF files. They hold tensors and no graph, so operations are counted from the tensors' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BundleError, MissingExtraError
from edgekit.formats import Held, Part, Reader, Role, State, is_encoder
from edgekit.formats.gguf.checks import check_files
from edgekit.manifest import Component

CACHE = "float16"
ADDED = ("v.position_embd", "v.class_embd")  # added to embeddings, and in no product
CONVOLUTIONS, RECURRENCE = (".shortconv.conv.weight", ".ssm_conv1d.weight"), ".ssm_a"
TABLE, HEAD = "token_embd.weight", "output.weight"


def read(bundle: Bundle) -> dict[str, Part]:
    """The parts of a bundle of target gguf.

    Raises:
        MissingExtraError: gguf is not installed.
        BundleError: a file is no GGUF, or not the one that the manifest describes.
    """
    check_files(bundle)
    return {name: _part(bundle, name, part) for name, part in bundle.manifest.components.items()}


def _part(bundle: Bundle, name: str, component: Component) -> Part:
    reader = _open(bundle.path(component.file))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if is_encoder(name):
        return _vision(bundle, name, component, reader, tensors)
    chosen = {TABLE: tensors[TABLE]}
    if name == "text_decoder":
        tied = HEAD not in tensors
        chosen = {key: tensor for key, tensor in tensors.items() if tied or key != TABLE}
    held = {key: _held(component.file, key, tensor, table=name == "token_embedding") for key, tensor in chosen.items()}
    cache = bundle.manifest.cache
    known = _field(reader, f"{reader.fields['general.architecture'].contents()}.context_length")
    context = int(bundle.manifest.details.get("text", {}).get("context", known))
    states = tuple(
        State(f"{kind} of layer {layer}", CACHE, (context, cache.kv_heads, cache.head_dim))
        for layer in range(cache.layers)
        for kind in ("keys", "values")
    )
    states += tuple(_others(reader, tensors))
    return Part(
        _names(chosen),
        tuple(held.values()),
        sum(one.numbers for one in held.values() if one.role == "product"),
        apart=_fallen(chosen),
        states=states if name == "text_decoder" else (),
    )


def _others(reader: Any, tensors: dict[str, Any]) -> Iterator[State]:
    """States of layers that are no attention."""
    for key, tensor in tensors.items():
        if key.endswith(CONVOLUTIONS):
            shape = tuple(int(size) for size in reversed(tensor.shape))
            yield State(f"inputs of {key.removesuffix('.weight')}", "float32", shape)
        elif key.endswith(RECURRENCE):
            width = _field(reader, f"{reader.fields['general.architecture'].contents()}.ssm.state_size")
            yield State(f"recurrent matrices of {key}", "float32", (int(tensor.shape[0]), width, width))


def _vision(bundle: Bundle, name: str, component: Component, reader: Any, tensors: dict[str, Any]) -> Part:
    held = {key: _held(component.file, key, tensor, table=False) for key, tensor in tensors.items()}
    image_tokens = next(
        bucket.tokens for bucket in bundle.manifest.buckets.values() if bucket.component == name
    )  # behind the projector
    patches = _patches(component, _field(reader, "clip.vision.patch_size"), image_tokens)
    rows = patches + ("v.class_embd" in tensors)
    products = 0
    for key, one in held.items():
        if one.role == "product":
            runs = rows if key.startswith("v.blk.") else patches if key.startswith("v.patch_embd") else image_tokens
            products += one.numbers * runs
    layers, width = _field(reader, "clip.vision.block_count"), _field(reader, "clip.vision.embedding_length")
    return Part(_names(tensors), tuple(held.values()), products, 2 * layers * width * rows**2, apart=_fallen(tensors))


def _open(path: Path) -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise MissingExtraError("look into GGUF files", "gguf", "gguf") from error
    try:
        return gguf.GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise BundleError(f"{path} is no GGUF file, or damaged.", why=str(error), fix="Export it again.") from error


def _field(reader: Any, key: str) -> int:
    found = reader.fields[key].contents() if key in reader.fields else None
    if not isinstance(found, int):
        raise BundleError(f"A GGUF file says no {key}.", why=f"It has {found!r:.40}.", fix="Export it again.")
    return found


def _patches(component: Component, edge: int, tokens: int) -> int:
    """Of the image, the tile, or the view of so many tokens, that the manifest says goes in."""
    shape = component.inputs[0].shape
    if len(shape) == 3:
        return tokens * int(shape[1])
    if len(shape) == 2:
        return int(shape[0])
    return (int(shape[-2]) // edge) * (int(shape[-1]) // edge)


def _held(file: str, name: str, tensor: Any, *, table: bool) -> Held:
    return Held(
        f"{file}:{name}",
        int(tensor.n_elements),
        int(tensor.n_bytes),
        tensor.tensor_type.name,
        "table" if table else _role(name, tensor),
        int(tensor.shape[1]) if table else 0,
    )


def _role(name: str, tensor: Any) -> Role:
    if name.startswith("rope_"):
        return "constant"
    if len(tensor.shape) < 2 or name.startswith(ADDED):
        return "other"
    return "product"


def _names(tensors: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(_last_name(name) for name in tensors))


def _last_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> attn_q."""
    stem = [piece for piece in name.split(".") if not piece.isdecimal() and piece not in ("weight", "bias")]
    return ".".join(stem[1:]) if stem[0] in ("blk", "v") and len(stem) > 1 else ".".join(stem)


def _fallen(tensors: dict[str, Any]) -> dict[str, int]:
    matrices = list(_matrices(tensors))
    sizes: Counter[str] = Counter()
    for _, kind, numbers in matrices:
        sizes[kind] += numbers
    most = max(sizes, key=lambda kind: sizes[kind], default="")
    return dict(Counter(f"{_last_name(name)} in {kind}" for name, kind, _ in matrices if kind != most))


def _matrices(tensors: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    for name, tensor in tensors.items():
        if _role(name, tensor) == "product":
            yield name, tensor.tensor_type.name, int(tensor.n_elements)


READER = Reader(
    "matrices of another type than most of their file's: llama.cpp fell back, or was told to",
    (
        "a GGUF file holds no graph, llama.cpp builds it: tensors are listed by their last name instead of operations, "
        "and attention in the vision encoder is counted over all patches",
        "the cache is llama.cpp's own, float16 unless an app chooses another type",
    ),
    read,
)
