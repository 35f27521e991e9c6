"""Qwen2.5-VL: images of any size as flattened patches, and three-axis rotary positions (M-RoPE).

An image is resized to whole blocks of merge_size x merge_size patches, each block becomes one `<|image_pad|>`. An
image's tokens have a position of their own per row and column, and the text goes on after the longer edge.
An export is for one or a few image sizes, and resizes each image to the nearest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.families import Family, Features, Grid, Pixels, Size, Split, fill_places
from edgekit.families._clip import MmProj
from edgekit.families._qwen_clip import QWEN_PIECES, qwen_blocks, qwen_sizes
from edgekit.families.sizes import fit_image
from edgekit.inputs.image_settings import (
    Settings,
    read_image_settings,
    read_model_settings,
    read_normalisation,
    refuse_other_modes,
)
from edgekit.inputs.images import as_rgb, denormalise, normalise
from edgekit.inputs.resizing import resize

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

IMAGE = "<|image_pad|>"
IMAGE_TOKEN_ID = 151655  # transformers' default where config.json is silent
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DEFAULT_EDGE = 448  # of an export's images where nobody chose: 256 tokens in blocks of 28 pixels, 196 of 32
MOST_PIXELS = 1 << 31
IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor")  # older folders name the second, now the first
MAX_RATIO = 200  # the Hugging Face processor refuses a longer edge of more times the shorter


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters of a Qwen2.5-VL or Qwen3-VL checkpoint.

    Returns:
        resample, do_resize, min_pixels and max_pixels (area of a resized image), patch and temporal_patch (pixels
        and frames), merge (patches per token, each way), rescale_factor, mean, std, image_token_id.

    Raises:
        CheckpointError: a setting that is none, or that the model contradicts.
    """
    settings = read_image_settings(folder, IMAGE_PROCESSORS)
    refuse_other_modes(settings)
    lowest, highest = _read_areas(settings)
    patches = {
        "patch": settings.whole("patch_size", 14),
        "temporal_patch": settings.whole("temporal_patch_size", 2),
        "merge": settings.whole("merge_size", 2),
    }
    token = IMAGE_TOKEN_ID
    if (model := read_model_settings(folder)) is not None:
        token = model.whole("image_token_id", IMAGE_TOKEN_ID, least=0, most=1 << 31)
        _check_patches(settings, model, patches)
    return {
        "resample": settings.resample(Image.Resampling.BICUBIC),
        "do_resize": settings.flag("do_resize", True),
        "min_pixels": lowest,
        "max_pixels": highest,
        **patches,
        **read_normalisation(settings, CLIP_MEAN, CLIP_STD),
        "image_token_id": token,
    }


def _read_areas(settings: Settings) -> tuple[int, int]:
    """min_pixels and max_pixels; folders older than `size` have them by these names, which win where both are there."""
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    if settings.values.get("size") is not None:  # this class takes a null for silence
        size = settings.size("size", size, most=MOST_PIXELS)
    for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if settings.values.get(old) is not None:
            size[new] = settings.whole(old, 1, most=MOST_PIXELS)
            size.pop(old, None)
    if size.keys() != {"shortest_edge", "longest_edge"}:
        settings.refuse("size", "This image processor takes shortest_edge and longest_edge, areas in pixels.")
    if size["shortest_edge"] > size["longest_edge"]:
        name = "size" if settings.values.get("min_pixels") is None else "min_pixels"
        settings.refuse(name, "The least area is above the largest.")
    return size["shortest_edge"], size["longest_edge"]


