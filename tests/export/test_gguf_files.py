"""What the two GGUF files hold: weights in their places, the vocabulary, and what llama.cpp could not take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.checkpoint.folder import load_model
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.export import _gguf_files as files
from edgekit.export import _gguf_vocabulary as vocabularies
from edgekit.export import gguf as target
from edgekit.export.bundling import drawn_samples
from edgekit.families import FAMILIES, Pixels
from edgekit.inputs.images import denormalise, normalise
from edgekit.inputs.processor import Processor
from edgekit.stats import largest_gap

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
with_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
Maker = Callable[..., Path]
FAMILY_NAMES = ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl"]


def config_of(checkpoint: Path) -> Any:
    return files.as_json(load_model(checkpoint).config.to_dict())


def tiny(tiny_of: Maker, family: str) -> Path:
    return tiny_of(family, **target.TARGET.tiny.get(family, {}))


def test_rotary_pairs_lie_side_by_side_in_each_head() -> None:
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of width 4: pairs (0, 2), (1, 3) and (4, 6), (5, 7)
    assert files.interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert files.interleave(rows[:, 0], 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_denormalise_undoes_normalise() -> None:
    every = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    params = {"rescale_factor": 1 / 255, "mean": [0.48, 0.45, 0.40], "std": [0.26, 0.27, 0.28]}
    assert np.array_equal(denormalise(normalise(every, params), params), every)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_prepared_pixels_become_the_images_they_were_cut_from(family: str, tiny_of: Maker) -> None:
    processor = Processor.load(tiny(tiny_of, family))
    images = [drawn_samples(8)[4].images[0].open()]
    inputs = processor.encode(drawn_samples(1)[0].messages, images)
    assert inputs.pixels is not None
    module = processor.family
    opened = module.images(Pixels(inputs.pixels.values, inputs.pixels.grids), processor.params)
    again = [normalise(image, processor.params) for image in opened]
    if inputs.pixels.values.ndim == 4:
        assert largest_gap(np.stack(again), inputs.pixels.values) == 0.0
        return
    params = {**processor.params, "do_resize": False}
    from PIL import Image

    back = module.preprocess([Image.fromarray(image) for image in opened], params)
    assert largest_gap(back.values, inputs.pixels.values) == 0.0 and back.grids == inputs.pixels.grids


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_weight_has_its_place_and_its_values(family: str, tiny_of: Maker, tmp_path: Path) -> None:
    checkpoint = tiny(tiny_of, family)
    model: Any = load_model(checkpoint)
    config = config_of(checkpoint)
    plan, params = target.plan_of(config, checkpoint)
    prefixes = FAMILIES.load({"smolvlm": "idefics3"}.get(family, family)).prefixes["vision"]
    path = tmp_path / "m.gguf"
    files.write_gguf(
        path, "clip", files.vision_metadata(plan, params, 32), files.vision_tensors(model, plan, prefixes), "F32",
        checkpoint, "tiny",
    )  # fmt: skip
    reader = gguf.GGUFReader(path)
    written = sum(int(np.prod(tensor.shape)) for tensor in reader.tensors)
    assert written == sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes))
    assert reader.get_field("clip.projector_type").contents() == plan.projector
    assert reader.get_field("general.quantized_by").contents() == "edgekit"


def write_tokenizer(folder: Path, added: list[dict[str, Any]]) -> Path:
    """A byte-level BPE of three pieces, and tokens added to it."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    value = {"model": model, "pre_tokenizer": {"type": "ByteLevel", "use_regex": True}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


