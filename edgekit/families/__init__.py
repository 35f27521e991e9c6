"""VLM families: all that a target or a runtime must know of one, in one file each.

A family module holds:

    MODEL_TYPES                          the `model_type` values of config.json it speaks for
    read_preprocessing(folder)           the image parameters of a checkpoint, as a JSON-able dict
    preprocess(images, params)           pictures -> Pixels, with pillow and numpy only
    expand(text, grids, params)          image placeholders in a rendered prompt -> what the model was trained on
    positions(ids, grids, params)        a prompt's rotary positions: (T,), or (3, T) where an axis has its own
    PARTS                                parameter-name prefixes of "vision" and "language"
    encode_images(model, pixel_values, grids)   -> Features, with gradients
    forward_inputs(model, pixel_values, ids, grids)   -> what the untouched model's forward takes beside the ids
    fix_sizes(params, sizes)             the parameters of an export for pictures of these sizes; None: the default
    pictures(pixels, params)             Pixels -> uint8 pictures (H, W, 3) of each part, for a runtime that normalises
    mmproj(config, params)               the vision encoder in llama.cpp's names; optional with `pictures`, for gguf
    split(model, sizes)                  a loaded model -> Split (this one imports torch); optional: a family without
                                         it distils, but cannot be exported yet
    pack(features, grids, params)        optional, where a picture's tokens are not its tiles' one after the other:
                                         what the encoder gives for all tiles (M, N, D) -> (K, D), numpy
    decoder_inputs(model, embeds, mask, positions)   optional, where the model's own decoder takes another mask or
                                         other positions than the split's: its arguments by name
    IMAGE                                optional: the token of a picture, as `expand` writes it
    contradictions(config)               optional: (field, what is wrong) of a transformers configuration whose fields
                                         do not go together
    PAIRS                                optional: fields of config.json that may be (height, width) too

and nothing of it imports torch when the module is imported, so that a bundle can be run without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.registry import Modules

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel

FAMILIES = Modules("edgekit.families", "VLM family", needs=("MODEL_TYPES",))
Grid = tuple[int, ...]
Pack = Callable[[list[Grid], NDArray[np.float32]], NDArray[np.float32]]
Size = tuple[int, int]
"""(width, height) in pixels."""
OUT_OF_REACH = {
    "fast_vlm": "FastVLM's vision tower is a model of timm, which imports torchvision; edgekit needs neither, and no "
    "export of such a tower has been tried."
}
"""Model types that transformers knows and edgekit does not, and why."""
MOST_JSON_BYTES = 1 << 26
"""Of a file beside the weights; the index of the largest models has a few million."""


@dataclass(frozen=True)
class Pixels:
    """What the vision encoder sees of one prompt.

    Attributes:
        values: float32, the parts of all images in order along the first axis: tiles (M, 3, H, W), or flattened
            patches (M, patch).
        grids: Per image how its parts lie, in the family's own terms: idefics3 (rows, columns) of tiles, (0, 0) when
            the image was not split; internvl and gemma3 (tiles,); Qwen-VL (frames, rows, columns) of patches;
            llava_onevision (height, width) in pixels; lfm2_vl (rows, columns) of tiles and of the whole view's patches.
        parts: Entries of `values` that belong to each image, where whoever made this says so.
    """

    values: NDArray[np.float32]
    grids: list[Grid]
    parts: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Features:
    """What the vision encoder gives for the K image tokens of some images.

    Attributes:
        embeds: (K, D), in the order of the images; they take the image tokens' places.
        counts: Tokens of each image.
        deepstack: (K, D) for each of the first decoder layers, added to the hidden states that leave it; empty for
            most families.
    """

    embeds: Tensor
    counts: list[int]
    deepstack: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class VisionPart:
    """A vision encoder with everything that hangs on the picture's size baked in.

    Attributes:
        module: Tile families: pixel_values (M, 3, H, W) -> embeddings (M, N, D), any number M of tiles. Families of
            free picture sizes: the patches (P, patch) of one picture -> (N, D). With deepstack it gives two tensors,
            embeddings (N, D) and deepstack features (L, N, D).
        pixels: Shape of its input; None where an axis is free.
        grid: Of the one picture it is for; None for tiles, which have no grid of their own.
        tokens: N.
    """

    module: nn.Module
    pixels: tuple[int | None, ...]
    grid: Grid | None
    tokens: int


@dataclass(frozen=True)
class CacheTensor:
    """One tensor of a decoder's cache.

    Attributes:
        layer: Of the decoder.
        kind: key, value, or conv (the last inputs of a short convolution).
        shape: Without the batch; None is the axis of tokens, which grows. A tensor without one has this shape always,
            and is all zeros before the first token.
    """

    layer: int
    kind: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Split:
    """The plain modules every target exports, and the sizes it needs to know.

    Attributes:
        vision: By bucket, a picture size as "448x448"; the only one is named "".
        token_embedding: input_ids (B, T) -> embeddings (B, T, D).
        text: forward(inputs_embeds, attention_mask, position_ids, cache, deepstack=None) -> logits (B, T, V), with
            any `transformers.Cache`, for targets with a cache of their own. inputs_embeds (B, T, D), attention_mask
            (B, P+T), position_ids (B, T), or (A, B, T) where position_axes is A; deepstack (L, B, T, D), zero off the
            image tokens.
        text_decoder: inputs_embeds, attention_mask, position_ids, deepstack where there is one, then the cache's
            tensors, most often key and value (B, H, P, D_head) per layer -> logits (B, T, V), then the new cache.
        width: D.
        layers, kv_heads, head_dim: shape of the cache.
        vocab_size: V.
        image_token_id: The token whose embeddings the image's replace.
        eos_token_ids: Tokens that end an answer.
        position_axes: 1, or 3 for M-RoPE, or 2 where a picture's tokens see each other in both directions: the first
            is the position, the second that of the first token of the same picture, for a token of text its own.
        deepstack: L, decoder layers that vision features are added behind; 0 for most.
        cache: Its tensors in the order of `text_decoder`, where they are not a key and a value for each layer.
        pack: Grids, and features of all tiles (M, N, D) -> (K, D), where the family has a `pack`.
        source: The untouched model, for a target that writes its weights by name; put there by the exporter.
        sizes: Picture sizes it was made for, where the family bakes them; put there by the exporter.
    """

    vision: dict[str, VisionPart]
    token_embedding: nn.Module
    text: nn.Module
    text_decoder: nn.Module
    width: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    image_token_id: int
    eos_token_ids: list[int]
    position_axes: int = 1
    deepstack: int = 0
    cache: tuple[CacheTensor, ...] = ()
    pack: Pack | None = None
    source: PreTrainedModel | None = None
    sizes: tuple[Size, ...] | None = None

    def tensors(self) -> tuple[CacheTensor, ...]:
        """The cache's tensors, in the order of `text_decoder`."""
        shape = (self.kv_heads, None, self.head_dim)
        return self.cache or tuple(
            CacheTensor(layer, kind, shape) for layer in range(self.layers) for kind in ("key", "value")
        )

    def needs(self) -> dict[str, str]:
        """What a target must know of to hold this model, beyond what most ask, and why, by the name it says it by."""
        reasons = {
            "blocks": (self.position_axes == 2, "its decoder lets the tokens of a picture see each other"),
            "states": (bool(self.cache), "its decoder's cache holds states of convolutions beside keys and values"),
            "pack": (self.pack is not None, "its image tokens are put together from tiles outside of the encoder"),
        }
        return {name: why for name, (needed, why) in reasons.items() if needed}