def _check_patches(settings: Settings, model: Settings, patches: dict[str, int]) -> None:
    """The image is cut into patches by the image processor, and they must be the model's."""
    vision = model.inner("vision_config")
    own = 16 if model.given("model_type", "") in ("qwen3_vl", "qwen3_5") else 14
    for name, key, field, default in (
        ("patch_size", "patch", "patch_size", own),
        ("temporal_patch_size", "temporal_patch", "temporal_patch_size", 2),
        ("merge_size", "merge", "spatial_merge_size", 2),
    ):
        settings.agree(name, patches[key], vision.whole(field, default), f"vision_config.{field}")


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    yield from rotary_sections(config)
    vision = config.vision_config
    blocks = vision.window_size // vision.patch_size // vision.spatial_merge_size
    if blocks < 1:
        yield "vision_config.window_size", f"is {vision.window_size}, less than one token of an image"
    if (listed := vision.fullatt_block_indexes) is not None and not all(isinstance(one, int) for one in listed):
        yield "vision_config.fullatt_block_indexes", f"is {listed}; it is a list of layers"


def rotary_sections(config: Any) -> Iterator[tuple[str, str]]:
    """Of `contradictions`: what the Qwen-VL families share."""
    text, vision = config.text_config, config.vision_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    field = "text_config.rope_parameters.mrope_section"
    rope: Any = text.rope_parameters or {}
    sections, share = rope.get("mrope_section"), rope.get("partial_rotary_factor", 1.0)
    turned = int(width * share) if isinstance(share, int | float) else 0
    whole = isinstance(sections, list | tuple) and all(type(one) is int and one > 0 for one in sections)
    if not whole or len(sections) != 3 or 2 * sum(sections) != turned:
        part = f", of which partial_rotary_factor {share} turns {turned}" if "partial_rotary_factor" in rope else ""
        yield field, f"is {sections}; it is three numbers that add up to half of a head's {width}{part}"
    if vision.hidden_size // vision.num_heads % 4:
        yield "vision_config.num_heads", "gives heads whose width 4 does not divide; rows and columns share it"
    if vision.out_hidden_size != text.hidden_size:
        yield "vision_config.out_hidden_size", f"is {vision.out_hidden_size}, and text is {text.hidden_size} wide"


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to flattened patches, as Qwen2VLImageProcessor makes them.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.

    Returns:
        values (patches of all images, 3 * temporal_patch * patch * patch); a grid is (frames, rows, columns) of
        patches.

    Raises:
        DataError: an image of more than 200 : 1, or of no whole blocks where none is resized.
    """
    patches, grids = zip(*(_patches(as_rgb(image), params) for image in images), strict=True)
    return Pixels(values=np.concatenate(patches), grids=list(grids))


def _patches(image: Image.Image, params: dict[str, Any]) -> tuple[NDArray[np.float32], Grid]:
    patch, merge, frames = params["patch"], params["merge"], params["temporal_patch"]
    if params.get("sizes"):
        image = fit_image(image, params)
    elif params["do_resize"]:
        image = resize(image, _resized(*image.size, params), params)
    _check_blocks(image, patch * merge)
    pixels = normalise(np.asarray(image), params)
    rows, cols = pixels.shape[1] // patch, pixels.shape[2] // patch
    blocks = pixels.reshape(3, rows // merge, merge, patch, cols // merge, merge, patch)
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)  # the patches of one token stand together
    still = np.broadcast_to(blocks[:, :, :, :, :, None], (*blocks.shape[:5], frames, patch, patch))
    return still.reshape(rows * cols, 3 * frames * patch * patch), (1, rows, cols)


def _check_blocks(image: Image.Image, block: int) -> None:
    """Only an image that nobody resizes can fail.

    Raises:
        DataError: an edge is no multiple of a block's.
    """
    if image.width % block or image.height % block:
        raise DataError(
            f"An image of {image.width} x {image.height} pixels does not divide into blocks of {block}.",
            why="This model's image processor resizes none: its do_resize is false.",
            fix="Resize it, or set do_resize to true.",
        )


def _resized(width: int, height: int, params: dict[str, Any]) -> tuple[int, int]:
    """(width, height) in whole blocks, the area within min_pixels and max_pixels, the ratio kept where it can be."""
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(
            f"An image of {width} x {height} pixels is too long for this model.",
            why=f"Qwen's image processor takes edges of {MAX_RATIO} : 1 at most.",
            fix="Crop it, or leave it out.",
        )
    block, area = params["patch"] * params["merge"], width * height
    rows, cols = round(height / block), round(width / block)
    if rows * cols * block**2 > params["max_pixels"]:
        shrink = math.sqrt(area / params["max_pixels"])
        rows, cols = (max(1, math.floor(edge / shrink / block)) for edge in (height, width))
    elif rows * cols * block**2 < params["min_pixels"]:
        grow = math.sqrt(params["min_pixels"] / area)
        rows, cols = (math.ceil(edge * grow / block) for edge in (height, width))
    return cols * block, rows * block


def fix_sizes(params: dict[str, Any], sizes: Sequence[Size] | None) -> dict[str, Any]:
    """The parameters of an export: `sizes` in them are the only ones an image is resized to.

    Args:
        params: From `read_preprocessing`.
        sizes: (width, height) in pixels; None for one square of DEFAULT_EDGE, or the nearest the model takes.

    Raises:
        EdgekitError: an edge is no multiple of the block of merged patches, or the area is out of the model's range.
    """
    block = params["patch"] * params["merge"]
    if sizes is None:
        edge = min(DEFAULT_EDGE, math.isqrt(params["max_pixels"])) // block * block
        lowest = math.ceil(math.sqrt(params["min_pixels"]) / block) * block
        sizes = [(max(edge, lowest, block),) * 2]
    for width, height in sizes:
        _check_size(width, height, block, params)
    return {**params, "sizes": [list(size) for size in dict.fromkeys(map(tuple, sizes))]}


def _check_size(width: int, height: int, block: int, params: dict[str, Any]) -> None:
    name, lowest, highest = f"{width}x{height}", params["min_pixels"], params["max_pixels"]
    if width % block or height % block or min(width, height) <= 0:
        near = "x".join(str(max(1, round(edge / block)) * block) for edge in (width, height))
        raise EdgekitError(
            f"This model takes no images of {name} pixels.",
            why=f"Both edges must be multiples of {block}: patches of {params['patch']} pixels, merged "
            f"{params['merge']} x {params['merge']}.",
            fix=f"Nearest:  --image-size {near}",
        )
    if not lowest <= width * height <= highest:
        raise EdgekitError(
            f"This model takes no images of {name} pixels.",
            why=f"Their area is {width * height:,}; its image processor keeps areas between {lowest:,} and "
            f"{highest:,} pixels, and would resize them again.",
            fix="Choose a size within that range.",
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise EdgekitError(
            f"This model takes no images of {name} pixels.", why=f"Edges may be {MAX_RATIO} : 1 at most."
        )


def tokens_of(grid: Grid, params: dict[str, Any]) -> int:
    """Image tokens of an image."""
    return math.prod(grid) // int(params["merge"]) ** 2


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Repeat each `<|image_pad|>` of a rendered prompt for every token of its image."""
    return fill_places(text, IMAGE, [IMAGE * tokens_of(grid, params) for grid in grids])


