"""Tokens weighed by what the image tells the teacher of them."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from edgekit import api
from edgekit.data import ImageRef, Sample, samples
from edgekit.distill.batch import encode_prompts
from edgekit.distill.blanks import GREY, blanked
from edgekit.distill.joint import Collator, Item, JointTrainer
from edgekit.distill.objectives import build
from edgekit.distill.objectives.image_weighted import image_weights
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor


def test_weights_by_hand() -> None:
    # Three tokens: the image adds 2 nats, nothing, and takes 1; then a response of one token.
    seen, unseen = torch.tensor([-0.1, -0.5, -2.0, -0.1]), torch.tensor([-2.1, -0.5, -1.0, -9.0])
    raw = [math.log1p(math.exp(d)) for d in (2.0, 0.0, -1.0)]
    got = image_weights(seen, unseen, torch.tensor([3, 1]))
    assert got.tolist() == pytest.approx([*(3 * one / sum(raw) for one in raw), 1.0], abs=1e-5)
    soft = image_weights(seen, unseen, torch.tensor([3, 1]), softness=100.0)
    assert soft.tolist() == pytest.approx([1.0] * 4, abs=0.02)
    # Where the image says nothing all tokens weigh the same, and the smallest weight is above 0.
    assert image_weights(seen, seen, torch.tensor([3, 1])).tolist() == pytest.approx([1.0] * 4)
    extreme = image_weights(torch.tensor([0.0, -900.0]), torch.tensor([-900.0, 0.0]), torch.tensor([2]))
    assert torch.isfinite(extreme).all() and extreme.sum().item() == pytest.approx(2) and extreme.min() > 0


def test_no_gradient_through_the_weights() -> None:
    seen = torch.zeros(2, requires_grad=True)
    assert not build("image_weighted", {}).token_weights(seen, -seen - 1, torch.tensor([2])).requires_grad


@pytest.mark.parametrize("size", [(64, 64), (70, 31)])
def test_a_blank_keeps_the_prompt(tiny_checkpoint: Path, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(buffer, "PNG")
    one = Sample("a", (ImageRef(data=buffer.getvalue()),) * 2, question("which?", 2), "x")
    blank, processor = blanked(one), Processor.load(tiny_checkpoint)
    assert blank.images[0].open().size == size and blank.images[0].open().getpixel((3, 5)) == GREY
    given, empty = (encode_prompts(processor, [row]) for row in (one, blank))
    assert given.ids == empty.ids and given.pixels is not None and empty.pixels is not None
    assert given.pixels.shape[1:] == empty.pixels.shape[1:]
    assert blanked(Sample("b", (), question("no image", 0), "x")).images == ()


def test_the_batch_holds_blanks_only_where_wanted(tiny_checkpoint: Path) -> None:
    processor, first = Processor.load(tiny_checkpoint), next(iter(samples("easy-vqa:test", limit=1)))
    rows = [{"token_ids": [5], "r_acc": 0.0, "text": "x", "source": "teacher", "ref_logp": [-1.0]}]
    item = Item(first, rows)
    assert Collator(processor, processor)([item])["batch"].unseen is None
    batch = Collator(processor, processor, blanks=True)([item])["batch"]
    assert batch.unseen is not None and batch.unseen.ids == batch.teacher.ids
    assert batch.unseen.pixels is not None and batch.teacher.pixels is not None
    assert not torch.equal(batch.unseen.pixels, batch.teacher.pixels)


def test_in_a_run(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images make a difference to the teacher, and each response's weights have a mean of 1."""
    rows = [
        {"id": one.id, "question": one.text, "image": str(one.images[0].path), "answer": one.answer}
        for one in samples("easy-vqa:test", limit=4)
    ]
    rows[0] = {"id": "plain", "question": "is this a question?", "answer": "yes"}
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "teachers": [{"checkpoint": str(tiny_teacher), "r_max": 0.0}],
        "student": {"checkpoint": str(tiny_checkpoint)},
        "data": {"train": str(tmp_path / "q.jsonl"), "test": str(tmp_path / "q.jsonl")},
        "objective": {"jsd": 1.0, "image_weighted": 0.5},
        "masters": {"gen_data": {"check_teacher": False, "check_images": False, "max_new_tokens": 3}},
        "trainer": {"steps": 2, "batch_questions": 4, "learning_rate": 1e-3, "logging_steps": 1},
    }
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    seen: list[tuple[Any, ...]] = []
    weigh = JointTrainer._weigh

    def watch(self: Any, losses: Any, *rest: Any) -> None:
        before = losses["image_weighted"].detach().clone()
        weigh(self, losses, *rest)
        seen.append((before, losses["image_weighted"].detach(), losses["jsd"].detach(), *rest))

    monkeypatch.setattr(JointTrainer, "_weigh", watch)
    api.distill(tmp_path / "edgekit.yaml", workspace=tmp_path)
    log = json.loads((tmp_path / "runs/masters/reports/training-1.json").read_text())
    assert all(math.isfinite(row["image_weighted"]) for row in log if "loss" in row)
    assert len(seen) == 2
    for before, after, jsd, told, untold, lengths in seen:
        assert torch.allclose(before, jsd, atol=1e-6)  # it is the JSD, weighed
        weights = after / before.clamp_min(1e-12)
        assert sum(weights.tolist()) == pytest.approx(float(lengths.sum()), rel=1e-3)
        gaps = torch.split((told - untold).abs(), lengths.tolist())
        # Of the question without an image nothing is blanked.
        assert sum(float(gap.max()) > 1e-4 for gap in gaps) > 0
        assert sum(float(gap.max()) < 1e-5 for gap in gaps) > 0