@dataclass(frozen=True)
class Encoded:
    """What exported vision encoders give for the K image tokens of a prompt, in the pictures' order.

    Attributes:
        embeds: (K, D).
        deepstack: (L, K, D); None for most families.
    """

    embeds: NDArray[np.float32]
    deepstack: NDArray[np.float32] | None = None


def uneven_sides(config: Any, field: str, factor: float) -> Iterator[tuple[str, str]]:
    """Whether the patches of a square picture cannot be put together by `factor` each way; for `contradictions`."""
    vision = config.vision_config
    edges = [size[0] if isinstance(size, list | tuple) else size for size in (vision.image_size, vision.patch_size)]
    side = edges[0] // edges[1]
    if side < factor or side % factor:
        yield field, f"puts {factor:g} x {factor:g} patches together, and a picture has {side} x {side} of them"


def known_strategy(config: Any) -> Iterator[tuple[str, str]]:
    """Whether a tower's first token is kept or left out in a way there is; for `contradictions`."""
    chosen = getattr(config, "vision_feature_select_strategy", "full")
    if chosen not in ("default", "full"):
        yield "vision_feature_select_strategy", f"is {chosen!r}; it is default or full"


@cache
def _by_model_type() -> dict[str, str]:
    return {kind: name for name, module in FAMILIES.working() for kind in module.MODEL_TYPES}


