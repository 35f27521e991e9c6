"""Sessions, the one loop, verify, and bench with its failures."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from manifests import reseal
from PIL import Image

from edgekit.demo.shapes import draw
from edgekit.errors import BundleError, EdgekitError, NotFiniteError
from edgekit.inputs.chat import question
from edgekit.recipe.model import Gates
from edgekit.report.files import read_report
from edgekit.report.model import Row
from edgekit.runtimes import RUNTIMES, bench, measure, rows, runtime_for
from edgekit.runtimes.gates import failures
from edgekit.runtimes.generate import answer, follow
from edgekit.runtimes.sampling import Sampling, chooser, greedy
from edgekit.runtimes.verify import verify_bundle
from edgekit.system import energy

SETTINGS = bench.Settings(
    data="easy-vqa:test", limit=24, warmup=1, max_new_tokens=4, trace=6, prompt_tokens=(20, 0), new_tokens=(8,),
    repetitions=3, sustain_s=0.05,
)  # fmt: skip


@pytest.mark.parametrize("images", [1, 2, 0])
def test_onnx_answers_as_transformers_generate(tiny_checkpoint: Path, tiny_bundle: Path, images: int) -> None:
    from transformers import AutoProcessor

    from edgekit.checkpoint.folder import load_model

    messages = question("is there a circle?", images)
    drawn = [draw(seed)[0] for seed in range(images)]
    model = load_model(tiny_checkpoint)
    processor = AutoProcessor.from_pretrained(tiny_checkpoint, local_files_only=True)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    given = {"images": drawn} if drawn else {}
    inputs = processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)  # type: ignore[operator]
    expected = out[0, inputs["input_ids"].shape[1] :].tolist()
    for folder in (tiny_checkpoint, tiny_bundle):
        session = RUNTIMES.load(runtime_for(folder)).open_session(folder, 1)
        said = answer(session, messages, drawn, max_new_tokens=6)
        assert said.token_ids == expected, folder
        assert answer(session, messages, drawn, max_new_tokens=6).token_ids == expected  # the cache was emptied
        steps = list(follow(session, messages, drawn, expected))
        assert [int(logits.argmax()) for logits in steps] == expected
        session.close()


def test_timings_add_up(tiny_bundle: Path) -> None:
    session = RUNTIMES.load("onnxruntime").open_session(tiny_bundle, 1)
    heard: list[int] = []
    said = answer(session, question("q"), [draw(0)[0]], max_new_tokens=4, on_token=heard.append)
    t = said.timings
    assert heard == said.token_ids and len(t.itl_ms) == len(said.token_ids) - 1
    assert t.ttft_ms == pytest.approx(t.preprocess_ms + t.image_encode_ms + t.prefill_ms + t.first_token_ms)
    assert min(t.preprocess_ms, t.image_encode_ms, t.prefill_ms, *t.itl_ms) > 0
    assert t.prompt_tokens == session.prepare(question("q"), [draw(0)[0]]).ids.shape[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_token_is_chosen_among_what_is_not_finite(bad: float) -> None:
    logits = np.array([0.1, bad, 0.3], dtype=np.float32)
    for choose in (greedy, chooser(Sampling(1.0, seed=0))):
        with pytest.raises(NotFiniteError, match="not finite"):
            choose(logits, [])


def test_runtime_for(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    assert runtime_for(tiny_checkpoint) == "pytorch" and runtime_for(tiny_bundle) == "onnxruntime"
    with pytest.raises(EdgekitError, match="Unknown runtime 'onnxrt'"):
        RUNTIMES.load("onnxrt")


# -------------------------------------------------------------------------------------------------------------- verify


def test_verify(tiny_bundle: Path, tiny_checkpoint: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(tiny_bundle, copy)
    result = verify_bundle(copy, tiny_checkpoint, "easy-vqa:test", 8)
    assert result["passed"] and result["samples"] == 8 and result["greedy_identical"] == 1.0
    assert result["logits_max_abs"] < 1e-4 and result["mean_kl"] < 1e-9
    assert json.loads((copy / "parity.json").read_text()) == result
    assert verify_bundle(copy, None, None, 4)["compared"] is False  # parity.json is no foreign file
    with pytest.raises(BundleError, match="another checkpoint"):
        verify_bundle(copy, tiny_teacher, None, 4)


def test_verify_notices_wrong_preprocessing(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The most frequent silent fault: the runtime normalises otherwise than training did."""
    copy = tmp_path / "b"
    shutil.copytree(tiny_bundle, copy)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.48, 0.46, 0.41]}))
    reseal(copy)
    result = verify_bundle(copy, tiny_checkpoint, None, 4)
    assert not result["passed"] and not result["checks"]["pixel_max_abs"]["held"]


