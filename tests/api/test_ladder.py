"""The ladder of families: each rung holds of each, and each notices what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgekit import api
from edgekit.api import ladder
from edgekit.cli import build
from edgekit.demo.tiny import BLUEPRINTS, NAMES
from edgekit.distill import masking
from edgekit.errors import EdgekitError
from edgekit.families import Pixels, internvl, qwen3_vl

Maker = Callable[..., Path]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_stands_on_the_rungs_before_a_target(tiny_of: Maker, name: str) -> None:
    folder = str(tiny_of(name))
    assert ladder.names(folder) == "" and ladder.inputs(folder) == ""
    assert ladder.modules(folder, BLUEPRINTS.load(name).sizes) == ""


def changed(monkeypatch: pytest.MonkeyPatch, module: Any, **fields: Any) -> None:
    """The family with other fields, for whoever looks it up."""
    monkeypatch.setattr(module, "FAMILY", replace(module.FAMILY, **fields))


def test_a_parameter_of_no_part_is_named(tiny_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = {**internvl.FAMILY.prefixes, "vision": ("model.vision_tower.",)}
    changed(monkeypatch, internvl, prefixes=prefixes)
    assert "no prefix of the family names model.multi_modal_projector." in ladder.names(str(tiny_of("internvl")))


def test_a_linear_layer_out_of_a_masks_reach_is_named(tiny_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "maskable", lambda *_: iter([("model.language_model.layers.0.mlp.up_proj.weight", 0)]))
    assert ladder.names(str(tiny_of("internvl"))).startswith("a mask does not reach model.language_model.")


def test_other_pixels_are_named(tiny_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(*given: Any) -> Pixels:
        pixels = internvl.preprocess(*given)
        return replace(pixels, values=pixels.values + 1e-3)

    changed(monkeypatch, internvl, preprocess=brighter)
    assert ladder.inputs(str(tiny_of("internvl"))).startswith("pixel_max_abs is 0.00")


def test_other_ids_are_named(tiny_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, internvl, expand=lambda *given: internvl.expand(*given) + " ")
    assert "prompt_ids_equal is 0" in ladder.inputs(str(tiny_of("internvl")))


def test_other_modules_are_named(tiny_of: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder wrong for one image size only."""

    right = qwen3_vl.FAMILY.split

    def wrong(model: Any, sizes: Any) -> Any:
        split = right(model, sizes)
        if sizes and (32, 128) in [tuple(size) for size in sizes]:
            bad = split.vision["32x128"]
            bad.module.register_forward_hook(lambda _m, _i, out: (out[0] + 1e-3, *out[1:]))
        return split

    changed(monkeypatch, qwen3_vl, split=wrong)
    folder = str(tiny_of("qwen3_vl"))
    assert ladder.modules(folder) == ""
    assert "baked_vision_max_abs is 0.001" in ladder.modules(folder, BLUEPRINTS.load("qwen3_vl").sizes)


def test_below_a_target_a_family_has_one_row() -> None:
    shown = CliRunner().invoke(build(), ["targets", "--matrix", "--level", "3", "--family", "internvl", "--json"])
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout)
    assert (row["family"], row["target"], row["level"], row["passed"]) == ("internvl", "", 3, True)


def test_a_family_that_falls_is_asked_of_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.system import isolated

    monkeypatch.setattr(isolated.Isolated, "call", lambda *_a, **_k: "it is wrong")
    rows = api.matrix(["onnx"], ["internvl"], ["fp32", "int8"])
    assert [(row.passed, row.level) for row in rows] == [(False, 0)] * 2
    assert rows[1].why == "level 1, configuration and names: it is wrong"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"level": 6}, "no level 6"),
        ({"level": 2, "targets": "onnx"}, "Level 2 asks no target"),
        ({"families": "llava"}, "no tiny checkpoint of 'llava'"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgekitError, match=message):
        api.matrix(**given)


@pytest.mark.slow
def test_matrix_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.export import onnx

    (row,) = api.matrix(["onnx"], ["internvl"], ["fp32"])
    assert row.passed is True and row.level == 4 and row.seconds > 0
    always = {"pixel_max_abs", "prompt_ids_equal", "parameters_equal"}
    assert set(row.checks) == {"greedy_identical", "logits_max_abs", *always}
    plain = onnx.PRECISIONS["fp32"]
    strict = replace(plain.tolerances, random={"logits_max_abs": 0.0})
    monkeypatch.setitem(onnx.PRECISIONS, "fp32", replace(plain, held_to=strict))
    (row,) = api.matrix(["onnx"], ["internvl"], ["fp32"])
    assert row.passed is False and row.level == 3 and not row.checks["logits_max_abs"]["held"]
    (row,) = api.matrix(["onnx"], ["internvl"], ["int3"])
    assert row.passed is False and "no precision 'int3'" in row.why


def test_a_fall_on_the_last_rung_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.system import isolated

    def call(_: Any, function: Any, **given: Any) -> Any:
        if function is ladder.distilled:
            raise EdgekitError("no run")
        figures = {"verified_by": "runtime", "greedy_identical": 1.0, "logits_max_abs": 0.0}
        figures |= {"pixel_max_abs": 0.0, "prompt_ids_equal": 1.0, "parameters_equal": 1.0}
        return figures if "precision" in given else ""

    monkeypatch.setattr(isolated.Isolated, "call", call)
    (row,) = api.matrix("onnx", "internvl", "fp32", level=5)
    assert (row.passed, row.level, row.why) == (False, 4, "level 5, distil, export and bench: no run")
    assert row.as_json()["checks"]["greedy_identical"]["held"] is True


@pytest.mark.slow
def test_the_whole_way() -> None:
    """Distilled, exported, measured."""
    (row,) = api.matrix(["onnx"], ["lfm2_vl"], ["int8"], level=5)
    assert row.passed is True and row.level == 5 and row.checks["mean_kl"]["held"]
