"""Quantisation-aware distillation: the grid against what an export holds, the gradient, the loss, and whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from exporting import export_checkpoint
from torch.nn.functional import cross_entropy, embedding, kl_div
from tracing import traced_once

from edgekit import api
from edgekit.api import exporting
from edgekit.checkpoint.folder import checkpoint_hash, load_model
from edgekit.data import Sample
from edgekit.data import samples as read
from edgekit.distill import qad
from edgekit.distill.fake_quant import (
    fake_quantised,
    quantise_dequantise,
    quantise_weights,
    quantised_layers,
    straight_through,
)
from edgekit.errors import RecipeError
from edgekit.export.bundling import parity_inputs
from edgekit.export.parity import TorchModules, follow
from edgekit.families import idefics3
from edgekit.formats.onnx.precisions import scheme_of
from edgekit.inputs.processor import Processor
from edgekit.quantisation import Scheme
from edgekit.recipe.model import Qad
from edgekit.recipe.reading import load_recipe, read_recipe
from edgekit.runtimes.comparison import open_bundle
from edgekit.schema import to_json
from edgekit.workspace import Workspace

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "teachers": [{"checkpoint": "teacher"}],
    "student": {"checkpoint": "student"},
    "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 16, "test_limit": 12},
    "masters": {
        "mask": {"r_max": 0.0},
        "gen_data": {"check_teacher": False, "teacher_responses": 2, "student_responses": 0, "max_new_tokens": 3},
    },
    "trainer": {"steps": 2, "batch_questions": 4, "learning_rate": 1e-3, "save_steps": 2, "threads": 1},
    "qad": {"steps": 6, "batch_questions": 4, "learning_rate": 1e-3},
}


# ------------------------------------------------------------------------------------------------------------ the grid


def test_blocks_by_hand() -> None:
    """Blocks of 4 on 16 levels; a scale of 1 everywhere, so that the levels can be read off."""
    weight = torch.tensor(
        [
            [0.0, 2.5, 6.5, 15.0, 0.0, 0.0],  # halves go away from zero: 3 and 7, not the even 2 and 6
            [-15.0, -2.5, -0.25, 0.0, -7.5, 7.5],  # the zero point is 15, then 8 in the short block
            [0.0, 0.0, 0.0, 0.0, 15.0, 14.4],  # a block of zeros; a block whose range is drawn down to 0
        ]
    )
    expected = [[0, 3, 7, 15, 0, 0], [-15, -2, 0, 0, -7, 7], [0, 0, 0, 0, 15, 14]]
    assert quantise_dequantise(weight, Scheme(4, 4, symmetric=False)).tolist() == expected


def test_channels_by_hand() -> None:
    weight = torch.tensor([[127.0, 2.5, -3.5, 0.4], [0.0, 0.0, 0.0, 0.0], [-254.0, 254.0, 3.0, 1.0]])
    expected = [[127, 2, -4, 0], [0, 0, 0, 0], [-254, 254, 4, 0]]  # halves go to the even neighbour here
    assert quantise_dequantise(weight, scheme_of("int8")).tolist() == expected


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_export_holds_just_these_values(precision: str, checkpoint_maker: Any, tmp_path: Path) -> None:
    """Every output channel of every layer, bit for bit; widths of 48 leave a block of 16 at each row's end."""
    checkpoint = checkpoint_maker(tmp_path / "c", seed=3, width=48)
    questions = list(read("easy-vqa:test", limit=1))
    with traced_once("seed 3, width 48"):
        bundle = export_checkpoint(checkpoint, "onnx", precision, tmp_path / "b", samples=questions)
    read_rows = nbits_rows if precision == "int4" else int8_rows
    held = Counter(row for part in bundle.manifest.components.values() for row in read_rows(bundle.path(part.file)))
    layers = quantised_layers(load_model(checkpoint), idefics3.FAMILY)
    values = [quantise_dequantise(layer.weight, scheme_of(precision)).numpy() for layer in layers.values()]
    assert any(value.shape[1] % 32 for value in values)
    assert held == Counter((row + 0.0).tobytes() for value in values for row in value)  # -0.0 + 0.0 is 0.0

    # And what ONNX Runtime makes of them: the quantised PyTorch model, but for the inputs it rounds on its way.
    model = load_model(checkpoint)
    whole = idefics3.split(load_model(checkpoint))
    quantise_weights(quantised_layers(model, idefics3.FAMILY), scheme_of(precision))
    exported = open_bundle(bundle.folder)
    near, far = [], []
    for item in parity_inputs(Processor.load(checkpoint), (), stock=4):
        theirs = next(exported.follow(item, [0]))
        near.append(np.abs(follow(TorchModules(idefics3.split(model)), whole, item, [0], 1)[0][0] - theirs).max())
        far.append(np.abs(follow(TorchModules(whole), whole, item, [0], 1)[0][0] - theirs).max())
    assert max(near) < 2e-2
    if precision == "int4":  # int8's own error is as small as that of its rounded inputs
        assert max(near) < min(far) / 2


