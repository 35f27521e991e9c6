"""What a manifest's words and numbers may be, before anything is looked up, allocated or run by them.

Bounds are far above what any model has, and far below what a machine cannot hold: a manifest may come from anywhere.
Whether the numbers are also those of the programs is for the runtimes, which know their programs.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError
from edgekit.inputs.resizing import COLUMNS, ORDER, ORDERS

if TYPE_CHECKING:
    from edgekit.manifest import Bucket, Component, Manifest, TensorSpec

DTYPES = frozenset(
    f"{kind}{bits}"
    for kind, widths in (("int", "4 8 16 32 64"), ("uint", "4 8 16 32 64"), ("float", "16 32 64"))
    for bits in widths.split()
) | {"bool", "bfloat16"}
MOST_SIZE = 1 << 31
"""Of one axis of a tensor."""
MOST_LAYERS, MOST_HEADS, MOST_WIDTH = 4096, 65536, 65536
MOST_VOCABULARY = 1 << 24
MOST_TOKENS = 1 << 20
"""Of one image."""
MOST_EDGE = 1 << 14
"""Pixels of an image's edge."""
MOST_COMPONENTS = 1024
MOST_FILES = 65536
STATES = ("k_cache", "v_cache")
KEYS_AND_VALUES = r"past_key_values\.\d+\.(key|value)|past_(key|value)_\d+"
SHOWN = 80
"""Characters of a stranger's text in a message."""


def check(manifest: Manifest, source: str) -> None:
    """Look whether a manifest says what one can say.

    Raises:
        BundleError: it does not; every problem is listed by its field, the first few where there are many.
    """
    from edgekit.schema import listed

    problems = [*_names(manifest), *_numbers(manifest), *_components(manifest)]
    if problems:
        raise BundleError(
            f"{source} is not a valid manifest:", why=listed(problems), fix="Copy or export the bundle again."
        )


def _names(manifest: Manifest) -> Iterator[str]:
    words = {key: getattr(manifest, key) for key in ("name", "target", "family")}
    words |= {f"precision.{key}": getattr(manifest.precision, key) for key in ("common", "native")}
    for key, word in words.items():
        yield from _within(key, len(word), 1, 1024, "characters")
    yield from _within("files", len(manifest.files), 0, MOST_FILES)
    folded: dict[str, str] = {}
    for name, entry in manifest.files.items():
        at = f"files.{_shown(name)}"
        if problem := name_problem(name):
            yield f"{at}: {problem}"
        yield from _within(f"{at}.bytes", entry.bytes, 0, 1 << 50)
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            yield f"{at}.sha256: {_shown(entry.sha256)} is no SHA-256"
        same = unicodedata.normalize("NFC", name).casefold()
        if same in folded:
            yield f"{at}: one file with {_shown(folded[same])} where upper and lower case are the same"
        folded[same] = name
    if not re.fullmatch("[0-9a-f]{64}", manifest.student_sha256):
        yield f"student_sha256: {_shown(manifest.student_sha256)} is no SHA-256"
    for key in ("tokenizer", "chat_template"):
        if (name := getattr(manifest.text, key)) not in manifest.files:
            yield f"text.{key}: {_shown(name)} is not among the files"


def name_problem(name: str) -> str:
    """Why a text is no name of a file in a bundle; "" where it is one."""
    parts = name.split("/")
    if not name or any(part in ("", ".") for part in parts):
        return "no relative file name"
    if any(not character.isprintable() for character in name):
        return "a control character in a file name"
    if max(len(part.encode(errors="replace")) for part in parts) > 255 or len(name) > 1024:
        return "too long a file name"
    return ""


def _numbers(manifest: Manifest) -> Iterator[str]:
    cache = manifest.cache
    yield from _within("schema_version", manifest.schema_version, 1, 1 << 16)
    yield from _within("vocab_size", manifest.vocab_size, 1, MOST_VOCABULARY)
    yield from _within("text.image_token_id", manifest.text.image_token_id, 0, MOST_VOCABULARY)
    yield from _within("text.eos_token_ids", len(manifest.text.eos_token_ids), 0, 4096, "of them")
    for place, token in enumerate(manifest.text.eos_token_ids[:4096]):
        yield from _within(f"text.eos_token_ids[{place}]", token, 0, MOST_VOCABULARY)
    yield from _within("cache.layers", cache.layers, 1, MOST_LAYERS)
    yield from _within("cache.kv_heads", cache.kv_heads, 1, MOST_HEADS)
    yield from _within("cache.head_dim", cache.head_dim, 1, MOST_WIDTH)
    yield from _within("position_axes", manifest.position_axes, 1, 3)
    yield from _within("deepstack", manifest.deepstack, 0, cache.layers)
    for name, bucket in manifest.buckets.items():
        yield from _bucket(f"buckets.{_shown(name)}", bucket)
    grids = Counter(bucket.grid for bucket in manifest.buckets.values())
    if twice := [grid for grid, count in grids.items() if count > 1]:
        yield f"buckets: {grids[twice[0]]} of them are for the grid {twice[0]}"
    if (None in grids or () in grids) and len(grids) > 1:
        yield "buckets: one is for tiles or any view, others are for images of one grid"
    yield from _sizes(manifest.preprocessing.get("sizes"))
    yield from _order(manifest.preprocessing.get(ORDER, COLUMNS))
    for key in ("preprocessing", "details", "parity"):
        yield from _plain(key, getattr(manifest, key))


