"""What programs declare beside what a manifest says: every difference is named by its field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgekit.errors import BundleError
from edgekit.formats.declared import Declared, Tensor, UpTo, check_numbers, check_tensors
from edgekit.manifest import Component, Manifest, TensorSpec

PART = Component(
    "a", (TensorSpec("x", "float32", (1, "tokens", 32)), TensorSpec("at", "int64", (1,))),
    (TensorSpec("y", "float16", (1, 9)),),
)  # fmt: skip
X, AT, Y = Tensor("x", "float32", [1, None, 32]), Tensor("at", "int64", [1]), Tensor("y", "float16", [1, 9])


def check(inputs: list[Tensor] | None = None, outputs: list[Tensor] | None = None) -> None:
    check_tensors({"d": PART}, {"d": Declared(inputs, outputs)})


def test_what_is_the_same_is_good() -> None:
    check()
    check([X, AT], [Y])
    check([Tensor("x", "", [1, "other name", 32]), AT])
    check([Tensor("", "float32", [1, UpTo(2048), UpTo(32)]), Tensor("", "", [UpTo(1)])])


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ([X], None, "components.d.inputs: ['x', 'at'], and the program has x"),
        ([AT, X], None, "components.d.inputs: ['x', 'at'], and the program has at, x"),
        ([], None, "components.d.inputs: ['x', 'at'], and the program has 0 of them"),
        (None, [Y, X], "components.d.outputs: ['y'], and the program has y, x"),
        ([Tensor("", "", [1, 2, 3])], None, "components.d.inputs: ['x', 'at'], and the program has 1 of them"),
        ([replace(X, dtype="float16"), AT], None, "inputs[0].dtype: x is float32, and in the program float16"),
        ([X, replace(AT, shape=[])], None, "components.d.inputs[1].shape: at has 1 axes, and in the program 0"),
        ([replace(X, shape=[1, 7, 32]), AT], None, "inputs[0].shape[1]: x has tokens, and in the program 7"),
        ([replace(X, shape=[1, None, 33]), AT], None, "inputs[0].shape[2]: x has 32, and in the program 33"),
        ([replace(X, shape=[1, None, None]), AT], None, "[0].shape[2]: x has 32, and in the program no fixed size"),
        ([replace(X, shape=[1, None, UpTo(2048)]), AT], None, "shape[2]: x has 32, and in the program 2,048"),
        (None, [replace(Y, shape=[1, "V"])], "components.d.outputs[0].shape[1]: y has 9, and in the program no fixed"),
    ],
)  # fmt: skip
def test_what_differs_is_named(inputs: list[Tensor] | None, outputs: list[Tensor] | None, said: str) -> None:
    with pytest.raises(BundleError) as caught:
        check(inputs, outputs)
    assert said in str(caught.value) and "Copy or export the bundle again." in str(caught.value)


def test_all_that_differs_is_named_and_shown_on_one_line() -> None:
    with pytest.raises(BundleError) as caught:
        check([replace(X, name="\x1b[2J" + "x" * 5000), AT], [replace(Y, dtype="a\nb")])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and max(map(len, lines)) < 400 and "\x1b" not in str(caught.value)
    with pytest.raises(BundleError) as caught:  # of another number of axes, and the next one is looked at all the same
        check([replace(X, shape=[1]), replace(AT, dtype="int32", shape=[2])])
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:4]] == [
        "components.d.inputs[0].shape", "components.d.inputs[1].dtype", "components.d.inputs[1].shape[0]",
    ]  # fmt: skip
    for size, shown in ((200, "z" * 200), (201, "z" * 200 + "...")):
        with pytest.raises(BundleError) as caught:
            check(None, [replace(Y, dtype="z" * size)])
        assert str(caught.value).splitlines()[1].endswith(f" in the program {shown}")


def test_numbers(manifest: Manifest) -> None:
    check_numbers(manifest, {"vocab_size": 9, "cache.layers": 3, "details.text.context": UpTo(8)})
    check_numbers(replace(manifest, details={"text": {"context": 1}}), {"details.text.context": UpTo(8)})
    for details, said in (
        ({"text": {"context": 9}}, "details.text.context: 9, and the program has up to 8"),
        ({"text": {"context": 0}}, "details.text.context: 0"), ({"text": {"context": -1}}, "details.text.context: -1"),
        ({"text": {"context": True}}, "context: True"), ({"text": {"context": "x"}}, "context: x"),
        ({"text": [1]}, "context: None"), ({}, "context: None"), ({"text": {"context": 1 << 70}}, "context: 1,180"),
    ):  # fmt: skip
        with pytest.raises(BundleError) as caught:
            check_numbers(replace(manifest, details=details), {"details.text.context": UpTo(8)})
        assert said in str(caught.value)
    with pytest.raises(BundleError) as caught:
        check_numbers(manifest, {"vocab_size": 10, "cache.layers": 2, "deepstack": 0})
    assert "vocab_size: 9, and the program has 10" in str(caught.value)
    assert "cache.layers: 3, and the program has 2" in str(caught.value) and "deepstack" not in str(caught.value)


@pytest.fixture
def manifest() -> Manifest:
    from edgekit.manifest import Cache, Precision, Text

    return Manifest(
        schema_version=3, name="b", target="t", precision=Precision("fp32", "float32"), family="f", files={},
        components={"d": PART}, preprocessing={}, text=Text("t", "t", 0, ()), cache=Cache(3, 2, 16), vocab_size=9,
        student_sha256="0" * 64, details={"text": {"context": 8}},
    )  # fmt: skip
