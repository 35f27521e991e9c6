"""What the public calls take: whatever is at hand, and a message that names what cannot be used."""

from __future__ import annotations

import dataclasses
import inspect
import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from edgekit import api
from edgekit.api import arguments
from edgekit.bundle import Bundle
from edgekit.demo.shapes import draw
from edgekit.errors import DataError, EdgekitError
from edgekit.schema import field_docs

IMAGE = draw(3)[0].convert("RGB").resize((48, 40))
PIXELS = np.asarray(IMAGE)


def png() -> bytes:
    out = io.BytesIO()
    IMAGE.save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(png())
    return path


# ------------------------------------------------------------------------------------------------------------ images


def test_every_kind_of_image(file: Path) -> None:
    kinds: list[Any] = [str(file), file, png(), bytearray(png()), IMAGE, PIXELS, Image.open(file)]
    for one in kinds:
        (seen,) = arguments.opened_images(one)
        np.testing.assert_array_equal(np.asarray(seen), PIXELS)
    for many in (kinds, tuple(kinds), iter(kinds), np.stack([PIXELS] * 7)):
        found = arguments.opened_images(many)
        assert len(found) == 7 and all(np.array_equal(np.asarray(image), PIXELS) for image in found)
    assert arguments.opened_images(None) == arguments.opened_images([]) == arguments.opened_images(()) == []
    assert arguments.opened_images(PIXELS[..., 0])[0].mode == "L"
    assert arguments.opened_images(np.dstack([PIXELS, PIXELS[..., :1]]))[0].mode == "RGBA"