def test_verify_notices_a_bundle_that_gives_nan(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import onnx

    from edgekit.bundle import Bundle

    copy = tmp_path / "b"
    shutil.copytree(tiny_bundle, copy)
    name = Bundle.load(copy).manifest.components["text_decoder"].file
    graph = onnx.load(copy / name)
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
            break
    onnx.save(graph, copy / name)
    reseal(copy)
    result = verify_bundle(copy, tiny_checkpoint, None, 2)
    assert not result["passed"] and result["logits_max_abs"] is None
    assert not result["checks"]["logits_max_abs"]["held"] and result["top1_agreement"] == 0
    json.loads((copy / "parity.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


# --------------------------------------------------------------------------------------------------------------- bench


@pytest.fixture(scope="module")
def benched(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bench.Report, Path]:
    """One bench over a good bundle, one whose graph is damaged behind a right hash, and one cut short."""
    place = tmp_path_factory.mktemp("bench")
    broken, cut = place / "broken", place / "cut"
    for copy in (broken, cut):
        shutil.copytree(tiny_bundle, copy)
    graph = broken / "onnx/decoder_model_merged.onnx"
    graph.write_bytes(b"\x08\x0a" + graph.read_bytes()[2000:])
    reseal(broken)
    (cut / "onnx/vision_encoder.onnx").write_bytes(b"")
    # As if the machine told of its energy: each look at the counter is one joule on.
    looks = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy.Rapl, "look", lambda self: [1_000_000 * next(looks)])
        patch.setattr(energy.Rapl, "joules", lambda self, before, after: (after[0] - before[0]) / 1e6)
        patch.setattr(energy.Rapl, "__bool__", lambda self: True)
        report = bench.bench([tiny_bundle, broken, cut], tiny_checkpoint, SETTINGS, place / "out")
    return report, place / "out"


def test_bench_rows(benched: tuple[bench.Report, Path], tiny_bundle: Path) -> None:
    from edgekit.bundle import Bundle

    report, out = benched
    reference, good, broken, cut = report.rows
    assert reference.target == "checkpoint" and reference.accuracy_delta is None and reference.status == "ok"
    assert good.status == "ok" and good.bundle == Bundle.load(tiny_bundle).hash
    assert good.n == 24 and good.accuracy_delta == 0 and good.token_agreement == 1.0
    assert good.mean_kl is not None and good.mean_kl < 1e-9 and good.pixel_max_abs == 0
    for value in (
        good.load_ms,
        good.image_encode_ms,
        good.ttft_ms,
        good.decode_tokens_per_s,
        good.prefill_tokens_per_s,
    ):
        assert value is not None and math.isfinite(value) and value > 0
    assert reference.peak_memory_bytes is not None and good.peak_memory_bytes is not None
    assert good.peak_memory_bytes < reference.peak_memory_bytes  # a process without torch
    assert broken.status == "failed" and "does not load" in (broken.reason or "") and broken.accuracy is None
    assert cut.status == "failed" and "0 bytes, its manifest says" in (cut.reason or "")
    assert report.verdict.startswith("FAIL")
    assert read_report(json.loads((out / "report.json").read_text())) == report
    raw = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(raw) == 48 and {row["runtime"] for row in raw} == {"pytorch", "onnxruntime"}
    assert np.median([row["ttft_ms"] for row in raw if row["runtime"] == "onnxruntime"]) == good.ttft_ms
    assert [row["turn"] for row in raw] == [n // 4 for n in range(24)] * 2 and report.turns == 6
    # Two processes of each row, and no question twice or left out.
    assert [row["process"] for row in raw] == ([0] * 16 + [1] * 8) * 2 and report.processes == 2
    assert len({row["id"] for row in raw}) == 24 and [row["id"] for row in raw[:24]] == [row["id"] for row in raw[24:]]
    assert "2 fresh processes, one after the other, for each row" in (out / "report.md").read_text()
    for row in (reference, good):
        assert row.tests[0].test == "pp20" and row.tests[1].test == "tg8" and row.tests[2].test == "img"
        assert all(len(test.samples) == 3 and test.mean == pytest.approx(np.mean(test.samples)) for test in row.tests)
        assert len(row.sustained) == 20 and row.sustained[-1].seconds >= 0.05
        assert row.load_warm_ms is not None and row.load_ms is not None and row.load_warm_ms < row.load_ms
        # A joule a turn, of which four of five answers are the questions' own.
        assert row.energy_j_per_answer == pytest.approx(6 * 0.8 / 24)
        assert row.image_tokens == 16 and row.prompt_tokens is not None and row.prompt_tokens > 16
    assert good.ttft_ratio is not None and good.decode_ratio is not None and good.accuracy_p_holm == 1.0
    assert good.top1_agreement == 1.0 and good.margin_at_difference is None
    assert [one.bundle for one in report.lineage] == [good.bundle, broken.bundle]
    page = (out / "report.html").read_text()
    assert "does not load" in page and page.count("data:image/png;base64,") == 4
    assert "failed" in (out / "report.md").read_text() and (out / "results.csv").read_text().count("\n") == 5


def test_a_process_that_dies_is_a_row(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    # A crash inside the runtime's native code, as far as the parent can see.
    (tmp_path / "site" / "onnxruntime.py").write_text(
        "import os, sys, signal\n"
        "print('native trouble', file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    short = dataclasses.replace(SETTINGS, limit=4, trace=0, prompt_tokens=(), new_tokens=(), sustain_s=0)
    report = bench.bench([tiny_bundle], tiny_checkpoint, short, tmp_path / "out")
    assert report.rows[0].status == "ok"
    assert report.rows[1].status == "failed"
    assert "SIGSEGV" in (report.rows[1].reason or "") and "native trouble" in (report.rows[1].reason or "")


def test_turns() -> None:
    assert measure.turn_lengths(24) == [4] * 6 and measure.turn_lengths(1000) == [50] * 20
    assert measure.turn_lengths(7) == [4, 3] and measure.turn_lengths(0) == []
    assert measure.turns_of_process(20, 5) == 4 and measure.turns_of_process(20, 3) == 7
    assert measure.turns_of_process(6, 5) == 4 and measure.turns_of_process(20, 1) == 20
    runners = [measure._Runner(measure.Measured(name), None) for name in "abc"]  # type: ignore[arg-type]
    order = [(n, runner.measured.title) for n, runner in measure.in_turns(runners, 2)]
    assert order == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a")]
    runners[1].measured.problem = "gone"
    assert [runner.measured.title for _, runner in measure.in_turns(runners, 1)] == ["a", "c"]


def test_run_all_sets_the_answers_side_by_side(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    from edgekit import api

    cut = tmp_path / "cut"
    shutil.copytree(tiny_bundle, cut)
    (cut / "onnx/vision_encoder.onnx").write_bytes(b"")
    Image.new("RGB", (30, 20), (200, 0, 0)).save(tmp_path / "a.png")
    models: list[Path | str] = [tiny_checkpoint, tiny_bundle, cut]
    first, second, third = api.run_all("is it red?", [tmp_path / "a.png"], models, max_new_tokens=4)
    assert first.runtime == "pytorch" and second.runtime == "onnxruntime" and first.same and second.same
    alone = api.run(tiny_bundle, "is it red?", [tmp_path / "a.png"], max_new_tokens=4)
    assert alone.token_ids == first.token_ids == second.token_ids and second.timings["ttft_ms"] > 0
    assert "0 bytes, its manifest says" in third.problem
    with pytest.raises(EdgekitError, match="No image at"):
        api.run_all("q", [tmp_path / "none.png"], models)


def test_a_bundle_of_another_student_is_refused(tiny_bundle: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="another student"):
        bench.bench([tiny_bundle], tiny_teacher, SETTINGS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def row(**values: object) -> Row:
    base = {
        "bundle": "h",
        "name": "b",
        "runtime": "r",
        "target": "onnx",
        "precision": "fp32",
        "device": "host",
        "status": "ok",
    }
    return Row(**{**base, **values})  # type: ignore[arg-type]


def test_gates() -> None:
    good = row(accuracy_delta=-0.004, ttft_ms=5.0, decode_tokens_per_s=100.0, size_bytes=10, peak_memory_bytes=7)
    gates = Gates(max_drop=0.5, max_ttft_ms=5.0, min_decode=100, max_size=10, max_memory=7)
    assert failures([good], gates) == []
    missed = failures([good], Gates(max_drop=0.3, max_ttft_ms=4.9, min_decode=101, max_size=9, max_memory=6))
    assert [text.split(",")[0] for text in missed] == [
        "b: accuracy drop in points 0.4", "b: TTFT ms 5", "b: decode tokens/s 100", "b: bytes 10",
        "b: bytes of memory 7",
    ]  # fmt: skip
    assert failures([row()], Gates(max_drop=1)) == ["b: accuracy drop in points unknown, gate 1"]
    assert failures([row(status="failed")], Gates(max_size=1)) == ["b was not measured"]
    assert failures([row(origin="a file", size_bytes=99)], Gates(max_size=1)) == []
    assert failures([row(target="checkpoint", size_bytes=99)], Gates(max_size=1)) == []


def test_a_hostile_image_is_a_clear_error(tiny_bundle: Path, tmp_path: Path) -> None:
    from edgekit import api

    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(EdgekitError, match="Cannot read the image"):
        api.run(tiny_bundle, "q", [tmp_path / "x.png"])
    Image.new("RGB", (3, 3)).save(tmp_path / "ok.png")
    said = api.run(tiny_bundle, "q", [tmp_path / "ok.png"], max_new_tokens=3)
    assert said.runtime == "onnxruntime" and len(said.token_ids) <= 3


@pytest.mark.parametrize(("turns", "known"), [((0, 0), False), ((0, 1), True)])
def test_one_turn_gives_no_interval_of_latency(turns: tuple[int, int], known: bool) -> None:
    """What lies between two questions of one turn says nothing of how far turns lie apart."""
    answers = [
        {
            "turn": turn, "score": 1.0, "token_ids": [1, 2], "prompt_tokens": 9, "preprocess_ms": 1.0,
            "image_encode_ms": 2.0 + place, "prefill_ms": 3.0, "first_token_ms": 0.1, "ttft_ms": 6.0 + place,
            "itl_ms": [1.0 + place],
        }
        for place, turn in enumerate(turns)
    ]  # fmt: skip
    measured = measure.Measured("a", answers=answers)
    row = rows.fill(Row("b" * 64, "a", "onnxruntime", "onnx", "int8", "host", "ok"), measured, measured)
    assert row.ttft_ms == 6.5 and row.ttft_ratio == 1.0 and row.decode_ratio == 1.0
    intervals = (row.ttft_ms_ci95, row.image_encode_ms_ci95, row.decode_tokens_per_s_ci95, row.ttft_ratio_ci95)
    assert [interval is not None for interval in (*intervals, row.decode_ratio_ci95)] == [known] * 5
