"""What a person sees: help, exit codes, JSON alone on stdout, and clear errors."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reports
import yaml
from PIL import Image
from typer.testing import CliRunner

from edgekit import __version__
from edgekit.api.distilling import distilled
from edgekit.cli import VERBS, build
from edgekit.errors import EdgekitError

cli = CliRunner()


def call(*arguments: str, folder: Path | None = None) -> Any:
    """Run a verb in this process, in a folder."""
    before = Path.cwd()
    os.chdir(folder or before)
    try:
        return cli.invoke(build(), list(arguments))
    finally:
        os.chdir(before)


def fails(message: str, *arguments: str, folder: Path, code: int = 1) -> None:
    """The verb ends with an EdgekitError's message, no traceback, and leaves no half-written thing behind."""
    before = sorted(folder.rglob("*"))
    result = call(*arguments, folder=folder)
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert message in " ".join(result.stderr.split()), result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_help_of_every_verb() -> None:
    result = call("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert listed == list(VERBS)
    for verb in VERBS:
        text = call(verb, "--help").stdout
        assert "Example:" in text or verb in ("data", "demo"), verb
    assert call("--version").stdout == f"edgekit {__version__}\n"
    assert call("distil").exit_code == 2


def test_a_finished_run_says_what_was_learnt_and_unlearnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(test: str, n: int, before: float, after: float) -> dict[str, Any]:
        ends = {f"{when}_ci95": [value - 0.01, value + 0.02] for when, value in (("before", before), ("after", after))}
        delta = {"delta": after - before, "delta_ci95": [after - before - 0.03, after - before + 0.04]}
        rest = {"p_value_mcnemar": 0.5, "gained": 1, "lost": 2}
        return {"test": test, "n": n, "before": before, "after": after, **ends, **delta, **rest}

    drafts = {"before": {"expected": 0.5}, "after": {"expected": 0.75}}
    accuracy = score("new", 1200, 0.5, 0.75)
    manifest = {"run": "r", "accuracy": accuracy, "acceptance": drafts, "student_sha256": "0"}
    for more, line in (
        ({"retention": score("old", 3400, 0.875, 0.75)}, "87.50% -> 75.00%  -12.50%  [-15.50%, -8.50%]  on 3,400"),
        ({}, None),
    ):
        made = distilled(Path("runs/r"), manifest | more)
        monkeypatch.setattr("edgekit.api.distill", lambda *_, made=made, **__: made)
        said = call("distill").stdout
        assert "accuracy before:  50.00%  [49.00%, 52.00%]" in said and "75.00%  [74.00%, 77.00%]" in said
        assert "+25.00%  [+22.00%, +29.00%]  on 1,200 questions of new" in said
        assert f"what else it could: {line} questions of old" in said if line else "what else" not in said
    del accuracy["delta"]
    with pytest.raises(EdgekitError, match=r"accuracy\.delta|accuracy: .*delta"):
        distilled(Path("runs/r"), manifest)


def test_lists() -> None:
    targets = {row["target"]: row for row in json.loads(call("targets", "--json").stdout)}
    assert targets["onnx"]["ready"] and targets["executorch"]["ready"]
    assert targets["onnx"]["precisions"] == ["fp32", "fp16", "int8", "int8-static", "int4"]
    devices = json.loads(call("devices", "--json").stdout)
    assert [row["device"] for row in devices] == ["android", "host", "ipad", "iphone", "mac", "ssh", "web"]
    assert devices[1]["ready"] and all(row["detail"] for row in devices)
    checks = {row["name"]: row for row in json.loads(call("doctor", "--json").stdout)}
    assert checks["core"]["ready"] and checks["extra onnx"]["ready"]
    cards = json.loads(call("demo", "card", "--json").stdout)
    assert cards["teacher"]["test_accuracy"] >= 0.98 and 0.70 <= cards["student"]["test_accuracy"] <= 0.85
    assert 3e6 <= cards["teacher"]["parameters"] <= 6e6 and cards["student"]["parameters"] < 1e6


def test_init(tmp_path: Path) -> None:
    assert call("init", folder=tmp_path).exit_code == 0
    assert (tmp_path / "edgekit.yaml").exists()
    fails("edgekit.yaml exists already", "init", folder=tmp_path)
    fails("needs --teacher, --student, --train and --test", "init", "x", "--teacher", "t", folder=tmp_path)
    fails("needs --teacher, --student, --train and --test", "init", "x", "--masters", folder=tmp_path)
    own = ["--teacher", "t", "--student", "s", "--train", "a", "--test", "b"]
    for name, more, told in (("own", [], (0.0, 0.0, "forward_kl")), ("paper", ["--masters"], (0.2, 1.0, "jsd"))):
        assert call("init", name, *own, *more, folder=tmp_path).exit_code == 0
        recipe = yaml.safe_load((tmp_path / name / "edgekit.yaml").read_text())
        masters, (objective,) = recipe["masters"], recipe["objective"]
        assert (masters["mask"]["r_max"], masters["grpo_weight"], objective) == told
    (tmp_path / "q.jsonl").touch()
    (tmp_path / "big").mkdir()
    data = ("--train", "q.jsonl", "--test", "easy-vqa:test")
    assert call("init", "here", "--teacher", "./big", "--student", "org/s", *data, folder=tmp_path).exit_code == 0
    written = yaml.safe_load((tmp_path / "here" / "edgekit.yaml").read_text())  # it is used from inside here/
    assert written["data"]["train"] == str(tmp_path.resolve() / "q.jsonl") and written["data"]["test"] == data[-1]
    assert written["teachers"][0]["checkpoint"] == str(tmp_path.resolve() / "big")
    assert written["student"]["checkpoint"] == "org/s"
    assert "masters.mask.r_max" in call("init", "--settings").stdout


def test_nothing_there_yet(tmp_path: Path) -> None:
    fails("Start one: edgekit distill", "export", folder=tmp_path)
    fails("Start one: edgekit distill", "bench", folder=tmp_path)
    fails("is not a bundle", "verify", ".", folder=tmp_path)
    fails("No model at 'nope'", "export", "nope", folder=tmp_path)
    fails("No bundle at", "bench", "nope", "--data", "easy-vqa:test", folder=tmp_path)
    fails("No questions to measure on", "bench", "nope", folder=tmp_path)
    fails("No report to add to", "bench", "--no-measure", "--out", "none", folder=tmp_path)
    fails("Cannot read the report", "compare", "a.json", "b.json", folder=tmp_path)
    (tmp_path / "x.json").write_text("{}")
    fails("x.json is of no known format", "bench", "--import", "x.json", folder=tmp_path)
    for bad in (["-p", "12,x"], ["--sustain", "soon"]):
        assert call("bench", *bad, folder=tmp_path).exit_code == 2
    assert call("run", folder=tmp_path).exit_code == call("run", "--all", folder=tmp_path).exit_code == 2


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> Path:
    """A workspace with a recipe over two tiny models and six questions."""
    (tmp_path / "student").symlink_to(tiny_checkpoint)
    (tmp_path / "teacher").symlink_to(tiny_teacher)
    Image.new("RGB", (20, 10), (200, 0, 0)).save(tmp_path / "a.png")
    rows = [{"question": f"is it {k}?", "image": "a.png", "answer": "yes" if k % 2 else "no"} for k in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "tiny",
        "teachers": [{"checkpoint": "teacher"}],
        "student": {"checkpoint": "student"},
        "data": {"train": "q.jsonl", "test": "q.jsonl"},
        "masters": {"mask": {"r_max": 0.2, "step": 0.2}, "gen_data": {"check_teacher": False, "max_new_tokens": 2}},
        "trainer": {"steps": 2, "batch_questions": 2, "learning_rate": 1e-3},
        "bench": {
            "limit": 4,
            "warmup": 0,
            "max_new_tokens": 2,
            "prompt_tokens": [9],
            "new_tokens": [3],
            "repetitions": 2,
        },
    }
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def change(place: Path, **changes: Any) -> None:
    value = yaml.safe_load((place / "edgekit.yaml").read_text())
    (place / "edgekit.yaml").write_text(yaml.safe_dump({**value, **changes}))


def test_the_whole_line(place: Path) -> None:
    """distil, export, verify, bench, run: bare verbs, JSON alone on stdout."""
    done = call("distill", "--json", folder=place)
    assert done.exit_code == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["status"] == "finished" and manifest["accuracy"]["n"] == 6
    assert manifest["schedule"] == [{"teacher": "teacher", "mask_ratios": [0.2, 0.0]}]
    assert (place / "runs/latest").read_text().strip() == "tiny"
    import pyarrow.parquet as pq

    (folder,) = (place / "runs/tiny/responses").glob(
        f"teacher-{manifest['inputs']['teachers_sha256'][0][:12]}-mask-0.2*"
    )
    table = pq.read_table(folder / "shard-00000.parquet")
    # One step of two questions is trained at mask 0.2, the other at 0: four responses to each of the two.
    assert table.num_rows == 8 and table["mask_ratio"].to_pylist() == pytest.approx([0.2] * 8)
    assert {"question_id", "teacher", "source", "text", "token_ids", "r_acc", "seed"} < set(table.column_names)
    drafts = manifest["acceptance"]
    assert drafts["teacher"] == "teacher" and all(0 < drafts[when]["expected"] < 1 for when in ("before", "after"))
    again = call("distill", "--json", folder=place)
    assert json.loads(again.stdout) == manifest and "finished already" in again.stderr

    exported = call("export", "--target", "onnx", "--json", folder=place)
    assert exported.exit_code == 0, exported.stderr
    (bundle,) = json.loads(exported.stdout)
    assert bundle["student_sha256"] == manifest["student_sha256"]
    assert bundle["teacher_sha256"] == manifest["inputs"]["teachers_sha256"][0] and bundle["run"] == "tiny"
    assert bundle["parity"]["questions"] == "given" and bundle["parity"]["passed"]

    checked = call("verify", "runs/tiny/bundles/onnx-fp32", "--json", folder=place)
    assert checked.exit_code == 0 and json.loads(checked.stdout)["passed"]
    gated = call("bench", "--max-size", "10", "--json", folder=place)
    assert gated.exit_code == 3 and "FAIL: onnx-fp32: bytes" in gated.stderr
    rows = json.loads(gated.stdout)["rows"]
    assert [row["runtime"] for row in rows] == ["pytorch", "onnxruntime"] and rows[1]["token_agreement"] == 1
    assert (place / "runs/tiny/reports/bench/report.md").exists()
    assert "FAIL" in (place / "runs/tiny/reports/bench/report.html").read_text()
    same = call("compare", "runs/tiny/reports/bench", "runs/tiny/reports/bench/report.json", "--json", folder=place)
    assert same.exit_code == 0 and json.loads(same.stdout)["regressions"] == 0
    worse = json.loads((place / "runs/tiny/reports/bench/report.json").read_text())
    worse["rows"][1]["size_bytes"] *= 2
    (place / "worse.json").write_text(json.dumps(worse))
    found = call("compare", "runs/tiny/reports/bench", "worse.json", folder=place)
    assert found.exit_code == 3 and "worse   onnx-fp32: size bytes +100.0 %" in found.stdout
    both = call("run", "--all", "--image", "a.png", "--prompt", "is it?", "--max-new-tokens", "3", folder=place)
    assert both.exit_code == 0 and [line.split("\t")[0] for line in both.stdout.splitlines()] == [
        "model", "student", "onnx-fp32",
    ]  # fmt: skip
    for model in ("runs/tiny/bundles/onnx-fp32", "runs/tiny/student"):
        said = call(
            "run", model, "--image", "a.png", "--prompt", "is it?", "--max-new-tokens", "3", "--json", folder=place
        )
        assert {"text", "token_ids", "timings"} < set(json.loads(said.stdout))

    # The other verbs on what is there, gone wrong.
    graph = place / "runs/tiny/bundles/onnx-fp32/onnx/embed_tokens.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    fails("It was cut short or changed", "verify", "runs/tiny/bundles/onnx-fp32", folder=place)
    fails("It was cut short or changed", "run", "runs/tiny/bundles/onnx-fp32", "--prompt", "q", folder=place)


@pytest.mark.parametrize(("verdict", "code"), [("", 0), ("PASS", 0), ("FAIL: onnx-int8: bytes", 3)])
def test_the_exit_code_of_a_bench(verdict: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataclasses.replace(reports.report(), verdict=verdict)
    monkeypatch.setattr("edgekit.api.bench", lambda *_, **__: (made, tmp_path))
    ended = call("bench", "--json")
    assert ended.exit_code == code and json.loads(ended.stdout)["verdict"] == verdict


def test_recipes_gone_wrong(place: Path) -> None:
    change(place, trainer={"stepz": 2}, objective_settings={"taid": {}})
    fails("trainer.stepz: unknown key, did you mean 'steps'?", "distill", folder=place)
    fails("is not KEY=VALUE", "distill", "--set", "x", folder=place)
    fails("Cannot read the recipe", "distill", "none.yaml", folder=place)
    assert not (place / "runs").exists()


def test_models_gone_wrong(place: Path, tmp_path: Path, checkpoint_maker: Callable[..., Path]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    checkpoint_maker(other, seed=3, corpus=["completely different words here"] * 20)
    change(place, teachers=[{"checkpoint": "other"}])
    fails("Teacher and student have different tokenizers", "distill", folder=place)
    change(place, teachers=[{"checkpoint": "nowhere"}])
    fails("No model at 'nowhere'", "distill", folder=place)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    change(place, teachers=[{"checkpoint": "other"}])
    fails("No VLM family of edgekit speaks for model type 'llama'", "distill", folder=place)


def test_data_gone_wrong(place: Path) -> None:
    (place / "q.jsonl").write_text("\n")
    fails("q.jsonl holds no samples", "distill", folder=place)
    (place / "q.jsonl").write_text('{"question": "q", "answer": [[1]]}\n')
    fails("q.jsonl:1: 'answer' is list, not text", "distill", folder=place)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q"}', "q.jsonl:2: no answer"),
        ('{"question": "q", "image": "bad.png", "answer": "yes"}', "Cannot read the image"),
        ('{"question": "q", "answer": "<end_of_utterance>yes"}', "cannot say 1 of the reference answers"),
    ],
)
def test_a_bad_row_further_down(place: Path, line: str, message: str) -> None:
    """The run has begun by then: what it did is kept, and it goes on once the row is mended."""
    good = '{"question": "q", "image": "a.png", "answer": "yes"}\n'
    (place / "bad.png").write_bytes(b"x")
    (place / "q.jsonl").write_text(good + line + "\n")
    result = call("distill", folder=place)
    assert result.exit_code == 1 and message in " ".join(result.stderr.split())
    assert not list(place.rglob("*.tmp")) and not (place / "runs/tiny/student").exists()


def test_a_file_in_the_way(place: Path) -> None:
    (place / "runs").write_text("a file")
    fails("a file of that name is in the way", "distill", folder=place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_read_only_folder(place: Path) -> None:
    place.chmod(0o555)
    try:
        fails("Cannot write", "distill", folder=place)
    finally:
        place.chmod(0o755)


def test_refused_writes_are_explained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a read-only folder refuses, for any user."""
    real = Path.mkdir

    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        if self.name == "runs" or self.parent.name == "runs":
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    fails("Choose a folder you may write to", "distill", folder=place)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "--debug", "verify", "nope"]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode != 0 and "Traceback" in shown.stderr
    command.remove("--debug")
    hidden = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert hidden.returncode == 1 and "Traceback" not in hidden.stderr