def test_kinds_of_tokens(tmp_path: Path) -> None:
    """llama.cpp hides what is CONTROL from an answer, and cuts USER_DEFINED out of a text before merging."""
    added = [{"id": 3, "content": "<end>", "special": True}, {"id": 4, "content": "<box>", "special": False}]
    vocabulary = vocabularies.read_vocabulary(write_tokenizer(tmp_path, added), 6)
    assert vocabulary.tokens == ["a", "b", "ab", "<end>", "<box>", "[PAD5]"]
    assert vocabulary.kinds == [1, 1, 1, 3, 4, 5]  # NORMAL, CONTROL, USER_DEFINED, UNUSED in llama.h
    assert vocabulary.merges == ["a b"] and vocabulary.splitter == "gpt-2"


def test_entries_of_the_tokenizer_without_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tokenizer that grew after the model: llama.cpp wants a row for each entry, and no merge into none."""
    added = [{"id": 3, "content": "<end>", "special": True}, {"id": 9, "content": "<box>", "special": False}]
    folder = write_tokenizer(tmp_path, added)
    vocabulary = vocabularies.read_vocabulary(folder, 4)
    assert vocabulary.tokens == ["a", "b", "ab", "<end>"] and vocabulary.merges == ["a b"]
    assert "1 entries of the tokenizer have no row in the embedding table of 4" in capsys.readouterr().err
    cut = vocabularies.read_vocabulary(folder, 2)
    assert cut.tokens == ["a", "b"] and cut.kinds == [1, 1] and cut.merges == []
    assert "the first: 'ab'" in capsys.readouterr().err


def test_vocabularies_llama_cpp_cannot_take(tiny_of: Maker, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    shutil.copytree(tiny_of("smolvlm"), checkpoint)
    value = json.loads((checkpoint / "tokenizer.json").read_text())
    vocabulary = vocabularies.read_vocabulary(checkpoint, 500)
    assert vocabulary.kinds[-1] == vocabularies.UNUSED and vocabulary.tokens[-1] == "[PAD499]"
    plan, _ = target.plan_of(config_of(checkpoint), checkpoint)
    vocabularies.check_pieces(vocabulary, plan)
    vocabulary.tokens[vocabulary.tokens.index("ĊĊ")] = "x"
    with pytest.raises(CheckpointError, match=r"lacks '\\n\\n' as one piece"):
        vocabularies.check_pieces(vocabulary, plan)
    for change, why in (
        ({"model": {**value["model"], "merges": []}}, "0 merges"),
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    ):
        (checkpoint / "tokenizer.json").write_text(json.dumps({**value, **change}))
        with pytest.raises(CheckpointError, match=why):
            vocabularies.read_vocabulary(checkpoint, 500)


def test_an_embedding_type_that_does_not_fit() -> None:
    target._check_embedding("q6_k", 96)  # llama.cpp falls back by itself
    target._check_embedding("embedding=q6_k,text=int4", 256)
    with pytest.raises(EdgekitError, match=r"rows of 96 numbers do not divide into Q6_K's blocks of 256"):
        target._check_embedding("embedding=q6_k,text=int4", 96)


def test_shapes_llama_cpp_cannot_take(tiny_of: Maker) -> None:
    checkpoint = tiny_of("smolvlm")
    config = config_of(checkpoint)
    plan, _ = target.plan_of(config, checkpoint)
    assert files.check_shapes(config, plan) == "llama"
    for change, why in (
        ({"model_type": "mamba"}, "'mamba'"),
        ({"num_key_value_heads": 3}, "no multiple of 3"),
        ({"head_dim": 15}, "odd width, 15"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn'"),
    ):
        with pytest.raises(CheckpointError, match=why):
            files.check_shapes({**config, "text_config": {**config["text_config"], **change}}, plan)
    square = {**config, "vision_config": {**config["vision_config"], "intermediate_size": 32}}
    with pytest.raises(CheckpointError, match="swaps their matrices"):
        files.check_shapes(square, target.plan_of(square, checkpoint)[0])
    other = tiny_of("qwen2_5_vl")
    with pytest.raises(CheckpointError, match="windows of 56"):
        target.plan_of(config_of(other), other)


# ---------------------------------------------------------------------------------------------------- with llama.cpp