def _bucket(at: str, bucket: Bucket) -> Iterator[str]:
    yield from _within(f"{at}.tokens", bucket.tokens, 0, MOST_TOKENS)
    if bucket.grid is not None:
        yield from _within(f"{at}.grid", len(bucket.grid), 0, 8, "axes")
        for place, size in enumerate(bucket.grid[:8]):
            yield from _within(f"{at}.grid[{place}]", size, 1, MOST_EDGE)


def _sizes(sizes: Any) -> Iterator[str]:
    """Image sizes, where there are some: [[width, height], ...]."""
    if sizes is None:
        return
    if not isinstance(sizes, list) or not all(isinstance(size, list) and len(size) == 2 for size in sizes):
        yield f"preprocessing.sizes: expected a list of [width, height], found {_shown(sizes)}"
        return
    yield from _within("preprocessing.sizes", len(sizes), 1, 1024, "of them")
    for place, size in enumerate(sizes[:1024]):
        for edge in size:
            if not isinstance(edge, int) or isinstance(edge, bool):
                yield f"preprocessing.sizes[{place}]: {_shown(edge)} is no whole number"
            else:
                yield from _within(f"preprocessing.sizes[{place}]", edge, 1, MOST_EDGE)


def _order(order: Any) -> Iterator[str]:
    if order not in ORDERS:
        yield f"preprocessing.{ORDER}: {_shown(order)} is none of {', '.join(ORDERS)}"


def _plain(at: str, value: Any) -> Iterator[str]:
    """What a free field holds: whole numbers that fit 64 bits."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _plain(f"{at}.{_shown(key)}", item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _plain(f"{at}[{place}]", item)
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        yield f"{at}: a number of more than 64 bits"


def _components(manifest: Manifest) -> Iterator[str]:
    components = manifest.components
    yield from _within("components", len(components), 1, MOST_COMPONENTS)
    for name, part in components.items():
        at = f"components.{_shown(name)}"
        if part.file not in manifest.files:
            yield f"{at}.file: {_shown(part.file)} is not among the files"
        yield from _tensors(f"{at}.inputs", part.inputs)
        yield from _tensors(f"{at}.outputs", part.outputs)
    for name, bucket in manifest.buckets.items():
        if bucket.component not in components:
            yield f"buckets.{_shown(name)}.component: {_shown(bucket.component)} is not among the components"
    if "text_decoder" in components:
        yield from _decoder(manifest, components["text_decoder"])


def _tensors(at: str, specs: tuple[TensorSpec, ...]) -> Iterator[str]:
    names = Counter(spec.name for spec in specs)
    for name in (name for name, count in names.items() if count > 1 or not name):
        yield f"{at}: {_shown(name)} stands there {names[name]} times"
    for place, spec in enumerate(specs):
        if spec.dtype not in DTYPES:
            yield f"{at}[{place}].dtype: {_shown(spec.dtype)} is no type of numbers"
        yield from _within(f"{at}[{place}].shape", len(spec.shape), 0, 8, "axes")
        for axis, size in enumerate(spec.shape[:8]):
            if isinstance(size, int):
                yield from _within(f"{at}[{place}].shape[{axis}]", size, 0, MOST_SIZE)


def _decoder(manifest: Manifest, decoder: Component) -> Iterator[str]:
    """Where the decoder's tensors and the manifest's own numbers speak of the same."""
    at, inputs = "components.text_decoder.inputs", {spec.name: spec for spec in decoder.inputs}
    for name in ("position_ids", "rotary_ids"):
        spec = inputs.get(name)
        if spec is not None and len(spec.shape) == 3 and spec.shape[0] not in (manifest.position_axes, "axes"):
            yield f"position_axes: {manifest.position_axes}, but {at} has {name} of {_shown(spec.shape[0])}"
    spec = inputs.get("deepstack_embeds")
    if spec is not None and (not spec.shape or spec.shape[0] != manifest.deepstack):
        yield f"deepstack: {manifest.deepstack}, but {at} has deepstack_embeds {_shown(list(spec.shape))}"
    past = [spec for name, spec in inputs.items() if re.fullmatch(KEYS_AND_VALUES, name)]
    if past and len(past) != 2 * manifest.cache.layers:
        yield f"cache.layers: {manifest.cache.layers}, but {at} has {len(past)} keys and values"
    for name in STATES:
        spec = inputs.get(name)
        if spec is not None and not _holds(spec, manifest):
            yield f"{at}: {name} {_shown(list(spec.shape))} does not fit the cache, {manifest.cache}"
    for one in past:
        if not _fits(one, manifest):
            yield f"{at}: {_shown(one.name)} {_shown(list(one.shape))} does not fit the cache, {manifest.cache}"


def _fits(spec: TensorSpec, manifest: Manifest) -> bool:
    cache, shape = manifest.cache, spec.shape
    return len(shape) == 4 and shape[1] in (cache.kv_heads, "kv_heads") and shape[3] in (cache.head_dim, "head_dim")


def _holds(spec: TensorSpec, manifest: Manifest) -> bool:
    """Whether a state of all layers, (layers, 1, H, S, D_head), fits the cache; its length is its own."""
    cache, shape = manifest.cache, spec.shape
    whole = len(shape) == 5 and isinstance(shape[3], int)
    return whole and (*shape[:3], shape[4]) == (cache.layers, 1, cache.kv_heads, cache.head_dim)


def _within(at: str, value: int, low: int, high: int, unit: str = "") -> Iterable[str]:
    if low <= value <= high:
        return
    shown = f"{value:,}" if abs(value) < 1 << 63 else "a number of more than 64 bits"
    yield f"{at}: {shown}{' ' * bool(unit)}{unit} is not from {low:,} to {high:,}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