def positions(ids: Sequence[int], grids: list[Grid], params: dict[str, Any]) -> NDArray[np.int64]:
    """M-RoPE positions (3, T) of a prompt: frame, row and column.

    A text token has the same position on all three axes; an image's tokens start where the text before stopped, and
    the text after goes on behind the image's largest position.

    Source: Qwen2-VL, arXiv:2409.12191, section 2.1; transformers' get_rope_index.

    Args:
        ids: T tokens, placeholders expanded.
        grids: Of the images in order.
        params: From `read_preprocessing`.
    """
    parts: list[NDArray[np.int64]] = []
    images = iter(grids)
    place = start = 0
    while place < len(ids):
        if ids[place] == params["image_token_id"]:
            frames, rows, cols = next(images)
            shape = (frames, rows // params["merge"], cols // params["merge"])
            parts.append(np.indices(shape, dtype=np.int64).reshape(3, -1) + start)
            place += parts[-1].shape[1]
            start += max(shape[1:])
        else:
            parts.append(np.full((3, 1), start, dtype=np.int64))
            place, start = place + 1, start + 1
    return np.concatenate(parts, axis=1)


def images(pixels: Pixels, params: dict[str, Any]) -> list[NDArray[np.uint8]]:
    """The patches as the images (H, W, 3) they were cut from, for a runtime that normalises by itself."""
    patch, merge, frames = params["patch"], params["merge"], params["temporal_patch"]
    found, start = [], 0
    for _, rows, cols in pixels.grids:
        own = pixels.values[start : start + rows * cols]
        start += rows * cols
        blocks = own.reshape(rows // merge, cols // merge, merge, merge, 3, frames, patch, patch)[:, :, :, :, :, 0]
        found.append(denormalise(blocks.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, cols * patch), params))
    return found


def mmproj(config: Mapping[str, Any], params: dict[str, Any]) -> MmProj:
    """The vision encoder as llama.cpp's clip reads it.

    Args:
        config: config.json, every default filled in.
        params: From `read_preprocessing`.

    Raises:
        CheckpointError: windows that it does not know.
    """
    vision = config["vision_config"]
    full = list(vision["fullatt_block_indexes"])
    if vision["window_size"] != _LLAMA_WINDOW or full != list(range(full[0], vision["depth"], full[0] + 1)):
        raise CheckpointError(
            "llama.cpp cannot run this Qwen2.5-VL vision encoder.",
            why=f"Its windows are of {_LLAMA_WINDOW} pixels, with full attention in every n-th layer; this one has "
            f"windows of {vision['window_size']} and full attention in layers {full} of {vision['depth']}.",
            fix="Export to another target.",
        )
    return MmProj(
        projector="qwen2.5vl_merger",
        tensors={
            "model.visual.patch_embed.proj": "v.patch_embd",
            "model.visual.merger.ln_q": "v.post_ln",
            "model.visual.merger.mlp.0": "mm.0",
            "model.visual.merger.mlp.2": "mm.2",
            **qwen_blocks(
                {
                    "attn.qkv": ("attn_q", "attn_k", "attn_v"),
                    **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")},
                }
            ),
        },
        metadata={
            "clip.use_silu": True,
            "clip.vision.attention.layer_norm_epsilon": 1e-6,  # transformers' own, in no configuration
            "clip.vision.n_wa_pattern": full[0] + 1,
        },
        sizes=qwen_sizes(vision, 560),
        placeholder=f"<|vision_start|>{IMAGE}<|vision_end|>",
        pieces=QWEN_PIECES,
        image_tokens=(1, 16384),
    )


_LLAMA_WINDOW = 112


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    import torch

    inner: Any = model.model
    grid = torch.tensor(grids, device=pixel_values.device)
    per_image = inner.get_image_features(pixel_values, grid, return_dict=True).pooler_output
    return Features(torch.cat(per_image), [len(image) for image in per_image])


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    import torch

    kinds = (ids == model.config.image_token_id).int()
    return {"pixel_values": pixel_values, "image_grid_thw": torch.tensor(grids), "mm_token_type_ids": kinds}


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules: a vision encoder for each size, with its windows, positions and rotary tables baked in.

    Args:
        model: Loaded.
        sizes: (width, height) in pixels, multiples of the block of merged patches; None for DEFAULT_EDGE squared.
    """
    from edgekit.families._qwen_tower import split_of

    inner: Any = model.model
    return split_of(model, inner.language_model, sizes or [(DEFAULT_EDGE, DEFAULT_EDGE)], ())


FAMILY = Family(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    prefixes={"vision": ("model.visual.",), "language": ("model.language_model.",)},
    image_token=IMAGE,
    read_preprocessing=read_preprocessing,
    preprocess=preprocess,
    expand=expand,
    positions=positions,
    encode_images=encode_images,
    forward_inputs=forward_inputs,
    fix_sizes=fix_sizes,
    split=split,
    images=images,
    mmproj=mmproj,
    contradictions=contradictions,
)
