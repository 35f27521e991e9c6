"""Bundles that lie: each ends in one message and exit code 1, whatever is asked of them."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle import read_manifest
from edgekit.errors import BundleError

DEFAULT = (
    "cache.layers above 64 bits", "position_axes negative", "deepstack huge", "text.eos_token_ids.0 text",
    "components a list", "files.*.sha256 a number", "files named '../out'", "files named 'CONFIG.JSON'",
    "manifest deep", "manifest NaN", "manifest with a key twice", "three position axes",
    "heads and inputs as wide as can be", "logits of another size", "two components are exchanged",
    "sizes as large as can be", "config.json deep", "tokenizer.json that repeats", "chat template that never ends",
    "text_decoder cut", "a FIFO too many", "config.json a link to a device", "the decoder a link outside",
    "preprocessor_config.json max_image_size.longest_edge 1",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Everything that a fork would import each time."""
    import onnx  # noqa: F401
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference  # noqa: F401

    from edgekit.cli import build

    build()


@pytest.mark.parametrize("name", DEFAULT)
def test_run_refuses(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    hostile.check(hostile.forked("run", hostile.made(name, tiny_bundle, tmp_path), tmp_path))


def test_an_honest_bundle_is_run_looked_into_and_verified(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = hostile.changed(lambda folder: None, tiny_bundle, tmp_path)
    for verb in ("run", "inspect", "verify"):
        found = hostile.forked(verb, bundle, tmp_path)
        assert found.code == 0 and found.outside == (), (verb, found)


# What is changed there is of no use to this bundle's answers (its processor is known by config.json's model_type), or
# does no harm (a pattern that ends in time, an entry that no prompt meets): an answer is as good as a refusal.
HARMLESS = (
    "an unknown family", "tokenizer.json that searches for ever", "tokenizer.json with ids far out",
    "config.json text_config 7",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in hostile.CASES if name not in DEFAULT])
def test_run_refuses_every_case(name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    codes = (0, 1) if name in HARMLESS else (1,)
    hostile.check(hostile.forked("run", hostile.made(name, tiny_bundle, tmp_path), tmp_path), codes=codes)


def _some(verb: str, names: Collection[str], count: int) -> list[Any]:
    """Cases of a verb: as many as are drawn are slow, the others rows of the matrix."""
    drawn = set(random.Random(verb).sample(sorted(names), count))
    rest = [pytest.mark.slow, pytest.mark.matrix]
    return [pytest.param(verb, name, marks=[pytest.mark.slow] if name in drawn else rest) for name in names]


@pytest.mark.parametrize(("verb", "name"), [*_some("inspect", hostile.CASES, 60), *_some("verify", hostile.CASES, 60)])
def test_other_verbs_end_well(verb: str, name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    found = hostile.forked(verb, hostile.made(name, tiny_bundle, tmp_path), tmp_path)
    hostile.check(found, codes=(0, 1, 3) if verb == "verify" else (0, 1))  # 3: answers of other files than exported


@pytest.mark.parametrize(("verb", "name"), _some("bench", DEFAULT, 4))
def test_bench_ends_with_a_message_or_a_failed_row(verb: str, name: str, tiny_bundle: Path, tmp_path: Path) -> None:
    found = hostile.apart(verb, hostile.made(name, tiny_bundle, tmp_path), tmp_path)
    hostile.check(found, codes=(1, 3))


# ------------------------------------------------------------------------------------------------------------ manifests

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@given(values)
def test_any_json_is_a_manifest_or_a_bundle_error(value: Any) -> None:
    with pytest.raises(BundleError):
        read_manifest(value, "m")


@given(st.data())
def test_any_field_may_hold_anything(tiny_bundle: Path, data: st.DataObject) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    path = data.draw(st.sampled_from((*hostile.NUMBERS, *hostile.TEXTS, *hostile.HOLDERS)))
    hostile.put(manifest, path.split("."), data.draw(values))
    try:
        read_manifest(manifest, "m")
    except BundleError as error:
        assert len(str(error)) < 20_000


def test_numbers_and_names_of_a_case_are_in_its_message(tiny_bundle: Path) -> None:
    for path, value, named in (
        ("cache.layers", -1, "cache.layers: -1 is not from 1 to 4,096"),
        ("position_axes", 1 << 40, "position_axes: 1,099,511,627,776 is not from 1 to 3"),
        ("deepstack", 7, "deepstack: 7 is not from 0 to"),
        ("components.text_decoder.file", "none", "components.text_decoder.file: none is not among the files"),
        ("preprocessing.sizes", [[16385, 1]], "preprocessing.sizes[0]: 16,385 is not from 1 to 16,384"),
        ("details", {"a": [1 << 80]}, "details.a[0]: a number of more than 64 bits"),
        ("text.tokenizer", "x.json", "text.tokenizer: x.json is not among the files"),
    ):
        manifest = json.loads((tiny_bundle / "manifest.json").read_text())
        hostile.put(manifest, path.split("."), value)
        with pytest.raises(BundleError) as caught:
            read_manifest(manifest, "m")
        assert named in str(caught.value)


def test_a_pattern_that_backs_up_for_ever_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    from edgekit.errors import CheckpointError
    from edgekit.inputs.chat import question
    from edgekit.inputs.processor import Processor

    rule = {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": "y"}
    bundle = hostile.changed(hostile.setting("tokenizer.json", "normalizer", rule), tiny_bundle, tmp_path)
    with pytest.raises(CheckpointError, match="breaks down at this prompt"):
        Processor.load(bundle).encode(question("a" * 60, 0), [])


def test_cases_are_distinct() -> None:
    assert len(hostile.CASES) > 250 and set(DEFAULT) <= set(hostile.CASES)
