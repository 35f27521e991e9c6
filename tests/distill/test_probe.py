"""The probe of a teacher: its sweep, its proposal, its questions, and `r_max: auto`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import samples
from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives.jsd import jsd
from edgekit.distill.probe import Row, held_out, probe, propose
from edgekit.errors import EdgekitError
from edgekit.families import idefics3
from edgekit.inputs.processor import Processor


@pytest.fixture(scope="module")
def teacher() -> MaskedTeacher:
    folder = resolve_checkpoint("demo:teacher")
    return MaskedTeacher(load_model(folder), folder, idefics3.FAMILY)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.load(resolve_checkpoint("demo:teacher"))


def row(ratio: float, drop: float) -> Row:
    return Row(ratio, 1 - drop, (0.0, 1.0), drop, (drop, drop), 0.0)


def test_the_proposal_is_the_last_ratio_before_the_cliff() -> None:
    assert propose([row(0, 0), row(0.1, -0.01), row(0.2, 0.02), row(0.3, 0.05)], 0.02) == 0.2
    # A ratio that holds by luck beyond one that does not is beyond the cliff.
    assert propose([row(0, 0), row(0.1, 0.03), row(0.2, 0.0)], 0.02) == 0.0
    assert propose([row(0, 0)], 0.02) == 0.0


def test_the_demo_teacher_falls_where_it_is_known_to_fall(teacher: MaskedTeacher, processor: Processor) -> None:
    """By hand it kept 99.8 % at 0.3, 98.4 at 0.6 and fell to 81.9 at 0.8 on all test questions."""
    before = {name: weight.clone() for name, weight in teacher.weights.items()}
    questions = list(samples("easy-vqa:test", limit=96))
    result = probe(teacher, processor, questions, scoring="exact", step=0.3, max_drop=0.03)
    accuracy = {row.ratio: row.accuracy for row in result.rows}
    assert list(accuracy) == [0.0, 0.3, 0.6, 0.9]
    assert accuracy[0.0] > 0.97 and accuracy[0.3] > 0.97 and accuracy[0.6] > 0.93 and accuracy[0.9] < 0.8
    assert result.rows[0].jsd < 1e-7 and result.rows[0].drop == 0
    distances = [row.jsd for row in result.rows]
    assert distances == sorted(distances) and distances[-1] > 0.05
    assert result.r_max in (0.3, 0.6)
    assert all(torch.equal(before[name], weight) for name, weight in teacher.weights.items())  # left dense
    json.dumps(result.as_dict(), allow_nan=False)


def test_its_distance_is_that_of_the_two_models(teacher: MaskedTeacher, processor: Processor) -> None:
    """Against whole forward passes of the dense and the masked model, one question at a time."""
    questions = list(samples("easy-vqa:test", limit=3))
    found = probe(teacher, processor, questions, scoring="exact", step=0.7, batch=2)
    expected = []
    for sample in questions:
        inputs = processor.encode(sample.messages, [image.open() for image in sample.images])
        assert inputs.pixels is not None
        pixels = torch.from_numpy(inputs.pixels.values)[None]
        model: Any = teacher.model
        ids = torch.from_numpy(inputs.ids)
        with torch.no_grad():
            teacher.set_ratio(0.0)
            whole = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=16, do_sample=False)
            places = slice(ids.shape[1] - 1, whole.shape[1] - 1)
            dense = model(input_ids=whole, pixel_values=pixels).logits[0, places]
            teacher.set_ratio(0.7)
            masked = model(input_ids=whole, pixel_values=pixels).logits[0, places]
        expected.append(jsd(masked, dense).mean().item())
    teacher.set_ratio(0.0)
    assert found.rows[1].jsd == pytest.approx(sum(expected) / 3, rel=1e-3)


def test_it_stops_once_half_is_gone(teacher: MaskedTeacher, processor: Processor) -> None:
    questions = list(samples("easy-vqa:test", limit=16))
    rows = probe(teacher, processor, questions, scoring="exact", step=0.47).rows
    assert [row.ratio for row in rows] == [0.0, 0.47, 0.94] and rows[-1].accuracy <= rows[0].accuracy / 2


def test_held_out_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(n), "question": f"q{n}", "answer": "yes"}) + "\n" for n in range(200))
    )
    taken = {str(n) for n in range(0, 200, 2)}
    drawn = held_out(str(path), 30, 0, taken)
    assert len({sample.id for sample in drawn}) == 30 and not {sample.id for sample in drawn} & taken
    assert [s.id for s in held_out(str(path), 30, 0, taken)] == [s.id for s in drawn]
    assert [s.id for s in held_out(str(path), 30, 1, taken)] != [s.id for s in drawn]
    # Each has the same chance: over many draws the mean id is the middle.
    means = [sum(int(s.id) for s in held_out(str(path), 20, seed)) / 20 for seed in range(60)]
    assert abs(sum(means) / 60 - 99.5) < 3 * 57.7 / math.sqrt(20 * 60)
    assert len(held_out(str(path), 150, 0, taken)) == 150  # too few are free: others beside them
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(EdgekitError):
        held_out(str(tmp_path / "none.jsonl"), 3, 0)
