"""VLM families: all that a target or a runtime must know of one, in one file each.

A family's file holds a `FAMILY`. Nothing of it imports torch when the file is imported, so that a bundle can be run
without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit import strict_json
from edgekit.errors import CheckpointError, DataError
from edgekit.families.decoding import USUAL, ExtraInput, State, manifest_fields, positions
from edgekit.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from edgekit.families._clip import MmProj

Grid = tuple[int, ...]
Pack = Callable[[list[Grid], NDArray[np.float32]], NDArray[np.float32]]
ANY_GRID: Grid = ()
"""Grid of a vision encoder that takes views of any size, one by one, as the family's `views` has them."""
Size = tuple[int, int]
"""(width, height) in pixels."""
OUT_OF_REACH = {
    "fast_vlm": "FastVLM's vision tower is a model of timm, which imports torchvision; edgekit needs neither, and no "
    "export of such a tower has been tried."
}
"""Model types that transformers knows and edgekit does not, and why."""
TOWER_AND_PROJECTOR = {
    "vision": ("model.vision_tower.", "model.multi_modal_projector."),
    "language": ("model.language_model.",),
}
"""`Family.prefixes` of the families that transformers builds from a tower, a projector and a language model."""
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
        extra: Further outputs (..., K, D) by name, as the decoder's `ExtraInput.feature` has them.
    """

    embeds: Tensor
    counts: list[int]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class VisionPart:
    """A vision encoder with everything that hangs on the image's size baked in.

    Attributes:
        module: Tile families: pixel_values (M, 3, H, W) -> embeddings (M, N, D), any number M of tiles. Families of
            free image sizes: the patches (P, patch) of one image -> (N, D), or one view (N, ...) of any N -> (N, D).
            Where the decoder has inputs that are filled from features, those follow, (..., N, D) each.
        pixels: Shape of its input; None where an axis is free.
        grid: Of the one image it is for; None for tiles, which have no grid of their own; ANY_GRID for any view.
        tokens: N; of any view the most there are (`sizes.with_view_tokens`).
    """

    module: nn.Module
    pixels: tuple[int | None, ...]
    grid: Grid | None
    tokens: int

    @property
    def of_any_view(self) -> bool:
        """Whether its first axis is the view's tokens, as many as there are."""
        return self.grid == ANY_GRID

    @property
    def one_run(self) -> tuple[int, ...]:
        """Shape of its input in one run: of one tile, or of the largest view."""
        free = self.tokens if self.of_any_view else 1
        return tuple(free if size is None else size for size in self.pixels)


