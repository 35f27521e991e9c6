"""edgekit's own preprocessing and prompts against the Hugging Face processors'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tracing import traced_once

from edgekit.errors import CheckpointError, DataError
from edgekit.families import idefics3
from edgekit.families.merging import merge_images
from edgekit.inputs.chat import question, render
from edgekit.inputs.images import as_rgb
from edgekit.inputs.processor import Processor

MODES = ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA", "PA"]
SIZES = [(64, 64), (500, 37), (37, 500), (1, 1), (1, 300), (513, 512), (640, 480), (63, 65)]


def an_image(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA")
    return noise.convert(mode)


@pytest.mark.parametrize(
    ("split", "edge", "tile"), [(False, 64, 64), (True, 64, 64), (True, 256, 64), (True, 2048, 512)]
)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_the_hugging_face_processor(split: bool, edge: int, tile: int, size: tuple[int, int]) -> None:
    from transformers import Idefics3ImageProcessorPil

    theirs = Idefics3ImageProcessorPil(
        size={"longest_edge": edge}, max_image_size={"longest_edge": tile}, do_image_splitting=split
    )([an_image(size)], return_tensors="np", return_row_col_info=True)
    params = {
        "resample": 1, "do_resize": True, "longest_edge": edge, "tile": tile, "split": split,
        "rescale_factor": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "image_seq_len": 4,
    }  # fmt: skip
    ours = idefics3.preprocess([an_image(size)], params)
    np.testing.assert_array_equal(ours.values, theirs["pixel_values"][0])
    assert ours.grids == [(theirs["rows"][0][0], theirs["cols"][0][0])]


@pytest.mark.parametrize("mode", MODES)
def test_any_mode(tiny_checkpoint: Path, mode: str) -> None:
    """Transparency too, which the reference lays over white."""
    from transformers import AutoImageProcessor

    theirs = AutoImageProcessor.from_pretrained(tiny_checkpoint, local_files_only=True)
    ours = Processor.load(tiny_checkpoint).encode(question("q"), [an_image((40, 30), mode)])
    assert ours.pixels is not None
    np.testing.assert_array_equal(
        ours.pixels.values, theirs([an_image((40, 30), mode)], return_tensors="np")["pixel_values"][0]
    )


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_a_transparent_colour_is_laid_over_white(mode: str) -> None:
    """PNG's tRNS chunk: one colour or palette entry that stands for nothing, and no alpha channel."""
    from transformers.image_transforms import convert_to_rgb

    drawn = an_image((8, 8), mode)
    drawn.info["transparency"] = (255, 0, 0) if mode == "RGB" else 3
    np.testing.assert_array_equal(np.asarray(as_rgb(drawn)), convert_to_rgb(drawn, return_numpy=True))


@pytest.fixture(scope="module")
def tiled(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with image splitting on: up to 3 x 3 tiles and a global view."""
    folder = tmp_path_factory.mktemp("tiled") / "model"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "preprocessor_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "do_image_splitting": True, "size": {"longest_edge": 192}})
    )
    return folder


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (30, 190)])
def test_prompt_ids_equal_the_hugging_face_processor(tiled: Path, tiny_checkpoint: Path, size: tuple[int, int]) -> None:
    from transformers import AutoProcessor

    for folder in (tiled, tiny_checkpoint):
        theirs = AutoProcessor.from_pretrained(folder, local_files_only=True)
        messages = question("what is there?", 2)
        images = [an_image(size), an_image((64, 64), seed=1)]
        text = theirs.apply_chat_template(messages, add_generation_prompt=True)
        expected = theirs(text=[text], images=images, return_tensors="np", add_special_tokens=False)
        ours = Processor.load(folder).encode(messages, images)
        np.testing.assert_array_equal(ours.ids, expected["input_ids"])
        assert ours.pixels is not None
        np.testing.assert_array_equal(ours.pixels.values, expected["pixel_values"][0])


@pytest.mark.slow
def test_a_tiled_image_end_to_end(tiled: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from exporting import export_checkpoint

    from edgekit.runtimes.verify import verify_bundle

    with traced_once(tiny_checkpoint):
        bundle = export_checkpoint(tiled, "onnx", "fp32", tmp_path / "b", prompts=2)
    result = verify_bundle(bundle.folder, tiled, None, 16)  # 96x48, 48x96 and 640x480 images among them
    assert result["passed"], result["checks"]
    assert result["pixel_max_abs"] == 0 and result["prompt_ids_equal"] == 1 and result["greedy_identical"] == 1


def test_an_image_token_in_a_question_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="does not have one image part"):
        Processor.load(tiny_checkpoint).encode(question("what is <image>?"), [an_image((8, 8))])


def test_merge_counts() -> None:
    ids = np.array([[5, 3, 3, 7]])
    features = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    merged = merge_images(np.zeros((1, 4, 2), np.float32), ids, features, 3)
    assert merged[0].tolist() == [[0, 0], [0, 1], [2, 3], [0, 0]]
    with pytest.raises(CheckpointError, match="2 image tokens but the vision encoder gave 1"):
        merge_images(np.zeros((1, 4, 2), np.float32), ids, features[:, :1], 3)


TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "  {%- for m in messages %}\n  {%- if loop.index > 2 %}{% break %}{% endif %}\n    {{ m.role }}\n  {%- endfor %}\n",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }} {{ messages | tojson }}",
    "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %};{% endfor %}{{ strftime_now('%Y') }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_render_as_transformers_does(tiny_checkpoint: Path, template: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, local_files_only=True)
    talk: list[dict[str, Any]] = [
        *question("first <é>?"), {"role": "assistant", "content": "one"}, {"role": "user", "content": "second?"},
    ]  # fmt: skip
    expected = tokenizer.apply_chat_template(talk, chat_template=template, tokenize=False, add_generation_prompt=True)
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    assert render(template, talk, special) == expected


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(DataError, match="refuses"):
        render("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", question("q"))
    with pytest.raises(DataError, match="only one turn"):
        render("{{ raise_exception('only one turn') }}", question("q"))


def test_image_processor_nested_in_processor_config(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_checkpoint, folder)
    nested = json.loads((folder / "preprocessor_config.json").read_text())
    expected = idefics3.read_preprocessing(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="no image processor settings"):
        idefics3.read_preprocessing(folder)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": nested, "image_seq_len": 16}))
    assert idefics3.read_preprocessing(folder) == expected
