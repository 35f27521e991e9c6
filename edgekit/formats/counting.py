"""From what a reader found to figures: parameters, bits per weight, operations and bytes for a token and an image.

Counted are the multiply-adds of matrix products, convolutions and attention, two operations each. Norms, activation
functions and softmax are not. Bytes are those of weights, of the cache, and of an image's pixels and features, each
moved once a run; activations inside a program are not counted, because they may stay in caches on the chip.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.bundle import Bundle
from edgekit.bundle_checks import MOST_HEADS
from edgekit.errors import EdgekitError
from edgekit.families import read_optional_json
from edgekit.formats import Part, State, is_encoder
from edgekit.formats.coreml.programs import DECODE
from edgekit.manifest import Component, Manifest

QUESTION_TOKENS = 32
"""Of text around the image, in the prompt that figures are given for."""
BITS = {
    "bool": 8, "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "int32": 32, "int16": 16,
    "int8": 8, "uint8": 8, "int4": 4, "uint4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """What a run costs: operations (a multiply and an add are two), and bytes moved."""

    operations: float
    bytes: float


@dataclass(frozen=True)
class Heads:
    """Shape of a decoder's attention, and of its cache.

    Attributes:
        layers: With attention.
        queries, keys: Heads.
        width: Of a head.
    """

    layers: int
    queries: int
    keys: int
    width: int

    def multiply_adds(self, tokens: int) -> int:
        """Of one new token with the tokens in the cache: scores, and sums of values."""
        return 2 * self.layers * self.queries * self.width * tokens

    def row_bytes(self, bits: int) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.keys * self.width * bits // 8


@dataclass(frozen=True)
class StateFacts:
    """States of one shape."""

    names: tuple[str, ...]
    dtype: str
    shape: tuple[int | str, ...]
    bytes: int
    """Of all of them; a free size is as long as `cache_tokens`."""


@dataclass(frozen=True)
class ComponentFacts:
    """One component."""

    operations: dict[str, int]
    parameters: int
    """Held by it, and by no component before it."""
    shared_parameters: int
    """Used by it, and held by one before it."""
    weight_bytes: int
    bits_per_weight: float | None
    """Of its own parameters, scales, zero points and palettes included."""
    weight_types: dict[str, int]
    """Own parameters by the type they are stored in."""
    constant_bytes: int
    """Of own tensors that are no parameters, such as rotary tables."""
    run: str
    """What the next three are for: token or picture (one tile of it, where it is cut into tiles)."""
    flops: int
    attention_flops: int
    """The part of `flops` that is between activations."""
    read_bytes: int
    """Of weights and constants; of a table one row."""
    apart: dict[str, int]
    states: tuple[StateFacts, ...]


@dataclass(frozen=True)
class Moved:
    """One token, or one image."""

    flops: int
    attention_flops: int
    bytes_moved: int
    weight_bytes: int
    """The part of `bytes_moved` that is weights and constants."""


@dataclass(frozen=True)
class Inspection:
    """A whole bundle or checkpoint."""

    name: str
    target: str
    precision: str
    hash: str | None
    """SHA-256 of a bundle; null for a checkpoint."""
    size_bytes: int
    components: dict[str, ComponentFacts]
    parameters: int
    weight_bytes: int
    constant_bytes: int
    bits_per_weight: float
    program_bytes: int
    """Of the components' files beyond their tensors: programs, names, alignment."""
    other_bytes: int
    """Tokenizer, configuration and the like."""
    cache_tokens: int
    """In the cache when a token is decoded."""
    cache_bytes_per_token: int
    per_token: Moved
    per_image: Moved | None
    apart_means: str
    notes: tuple[str, ...]
    apps: str = ""
    """What of a bundle is there for apps; empty for a checkpoint."""


def summarise(
    parts: Mapping[str, Part],
    *,
    heads: Heads,
    tokens: int,
    images: Mapping[str, int],
    copied: bool,
    component_bytes: int,
    about: Mapping[str, Any],
) -> Inspection:
    """Figures of the parts and of the whole.

    Args:
        parts: From a reader; what is shared is counted with the first that holds it.
        heads: Of the decoder.
        tokens: In the cache.
        images: Bytes that go in and out of each vision encoder, the first of them the one figures are given for.
        copied: The whole cache is written for each token, and not one row of it.
        component_bytes: Of the components' files.
        about: The rest of `Inspection`.
    """
    components, seen = {}, set[str]()
    for name, part in parts.items():
        components[name] = _facts(name, part, seen, heads, tokens)
        seen |= {one.key for one in part.weights}
    everything = list(components.values())
    parameters = sum(one.parameters for one in everything)
    weights, constants = (sum(getattr(one, key) for one in everything) for key in ("weight_bytes", "constant_bytes"))
    decoder = components[DECODE if DECODE in components else "text_decoder"]
    row = heads.row_bytes(_cache_bits(decoder))
    per_token = [decoder, components["token_embedding"]]
    read = sum(one.read_bytes for one in per_token)
    encoder = next(iter(images), None)
    return Inspection(
        components=components,
        parameters=parameters,
        weight_bytes=weights,
        constant_bytes=constants,
        bits_per_weight=8 * weights / parameters if parameters else 0.0,
        program_bytes=component_bytes - weights - constants,
        other_bytes=about["size_bytes"] - component_bytes,
        cache_tokens=tokens,
        cache_bytes_per_token=row,
        per_token=Moved(
            sum(one.flops for one in per_token),
            decoder.attention_flops,
            read + row * tokens + row * (tokens if copied else 1),
            read,
        ),
        per_image=None if encoder is None else _of_image(components[encoder], images[encoder]),
        **about,
    )