@dataclass(frozen=True)
class Split:
    """The plain modules every target exports, and the sizes it needs to know.

    Attributes:
        vision: By bucket, an image size as "448x448"; the only one is named "".
        token_embedding: input_ids (B, T) -> embeddings (B, T, D).
        text: forward(inputs_embeds, attention_mask, position_ids, cache, *features) -> logits (B, T, V), with any
            `transformers.Cache`, for targets with a cache of their own. inputs_embeds (B, T, D), attention_mask
            (B, P+T), position_ids and what follows as `extra_inputs` has them.
        text_decoder: inputs_embeds, attention_mask, position_ids, *features, then `states`, most often key and value
            (B, H, P, D_head) per layer -> logits (B, T, V), then the new states.
        width: D.
        layers, kv_heads, head_dim: shape of the cache.
        vocab_size: V.
        image_token_id: The token whose embeddings the image's replace.
        eos_token_ids: Tokens that end an answer.
        states: What the decoder keeps, in the order of `text_decoder`.
        extra_inputs: What it takes beside embeddings and mask, `decoding.positions` first.
        pack: Grids, and features of all tiles (M, N, D) -> (K, D), where the family has a `pack`.
        views: `Pixels` -> what an encoder of any view takes, one by one, where there is such a one.
        view_tokens: Parameters of the image processor -> tokens of the largest such view.
        source: The untouched model, for a target that writes its weights by name; put there by the exporter.
        sizes: Image sizes it was made for, where the family bakes them; put there by the exporter.
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
    states: tuple[State, ...]
    extra_inputs: tuple[ExtraInput, ...] = (positions(),)
    pack: Pack | None = None
    views: Callable[[Pixels], list[NDArray[np.float32]]] | None = None
    view_tokens: Callable[[dict[str, Any]], int] | None = None
    source: PreTrainedModel | None = None
    sizes: tuple[Size, ...] | None = None

    @property
    def position_axes(self) -> int:
        """1, or A where positions are (A, B, T)."""
        return int(manifest_fields(self.extra_inputs)["position_axes"])

    @property
    def blocks(self) -> bool:
        """Whether `text` makes its masks itself, because the tokens of an image see each other.

        Of `attention_mask` (B, P+T) it asks then which tokens are there, and of the cache how many came before and
        where its keys lie (`get_seq_length`, `get_mask_sizes`); `position_ids` are (2, B, T).
        """
        return self.extra_inputs[0].kind == "blocks"

    @property
    def features(self) -> tuple[ExtraInput, ...]:
        """The extra inputs behind the positions."""
        return self.extra_inputs[1:]

    def needs(self) -> dict[str, str]:
        """What a target must know of to hold this model, beyond what most ask, and why, by the name it says it by."""
        kinds = {one.kind: one.about for one in self.extra_inputs} | {one.kind: one.about for one in self.states}
        kinds = {kind: about for kind, about in kinds.items() if kind not in USUAL}
        if self.pack is not None:
            kinds["pack"] = "its image tokens are put together from tiles outside of the encoder"
        if any(part.of_any_view for part in self.vision.values()):
            kinds["views"] = "its vision encoder takes views of any size, tiles and a small one of the whole"
        return kinds


def uneven_sides(config: Any, field: str, factor: float) -> Iterator[tuple[str, str]]:
    """Whether the patches of a square image cannot be put together by `factor` each way; for `contradictions`."""
    vision = config.vision_config
    edges = [size[0] if isinstance(size, list | tuple) else size for size in (vision.image_size, vision.patch_size)]
    side = edges[0] // edges[1]
    if side < factor or side % factor:
        yield field, f"puts {factor:g} x {factor:g} patches together, and an image has {side} x {side} of them"


def known_strategy(config: Any) -> Iterator[tuple[str, str]]:
    """Whether a tower's first token is kept or left out in a way there is; for `contradictions`."""
    chosen = getattr(config, "vision_feature_select_strategy", "full")
    if chosen not in ("default", "full"):
        yield "vision_feature_select_strategy", f"is {chosen!r}; it is default or full"


class Splitting(Protocol):
    """Of a loaded model and the image sizes to bake, its `Split`; None: the default sizes."""

    def __call__(self, model: PreTrainedModel, sizes: Sequence[Size] | None = None, /) -> Split: ...


