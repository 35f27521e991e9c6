"""What the files of a GGUF bundle declare in their headers, held against its manifest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.bundle import Bundle
from edgekit.bundle_checks import MOST_TOKENS
from edgekit.errors import BundleError
from edgekit.families.decoding import inputs_of
from edgekit.formats.declared import Declared, Tensor, UpTo, check_numbers, check_tensors
from edgekit.formats.gguf.header import Header, Listed, read_header
from edgekit.manifest import Cache, Component, Manifest, TensorSpec

TABLE = "token_embd.weight"


@dataclass(frozen=True)
class Files:
    """The two files of a bundle, and what the manifest says of them that is for llama.cpp alone.

    Attributes:
        text, vision: Their headers.
        context: Tokens the cache holds.
        image_tokens: Least and most tokens of an image, where mtmd is told.
        kind: Of the text model, in llama.cpp's words.
    """

    text: Header
    vision: Header
    context: int
    image_tokens: tuple[int, int] | None
    kind: str


def check_files(bundle: Bundle) -> Files:
    """Read both headers and look whether they are those that the manifest describes.

    Raises:
        MissingExtraError: gguf is not installed.
        BundleError: they are not, or a file is no GGUF.
    """
    bundle.check_parts()
    manifest = bundle.manifest
    components = manifest.components
    text = read_header(bundle.path(components["text_decoder"].file))
    encoders = {name: components[name] for name, _ in manifest.encoders().values()}
    vision = read_header(bundle.path(next(iter(encoders.values())).file))
    others = {
        name: (part.file, wanted.path.name)
        for wanted, parts in ((text, {"token_embedding": components["token_embedding"]}), (vision, encoders))
        for name, part in parts.items()
        if bundle.path(part.file) != wanted.path
    }
    for name, (file, wanted) in others.items():
        raise _wrong(f"components.{name}.file: {file[:80]}, and the rest of it is in {wanted}")
    width, rows = _table(text)
    features = _features(vision, width, manifest)
    given = {name: Declared(None, _last("image_features", part.outputs, features)) for name, part in encoders.items()}
    table, decoder = components["token_embedding"], components["text_decoder"]
    given["token_embedding"] = Declared(None, _last("inputs_embeds", table.outputs, width))
    given["text_decoder"] = Declared(
        _last("inputs_embeds", decoder.inputs, width), _last("logits", decoder.outputs, rows)
    )
    check_tensors(components, given)
    check_numbers(manifest, _numbers(text, width, rows))
    for name, part in encoders.items():
        _check_tiles(name, part, vision)
    files = Files(text, vision, *_details(manifest))
    _check_room(manifest.cache, files.context)
    return files


def _check_room(cache: Cache, context: int) -> None:
    """Raise BundleError where the cache alone is more than this machine has."""
    import psutil

    needed = 4 * cache.layers * cache.kv_heads * cache.head_dim * context  # keys and values, float16
    if context > MOST_TOKENS or needed > psutil.virtual_memory().total:
        raise _wrong(f"details.text.context: {context:,}, whose cache takes {needed:,} bytes")


def _table(text: Header) -> tuple[int, int]:
    """Width and rows of the embedding table."""
    stored = text.tensors.get(TABLE)
    if stored is None or len(stored.shape) != 2:
        raise BundleError(f"{text.path} has no {TABLE}.", fix="Export the bundle again.")
    rows, width = stored.shape
    return width, rows


def _numbers(text: Header, width: int, rows: int) -> dict[str, int]:
    """Fields of the manifest, as the text model's header and its tensors have them."""
    architecture = text.fields.get("general.architecture")
    heads, keys, layers, context = (
        text.number(f"{architecture}.{key}")
        for key in ("attention.head_count", "attention.head_count_kv", "block_count", "context_length")
    )
    if isinstance(each := text.fields.get(f"{architecture}.attention.head_count_kv"), Listed):
        keys = max((one for one in each.kept if isinstance(one, int)), default=None)  # 0 where a layer has none
    blocks = {int(found[1]) for name in text.tensors if (found := re.match(r"blk\.(\d{1,9})\.", name))}
    if not heads or not keys or not context or layers != len(blocks):
        raise _unclear(
            text,
            f"As a {str(architecture)[:40]!r} it has {layers} layers, {heads} and {keys} heads, {context} positions, "
            f"and tensors of {len(blocks)} layers.",
        )
    head_dim = text.number(f"{architecture}.attention.key_length") or width // heads
    wanted = (keys * head_dim, width)
    attending = {name: stored for name, stored in text.tensors.items() if name.endswith(".attn_k.weight")}
    for name, stored in attending.items():
        if stored.shape != wanted:
            raise _unclear(text, f"{name} is {stored.shape}, and {keys} heads of {head_dim} would be {wanted}.")
    return {
        "vocab_size": rows,
        "cache.layers": len(attending),
        "cache.kv_heads": keys,
        "cache.head_dim": head_dim,
        "deepstack": text.number(f"{architecture}.n_deepstack_layers") or 0,
        "position_axes": 3 if f"{architecture}.rope.dimension_sections" in text.fields else 1,
        "details.text.context": UpTo(context),
    }


