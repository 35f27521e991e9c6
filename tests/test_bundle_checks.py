"""What a manifest may say: every bound at its edge, every message with its field."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from edgekit import bundle_checks
from edgekit.bundle_checks import check, name_problem
from edgekit.errors import BundleError
from edgekit.inputs.resizing import ORDER, ORDERS
from edgekit.manifest import Bucket, Cache, Component, FileEntry, Manifest, Precision, TensorSpec, Text

SHA = "0123456789abcdef" * 4
KEYS = tuple(
    TensorSpec(f"past_key_values.{layer}.{kind}", "float32", ("batch", 2, "past", 16))
    for layer in range(3)
    for kind in ("key", "value")
)
INPUTS = (
    TensorSpec("inputs_embeds", "float32", (1, "tokens", 32)),
    TensorSpec("position_ids", "int64", (3, 1, "tokens")),
    TensorSpec("deepstack_embeds", "float32", (2, 1, "tokens", 32)),
    *KEYS,
)
GOOD = Manifest(
    schema_version=3, name="b", target="onnx", precision=Precision("fp32", "float32"), family="idefics3",
    files={"a.onnx": FileEntry(5, SHA), "t.json": FileEntry(0, SHA)},
    components={"text_decoder": Component("a.onnx", INPUTS, (TensorSpec("logits", "float32", (1, 9)),))},
    preprocessing={"sizes": [[64, 16384], [1, 1]]}, text=Text("t.json", "t.json", 0, (1, 1 << 24)),
    cache=Cache(3, 2, 16), vocab_size=9, student_sha256=SHA, position_axes=3, deepstack=2,
    buckets={"x": Bucket("text_decoder", (1, 4), 0), "y": Bucket("text_decoder", (1, 5), 1 << 20)},
    details={"a": [(1 << 63) - 1, -(1 << 63), 1.5, "x", None]},
)  # fmt: skip


def decoder(**changes: Any) -> dict[str, Any]:
    return {"components": {"text_decoder": replace(GOOD.components["text_decoder"], **changes)}}


def tensor(*shape: int | str, dtype: str = "float32", name: str = "x") -> dict[str, Any]:
    return decoder(inputs=(*INPUTS, TensorSpec(name, dtype, shape)))


def only(name: str, *shape: int | str) -> dict[str, Any]:
    return decoder(inputs=(TensorSpec(name, "float32", shape),))


def test_what_is_at_the_edge_is_good() -> None:
    check(GOOD, "m")
    for changes in (
        {"vocab_size": 1 << 24}, {"cache": Cache(4096, 65536, 65536), **decoder(inputs=())}, {"buckets": {}},
        {"preprocessing": {}}, {"preprocessing": {"sizes": None}}, {"text": Text("t.json", "a.onnx", 1 << 24, ())},
        {"buckets": {"": Bucket("text_decoder", None, 7)}}, tensor(1 << 31, 0, *["a"] * 6),
        {"files": {**GOOD.files, "A/b c.é": FileEntry(1 << 50, SHA)}},
        {"components": {"x": Component("a.onnx", (), ())}, "buckets": {}},
        {"position_axes": 1, "deepstack": 3, **decoder(inputs=())}, {"parity": None},
        {"schema_version": 1}, {"schema_version": 1 << 16}, {"vocab_size": 1}, {"cache": Cache(1, 1, 1), "deepstack": 0,
         **decoder(inputs=())}, {"name": "x" * 1024}, tensor(1, dtype="bfloat16"), tensor(1, dtype="bool"),
        tensor(1, dtype="uint4"), {"position_axes": 1, **only("position_ids", 1, "tokens")},
        {"position_axes": 2, **only("rotary_ids", "axes", 1, "tokens")}, only("position_ids", 3, 1, "tokens"),
        {"cache": Cache(1, 2, 16), "deepstack": 0, **decoder(inputs=(
            TensorSpec("past_key_0", "float32", (1, "kv_heads", 9, "head_dim")),
            TensorSpec("past_value_0", "float32", (1, 2, 9, 16))))},
        {"cache": Cache(1, 1, 1), "deepstack": 1, **only("deepstack_embeds", 1, 4)},
        {"text": Text("t.json", "t.json", 0, (3,) * 4096)}, {"preprocessing": {"sizes": [[1, 1]] * 1024}},
        {"buckets": {"x": Bucket("text_decoder", (1,) * 8, 1)}},
        {"buckets": {"x": Bucket("text_decoder", (16384,), 1)}},
        *[{"preprocessing": {ORDER: order}} for order in ORDERS],
        *[only(name, 3, 1, 2, 64, 16) for name in ("k_cache", "v_cache")],
    ):  # fmt: skip
        check(replace(GOOD, **changes), "m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_version": 0}, "schema_version: 0 is not from 1"),
        ({"schema_version": (1 << 16) + 1}, "schema_version: 65,537"),
        ({"text": Text("t.json", "t.json", 0, (0,) * 4095 + (-1,))}, "text.eos_token_ids[4095]: -1"),
        ({"vocab_size": 0}, "vocab_size: 0 is not from 1 to 16,777,216"),
        ({"vocab_size": (1 << 24) + 1}, "vocab_size: 16,777,217"),
        ({"vocab_size": 1 << 80}, "vocab_size: a number of more than 64 bits is not"),
        ({"text": Text("t.json", "t.json", -1, ())}, "text.image_token_id: -1"),
        ({"text": Text("t.json", "t.json", 0, (3, -1))}, "text.eos_token_ids[1]: -1"),
        ({"text": Text("t.json", "t.json", 0, (3,) * 4097)}, "text.eos_token_ids: 4,097 of them"),
        ({"text": Text("n.json", "t.json", 0, ())}, "text.tokenizer: n.json is not among the files"),
        ({"text": Text("t.json", "n.json", 0, ())}, "text.chat_template: n.json"),
        ({"cache": Cache(0, 2, 16)}, "cache.layers: 0"),
        ({"cache": Cache(4097, 2, 16)}, "cache.layers: 4,097"),
        ({"cache": Cache(3, 0, 16)}, "cache.kv_heads: 0"),
        ({"cache": Cache(3, 2, 0)}, "cache.head_dim: 0"),
        ({"cache": Cache(3, 2, 65537)}, "cache.head_dim: 65,537"),
        ({"cache": Cache(4, 2, 16)}, "cache.layers: 4, but components.text_decoder.inputs has 6 keys and values"),
        ({"cache": Cache(3, 2, 17)}, "past_key_values.0.key ['batch', 2, 'past', 16] does not fit the cache"),
        ({"cache": Cache(3, 1, 16)}, "does not fit the cache"),
        ({"position_axes": 0}, "position_axes: 0 is not from 1 to 3"),
        ({"position_axes": 4}, "position_axes: 4 is not from 1 to 3"),
        ({"position_axes": 2}, "position_axes: 2, but components.text_decoder.inputs has position_ids of 3"),
        ({"deepstack": -1}, "deepstack: -1"),
        ({"deepstack": 4}, "deepstack: 4 is not from 0 to 3"),
        ({"deepstack": 1}, "deepstack: 1, but components.text_decoder.inputs has deepstack_embeds [2,"),
        ({"student_sha256": SHA[1:]}, "student_sha256: "),
        ({"student_sha256": SHA.upper()}, "student_sha256: "),
        ({"files": {**GOOD.files, "b": FileEntry(-1, SHA)}}, "files.b.bytes: -1"),
        ({"files": {**GOOD.files, "b": FileEntry((1 << 50) + 1, SHA)}}, "files.b.bytes: 1,125,899,906,842,625"),
        ({"files": {**GOOD.files, "b": FileEntry(1, "0")}}, "files.b.sha256: 0 is no SHA-256"),
        ({"files": {**GOOD.files, "A.ONNX": FileEntry(1, SHA)}}, "files.A.ONNX: one file with a.onnx where upper"),
        ({"files": {**GOOD.files, "e\u0301": FileEntry(1, SHA), "\u00e9": FileEntry(1, SHA)}}, "one file with"),
        ({"files": {**GOOD.files, "a//b": FileEntry(1, SHA)}}, "files.a//b: no relative file name"),
        ({"buckets": {"x": Bucket("none", None, 1)}}, "buckets.x.component: none is not among the components"),
        ({"buckets": {"x": Bucket("text_decoder", None, -1)}}, "buckets.x.tokens: -1"),
        ({"buckets": {"x": Bucket("text_decoder", None, (1 << 20) + 1)}}, "buckets.x.tokens: 1,048,577"),
        (
            {"buckets": {"x": Bucket("text_decoder", (), 1), "y": Bucket("text_decoder", (1,), 1)}},
            "buckets: one is for tiles or any view, others are for images of one grid",
        ),
        ({"buckets": {"x": Bucket("text_decoder", (1,) * 9, 1)}}, "buckets.x.grid: 9 axes"),
        ({"buckets": {"x": Bucket("text_decoder", (1, 0), 1)}}, "buckets.x.grid[1]: 0"),
        ({"buckets": {"x": Bucket("text_decoder", (16385,), 1)}}, "buckets.x.grid[0]: 16,385"),
        (
            {"buckets": {"x": Bucket("text_decoder", (1,), 1), "y": Bucket("text_decoder", (1,), 1)}},
            "buckets: 2 of them are for the grid (1,)",
        ),
        (
            {"buckets": {"x": Bucket("text_decoder", None, 1), "y": Bucket("text_decoder", (1,), 1)}},
            "buckets: one is for tiles",
        ),
        ({"preprocessing": {"sizes": "x"}}, "preprocessing.sizes: expected a list of [width, height]"),
        ({"preprocessing": {"sizes": []}}, "preprocessing.sizes: 0 of them"),
        ({"preprocessing": {"sizes": [[1, 1]] * 1025}}, "preprocessing.sizes: 1,025 of them"),
        ({"preprocessing": {"sizes": [[64]]}}, "preprocessing.sizes: expected"),
        ({"preprocessing": {"sizes": [[64, 64], [64, 0]]}}, "preprocessing.sizes[1]: 0"),
        ({"preprocessing": {"sizes": [[True, 64]]}}, "preprocessing.sizes[0]: True is no whole number"),
        ({"preprocessing": {"sizes": [[1.5, 64]]}}, "preprocessing.sizes[0]: 1.5 is no whole number"),
        ({"details": {"a": [0, {"b": 1 << 63}]}}, "details.a[1].b: a number of more than 64 bits"),
        ({"parity": {"a": -(1 << 63) - 1}}, "parity.a: a number of more than 64 bits"),
        ({"components": {}, "buckets": {}}, "components: 0 is not from 1"),
        (decoder(file="none"), "components.text_decoder.file: none is not among the files"),
        (tensor(1, name="inputs_embeds"), "components.text_decoder.inputs: inputs_embeds stands there 2 times"),
        (tensor(1, name=""), "stands there 1 times"),
        (tensor(1, dtype="object"), "components.text_decoder.inputs[9].dtype: object is no type of numbers"),
        (tensor(-1), "components.text_decoder.inputs[9].shape[0]: -1"),
        (tensor(2, (1 << 31) + 1), "components.text_decoder.inputs[9].shape[1]: 2,147,483,649"),
        (tensor(*[1] * 9), "components.text_decoder.inputs[9].shape: 9 axes"),
        (decoder(outputs=(TensorSpec("y", "float8", ()),)), "components.text_decoder.outputs[0].dtype: float8"),
        ({"text": Text("t.json", "t.json", (1 << 24) + 1, ())}, "text.image_token_id: 16,777,217"),
        ({"text": Text("t.json", "t.json", 0, ((1 << 24) + 1,))}, "text.eos_token_ids[0]: 16,777,217"),
        ({"cache": Cache(3, 65537, 16)}, "cache.kv_heads: 65,537"),
        ({"preprocessing": {"sizes": [[64, 16385]]}}, "preprocessing.sizes[0]: 16,385 is not from 1 to 16,384"),
        ({"preprocessing": {"sizes": [[64, 64, 64]]}}, "preprocessing.sizes: expected"),
        ({"preprocessing": {"a": 1 << 63}}, "preprocessing.a: a number of more than 64 bits"),
        ({"vocab_size": (1 << 63) - 1}, "vocab_size: 9,223,372,036,854,775,807 is not from"),
        ({"vocab_size": 1 << 63}, "vocab_size: a number of more than 64 bits is not from"),
        (only("deepstack_embeds"), "deepstack: 2, but components.text_decoder.inputs has deepstack_embeds []"),
        (only("rotary_ids", 2, 1, 1), "position_axes: 3, but components.text_decoder.inputs has rotary_ids of 2"),
        (only("past_value_7", 1, 2, 9, 16), "cache.layers: 3, but components.text_decoder.inputs has 1 keys"),
        (only("past_key_values.0.key", 2, 16, 9), "past_key_values.0.key [2, 16, 9] does not fit the cache"),
        ({"target": ""}, "target: 0 characters"),
        ({"precision": Precision("x", "")}, "precision.native: 0 characters"),
        ({"files": {**GOOD.files, "a\n": FileEntry(1, SHA)}}, "files.'a\\n': a control character"),
        ({"files": {**GOOD.files, "b": FileEntry(1, "z" * 80)}}, f"files.b.sha256: {'z' * 80} is no"),
        ({"files": {**GOOD.files, "b": FileEntry(1, "z" * 81)}}, f"files.b.sha256: {'z' * 80}... is no"),
        ({"name": ""}, "name: 0 characters"),
        ({"family": "x" * 1025}, "family: 1,025 characters"),
        ({"precision": Precision("", "x")}, "precision.common: 0 characters"),
        ({"preprocessing": {ORDER: "rows_first"}}, "preprocessing.resize_order: rows_first is none of columns_first, "),
        ({"preprocessing": {ORDER: None}}, "preprocessing.resize_order: None is none of"),
        (only("k_cache", 2, 1, 2, 64, 16), "inputs: k_cache [2, 1, 2, 64, 16] does not fit the cache, Cache(layers=3"),
        (only("v_cache", 3, 2, 2, 64, 16), "inputs: v_cache [3, 2, 2, 64, 16] does not fit the cache"),
        (only("v_cache", 3, 1, 1, 64, 16), "v_cache [3, 1, 1, 64, 16] does not fit"),
        (only("v_cache", 3, 1, 2, 64, 17), "v_cache [3, 1, 2, 64, 17] does not fit"),
        (only("k_cache", 3, 1, 2, "past", 16), "k_cache [3, 1, 2, 'past', 16] does not fit"),  # its room is fixed
        (only("k_cache", 3, 1, 2, 16), "k_cache [3, 1, 2, 16] does not fit"),
        (only("k_cache", 3, 1, 2, 64, 16, 1), "k_cache [3, 1, 2, 64, 16, 1] does not fit"),
        (only("k_cache"), "k_cache [] does not fit"),
    ],
)
def test_what_no_manifest_says(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError) as caught:
        check(replace(GOOD, **changes), "m")
    assert said in str(caught.value), str(caught.value)


def test_names() -> None:
    long = "/".join([*["abc"] * 255, "abcd"])
    assert len(long) == 1024
    assert [name_problem(name) for name in ("a", "a/b.c", "é e", "x" * 255, long)] == [""] * 5
    for name in (
        "",
        "a//b",
        "/a",
        "a/",
        "./a",
        "a/.",
        "a\n",
        "a\0",
        "\u202egpj",
        "x" * 256,
        "é" * 128,
        "a/" * 512 + "b",
    ):
        assert name_problem(name), name


def test_numbers_of_files_and_components_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (bundle_checks.MOST_FILES, bundle_checks.MOST_COMPONENTS) == (65536, 1024)
    monkeypatch.setattr(bundle_checks, "MOST_FILES", 2)
    monkeypatch.setattr(bundle_checks, "MOST_COMPONENTS", 1)
    check(GOOD, "m")
    for changes, said in (
        ({"files": {**GOOD.files, "c": FileEntry(1, SHA)}}, "files: 3 is not from 0 to 2"),
        ({"components": {**GOOD.components, "x": Component("a.onnx", (), ())}}, "components: 2 is not from 1 to 1"),
    ):
        with pytest.raises(BundleError, match=said):
            check(replace(GOOD, **changes), "m")


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"text": Text("t.json", "t.json", 0, (-1,) * 4099)}, 1 + 4096),
        ({"preprocessing": {"sizes": [[0, 1]] * 1027}}, 1 + 1024),
        ({"buckets": {"x": Bucket("text_decoder", (0,) * 11, 1)}}, 1 + 8),
        (tensor(*[-1] * 11), 1 + 8),
    ],
)
def test_beyond_a_bound_nothing_more_is_looked_at(changes: dict[str, Any], problems: int) -> None:
    """One problem is that there are too many; each of those that there may be is one."""
    with pytest.raises(BundleError) as caught:
        check(replace(GOOD, **changes), "m")
    lines = str(caught.value).count(" is not from ")
    left = re.search(r"and ([0-9,]+) more problems", str(caught.value))
    assert lines + (int(left[1].replace(",", "")) if left else 0) == problems


def test_long_texts_and_many_problems_are_cut() -> None:
    many = {f"f{number}": FileEntry(1, "z" * 1000) for number in range(100)}
    with pytest.raises(BundleError) as caught:
        check(replace(GOOD, files={**GOOD.files, **many}), "m")
    assert "... and 80 more problems" in str(caught.value) and len(str(caught.value)) < 4000