def no_split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The split of a family that has none yet.

    Raises:
        CheckpointError: always.
    """
    raise no_split_error(str(model.config.model_type))


def no_split_error(model_type: str) -> CheckpointError:
    """For a model whose family has none."""
    return CheckpointError(
        f"A {model_type} model cannot be exported yet.",
        why="Its family distils, and has no split into the modules a target exports.",
        fix=f"Families that export: {', '.join(exporting())}.",
    )


def no_images(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The images of a family whose prepared pixels are never turned back.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError("A model of this family is given prepared pixels, and no runtime here prepares its own.")


@dataclass(frozen=True)
class Family:
    """All that a target or a runtime must know of a VLM family.

    Attributes:
        name: Of its file; it stands in manifests.
        model_types: The `model_type` values of config.json it speaks for.
        prefixes: Of parameter names, of "vision" and of "language".
        image_token: Of an image, as `expand` writes it.
        read_preprocessing: A checkpoint's folder -> its image parameters, as JSON has them.
        preprocess: (images, parameters) -> `Pixels`, with pillow and numpy only.
        expand: (a rendered prompt, grids, parameters) -> it with the image placeholders that the model was trained on.
        positions: (a prompt's ids, grids, parameters) -> its rotary positions (T,), or (3, T) where an axis has its
            own.
        encode_images: (model, pixel_values, grids) -> `Features`, with gradients.
        forward_inputs: (model, pixel_values, ids, grids) -> what the untouched model's forward takes beside the ids.
        fix_sizes: (parameters, sizes) -> the parameters of an export for images of these sizes; None: the default.
        split: (a loaded model, image sizes to bake) -> `Split`; left out, the family distils and cannot be exported.
        images: (`Pixels`, parameters) -> images uint8 (H, W, 3) of each part, for a runtime that normalises.
        mmproj: (config.json, parameters) -> the vision encoder in llama.cpp's names; goes with `pictures`, for gguf.
        views: (`Pixels`, parameters) -> each view as an encoder of any view takes it, (N, ...), N tokens.
        pack: (features of all tiles (M, N, D), grids, parameters) -> (K, D) in numpy, where an image's tokens are not
            its tiles' one after the other.
        feature_inputs: (where image tokens are (B, T), features (..., K, D) by name) -> what the model's own decoder
            takes of the vision encoder's further outputs, by argument.
        decoder_inputs: (model, embeds, mask, positions) -> arguments by name, where the model's own decoder takes
            another mask or other positions than the split's.
        adds_special_tokens: Whether its processor has the tokenizer add its special tokens.
        contradictions: (field, what is wrong) of a transformers configuration whose fields do not go together.
        pairs: Fields of config.json that may be (height, width) too.
    """

    name: str
    model_types: tuple[str, ...]
    prefixes: Mapping[str, tuple[str, ...]]
    image_token: str
    read_preprocessing: Callable[[Path], dict[str, Any]]
    preprocess: Callable[[list[Image], dict[str, Any]], Pixels]
    expand: Callable[[str, list[Grid], dict[str, Any]], str]
    positions: Callable[[Sequence[int], list[Grid], dict[str, Any]], NDArray[np.int64]]
    encode_images: Callable[[PreTrainedModel, Tensor, list[Grid]], Features]
    forward_inputs: Callable[[PreTrainedModel, Tensor, Tensor, list[Grid]], dict[str, Any]]
    fix_sizes: Callable[[dict[str, Any], Sequence[Size] | None], dict[str, Any]]
    split: Splitting = no_split
    images: Callable[[Pixels, dict[str, Any]], list[NDArray[np.uint8]]] = no_images
    mmproj: Callable[[Mapping[str, Any], dict[str, Any]], MmProj] | None = None
    views: Callable[[Pixels, dict[str, Any]], list[NDArray[np.float32]]] | None = None
    pack: Callable[[NDArray[np.float32], list[Grid], dict[str, Any]], NDArray[np.float32]] | None = None
    feature_inputs: Callable[[Tensor, Mapping[str, Tensor]], dict[str, Any]] | None = None
    decoder_inputs: Callable[[PreTrainedModel, Tensor, Tensor, Tensor], dict[str, Any]] | None = None
    adds_special_tokens: bool = True
    contradictions: Callable[[Any], Iterator[tuple[str, str]]] | None = None
    pairs: tuple[str, ...] = ()


FAMILIES: Registry[Family] = Registry(
    "edgekit.families", "VLM family", "Family", "FAMILY", frozenset({"merging", "sizes", "decoding"})
)


def exporting() -> list[str]:
    """Names of the families whose models can be exported."""
    return [name for name, family in FAMILIES.working() if family.split is not no_split]


@cache
def _by_model_type() -> dict[str, str]:
    return {kind: name for name, family in FAMILIES.working() for kind in family.model_types}


def family_of(model_type: str) -> Family:
    """The family for a `model_type` of config.json.

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
    return FAMILIES.load(known[model_type])


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
