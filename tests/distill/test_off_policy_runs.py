"""Whole runs with the off-policy terms: who wrote what is kept, pi_ref is run, and old files are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from edgekit import api
from edgekit.data import samples
from edgekit.distill import gen_data

Make = Callable[[dict[str, Any], dict[str, Any]], Path]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tiny_teacher: Path) -> Make:
    """Makes a workspace whose recipe trains 4 steps in two mask stages."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in samples("easy-vqa:test", limit=8)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(masters: dict[str, Any], trainer: dict[str, Any]) -> Path:
        place = tmp_path_factory.mktemp("w")
        gen = {"check_teacher": False, "check_images": False, "max_new_tokens": 2, **masters.pop("gen_data", {})}
        recipe = {
            "name": "tiny",
            "teachers": [{"checkpoint": str(tiny_teacher), "r_max": 0.2, "r_step": 0.2}],
            "student": {"checkpoint": str(tiny_checkpoint)},
            "data": {"train": str(folder / "q.jsonl"), "test": str(folder / "q.jsonl")},
            "masters": {"gen_data": gen, **masters},
            "trainer": {"steps": 4, "batch_questions": 4, "learning_rate": 1e-2, "logging_steps": 1, **trainer},
        }
        (place / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
        return place

    return make


def distil(place: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Manifest and training log."""
    manifest = api.distill(place / "edgekit.yaml", workspace=place).as_json()
    return manifest, json.loads((place / "runs/tiny/reports/training-1.json").read_text())


def test_each_student_keeps_its_own_probabilities(workspace: Make, capfd: pytest.CaptureFixture[str]) -> None:
    place = workspace(
        {"off_policy": "topr", "kl_estimator": "weighted", "gen_data": {"student_refresh": "per_stage"}}, {}
    )
    distil(place)
    assert "did not keep" not in capfd.readouterr().err
    responses = place / "runs/tiny/responses"
    first, later = (
        pq.read_table(responses / f"student-1-mask-{ratio}/shard-00000.parquet") for ratio in ("0.2000", "0.0000")
    )
    # The first stage asks pi_ref itself; the second a student that two steps have moved.
    gaps = [
        max(abs(a - b) for row in zip(table["writer_logp"].to_pylist(), table["ref_logp"].to_pylist(), strict=True)
            for a, b in zip(*row, strict=True))
        for table in (first, later)
    ]  # fmt: skip
    assert gaps[0] < 1e-5 < 1e-2 < gaps[1]
    teacher = pq.read_table(next(responses.glob("teacher-*")) / "shard-00000.parquet")
    assert set(teacher["writer_logp"].to_pylist()) == {None}


def test_responses_of_before_mu_was_kept(
    workspace: Make, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    older = gen_data.RESPONSES.remove(gen_data.RESPONSES.get_field_index("writer_logp"))
    monkeypatch.setattr(gen_data, "RESPONSES", older)
    place = workspace({"off_policy": "topr", "gen_data": {"student_refresh": "per_stage"}}, {})
    manifest, _ = distil(place)
    shown = capfd.readouterr().err
    assert manifest["status"] == "finished"
    assert shown.count("did not keep") == 1 and "weigh 1" in " ".join(shown.split())


def test_full_kl_starts_at_zero_and_the_shares_are_logged(workspace: Make) -> None:
    _, log = distil(workspace({"kl_estimator": "full"}, {}))
    steps = [row for row in log if "loss" in row]
    assert abs(steps[0]["kl"]) < 1e-5 < steps[-1]["kl"]
    assert all(0 <= row["cancelled"] <= row["no_advantage"] <= 1 for row in steps)
