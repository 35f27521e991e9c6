"""The card of a run by hand, and its way to the hub and back, against a double of the hub on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_double import Hub

from edgekit import api, schema
from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import checkpoint_hash
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.publishing.card import Benchmark, model_card, public
from edgekit.report.model import Report, Row
from edgekit.workspace import Run

GAIN = {
    "n": 200, "before": 0.5, "before_ci95": [0.431, 0.569], "after": 0.75, "after_ci95": [0.686, 0.805],
    "delta": 0.25, "delta_ci95": [0.19, 0.31], "p_value_mcnemar": 1.2e-9, "test": "data|set.jsonl", "gained": 55,
    "lost": 5,
}  # fmt: skip


def manifest_of(student: Path) -> dict[str, Any]:
    """What a finished run of two teachers holds, as far as a card reads it."""
    return {
        "status": "finished",
        "recipe": {
            "teachers": [{"checkpoint": "org/mid"}, {"checkpoint": "/home/me/models/big"}],
            "student": {"checkpoint": "org/small"},
            "data": {"train": "datasets:org/questions:train", "test": "data|set.jsonl", "scoring": "exact"},
            "objective": {"jsd": 1.0},
            "masters": {"grpo_weight": 0.5, "rewards": {"llm": {"judge_url": "http://10.0.0.7:8000/v1"}}},
            "trainer": {"steps": 1200, "batch_questions": 8},
        },
        "recipe_sha256": "a" * 64,
        "inputs": {"student_sha256": "b" * 64, "teachers_sha256": ["c" * 64, "d" * 64]},
        "versions": {"edgekit": "0.1.0", "torch": "2.13.0"},
        "processes": 2,
        "seed": 7,
        "data": {"train_questions": 1000, "train_sha256": "e" * 64},
        "schedule": [{"teacher": "org/mid", "mask_ratios": [0.2, 0.1, 0.0]}, {"teacher": "big", "mask_ratios": [0.0]}],
        "student_sha256": checkpoint_hash(student),
        "accuracy": GAIN,
        "seconds": {"train": 5400.0, "measure_after": 1800.0},
    }


@pytest.fixture
def run(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> Run:
    """With one bundle."""
    made = Run(tmp_path / "runs/one")
    made.folder.mkdir(parents=True)
    shutil.copytree(tiny_checkpoint, made.student)
    shutil.copytree(tiny_bundle, made.bundles / "onnx-fp32")
    made.update(**manifest_of(made.student))
    return made


def row(bundle: Bundle, **values: Any) -> Row:
    kept: dict[str, Any] = {
        "bundle": bundle.hash, "name": bundle.manifest.name, "runtime": "onnxruntime", "target": "onnx",
        "precision": "fp32", "device": "host", "status": "ok", "n": 50, "accuracy": 0.74,
        "accuracy_ci95": (0.6, 0.84), "accuracy_delta": -0.01, "accuracy_delta_ci95": (-0.03, 0.01),
        "token_agreement": 0.995,
    }  # fmt: skip
    return Row(**{**kept, **values})


def report_of(*rows: Row) -> Report:
    return Report(3, "data|set.jsonl", "exact", 1, {"cpu": "a | b", "cores": 2}, rows)


def test_a_card_by_hand(run: Run) -> None:
    bundle = Bundle.load(run.bundles / "onnx-fp32")
    card = model_card(run, [bundle], report_of(row(bundle)), license_id="mit", benchmark=Benchmark("org/vqa", "open"))
    _, front, body = card.text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "mit", "library_name": "transformers", "pipeline_tag": "image-text-to-text", "model_name": "one",
        "base_model": "org/small", "datasets": ["org/questions"],
        "tags": ["edgekit", "knowledge-distillation", "idefics3"],
    }  # fmt: skip
    assert "distilled by edgekit 0.1.0 from org/mid, then big." in body
    assert "| before distillation | 50.00 % \\[43.10, 56.90\\] |" in body
    assert "| **after** | **75.00 %** \\[68.60, 80.50\\] |" in body
    assert "| difference, paired | +25.00 \\[+19.00, +31.00\\], exact McNemar p 1.2e-09 |" in body
    assert "55 questions were answered right only after, 5 only before." in body
    assert "74.00 % \\[60.00, 84.00\\] | -1.00 \\[-3.00, +1.00\\] | 99.50% | onnxruntime, host (runtime) |" in body
    assert f"`bundles/onnx-fp32`: hash `{bundle.hash}`; beside PyTorch at export: greedy identical 100.0%" in body
    assert "| objective | 1 jsd + 0.5 rewards |" in body and "| mask ratios | 0.2, 0.1, 0; 0 |" in body
    assert "| time | 2.00 h on 2 process(es) |" in body and "| steps | 1,200 of 8 questions, seed 7 |" in body
    assert "answers 25.0% wrong" in body and "No phone has run it" in body
    assert "data\\|set.jsonl" in body and "a \\| b" in body  # no cell is broken by a name
    assert card.bundles == {"bundles/onnx-fp32": bundle.folder}
    (name, text), *_ = card.results.items()
    assert name == "org__vqa__open.yaml"
    (entry,) = yaml.safe_load(text)
    assert entry["dataset"] == {"id": "org/vqa", "task_id": "open"} and entry["value"] == 75.0
    assert "200 questions" in entry["notes"] and "68.60 to 80.50" in entry["notes"]


def test_what_is_of_this_machine_stays_here(run: Run) -> None:
    text = model_card(run).text
    assert "/home/me" not in text and "10.0.0.7" not in text and "judge_url: not published" in text
    assert public({"a": ["/x/y", "~/z", "./w", "org/name", ""], "url": "http://h", "n": 3}) == {
        "a": ["y", "z", "w", "org/name", ""], "url": "not published", "n": 3,
    }  # fmt: skip


def test_what_was_not_measured_is_said(run: Run) -> None:
    bundle = Bundle.load(run.bundles / "onnx-fp32")
    assert "| not measured |" in model_card(run, [bundle]).text
    failed = model_card(run, [bundle], report_of(row(bundle, status="failed", accuracy=None))).text
    assert "| not measured |" in failed and "Measured on" not in failed
    judged = model_card(run, [bundle], report_of(row(bundle, verified_by="evaluator"))).text
    assert "Apple's rounding was not seen" in judged
    seen = model_card(run, [bundle], report_of(row(bundle, verified_by="device"))).text
    assert "No phone has run it" not in seen


def test_a_bundle_of_another_student_is_refused(run: Run) -> None:
    bundle = Bundle.load(run.bundles / "onnx-fp32")
    other = replace(bundle, manifest=replace(bundle.manifest, student_sha256="f" * 64))
    with pytest.raises(EdgekitError, match="is of another student"):
        model_card(run, [other])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"benchmark": "vqa"}, "no data set of the hub"),
        ({"bundles": "nowhere"}, "nowhere"),
        ({"run": "nowhere"}, "is no run"),
    ],
)
def test_bad_arguments(run: Run, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    asked = {
        "run": run.folder,
        **{key: str(tmp_path / value) if key == "run" else value for key, value in given.items()},
    }
    with pytest.raises(EdgekitError, match=message):
        api.card(**asked)
    with pytest.raises(EdgekitError, match="no repository of the hub"):
        api.push("name", run.folder)


def test_an_unfinished_run_has_no_card(run: Run) -> None:
    run.update(status="training")
    with pytest.raises(EdgekitError, match="is not finished"):
        api.card(run.folder)


# -------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    double = Hub()
    yield double
    double.close()


@pytest.fixture
def tool(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """edgekit in a process that takes the double for the hub."""
    known = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test", "HF_HOME": str(tmp_path / "hf")}
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": path, **known, **more},
        )  # fmt: skip

    return call


@pytest.mark.slow
def test_there_and_back(run: Run, hub: Hub, tool: Any, tiny_checkpoint: Path) -> None:
    """What was pushed is loaded by its name, as the very same model, seal and all."""
    bundle = Bundle.load(run.bundles / "onnx-fp32")
    write_json(run.reports / "bench/report.json", schema.to_json(report_of(row(bundle))))
    planned = tool("push", "org/one", str(run.folder), "--dry-run", "--benchmark", "org/vqa")
    assert planned.returncode == 0 and "Nothing was sent" in planned.stderr and hub.asked == []
    refused = tool("push", "org/one", str(run.folder))
    assert refused.returncode == 1 and "Nobody is here to ask" in refused.stderr and hub.asked == []
    sent = tool("push", "org/one", str(run.folder), "--yes", "--benchmark", "org/vqa", "--json")
    assert sent.returncode == 0, sent.stderr
    held, told = hub.repositories["org/one"], json.loads(sent.stdout)
    assert hub.private["org/one"] is True and told["url"].startswith(hub.address)
    assert {name: len(data) for name, data in held.items()} == told["files"]
    assert held["model.safetensors"] == (run.student / "model.safetensors").read_bytes()
    assert held["bundles/onnx-fp32/manifest.json"] == (bundle.folder / "manifest.json").read_bytes()
    assert b"74.00 %" in held["README.md"] and ".eval_results/org__vqa.yaml" in held
    found = tool("inspect", "org/one", "--json")
    assert found.returncode == 0, found.stderr
    wanted = json.loads(tool("inspect", str(tiny_checkpoint), "--json").stdout)
    assert json.loads(found.stdout)["components"] == wanted["components"]
    fetched = [line for line in hub.asked if "/resolve/" in line]
    assert fetched and not any("bundles/" in line for line in fetched)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refused", "gone", "offline"])
def test_a_hub_that_takes_nothing(run: Run, hub: Hub, tool: Any, fault: str) -> None:
    more: dict[str, str] = {}
    if fault == "refused":
        hub.refuse = 403
    elif fault == "gone":
        hub.close()
    else:
        more = {"HF_HUB_OFFLINE": "1"}
    done = tool("push", "org/one", str(run.folder), "--yes", **more)
    assert done.returncode == 1 and "Traceback" not in done.stderr and hub.repositories.get("org/one") is None
    wanted = {"refused": "does not let you write", "gone": "cannot be reached", "offline": "HF_HUB_OFFLINE is set"}
    assert wanted[fault] in done.stderr