def initialisers(path: Path) -> tuple[Any, dict[str, Any]]:
    import onnx

    graph = onnx.load(path).graph
    return graph, {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


def int8_rows(path: Path) -> Iterator[bytes]:
    """Dequantised weights of each output channel, as the graph's own tensors give them."""
    graph, tensors = initialisers(path)
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            levels, zero, scale = tensors[node.input[1]], tensors[f"{stem}_zero_point"], tensors[f"{stem}_scale"]
            values = (levels.astype(np.float32) - zero.astype(np.float32)) * scale
            yield from (np.ascontiguousarray(row + 0.0).tobytes() for row in values.T)


def nbits_rows(path: Path) -> Iterator[bytes]:
    graph, tensors = initialisers(path)
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            settings = {item.name: item.i for item in node.attribute}
            assert (settings["bits"], settings["block_size"], settings["accuracy_level"]) == (4, 32, 4)
            outputs, inputs = settings["N"], settings["K"]
            blocks = -(-inputs // 32)
            packed, scale, zeros = (tensors[name] for name in node.input[1:4])
            levels = np.stack([packed & 15, packed >> 4], -1).reshape(outputs, blocks, 32).astype(np.float32)
            zeros = zeros.reshape(outputs, -1)
            zero = np.stack([zeros & 15, zeros >> 4], -1).reshape(outputs, -1)[:, :blocks].astype(np.float32)
            values = (levels - zero[..., None]) * scale.reshape(outputs, blocks, 1)
            yield from (row.tobytes() for row in values.reshape(outputs, -1)[:, :inputs] + np.float32(0))


# ------------------------------------------------------------------------------------------------- forward and backward


def test_the_gradient_is_that_of_a_dense_layer_with_these_values() -> None:
    torch.manual_seed(0)
    layer, dense = torch.nn.Linear(40, 6), torch.nn.Linear(40, 6)
    dense.load_state_dict({"weight": quantise_dequantise(layer.weight, scheme_of("int4")), "bias": layer.bias.detach()})
    inputs = torch.randn(5, 40, requires_grad=True)
    with fake_quantised({"layer": layer}, scheme_of("int4")):
        out = layer(inputs)
        (through,) = torch.autograd.grad(out.square().sum(), inputs, retain_graph=True)
        out.square().sum().backward()
    wanted = dense(inputs)
    assert torch.equal(out, wanted)
    assert torch.equal(through, torch.autograd.grad(wanted.square().sum(), inputs, retain_graph=True)[0])
    inputs.grad = None
    wanted.square().sum().backward()
    assert layer.weight.grad is not None and torch.equal(layer.weight.grad, dense.weight.grad)  # type: ignore[arg-type]
    weight = torch.randn(3, 32, requires_grad=True)
    factors = torch.randn(3, 32)
    (straight_through(weight, scheme_of("int4")) * factors).sum().backward()
    assert torch.equal(weight.grad, factors)  # type: ignore[arg-type]


def test_the_optimiser_steps_on_the_full_precision_weights() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(32, 4, bias=False)
    before, names = layer.weight.detach().clone(), list(layer.state_dict())
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e-4)
    inputs = torch.randn(8, 32)
    with fake_quantised({"layer": layer}, scheme_of("int4")):
        assert not torch.equal(layer(inputs), inputs @ layer.weight.T)
        layer(inputs).square().mean().backward()
        optimiser.step()
        assert list(layer.state_dict()) == names
    moved = layer.weight.detach() - before
    assert layer.weight.grad is not None
    assert torch.allclose(moved, -1e-4 * layer.weight.grad, atol=1e-7) and 0 < float(moved.abs().max()) < 1e-3
    assert not torch.equal(layer.weight, quantise_dequantise(layer.weight, scheme_of("int4")))
    assert torch.equal(layer(inputs), inputs @ layer.weight.T)  # dense again
    with pytest.raises(ZeroDivisionError), fake_quantised({"layer": layer}, scheme_of("int4")):
        raise ZeroDivisionError
    assert torch.equal(layer(inputs), inputs @ layer.weight.T)


def test_layers_and_a_tied_embedding(tiny_checkpoint: Path) -> None:
    model: Any = load_model(tiny_checkpoint)
    layers = quantised_layers(model, idefics3.FAMILY)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(layers) == linear and "lm_head" in layers
    model.lm_head.weight = model.get_input_embeddings().weight
    kept = model.lm_head.weight.detach().clone()
    hidden, ids = torch.randn(1, kept.shape[1]), torch.tensor([7])
    with fake_quantised(layers, scheme_of("int4")):
        assert torch.equal(model.get_input_embeddings()(ids), embedding(ids, kept))
        assert torch.equal(model.lm_head(hidden), hidden @ quantise_dequantise(kept, scheme_of("int4")).T)
    quantise_weights(layers, scheme_of("int4"))
    assert torch.equal(model.get_input_embeddings().weight, kept)
    assert torch.equal(model.lm_head.weight, quantise_dequantise(kept, scheme_of("int4")))


# -------------------------------------------------------------------------------------------------------- loss and data


def test_loss_by_hand() -> None:
    settings = Qad(temperature=2.0, kl_weight=0.7, ce_weight=0.3)
    ours = torch.tensor([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    theirs = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    loss, logs = qad.qad_loss(ours, theirs, [[1, 0], [1]], settings)
    p = 1 / (1 + np.exp(-1.0))  # of the reference's first choice at T = 2; ours is the mirror image
    kl = (p - (1 - p)) * np.log(p / (1 - p))
    ce = (np.log1p(np.exp(-2.0)) + np.log(2)) / 2
    assert float(logs["kl"]) == pytest.approx((kl / 2 + 0) / 2, abs=1e-6)  # tokens first, then answers
    assert float(logs["ce"]) == pytest.approx((ce + np.log(2)) / 2, abs=1e-6)
    assert loss.item() == pytest.approx(0.7 * 4 * kl / 4 + 0.3 * (ce + np.log(2)) / 2, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert theirs.grad is None and ours.grad is not None
    same, _ = qad.qad_loss(theirs, theirs, [[1, 0], [1]], Qad(kl_weight=1.0, ce_weight=0.0))
    assert float(same) == pytest.approx(0.0, abs=1e-6)


def test_loss_against_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(4, 9), torch.randn(4, 9)
    loss, _ = qad.qad_loss(ours, theirs, [[1], [2], [3], [4]], Qad(temperature=3.0, kl_weight=0.4, ce_weight=0.6))
    kl = kl_div((ours / 3).log_softmax(-1), (theirs / 3).softmax(-1), reduction="batchmean")
    assert float(loss) == pytest.approx(float(0.4 * 9 * kl + 0.6 * cross_entropy(ours, torch.arange(1, 5))), rel=1e-5)


def test_answers_end_as_the_template_ends_them(tiny_checkpoint: Path) -> None:
    processor = Processor.load(tiny_checkpoint)
    end = processor.tokenizer.token_to_id("<end_of_utterance>")
    sample = next(read("easy-vqa:train", limit=1))
    plain = processor.tokenizer.encode(f" {sample.answer}", add_special_tokens=False).ids
    assert qad.answer_ids(processor, sample, {end}) == [*plain, end]
    assert qad.answer_ids(processor, Sample("s", (), sample.messages, sample.answer), {end}) == [*plain, end]
    import dataclasses

    # A template that opens a turn otherwise than it writes a past one down.
    odd = dataclasses.replace(
        processor,
        template="{% for m in messages %}{{ m['role'] }}{% endfor %}{% if messages|length == 1 %}<think>{% endif %}",
    )
    bare = processor.tokenizer.encode(str(sample.answer), add_special_tokens=False).ids
    assert qad.answer_ids(odd, sample, {end}) == [*bare, end]
    assert qad.answer_ids(odd, sample, set()) == bare


def test_settings() -> None:
    base = {key: RECIPE[key] for key in ("teachers", "student", "data")}
    recipe = read_recipe({**base, "qad": {"from": "teacher", "steps": 5}})
    assert recipe.qad.from_ == "teacher" and to_json(recipe)["qad"]["from"] == "teacher"
    assert recipe.hash == read_recipe(base).hash  # the full-precision student is the same
    assert read_recipe(base).qad.steps == 0
    with pytest.raises(RecipeError) as caught:
        read_recipe({**base, "qad": {"from": "techer", "precision": "int3", "from_": "teacher"}})
    for part in ("did you mean 'from'?", "'techer' is not one of", "'int3' is not one of"):
        assert part in str(caught.value)
    with pytest.raises(RecipeError, match="kl_weight and ce_weight are both 0"):
        read_recipe({**base, "qad": {"steps": 1, "kl_weight": 0, "ce_weight": 0}})


# ----------------------------------------------------------------------------------------------------------- whole runs


def workspace(folder: Path, student: Path, teacher: Path, **changed: Any) -> Path:
    folder.mkdir()
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    (folder / "edgekit.yaml").write_text(yaml.safe_dump({**RECIPE, **changed}))
    return folder


def test_a_tiny_run_end_to_end(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher)
    monkeypatch.chdir(place)
    plain = api.distill(overrides={"qad.steps": "0"}).manifest
    run = Workspace(place).latest_run()
    assert run.students() == [run.student] and "qad" not in plain
    written = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")}
    made = api.distill().manifest["qad"]  # the finished run, and this stage alone
    assert Workspace(place).latest_run() == run and run.finished
    assert written == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.parquet")}
    assert checkpoint_hash(run.student) == plain["student_sha256"]  # the full-precision student stays as it was
    assert run.students() == [run.student, run.quantised_student("int4")]
    assert made["student_sha256"] == checkpoint_hash(run.quantised_student("int4")) != plain["student_sha256"]
    assert made["settings"] == to_json(load_recipe(place / "edgekit.yaml").qad) and made["n"] == 12
    assert made["before_ci95"][0] <= made["before"] <= made["before_ci95"][1]
    assert made["delta"] == pytest.approx(made["after"] - made["before"])
    assert api.distill().manifest["qad"] == made  # nothing left to do

    [bundle] = api.export(targets=["onnx"], precisions=["int4"], samples=2)
    assert bundle.manifest.student_sha256 == made["student_sha256"]
    assert api.verify(bundle.folder, samples=2).compared  # with student-int4: any other one is refused
    assert exporting.student_for(run, "onnx", "int8") == exporting.student_for(run, "onnx", "fp32") == run.student


@pytest.mark.slow
def test_a_stage_that_broke_off_ends_in_the_same_student(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher))
    wanted = api.distill().manifest["qad"]
    monkeypatch.chdir(workspace(tmp_path / "broken", tiny_checkpoint, tiny_teacher))
    real, calls = qad.QadTrainer.compute_loss, []

    def breaks(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self.state.global_step)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(qad.QadTrainer, "compute_loss", breaks)
    with pytest.raises(KeyboardInterrupt):
        api.distill()
    run = Workspace(tmp_path / "broken").latest_run()
    assert not run.finished and len(run.students()) == 1
    got = api.distill().manifest["qad"]
    assert calls == [0, 1, 2, 3, 4, 5, 4, 5]  # from the checkpoint at step 4
    assert got["student_sha256"] == wanted["student_sha256"] and got["after"] == wanted["after"]


@pytest.mark.slow
def test_killed_in_the_stage_it_ends_in_the_same_student(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path
) -> None:
    long = {**RECIPE["qad"], "steps": 20}
    straight = workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher, qad=long)
    killed = workspace(tmp_path / "killed", tiny_checkpoint, tiny_teacher, qad=long)

    def start(folder: Path) -> subprocess.Popen[bytes]:
        log = (folder / "log.txt").open("ab")
        command = [sys.executable, "-m", "edgekit", "distill"]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def manifest(folder: Path) -> Any:
        return json.loads((folder / "runs/tiny/manifest.json").read_text())

    assert start(straight).wait() == 0, (straight / "log.txt").read_text()[-2000:]
    process, end = start(killed), time.monotonic() + 240
    while not list((killed / "runs/tiny").glob("checkpoints/qad-*/checkpoint-8/edgekit-seal.json")):
        assert process.poll() is None and time.monotonic() < end, (killed / "log.txt").read_text()[-2000:]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((killed / "runs/tiny").glob("student-int4"))
    assert start(killed).wait() == 0, (killed / "log.txt").read_text()[-2000:]
    assert manifest(killed)["qad"] == manifest(straight)["qad"]


@pytest.mark.slow
def test_bench_compares_both_students_with_the_first(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace(tmp_path / "w", tiny_checkpoint, tiny_teacher))
    api.distill()
    api.export(targets=["onnx"], precisions=["int4", "fp32"], samples=2)
    report, _ = api.bench(settings=api.BenchSettings(limit=8))
    assert [row.status for row in report.rows] == ["ok", "ok", "ok"]
    assert all(row.accuracy_delta is not None for row in report.rows[1:])
    [note] = report.notes
    assert note.startswith("onnx-int4 was exported from student-int4") and note.endswith("compared with student.")
