"""Plug-ins: listed without import, imported on use, added by other packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit import registry
from edgekit.data import SOURCES, easy_vqa
from edgekit.data.scoring import SCORING, exact
from edgekit.errors import EdgekitError
from edgekit.registry import Registry, missing_extra

WRONG = {
    "bare": "def score(prediction, answers): return 0.5",
    "misspelt": "METRIC = Metric(scores=lambda *_: 0.5)",
    "other": "METRIC = Metric",
    "text": "METRIC = 'exact'",
    "number": "METRIC = Metric(0.5)",
}
"""What other packages' modules may hold in place of a metric."""


def test_names_are_the_files_without_helpers() -> None:
    assert SOURCES.names() == ["datasets", "easy_vqa", "image_folder", "jsonl", "parquet", "scenes"]
    assert SCORING.names() == ["anls", "exact", "multiple_choice", "relaxed", "vqa"]
    assert "check" in Registry("edgekit.data", "data source", "Source", "SOURCE").names()


def test_names_import_nothing() -> None:
    code = (
        "import sys; from edgekit.registry import Registry; "
        "packages = ('edgekit.export', 'edgekit.runtimes'); "
        "names = [name for package in packages for name in Registry(package, '', '', '').names()]; "
        "assert 'onnx' in names and 'pytorch' in names, names; "
        "bad = [m for m in sys.modules if m.startswith(('edgekit.export.', 'edgekit.runtimes.', 'torch', 'onnx'))]; "
        "assert not bad, bad"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_load_takes_either_spelling() -> None:
    assert SOURCES.load("easy-vqa") is SOURCES.load("easy_vqa")
    assert SOURCES.load("easy-vqa") is easy_vqa.SOURCE


@pytest.mark.parametrize("name", ["JSONL", "", "__init__", "check", "../data/jsonl", "jsonl.rows", "os"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(EdgekitError) as caught:
        SOURCES.load(name)
    assert caught.value.what == f"Unknown data source {name!r}."
    assert "There are: datasets, easy_vqa, image_folder, jsonl, parquet, scenes." in caught.value.fix


def test_did_you_mean() -> None:
    with pytest.raises(EdgekitError, match=r"Did you mean 'jsonl'\? There are: datasets"):
        SOURCES.load("jsnol")
    assert "Did you mean" not in str(SOURCES.unknown("zzz"))


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed distribution that adds a metric, and one that a built-in name shadows."""
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    points = ["fuzzy-match = thirdparty.fuzzy", "exact = thirdparty.fuzzy", "stale = thirdparty.gone", "needy = needy"]
    points += [f"{name} = thirdparty.{name}" for name in WRONG]
    (info / "entry_points.txt").write_text("\n".join(["[edgekit.data.scoring]", *points]))
    (tmp_path / "needy.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "thirdparty").mkdir()
    (tmp_path / "thirdparty" / "__init__.py").write_text("")
    for name, text in {"fuzzy": "METRIC = Metric.of_answers(lambda prediction, answers: 0.5)", **WRONG}.items():
        (tmp_path / "thirdparty" / f"{name}.py").write_text(f"from edgekit.data.scoring import Metric\n{text}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    yield "fuzzy-match"
    registry._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "thirdparty"]:
        del sys.modules[name]


def test_another_packages_metric(plug_in: str) -> None:
    assert {"exact", "fuzzy-match", "needy", "stale", *WRONG} < set(SCORING.names())
    assert "thirdparty" not in sys.modules  # listed, not imported
    assert SCORING.load(plug_in).score("a", ["b"], "") == 0.5
    assert SCORING.load("exact") is exact.METRIC  # a built-in name is not taken over
    with pytest.raises(EdgekitError, match="Did you mean 'fuzzy-match'"):
        SCORING.load("fuzy-match")


def test_plug_ins_gone_wrong(plug_in: str) -> None:
    with pytest.raises(EdgekitError, match=r"'stale' cannot be loaded.\n.*'thirdparty\.gone', which is not there"):
        SCORING.load("stale")
    with pytest.raises(EdgekitError, match=r"'needy' cannot be loaded.\n.*No module named 'not_installed_anywhere'"):
        SCORING.load("needy")
    assert {name for name, _ in SCORING.broken()} == {"stale", "needy", *WRONG}
    working = dict(SCORING.working())
    assert "fuzzy-match" in working and not {"stale", "needy", *WRONG} & set(working)


def test_only_the_missing_package_counts_as_missing() -> None:
    assert missing_extra(ModuleNotFoundError(name="onnx.helper"), {"onnx"})
    assert not missing_extra(ModuleNotFoundError(name="onnx_ir"), {"onnx"})
    assert not missing_extra(ModuleNotFoundError(), {"onnx"})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bare", "lacks METRIC, a Metric of edgekit.data.scoring"),
        ("misspelt", "unexpected keyword argument 'scores'"),
        ("other", "METRIC, but it is the class Metric, not one made from it"),
        ("text", "METRIC, but it is of the type str, no Metric"),
        ("number", "METRIC, but score is no function"),
    ],
)
def test_a_plug_in_that_does_not_fit_is_named_with_what_is_missing(plug_in: str, name: str, why: str) -> None:
    with pytest.raises(EdgekitError, match=f"The metric '{name}' cannot be loaded") as caught:
        SCORING.load(name)
    assert why in caught.value.why


def test_a_kind_whose_plug_ins_are_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.distill.objectives import OBJECTIVES

    (tmp_path / "mine.py").write_text("class Loss:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entry_points", lambda group: {"mine": "mine"})
    with pytest.raises(EdgekitError, match="the class Loss is no Objective"):
        OBJECTIVES.load("mine")
