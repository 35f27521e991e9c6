"""Images that preprocessing goes wrong on, for every family, against the Hugging Face processor's pillow version.

The difference is 0 in every case: the same resizing by pillow, the same order of operations in the same precision.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import DataError
from edgekit.families import FAMILIES
from edgekit.inputs.agreement import odd_images
from edgekit.inputs.chat import question
from edgekit.inputs.official import load_processor
from edgekit.inputs.processor import Processor

Maker = Callable[..., Path]
NAMES = ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"]


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
    if mode in ("I", "F"):
        values = rng.integers(-50, 400, (height, width))
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)


def decoded(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    """Through a file, as images come."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return Image.open(data)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return decoded(image, "JPEG", exif=exif)


def special() -> dict[str, Image.Image]:
    """By name; each stands for a way to go wrong."""
    clear = noise(40, 30)
    clear.info["transparency"] = clear.getpixel((3, 3))
    palette = decoded(noise(60, 40, "P"), "PNG", transparency=7)
    return {
        "16-bit grey PNG": decoded(noise(70, 50, "I;16"), "PNG"),
        "32-bit integers": noise(50, 50, "I"),
        "32-bit floats": noise(50, 50, "F"),
        "CMYK JPEG": decoded(noise(90, 33, "CMYK"), "JPEG"),
        "palette with a transparent entry": palette,
        "GIF": decoded(noise(50, 70, "P"), "GIF"),
        "RGB with a transparent colour": clear,
        "grey and alpha": noise(31, 77, "LA"),
        "one bit": noise(64, 64, "1"),
        "turned by EXIF": turned(noise(80, 40), 6),
        "mirrored by EXIF": turned(noise(80, 40), 2),
        "YCbCr": noise(40, 60, "YCbCr"),
        "one pixel": noise(1, 1),
        "one row": noise(150, 1),
        "one column": noise(1, 150),
        "huge": noise(1, 1).resize((9000, 6000)),
        "long": noise(4000, 25),
    }


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    return special() | {f"odd {number}": image for number, image in enumerate(odd_images())}


@pytest.mark.parametrize("name", NAMES)
def test_special_images_equal_the_hugging_face_processor(
    tiny_of: Maker, name: str, images: dict[str, Image.Image]
) -> None:
    folder = tiny_of(name)
    theirs, ours = load_processor(folder), Processor.load(folder)
    messages = question("what is there?")
    text = theirs.apply_chat_template(messages, add_generation_prompt=True)
    for what, image in images.items():
        expected = theirs(text=[text], images=[image], return_tensors="np", add_special_tokens=False)
        got = ours.encode(messages, [image])
        np.testing.assert_array_equal(got.ids, expected["input_ids"], err_msg=what)
        pixels = np.asarray(expected["pixel_values"])
        assert got.pixels is not None and got.pixels.parts == [len(got.pixels.values)]
        np.testing.assert_array_equal(got.pixels.values, pixels[0] if pixels.ndim == 5 else pixels, err_msg=what)


def test_a_turned_image_is_seen_as_it_is_stored(tiny_of: Maker) -> None:
    """The processors look at no EXIF tag; whoever opens a file may turn it first, as `edgekit run` does."""
    processor = Processor.load(tiny_of("smolvlm"))
    stored = turned(noise(80, 40), 6)
    plain = Image.fromarray(np.asarray(stored))
    seen, expected = (processor.encode(question("q"), [image]).pixels for image in (stored, plain))
    assert seen is not None and expected is not None
    np.testing.assert_array_equal(seen.values, expected.values)


@pytest.mark.parametrize("name", NAMES)
def test_images_in_one_prompt_keep_their_parts(tiny_of: Maker, name: str) -> None:
    """Pixels of several images stand one after the other, and it is known which are whose."""
    processor = Processor.load(tiny_of(name))
    images = [noise(100, 40), noise(30, 90, seed=1), noise(64, 64, seed=2)]
    alone = [processor.encode(question("q"), [image]).pixels for image in images]
    together = processor.encode(question("q", 3), images).pixels
    assert together is not None and all(pixels is not None for pixels in alone)
    assert together.parts == [len(pixels.values) for pixels in alone if pixels]
    np.testing.assert_array_equal(together.values, np.concatenate([pixels.values for pixels in alone if pixels]))
    assert together.grids == [grid for pixels in alone if pixels for grid in pixels.grids]


HUB: dict[str, dict[str, Any]] = {
    "idefics3": {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}, "resample": 1},
    "internvl": {"size": {"height": 448, "width": 448}, "min_patches": 1, "max_patches": 12, "resample": 3},
    "qwen2_5_vl": {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "resample": 3},
    "qwen3_vl": {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "resample": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HUB)
@pytest.mark.parametrize("size", [(4032, 3024), (1, 1), (3000, 20), (12000, 9000)])
def test_photos_at_the_hubs_own_settings(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """A phone's photo, and one larger than any limit."""
    import transformers

    kind = {"idefics3": "Idefics3ImageProcessorPil", "internvl": "GotOcr2ImageProcessorPil"}
    theirs = getattr(transformers, kind.get(name, "Qwen2VLImageProcessorPil"))(**HUB[name])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_resize": True, **HUB[name]}))
    family = FAMILIES.load(name)
    image = noise(200, 150).resize(size)
    given = {"crop_to_patches": True} if name == "internvl" else {}
    expected = np.asarray(theirs([image], return_tensors="np", **given)["pixel_values"])
    got = family.preprocess([image], family.read_preprocessing(tmp_path))
    np.testing.assert_array_equal(got.values, expected[0] if expected.ndim == 5 else expected)


def test_an_image_both_refuse(tiny_of: Maker) -> None:
    """More than 200 : 1, for Qwen."""
    folder = tiny_of("qwen3_vl")
    with pytest.raises(ValueError, match="aspect ratio"):
        load_processor(folder).image_processor([noise(401, 2)])
    with pytest.raises(DataError, match="too long"):
        Processor.load(folder).encode(question("q"), [noise(401, 2)])
