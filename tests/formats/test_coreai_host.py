"""Core AI's runtime when it breaks down, and what is checked before it is asked."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coreai_bundles import needs_coreai, opened, shared_twin
from manifests import reseal

from edgekit.bundle import Bundle
from edgekit.data import samples
from edgekit.errors import BundleError, DataError
from edgekit.formats.coreai import assets as aimodel
from edgekit.formats.coreai.assets import Runner, check_asset, check_ids, check_room
from edgekit.inputs.chat import question
from edgekit.recipe.model import Gates
from edgekit.report.model import Report, Row
from edgekit.report.text import markdown
from edgekit.runtimes import RUNTIMES, gates
from edgekit.runtimes.bench import Settings, bench
from edgekit.runtimes.generate import answer


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return shared_twin(tmp_path_factory)


@pytest.fixture
def copy(twin: Bundle, tmp_path: Path) -> Path:
    """A copy of the fp32 bundle to damage."""
    shutil.copytree(twin.folder, tmp_path / "copy")
    return tmp_path / "copy"


@needs_coreai
def test_a_trap_is_an_error_and_not_the_end(twin: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = Runner(1)
    embeds = twin.manifest.components["token_embedding"]
    runner.load("embed", twin.path(embeds.file).parent)
    ids = np.array([[1, 2]])
    assert runner.run("embed", {"input_ids": ids})["embeddings"].shape[1] == 2
    with pytest.raises(BundleError, match="does not run 'embed'"):
        runner.run("embed", {"no such input": ids})
    os.kill(runner._process.pid, signal.SIGKILL)
    with pytest.raises(BundleError, match="its process was ended by SIGKILL"):
        runner.run("embed", {"input_ids": ids})
    with pytest.raises(BundleError, match="Earlier its process was ended by SIGKILL"):
        runner.run("embed", {"input_ids": ids})
    assert len(list(tmp_path.glob("edgekit-coreai-*/*.aimodelx"))) == 1  # it had no chance to clear up
    runner.close()
    assert list(tmp_path.iterdir()) == []


@needs_coreai
def test_a_trap_is_a_row_of_the_report(copy: Path, tmp_path: Path) -> None:
    """A program that is none, which Core AI's reader ends its process over."""
    (copy / "model.aimodel" / "main.mlirb").write_bytes(b"\xff" * 5000)
    reseal(copy)
    settings = Settings("easy-vqa:test", limit=2, warmup=0, trace=1)
    report = bench([copy], None, settings, tmp_path / "report")
    (row,) = report.rows
    assert row.status == "failed" and row.reason is not None and "Core AI does not load model.aimodel" in row.reason
    assert "its process was ended by SIGABRT" in row.reason
    assert "not measured" in report.verdict


@needs_coreai
def test_a_time_limit(twin: Bundle) -> None:
    with pytest.raises(BundleError, match="took longer than 0 s"):
        opened(twin.folder, load_limit_s=0.0)
    session = opened(twin.folder)
    session._runner._limits["run"] = 0.0
    with pytest.raises(BundleError, match="took longer than 0 s, and its process was ended"):
        session.embed(np.array([[1]]))
    assert session._runner._process.ended()
    session.close()


@needs_coreai
def test_bounds_are_kept_before_the_runtime_sees_them(twin: Bundle) -> None:
    session = opened(twin.folder)
    with pytest.raises(DataError, match="more than 2047 tokens"):
        answer(session, question("word " * 3000, 0), [], max_new_tokens=1)
    for wrong in (-1, twin.manifest.vocab_size):
        with pytest.raises(DataError, match=f"Token id {wrong} is outside"):
            session.decode_step(wrong)
    item = next(iter(samples("easy-vqa:test", limit=1)))
    assert answer(session, item.messages, [item.images[0].open()], max_new_tokens=2).token_ids  # it still answers
    session.close()


@needs_coreai
def test_assets_that_do_not_fit(copy: Path) -> None:
    told = copy / "model.aimodel" / "metadata.json"
    before = told.read_text()
    told.write_text(before.replace('"2.0"', '"3.1"'))
    reseal(copy)
    with pytest.raises(BundleError, match=r"model\.aimodel is an asset of version 3\.1; this edgekit runs version 2"):
        opened(copy)
    told.write_text(before)
    (copy / "model.aimodel" / "main.mlirb").write_bytes((copy / "embed.aimodel" / "main.mlirb").read_bytes())
    reseal(copy)
    with pytest.raises(BundleError, match=r"components\.text_decoder\.inputs: .* and the program has input_ids"):
        opened(copy)
    (copy / "model.aimodel" / "main.mlirb").write_bytes(b"\0" * 5000)
    reseal(copy)
    with pytest.raises(BundleError, match=r"does not load model\.aimodel"):
        opened(copy)


@needs_coreai
def test_damaged_bundles(copy: Path) -> None:
    """Before anything is run: a program cut short, one that is gone, an asset that is gone."""
    program = copy / "model.aimodel" / "main.mlirb"
    program.write_bytes(program.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.aimodel/main\.mlirb"):
        opened(copy)
    program.unlink()
    with pytest.raises(BundleError, match=r"model\.aimodel/main\.mlirb"):
        opened(copy)
    shutil.rmtree(copy / "vision.aimodel")
    with pytest.raises(BundleError, match=r"\.aimodel/"):
        opened(copy)


def test_no_asset(tmp_path: Path) -> None:
    for content in (None, "", "[]", "{}", "\x00"):
        if content is not None:
            (tmp_path / "metadata.json").write_text(content)
        with pytest.raises(BundleError, match="is no Core AI asset"):
            check_asset(tmp_path)
    (tmp_path / "metadata.json").write_text('{"assetVersion": "2.7", "producer": "x"}')
    check_asset(tmp_path)


def test_bounds() -> None:
    check_room(3, 5, 8)
    with pytest.raises(DataError, match="3 are taken, 6 more were given"):
        check_room(3, 6, 8)
    check_ids(np.array([[0, 8]]), 9)
    with pytest.raises(DataError, match="Token id 9"):
        check_ids(np.array([[0, 9]]), 9)


def test_timings_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aimodel.platform, "system", lambda: "Darwin")
    assert aimodel.timing_note() is None
    monkeypatch.setattr(aimodel.platform, "system", lambda: "Linux")
    note = RUNTIMES.load("coreai").timing_note()
    row = Row("h", "n", "coreai", "coreai", "fp16", "host", "ok", ttft_ms=12.5, itl_ms_p95=3.0, size_bytes=1)
    marked = replace(row, timing_note=note)
    text = markdown(Report(2, "d", "exact", 1, {}, (row, marked)))
    assert "| 12.5 |" in text and "| 12.5 † |" in text and "| 3.00 † |" in text
    assert text.count("not representative of any Apple device") == 1
    assert gates.failures([row], Gates(max_ttft_ms=20.0)) == []
    assert "cannot be judged here" in gates.failures([marked], Gates(max_ttft_ms=20.0))[0]
    assert gates.failures([marked], Gates(max_size=5)) == []