def _of_image(encoder: ComponentFacts, edges: int) -> Moved:
    return Moved(encoder.flops, encoder.attention_flops, encoder.read_bytes + edges, encoder.read_bytes)


def _facts(name: str, part: Part, seen: set[str], heads: Heads, tokens: int) -> ComponentFacts:
    weights = {one.key: one for one in part.weights}.values()  # a place that several names stand for is one copy
    own = [one for one in weights if one.key not in seen]
    parameters = [one for one in own if one.role != "constant"]
    numbers = sum(one.numbers for one in parameters)
    stored = sum(one.size_bytes for one in parameters)
    kinds: Counter[str] = Counter()
    for one in parameters:
        kinds[one.kind] += one.numbers
    decodes = name in ("text_decoder", DECODE)
    attention = 2 * (heads.multiply_adds(tokens) if decodes else part.attention)
    return ComponentFacts(
        operations=dict(Counter(part.operations).most_common()),
        parameters=numbers,
        shared_parameters=sum(one.numbers for one in weights if one.key in seen and one.role != "constant"),
        weight_bytes=stored,
        bits_per_weight=8 * stored / numbers if numbers else None,
        weight_types={kind: count for kind, count in kinds.most_common() if count},
        constant_bytes=sum(one.size_bytes for one in own if one.role == "constant"),
        run="picture" if is_encoder(name) else "token",
        flops=2 * part.products + attention,
        attention_flops=attention,
        read_bytes=sum(one.size_bytes // one.rows if one.rows else one.size_bytes for one in weights),
        apart=dict(Counter(part.apart).most_common()),
        states=_grouped(part.states, tokens),
    )


def _grouped(states: tuple[State, ...], tokens: int) -> tuple[StateFacts, ...]:
    groups: dict[tuple[str, tuple[int | str, ...]], list[str]] = {}
    for state in states:
        groups.setdefault((state.dtype, state.shape), []).append(state.name)
    return tuple(
        StateFacts(tuple(names), dtype, shape, len(names) * size_of(dtype, shape, tokens))
        for (dtype, shape), names in groups.items()
    )


def size_of(dtype: str, shape: tuple[int | str, ...], free: int = 1) -> int:
    """Bytes of a tensor.

    Args:
        dtype: NumPy's name, or int4.
        shape: A name is a free size.
        free: What a free size is.
    """
    return -(-math.prod(free if isinstance(size, str) else size for size in shape) * BITS[dtype] // 8)


def _cache_bits(decoder: ComponentFacts) -> int:
    return BITS[decoder.states[0].dtype] if decoder.states else BITS["float32"]


def image_edges(encoder: Component) -> int:
    """Bytes of one image or tile, and of its features."""
    return sum(size_of(spec.dtype, spec.shape) for spec in (*encoder.inputs, *encoder.outputs))


def prompt_tokens(manifest: Manifest) -> int:
    """Tokens of a prompt of one image, or tile, and QUESTION_TOKENS."""
    bucket = next(iter(manifest.buckets.values()), None)
    seen = bucket.tokens if bucket is not None else int(manifest.preprocessing.get("image_seq_len", 0))
    return seen + QUESTION_TOKENS


def heads_of(bundle: Bundle) -> Heads:
    """Shape of a bundle's decoder: its cache by the manifest, its query heads by the configuration.

    Raises:
        EdgekitError: the configuration does not say.
    """
    cache = bundle.manifest.cache
    inputs = [spec.name for spec in bundle.manifest.components["text_decoder"].inputs]
    keys = [name for name in inputs if name.startswith("past_key_values.") and name.endswith(".key")]
    config = {}
    if "config.json" in bundle.manifest.files:
        config = read_optional_json(bundle.path("config.json"))
    return heads_from(config, len(keys) or cache.layers, cache.kv_heads, cache.head_dim)


def heads_from(config: Mapping[str, Any], layers: int, keys: int, width: int) -> Heads:
    """Shape of a decoder from a configuration.

    Raises:
        EdgekitError: it does not say how many heads there are.
    """
    text = config.get("text_config")
    queries = (text if isinstance(text, dict) else config).get("num_attention_heads")
    if not isinstance(queries, int) or not 0 < queries <= MOST_HEADS:
        raise EdgekitError(
            "config.json does not say how many attention heads the decoder has.", fix="Export the bundle again."
        )
    return Heads(layers, queries, keys, width)


def copies_cache(manifest: Manifest) -> bool:
    """Whether a decoder takes its cache and gives a new one, instead of writing into it."""
    given = any(spec.name.startswith("past_") for spec in manifest.components["text_decoder"].inputs)
    return given and not manifest.cache.in_place


def files_of(manifest: Manifest, component: Component) -> list[str]:
    """A component's files: its own, and what lies beside it with its name, as weights do; a whole package."""
    package, inside, _ = component.file.partition(".mlpackage/")
    prefix = package + inside if inside else component.file
    return [name for name in manifest.files if name.startswith(prefix)]