def family_of(model_type: str) -> ModuleType:
    """The family module for a `model_type` of config.json.

    Raises:
        CheckpointError: none speaks for it.
    """
    known = _by_model_type()
    if model_type in OUT_OF_REACH:
        raise CheckpointError(
            f"A {model_type!r} model cannot be loaded.",
            why=OUT_OF_REACH[model_type],
            fix=f"Use a model of another type: {', '.join(sorted(known))}.",
        )
    if model_type not in known:
        raise CheckpointError(
            f"No VLM family of edgekit speaks for model type {model_type!r}.",
            why=f"Those that work: {', '.join(sorted(known))}.",
            fix="A family is one file in edgekit/families/; CONTRIBUTING.md shows how to add one.",
        )
    family: ModuleType = FAMILIES.load(known[model_type])
    return family


def plain_positions(ids: Sequence[int], grids: list[Grid], params: dict[str, Any]) -> NDArray[np.int64]:
    """Positions (T,) of a model that counts image tokens like any other: 0, 1, 2, ..."""
    return np.arange(len(ids), dtype=np.int64)


def fill_places(text: str, place: str, fillings: Sequence[str]) -> str:
    """Replace the image placeholders of a rendered prompt, each by its own filling.

    Raises:
        DataError: there are more or fewer placeholders than images.
    """
    first, *rest = text.split(place)
    if len(rest) != len(fillings):
        raise DataError(
            f"The prompt does not have one image part for each of its {len(fillings)} images.",
            why=f"{place!r} stands there {len(rest)} times; a literal one in a question counts too.",
            fix="Write literal ones as text:  edgekit data check SPEC --to FILE --escape-marks",
        )
    return first + "".join(filling + after for filling, after in zip(fillings, rest, strict=True))


