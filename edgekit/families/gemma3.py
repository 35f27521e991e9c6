"""Gemma 3 with images (model type `gemma3`: 4B, 12B and 27B).

An image becomes one square view of `image_seq_len` tokens, whatever its shape; pan and scan, which adds crops of long
images, is off, as in the Hugging Face processor. The tokens of an image see each other in both directions, and most
decoder layers see a window of the last tokens only. So positions have two axes: a token's position, and where the
block begins of which all tokens see each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import CheckpointError
from edgekit.families import TOWER_AND_PROJECTOR, Family, Features, Grid, Pixels, Size, Split, fill_places
from edgekit.families.sizes import tiles_only
from edgekit.inputs.image_settings import (
    Settings,
    read_image_settings,
    read_model_settings,
    read_normalisation,
    read_processor_settings,
)
from edgekit.inputs.images import as_rgb, normalise
from edgekit.inputs.resizing import resize

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

START, IMAGE, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"
HIDDEN = -1e4
"""Added to the score of a token that may not be seen; float16 holds it, and exp of it is 0."""
IMAGE_TOKEN_ID = 262144  # transformers' default where config.json is silent
IMAGE_PROCESSORS = ("Gemma3ImageProcessor",)


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Image parameters of a Gemma 3 checkpoint.

    Returns:
        resample, do_resize, tile (width and height, pixels), rescale_factor, mean, std, image_seq_len, image_token_id.

    Raises:
        CheckpointError: pan and scan is on; a setting that is none, or that the model contradicts.
    """
    settings = read_image_settings(folder, IMAGE_PROCESSORS)
    if settings.flag("do_pan_and_scan", False):
        raise CheckpointError(
            f"{folder} asks for pan and scan, which is not known here.",
            why="Its image processor adds crops of long images.",
            fix="Set do_pan_and_scan to false in preprocessor_config.json, as the model's processor does by itself.",
        )
    if not settings.flag("do_resize", True):
        settings.refuse("do_resize", "The model takes images of one size, and no other would reach it in that size.")
    height, width = settings.square("size", 224)
    model = read_model_settings(folder)
    token = IMAGE_TOKEN_ID
    if model is not None:
        known = model.whole("image_token_id", IMAGE_TOKEN_ID, least=0, most=1 << 31)
        token = model.whole("image_token_index", known, least=0, most=1 << 31)
    return {
        "resample": settings.resample(Image.Resampling.BILINEAR),
        "do_resize": settings.flag("do_resize", True),
        "tile": [width, height],
        **read_normalisation(settings, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "image_seq_len": _image_seq_len(read_processor_settings(folder), settings, model, (height, width)),
        "image_token_id": token,
    }


def contradictions(config: Any) -> Iterator[tuple[str, str]]:
    """Fields that do not go together, each with what it says, after its own name."""
    text, tokens = config.text_config, config.mm_tokens_per_image
    side = math.isqrt(tokens)
    if side**2 != tokens:
        yield "mm_tokens_per_image", f"is {tokens}, no square"
    patches = config.vision_config.image_size // config.vision_config.patch_size
    if patches < side or patches % side:
        yield "mm_tokens_per_image", f"is {tokens}: {side} x {side} tokens of {patches} x {patches} patches"
    if "sliding_attention" in text.layer_types and not (type(text.sliding_window) is int and text.sliding_window > 0):
        yield "text_config.sliding_window", f"is {text.sliding_window}, and layers have one"


def _image_seq_len(given: Settings, settings: Settings, model: Settings | None, tile: tuple[int, int]) -> int:
    """Image tokens of an image, which the processor and the model must agree on."""
    tokens = given.whole("image_seq_length", 256)
    if model is not None:
        edges = model.inner("vision_config").pair("image_size", 224)
        settings.agree("size", list(tile), list(edges), "vision_config.image_size")
        wanted = model.whole("mm_tokens_per_image", 256)
        given.agree("image_seq_length", tokens, wanted, "mm_tokens_per_image")
    return tokens


def preprocess(images: list[Image.Image], params: dict[str, Any]) -> Pixels:
    """Images to normalised squares, as Gemma3ImageProcessor makes them.

    Args:
        images: Any mode and size.
        params: From `read_preprocessing`.

    Returns:
        values (M, 3, H, W), one for each image; every grid is (1,).
    """
    views = [as_rgb(image) for image in images]
    if params["do_resize"]:
        views = [resize(view, (params["tile"][0], params["tile"][1]), params) for view in views]
    values = np.stack([normalise(np.asarray(view), params) for view in views])
    return Pixels(values=values, grids=[(1,)] * len(views))


def expand(text: str, grids: list[Grid], params: dict[str, Any]) -> str:
    """Replace each `<start_of_image>` of a rendered prompt by an image's tokens between its marks."""
    filling = f"\n\n{START}{IMAGE * params['image_seq_len']}{END}\n\n"
    return fill_places(text, START, [filling for _ in grids])


def positions(ids: Sequence[int], grids: list[Grid], params: dict[str, Any]) -> NDArray[np.int64]:
    """(2, T): positions, and for an image's tokens the position of its first, for each other token its own."""
    places = np.arange(len(ids), dtype=np.int64)
    inside = np.asarray(ids) == params["image_token_id"]
    goes_on = inside & np.concatenate([[False], inside[:-1]])
    blocks = np.maximum.accumulate(np.where(goes_on, -1, places))
    return np.stack([places, blocks])


def encode_images(model: PreTrainedModel, pixel_values: Tensor, grids: list[Grid]) -> Features:
    """Embeddings of all images by the untouched model; keeps gradients."""
    inner: Any = model.model
    views = inner.get_image_features(pixel_values, return_dict=True).pooler_output
    return Features(views.flatten(0, 1), [views.shape[1]] * len(grids))


def forward_inputs(model: PreTrainedModel, pixel_values: Tensor, ids: Tensor, grids: list[Grid]) -> dict[str, Any]:
    """The images as `forward` of the untouched model takes them."""
    return {"pixel_values": pixel_values, "token_type_ids": (ids == model.config.image_token_id).int()}


def decoder_inputs(model: PreTrainedModel, embeds: Tensor, mask: Tensor, positions: Tensor) -> dict[str, Any]:
    """Mask and positions as the model's own decoder takes them.

    Args:
        model: The whole model.
        embeds: (B, T, D), whole prompts, or one token behind a cache.
        mask: (B, P+T).
        positions: (2, B, T).
    """
    if embeds.shape[1] == 1:
        return {"attention_mask": mask, "position_ids": positions[0]}
    window = model.config.get_text_config().sliding_window
    tokens = embeds.shape[1]
    return {
        "attention_mask": {
            "full_attention": _visible(positions[1], mask, embeds, 0, (tokens, 0), None),
            "sliding_attention": _visible(positions[1], mask, embeds, 0, (tokens, 0), window),
        },
        "position_ids": positions[0],
    }


def _visible(
    blocks: Tensor, mask: Tensor, embeds: Tensor, seen: int, sizes: tuple[int, int], window: int | None
) -> Tensor:
    """What new tokens see of the keys, as transformers' create_masks_for_vision_model has it: 0, or HIDDEN.

    Args:
        blocks: (B, T), where each new token's block begins.
        mask: (B, P+T), 0 for padding.
        embeds: Of the dtype and device wanted.
        seen: P, tokens before the new ones.
        sizes: So many keys, and the place of the first, as `Cache.get_mask_sizes` says them.
        window: So many last tokens are seen, itself included; all when None.

    Returns:
        (B, 1, T, keys), to be added to scores.
    """
    import torch

    tokens = blocks.shape[1]
    keys = torch.arange(sizes[0], device=mask.device) + sizes[1]
    queries = (torch.arange(tokens, device=mask.device) + seen)[:, None]
    # Keys behind the new tokens are room that a static cache has not filled. Looking the others up by their places,
    # and not taking the mask as it is, leaves tracing no two lengths to compare.
    # A choice and no clamp: coremltools clamps whole numbers as floats; and it knows no `|`.
    first, known = torch.zeros_like(keys), keys < seen + tokens
    real = mask.index_select(1, torch.where(keys < mask.shape[1], keys, first)).bool() & known
    new = (keys >= seen) & known
    whose = blocks.index_select(1, torch.where(new, keys - seen, first))
    together = (blocks[:, :, None] == whose[:, None, :]) & new
    seen_by = (keys <= queries).logical_or(together)
    if window is not None:
        seen_by = seen_by & (keys > queries - window)
    # Padding sees itself, or its row would be undefined.
    seen_by = (seen_by & real[:, None, :]).logical_or(keys == queries)
    hidden = torch.zeros_like(seen_by, dtype=embeds.dtype).masked_fill(~seen_by, HIDDEN)
    return hidden[:, None]


def split(model: PreTrainedModel, sizes: Sequence[Size] | None = None) -> Split:
    """The plain modules; positions are baked for views of the configured size.

    Args:
        model: Loaded.
        sizes: None; views have one size.

    Raises:
        EdgekitError: sizes were chosen.
    """
    from torch import nn

    from edgekit.families._modules import siglip, tile_split
    from edgekit.families.decoding import positions as positions_of

    tiles_only({}, sizes)
    inner: Any = model.model
    text, text_decoder = _decoder(inner.language_model, model.lm_head)
    return tile_split(
        model,
        nn.Sequential(siglip(inner.vision_tower), inner.multi_modal_projector),
        (model.config.vision_config.image_size,) * 2,
        model.config.mm_tokens_per_image,
        inner.language_model,
        text=text,
        text_decoder=text_decoder,
        extra_inputs=(positions_of(2),),
    )


def _decoder(text_model: Any, lm_head: Any) -> tuple[nn.Module, nn.Module]:
    """`Split.text` and `Split.text_decoder`; position_ids (2, B, T) say which tokens see each other."""
    from torch import nn
    from transformers import DynamicCache

    from edgekit.families._rotary import traceable

    kinds = {kind: text_model.config.layer_types.index(kind) for kind in set(text_model.config.layer_types)}
    windows = {"full_attention": None, "sliding_attention": text_model.config.sliding_window}

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text_model, self.lm_head = traceable(text_model), lm_head

        def forward(
            self,
            inputs_embeds: Tensor,
            attention_mask: Tensor,
            position_ids: Tensor,
            cache: Any,
        ) -> Tensor:
            tokens, seen = inputs_embeds.shape[1], cache.get_seq_length()
            masks = {
                kind: _visible(
                    position_ids[1],
                    attention_mask,
                    inputs_embeds,
                    seen,
                    cache.get_mask_sizes(tokens, layer),
                    windows[kind],
                )
                for kind, layer in kinds.items()
            }
            hidden = self.text_model(
                inputs_embeds=inputs_embeds,
                attention_mask=masks,
                position_ids=position_ids[0],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits: Tensor = self.lm_head(hidden)
            return logits

    class TextDecoder(nn.Module):
        def __init__(self, text: Text) -> None:
            super().__init__()
            self.text = text

        def forward(
            self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
        ) -> tuple[Tensor, ...]:
            cache = DynamicCache()  # every layer keeps all tokens; the window is in the mask
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            logits = self.text(inputs_embeds, attention_mask, position_ids, cache)
            return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))

    text = Text().eval()
    return text, TextDecoder(text).eval()


FAMILY = Family(
    name="gemma3",
    model_types=("gemma3",),
    prefixes=TOWER_AND_PROJECTOR,
    image_token=IMAGE,
    read_preprocessing=read_preprocessing,
    preprocess=preprocess,
    expand=expand,
    positions=positions,
    encode_images=encode_images,
    forward_inputs=forward_inputs,
    fix_sizes=tiles_only,
    split=split,
    decoder_inputs=decoder_inputs,
    contradictions=contradictions,
)
