"""Expected acceptance against distributions computed the long way, one answer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.checkpoint.folder import load_model
from edgekit.data import samples as read
from edgekit.distill.acceptance import acceptance
from edgekit.inputs.processor import Processor


def test_acceptance_is_one_minus_tvd(tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    student, teacher = load_model(tiny_checkpoint), load_model(tiny_teacher)
    processor = Processor.load(tiny_checkpoint)
    questions = list(read("easy-vqa:test", limit=5))
    vocab = student.get_output_embeddings().weight.shape[0] - 3  # heads may be padded beyond what they share
    found = acceptance((student, processor), (teacher, processor), questions, vocab, max_new_tokens=4, batch=2)

    means, tokens = [], 0
    with torch.no_grad():
        for sample in questions:
            inputs = processor.encode(sample.messages, [image.open() for image in sample.images])
            assert inputs.pixels is not None
            prompt, pixels = torch.from_numpy(inputs.ids), torch.from_numpy(inputs.pixels.values)[None]
            ids = student.generate(input_ids=prompt, pixel_values=pixels, max_new_tokens=4, do_sample=False)
            p, q = (
                model(input_ids=ids, pixel_values=pixels).logits[0, prompt.shape[1] - 1 : -1, :vocab].softmax(-1)
                for model in (student, teacher)
            )
            means.append(float(torch.minimum(p, q).sum(-1).mean()))  # the overlap, which is 1 - TVD
            tokens += len(p)
    assert found["answers"] == 5 and found["tokens"] == tokens
    assert found["expected"] == pytest.approx(sum(means) / 5, abs=1e-5) and found["expected"] < 0.9999
    low, high = found["ci95"]
    assert low <= found["expected"] <= high


def test_a_model_accepts_its_own_tokens(tiny_checkpoint: Path) -> None:
    model, processor = load_model(tiny_checkpoint), Processor.load(tiny_checkpoint)
    vocab = model.get_output_embeddings().weight.shape[0]
    questions = list(read("easy-vqa:test", limit=3))
    found = acceptance((model, processor), (model, processor), questions, vocab, max_new_tokens=3)
    assert found["expected"] == pytest.approx(1, abs=1e-6)