def _unclear(text: Header, why: str) -> BundleError:
    return BundleError(f"{text.path} does not say the sizes of its model.", why=why, fix="Export the bundle again.")


def _features(vision: Header, width: int, manifest: Manifest) -> int:
    """Width of what the vision encoder gives: features of the decoder's width, and what fills its extra inputs."""
    found = vision.number("clip.vision.projection_dim")
    if found != width:
        raise BundleError(
            f"{vision.path} is not of the text model's width.",
            why=f"clip.vision.projection_dim is {found}, and the embedding table's rows have {width}.",
            fix="Export the bundle again.",
        )
    return width * (1 + sum(one.depth for one in inputs_of(manifest) if one.feature))


def _last(name: str, specs: Sequence[TensorSpec], width: int) -> list[Tensor]:
    """One tensor of some width: of other axes a file says nothing, so those of the manifest stand for them."""
    leading = specs[0].shape[:-1] if specs else ()
    return [Tensor(name, "float32", (*leading, width))]


def _check_tiles(name: str, part: Component, vision: Header) -> None:
    """Raise BundleError where tiles are not of the size that clip makes of every image."""
    shape = part.inputs[0].shape if part.inputs else ()
    edge = vision.number("clip.vision.image_size")
    patch = vision.number("clip.vision.patch_size")
    if not patch:
        raise BundleError(f"{vision.path} says no clip.vision.patch_size.", fix="Export the bundle again.")
    patches = len(shape) == 2 and all(isinstance(size, int) for size in shape)
    views = len(shape) == 3 and isinstance(shape[0], str)
    if not patches and not views and (len(shape) != 4 or shape[2:] != (edge, edge)):
        raise _wrong(f"components.{name}.inputs[0].shape: {list(shape)!s:.80}, and clip.vision.image_size is {edge}")


def _details(manifest: Manifest) -> tuple[int, tuple[int, int] | None, str]:
    """What `details` holds for the runtime."""
    try:
        tokens, text = manifest.details["mmproj"]["image_tokens"], manifest.details["text"]
        context, kind = int(text["context"]), str(text["type"])
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(f"details: {error!r:.80} of what llama.cpp is told") from error
    if tokens is None:
        return context, None, kind
    if not isinstance(tokens, list) or len(tokens) != 2 or not all(isinstance(one, int) for one in tokens):
        raise _wrong(f"details.mmproj.image_tokens: {tokens!r:.80} is no [least, most]")
    least, most = tokens
    if not 0 < least <= most <= MOST_TOKENS:
        raise _wrong(f"details.mmproj.image_tokens: {tokens!r:.80} is not from 1 to {MOST_TOKENS:,}")
    return context, (least, most), kind


def _wrong(why: str) -> BundleError:
    return BundleError(
        "The bundle's programs are not those that its manifest describes:",
        why=why,
        fix="Copy or export the bundle again.",
    )