def test_a_turned_photo_is_the_same_as_file_and_as_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    IMAGE.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    given = [tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg"), (tmp_path / "turned.jpg").read_bytes()]
    seen = [np.asarray(image) for image in arguments.opened_images(given)]
    assert seen[0].shape == (48, 40, 3) and all(np.array_equal(one, seen[0]) for one in seen)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16", "La", "RGBa"]
)
def test_images_as_files_are_the_same_images(mode: str) -> None:
    """For other processes, which open them as any file."""
    from edgekit.data import ImageRef
    from edgekit.inputs.images import as_rgb, upright

    image = (
        Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16"
        else IMAGE.convert("RGBA").convert(mode) if mode in ("La", "RGBa")
        else IMAGE.convert("LA").convert("PA") if mode == "PA"
        else IMAGE.convert(mode)
    )  # fmt: skip
    (wanted,) = arguments.opened_images(image)
    with arguments.image_files(image) as files:
        seen = upright(ImageRef(path=files[0]).open())
    assert not files[0].exists()
    if mode in ("La", "RGBa"):
        wanted = wanted.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    np.testing.assert_array_equal(np.asarray(as_rgb(seen)), np.asarray(as_rgb(wanted)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, ["images", "7", "int"]), ([3.5], ["images[0]", "3.5"]), ({"a": 1}, ["images", "dict"]),
        (PIXELS.astype(np.float32), ["images", "40 x 48 x 3", "float32"]),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), ["5 x 6"]),
        (np.zeros((4, 4, 2), np.uint8), ["4 x 4 x 2"]), ([IMAGE, None], ["images[1]", "None"]), (True, ["images"]),
    ],
)  # fmt: skip
def test_no_images(value: Any, words: list[str]) -> None:
    with pytest.raises(EdgekitError) as error:
        arguments.opened_images(value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_broken_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No image at .*c\.png"):
        arguments.opened_images(str(tmp_path / "c.png"))
    with pytest.raises(DataError, match="images"):
        arguments.opened_images(b"no image")
    (tmp_path / "cut.png").write_bytes(png()[:200])
    lazy = Image.open(tmp_path / "cut.png")
    with pytest.raises(DataError, match=r"images\[1\]"):
        arguments.opened_images([IMAGE, lazy])


# --------------------------------------------------------------------------------------------------- paths and settings


class Fspath:
    def __fspath__(self) -> str:
        return "a/b"


def test_paths_and_lists(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle, verify=False)
    assert [arguments.path(one, "x") for one in ("a/b", Path("a/b"), PurePosixPath("a/b"), Fspath())] == [
        Path("a/b")
    ] * 4
    assert (
        arguments.folders("a", "x") == arguments.folders(Path("a"), "x") == arguments.folders(["a"], "x") == [Path("a")]
    )
    assert arguments.folders([bundle, tiny_bundle, str(tiny_bundle)], "x") == [tiny_bundle] * 3
    assert arguments.folders(bundle, "x") == [tiny_bundle] and arguments.model(bundle, "x") == str(tiny_bundle)
    assert arguments.texts("onnx", "x") == ["onnx"] and arguments.texts(("a", "b"), "x") == ["a", "b"]
    assert arguments.counts(512, "x") == [512] and arguments.counts(np.array([1, 2]), "x") == [1, 2]
    assert arguments.reals(0.5, "x") == [0.5] and arguments.reals([0, np.float32(0.5)], "x") == [0.0, 0.5]
    for call, value in (
        (arguments.path, 3), (arguments.path, b"a"), (arguments.folder, None), (arguments.folders, [None]),
        (arguments.texts, 3), (arguments.texts, [3]), (arguments.texts, {"a": 1}), (arguments.counts, 1.5),
        (arguments.counts, "3"), (arguments.counts, True), (arguments.reals, "0.5"), (arguments.model, 5),
    ):  # fmt: skip
        with pytest.raises(EdgekitError, match="argument x"):
            call(value, "x")  # type: ignore[operator]


def test_overrides_are_yaml() -> None:
    given = {
        "trainer.steps": 3, "trainer.lr": 1e-6, "a": True, "b": None, "c": "auto", "d": [1, 2],
        "e": {"default": "exact"}, "f": np.int64(4), "g": np.float32(0.5), "h": np.bool_(False), "i": "400",
        "j": Path("x/y"),
    }  # fmt: skip
    read = {key: yaml.safe_load(text) for key, text in arguments.overrides(given).items()}
    assert float(read.pop("trainer.lr")) == 1e-6
    assert read == {
        "trainer.steps": 3, "a": True, "b": None, "c": "auto", "d": [1, 2], "e": {"default": "exact"}, "f": 4, "g": 0.5,
        "h": False, "i": 400, "j": "x/y",
    }  # fmt: skip
    assert arguments.overrides(None) == arguments.overrides({}) == {}
    for wrong in (3, ["trainer.steps=3"], "trainer.steps=3", {"a": object()}, {"a": float("nan")}, {3: 4}):
        with pytest.raises(EdgekitError, match="overrides"):
            arguments.overrides(wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ the calls


def test_run_takes_what_is_at_hand(tiny_checkpoint: Path, file: Path) -> None:
    said = [
        api.run(model, "q", images, max_new_tokens=np.int64(3))  # type: ignore[arg-type]
        for model, images in (
            (tiny_checkpoint, [file]), (str(tiny_checkpoint), str(file)), (tiny_checkpoint, IMAGE),
            (tiny_checkpoint, PIXELS),
        )
    ]  # fmt: skip
    assert len({tuple(one.token_ids) for one in said}) == 1 and len(said[0].token_ids) == 3
    assert api.run(tiny_checkpoint, "q", max_new_tokens=1).token_ids
    say = api.chat(tiny_checkpoint, max_new_tokens=3, stops="zzz")
    assert say("q", file).token_ids == said[0].token_ids


def test_recipes_take_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plans = [
        api.distill_plan(overrides={"trainer.steps": steps, "trainer.warmup_steps": 1}, flops=10**12, workspace=place)
        for steps, place in ((40, tmp_path), ("40", str(tmp_path)), (np.int64(40), None))
    ]
    assert plans[0].flops == plans[1].flops == plans[2].flops
    with pytest.raises(EdgekitError, match=r"trainer\.steps"):
        api.distill_plan(overrides={"trainer.steps": "many"}, flops=1e12)
    assert api.init("made", teachers="a", student=Path("b"), train="t.jsonl", test="u.jsonl") == Path(
        "made/edgekit.yaml"
    )


def bench(bundles: Any = None, **settings: Any) -> Any:
    """`api.bench` with its settings."""
    return api.bench(bundles, api.BenchSettings(**settings))


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (api.run, {"model": 3, "prompt": "q"}, "model"), (api.run, {"model": "demo:student", "prompt": 3}, "prompt"),
    (api.run, {"model": "demo:student", "prompt": "q", "max_new_tokens": "9"}, "max_new_tokens"),
    (api.run, {"model": "demo:student", "prompt": "q", "temperature": None}, "temperature"),
    (api.run, {"model": "demo:student", "prompt": "q", "stops": 3}, "stops"),
    (api.run_all, {"prompt": "q", "models": 3}, "models"), (api.run_all, {"prompt": "q", "images": 3}, "images"),
    (api.chat, {"model": "demo:student", "seed": "x"}, "seed"), (api.distill, {"recipe": 3}, "recipe"),
    (api.distill, {"workspace": 3}, "workspace"), (api.distill, {"overrides": [1]}, "overrides"),
    (api.distill, {"fresh": "yes"}, "fresh"), (api.distill_plan, {"flops": "x"}, "flops"),
    (api.ablate, {"seeds": 1.5}, "seeds"), (api.ablate, {"learning_rates": [1e-3, "fast"]}, "learning_rates"),
    (api.probe, {"teacher": 3}, "teacher"),
    (api.probe, {"teacher": "demo:teacher", "exclude": 3, "data": "x", "scoring": "exact"}, "exclude"),
    (api.mask, {"checkpoint": "demo:teacher", "ratios": "half", "out": "x"}, "ratios"),
    (api.mask, {"checkpoint": "demo:teacher", "ratios": 0.5, "out": 3}, "out"), (api.init, {"folder": 3}, "folder"),
    (api.init, {"folder": "x", "teachers": 3}, "teachers"), (api.export, {"targets": 3}, "targets"),
    (api.export, {"checkpoint": "demo:student", "targets": "onnx", "out": 3}, "out"),
    (api.export, {"checkpoint": "demo:student", "targets": "onnx", "sizes": [(1, 2, 3)]}, "sizes"),
    (api.export, {"checkpoint": "demo:student", "targets": "onnx", "sizes": 448}, "sizes"),
    (api.export, {"checkpoint": "demo:student", "targets": "onnx", "options": "ios=17"}, "options"),
    (api.export, {"checkpoint": 3, "targets": "onnx"}, "checkpoint"), (api.matrix, {"families": 3}, "families"),
    (api.verify, {"bundle": 3}, "bundle"), (api.verify, {"bundle": "x", "samples": "all"}, "samples"),
    (bench, {"limit": "9"}, "limit"), (bench, {"device": 3}, "device"), (bench, {"measure": 1}, "measure"),
    (bench, {"bundles": 3}, "bundles"), (bench, {"bundles": [], "data": "x", "new_tokens": "n"}, "new_tokens"),
    (bench, {"bundles": [], "data": "x", "gates": {"max_size": "big"}}, "max_size"),
    (bench, {"bundles": [], "data": "x", "gates": {"biggest": 1}}, "biggest"), (bench, {"out": 3}, "out"),
    (api.compare, {"old": 3, "new": "x"}, "old"),
    (api.compare, {"old": "x", "new": "x", "tolerance": "5 %"}, "tolerance"),
    (api.app, {"bundle": 3, "out": "x"}, "bundle"), (api.app, {"bundle": "x", "out": 3}, "out"),
    (api.app, {"bundle": "x", "out": "x", "platforms": 3}, "platforms"),
    (api.inspect, {"source": 3}, "source"), (api.data_check, {"spec": 3}, "spec"),
    (api.data_check, {"spec": ""}, "spec"), (api.data_show, {"spec": " "}, "spec"),
    (bench, {"bundles": [], "data": ""}, "data"),
    (api.data_check, {"spec": "x", "closed_answers": 3}, "closed_answers"),
    (api.data_show, {"spec": "x", "count": "n"}, "count"),
    (api.devices, {"addresses": 3}, "addresses"), (api.parse_overrides, {"items": 3}, "items"),
    (api.demo_train, {"role": "student", "out": 3, "work": "x"}, "out"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "given", "name"), WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_wrong_types_are_named(
    call: Callable[..., Any], given: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgekitError) as error:
        call(**given)
    assert name in error.value.what, str(error.value)
    assert not [*tmp_path.iterdir()]  # nothing was begun


def test_every_call_says_what_it_takes() -> None:
    for name in api.__all__:
        call = getattr(api, name)
        told = inspect.getdoc(call) or ""
        if dataclasses.is_dataclass(call):
            assert [field.name for field in dataclasses.fields(call)] == list(field_docs(call))
            continue
        for argument in inspect.signature(call).parameters:
            assert f"{argument}" in told, f"{name}({argument}=...) is not in its docstring"