def by_bucket(grids: Mapping[str, Grid | None], pixels: Pixels) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Which vision encoder takes which part of a prompt's pixels, in the pictures' order.

    Args:
        grids: Of each bucket; None where a bucket takes tiles, all pictures' at once.
        pixels: Of all pictures.
    Raises:
        DataError: a picture's grid has no bucket.
    """
    if set(grids.values()) == {None}:
        yield next(iter(grids)), pixels.values
        return
    names = {grid: name for name, grid in grids.items()}
    start = 0
    for grid in pixels.grids:
        if grid not in names:
            raise DataError(
                f"A picture of {' x '.join(map(str, grid))} patches has no vision encoder here.",
                why=f"There are encoders for {', '.join(' x '.join(map(str, known)) for known in names if known)}.",
                fix="Prepare pictures with the bundle's own parameters.",
            )
        size = math.prod(grid)
        yield names[grid], pixels.values[start : start + size]
        start += size


def gather(
    parts: Sequence[Sequence[NDArray[np.float32]]], pack: Callable[[NDArray[np.float32]], Any] | None = None
) -> Encoded:
    """The outputs of several runs of vision encoders as one: (N, D) or (M, N, D), and (L, N, D) where there are two.

    Args:
        parts: Of each run.
        pack: The family's, of these grids: from the features of all tiles (M, N, D) to (K, D).
    """
    if pack is not None:
        return Encoded(pack(np.concatenate([part[0].reshape(-1, *part[0].shape[-2:]) for part in parts])))
    embeds = np.concatenate([part[0].reshape(-1, part[0].shape[-1]) for part in parts])
    deepstack = np.concatenate([part[1] for part in parts], axis=1) if len(parts[0]) > 1 else None
    return Encoded(embeds, deepstack)


def merge_images(
    embeds: NDArray[np.float32], ids: NDArray[np.int64], features: NDArray[np.float32], image_token_id: int
) -> NDArray[np.float32]:
    """Put image embeddings (K, D) or (M, N, D) in the places of the image tokens of ids (1, T) in embeds (1, T, D).

    Raises:
        CheckpointError: the prompt has room for another number of image tokens than the encoder gave.
    """
    where = ids == image_token_id
    flat = features.reshape(-1, features.shape[-1])
    if int(where.sum()) != flat.shape[0]:
        raise CheckpointError(
            f"The prompt has {int(where.sum())} image tokens but the vision encoder gave {flat.shape[0]} embeddings.",
            why="The prompt and the pictures do not belong together, or a literal image token stands in the question.",
        )
    merged = embeds.copy()
    merged[where] = flat
    return merged


def spread_deepstack(
    ids: NDArray[np.int64], deepstack: NDArray[np.float32] | None, image_token_id: int, layers: int, width: int
) -> NDArray[np.float32]:
    """Deepstack features (L, K, D) at the image tokens of ids (1, T), zero elsewhere: (L, 1, T, D).

    Args:
        ids: Of a prompt, or of one token.
        deepstack: None for a prompt without pictures.
        image_token_id: Of the model.
        layers, width: L and D.
    """
    spread = np.zeros((layers, *ids.shape, width), dtype=np.float32)
    if deepstack is not None:
        spread[:, ids == image_token_id] = deepstack
    return spread


def read_size(text: str) -> Size:
    """(width, height) from "448x336".

    Raises:
        EdgekitError: it is no size.
    """
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise EdgekitError(f"{text!r} is no picture size.", fix="Write width x height in pixels, such as 448x336.")
    return int(width), int(height)


def prefer_size(image_size: Size, sizes: Sequence[Size]) -> Size:
    """The size a picture is resized to: the nearest in shape, then in area, by their logarithms; then the first.

    Args:
        image_size: (width, height) of the picture.
        sizes: At least one.
    """

    def gap(size: Size) -> tuple[float, float]:
        shape = math.log(size[0] / size[1]) - math.log(image_size[0] / image_size[1])
        area = math.log(size[0] * size[1]) - math.log(image_size[0] * image_size[1])
        return round(abs(shape), 6), round(abs(area), 6)  # or the last bit of a logarithm would choose

    return min(sizes, key=gap)


def fit_image(image: Image, params: dict[str, Any]) -> Image:
    """The picture as an export for some sizes takes it; itself where any size goes.

    It is what a reference must be shown, so that both see the same pixels: a second time it changes nothing.

    Args:
        image: Any mode and size.
        params: `sizes` in them are an export's.
    """
    if not params.get("sizes"):
        return image
    from edgekit.pictures import as_rgb
    from edgekit.resizing import resize

    sizes = [(width, height) for width, height in params["sizes"]]
    return resize(as_rgb(image), prefer_size(image.size, sizes), params)


def tiles_only(params: dict[str, Any], sizes: Sequence[Size] | None) -> dict[str, Any]:
    """`fix_sizes` of a family that cuts any picture into tiles of one size.

    Raises:
        EdgekitError: sizes were chosen.
    """
    if sizes:
        raise EdgekitError(
            f"This family has no picture sizes to choose, so {sizes[0][0]}x{sizes[0][1]} cannot be one.",
            why="It cuts a picture of any size into tiles of one size, and takes any number of them.",
            fix="Leave --image-size out.",
        )
    return params


def read_optional_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is not there.

    Raises:
        CheckpointError: what is there is no file, too large, or no JSON object.
    """
    if not path.exists():
        return {}
    if not path.is_file():  # reading a pipe would wait for ever
        raise CheckpointError(f"{path} is no file but {'a folder' if path.is_dir() else 'a pipe or a device'}.")
    if (size := path.stat().st_size) > MOST_JSON_BYTES:
        raise CheckpointError(f"{path} has {size:,} bytes, more than any such file needs ({MOST_JSON_BYTES:,}).")
    try:
        value = strict_json.read(path, most_bytes=MOST_JSON_BYTES)
    except (ValueError, OSError) as error:  # also UnicodeDecodeError
        raise CheckpointError(f"{path} is not valid JSON.", why=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return value
