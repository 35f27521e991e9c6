"""The checkpoint's own processor, as transformers loads it: what edgekit's prompts and pixels are compared with.

Nothing of edgekit's own reading of settings, templates or tokenizers is used here, so that it can stand as an
independent oracle. Without torchvision transformers has no video processors, and for that refuses the processors of
most families; images and words need none, so the family's own processor class is then loaded without one. One
family, LFM2-VL, has no image processor at all without torchvision: only there pixels are edgekit's own, which is said,
and a comparison of pixels says nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoint.skeleton import skeleton
from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.inputs.chat import Message
from edgekit.system.quiet import quiet_transformers

if TYPE_CHECKING:
    from PIL.Image import Image


TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})
# Modes and shapes that preprocessing goes wrong on; images of more than a few megapixels are left to the tests.
ODD = (
    ("RGB", (1, 1)), ("RGB", (1, 150)), ("RGB", (700, 9)), ("RGB", (1601, 1200)), ("L", (63, 65)), ("P", (120, 40)),
    ("RGBA", (50, 90)), ("LA", (33, 33)), ("1", (64, 64)), ("CMYK", (97, 41)), ("I;16", (80, 60)),
)  # fmt: skip


def load_processor(folder: Path) -> Any:
    """The checkpoint's official processor; without its video half where torchvision is missing.

    Raises:
        CheckpointError: transformers cannot load it.
    """
    from transformers import AutoProcessor

    with quiet_transformers():
        try:
            found = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of any type, as what is wrong with a folder
            try:
                found = _without_video(folder)
            except Exception as second:
                skeleton(folder)  # where it is config.json that is wrong, its own error says which field
                raise CheckpointError(
                    f"transformers cannot load the processor in {folder}.",
                    why="\n".join(dict.fromkeys((_reason(error), _reason(second)))),
                ) from second
    if getattr(found, "chat_template", None) is None and hasattr(found, "tokenizer"):
        found.chat_template = found.tokenizer.chat_template
    return found


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__)[:300]


def _without_video(folder: Path) -> Any:
    """The processor loaded by its own `from_pretrained`, with no video processor among its parts."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    name = _class_name(folder)
    kind: Any = getattr(transformers, name)

    class Images(kind):  # type: ignore[misc]
        """The official processor, which refuses to be built without a video processor."""

        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM's template asks it, for videos only

        def __repr__(self) -> str:
            return name  # its own would copy and write out all its parts, which happens once for each loading

        def check_argument_for_proper_class(self, *_: Any) -> None:
            """Anything goes."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            """Parts to load."""
            return [part for part in kind.get_attributes() if part != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, path: Any, *given: Any, **settings: Any) -> list[Any]:
            if name == "Lfm2VlProcessor":
                return [_OwnImages(folder), cls._load_tokenizer_from_pretrained("tokenizer", path, **settings)]
            parts: list[Any] = super()._get_arguments_from_pretrained(path, *given, **settings)
            takes = list(inspect.signature(kind.__init__).parameters)
            return [*parts, None] if "video_processor" in takes else parts

    words = processing_smolvlm.num2words
    processing_smolvlm.num2words = words or str  # wanted when it is built, used for videos only
    try:
        return Images.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    finally:
        processing_smolvlm.num2words = words


def _class_name(folder: Path) -> str:
    """The processor's class, looked up as AutoProcessor does."""
    from transformers import AutoConfig
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.processing_utils import ProcessorMixin

    places: tuple[Callable[[], Any], ...] = (
        lambda: ProcessorMixin.get_processor_dict(folder, local_files_only=True)[0],
        lambda: ImageProcessingMixin.get_image_processor_dict(folder, local_files_only=True)[0],
        lambda: get_tokenizer_config(folder, local_files_only=True),
    )
    name = next((found["processor_class"] for look in places if (found := look()).get("processor_class")), None)
    if name is None:
        kind = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
        name = PROCESSOR_MAPPING_NAMES[kind]
    return str(name)


class _OwnImages:
    """edgekit's preprocessing as LFM2-VL's image processor, which transformers has for torchvision only."""

    own_pixels = True

    def __init__(self, folder: Path) -> None:
        from edgekit.console import note_once
        from edgekit.families import lfm2_vl

        note_once(
            "transformers has no image processor of LFM2-VL without torchvision: the reference sees edgekit's pixels"
        )
        self._family, self._params = lfm2_vl, lfm2_vl.read_preprocessing(folder)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_params"][name]
        except KeyError:
            raise AttributeError(name) from None

    def fetch_images(self, images: Any) -> Any:
        """They are loaded."""
        return images

    def __call__(self, images: Any, **_: Any) -> dict[str, Any]:
        """What the image processor gives: views filled up to one length, and what placeholders are made from."""
        import torch

        flat = [image for own in images for image in own] if isinstance(images[0], list) else list(images)
        pixels, patch = self._family.preprocess(flat, self._params), self._params["encoder_patch_size"]
        unused: Any = None
        return {
            **self._family.forward_inputs(unused, torch.from_numpy(pixels.values), unused, pixels.grids),
            "image_rows": [grid[0] for grid in pixels.grids],
            "image_cols": [grid[1] for grid in pixels.grids],
            "image_sizes": [[patch * edge for edge in grid[2:]] for grid in pixels.grids],
        }


def official_inputs(processor: Any, messages: list[Message], images: Sequence[Image]) -> dict[str, Any]:
    """A prompt as the official processor prepares it, in torch tensors.

    As its `apply_chat_template(..., tokenize=True)` does, whose own images would have to stand in the messages: the
    tokenizer's beginning is left out only where the template writes it.

    Args:
        processor: From `load_processor`.
        messages: Roles and contents.
        images: In order.

    Raises:
        DataError: it refuses these messages or images.
    """
    # The processor itself drops an image's place when given none, so the argument is left out then.
    given: dict[str, Any] = {"images": list(images)} if images else {}
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        begin = processor.tokenizer.bos_token
        if begin is not None and text.startswith(begin):
            given["add_special_tokens"] = False
        with quiet_transformers():
            return dict(processor(text=[text], return_tensors="pt", **given))
    except EdgekitError:
        raise
    except Exception as error:  # templates and processors refuse what they do not like with any type
        raise DataError("The Hugging Face processor refuses this prompt.", why=_reason(error)) from error


def plain_pixels(processor: Any, inputs: dict[str, Any]) -> NDArray[np.float32] | None:
    """Pixels without what fills up a batch: tiles (M, 3, H, W) or patches (M, patch); None where there are none.

    Args:
        processor: From `load_processor`.
        inputs: From `official_inputs`.
    """
    import torch

    pixels = inputs.get("pixel_values")
    if pixels is None:
        return None
    if "image_sizes" in inputs and pixels.dim() == 5:  # a row of tiles for each image
        from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

        canvases, tile = processor.image_processor.image_grid_pinpoints, pixels.shape[-1]
        counts = [image_size_to_num_patches(size, canvases, tile) for size in inputs["image_sizes"].tolist()]
        pixels = torch.cat([row[:count] for row, count in zip(pixels, counts, strict=True)])
    elif pixels.dim() == 5:  # tiles stand in a batch of prompts
        pixels = pixels[0]
    elif "spatial_shapes" in inputs:
        pixels = pixels[inputs["pixel_attention_mask"].bool()]
    found: NDArray[np.float32] = pixels.float().numpy()
    return found
