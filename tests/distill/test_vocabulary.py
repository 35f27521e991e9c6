"""The chunked loss equals the dense one, values and gradients, whatever the chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from edgekit.distill import vocabulary
from edgekit.distill.objectives import build
from edgekit.distill.vocabulary import answer_terms

TOKENS, VOCAB, STUDENT, TEACHER = 23, 211, 12, 20


def problem(scale: float = 1.0, seed: int = 0) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    student = (torch.randn(TOKENS, STUDENT) * scale).requires_grad_()
    # Heads padded differently: only the shared prefix counts.
    heads = nn.Linear(STUDENT, VOCAB + 5, bias=False), nn.Linear(TEACHER, VOCAB + 2, bias=False)
    return student, heads[0], torch.randn(TOKENS, TEACHER) * scale, heads[1], torch.randint(0, VOCAB, (TOKENS,))


def results(parts: tuple[Any, ...], compute: Any) -> list[Tensor]:
    """Log-probabilities, losses, and the gradients of a weighted sum of both."""
    student, head, *_ = parts
    torch.manual_seed(9)
    student.grad = head.weight.grad = None
    logp, loss = compute(*parts)
    (torch.randn(TOKENS) * logp + torch.rand(TOKENS) * loss).sum().backward()
    return [logp.detach(), loss.detach(), student.grad, head.weight.grad]


def dense(names: list[str]) -> Any:
    def compute(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Any:
        logits, aim = head(student)[:, :VOCAB], other(teacher)[:, :VOCAB].detach()
        logp = logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        return logp, sum(build(name, {}).per_token(logits, aim, ids) for name in names)

    return compute


def chunked(names: list[str], rows: int | None) -> Any:
    def compute(student: Tensor, head: nn.Linear, teacher: Tensor, other: nn.Linear, ids: Tensor) -> Any:
        chosen = {name: build(name, {}) for name in names}
        terms = answer_terms((student, head), (teacher, other), ids, chosen, VOCAB, rows)
        return terms.logp, sum(terms.losses.values())

    return compute


@pytest.mark.parametrize("keep", [0, 5 * VOCAB * 4, 1 << 30])
@pytest.mark.parametrize("rows", [1, 5, 23, None])
@pytest.mark.parametrize("names", [["jsd"], ["tvd", "reverse_kl"], ["jsd", "ce"], ["pld"]])
def test_chunks_change_nothing(names: list[str], rows: int | None, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vocabulary.KEEP_BYTES, "cpu", keep)
    parts = problem()
    for got, expected in zip(results(parts, chunked(names, rows)), results(parts, dense(names)), strict=True):
        assert (got - expected).abs().max() < 1e-5


@given(st.floats(0.1, 30), st.integers(0, 50))
def test_wide_logits(scale: float, seed: int) -> None:
    """Shares down to e^-200: nothing is lost that the dense computation has."""
    parts = problem(scale, seed)
    for got, expected in zip(results(parts, chunked(["jsd"], 7)), results(parts, dense(["jsd"])), strict=True):
        assert torch.isfinite(got).all()
        assert (got - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_far_apart_is_ln_2() -> None:
    """Where each model is sure of another token the divergence is at its bound, and its gradient has died out."""
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)
    student = torch.tensor([[300.0, 0.0]], requires_grad=True)
    terms = answer_terms(
        (student, head), (torch.tensor([[0.0, 300.0]]), head), torch.tensor([0]), {"jsd": build("jsd", {})}, 2
    )
    assert terms.losses["jsd"].item() == pytest.approx(math.log(2), abs=1e-6)
    terms.losses["jsd"].sum().backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6


def test_the_teacher_gets_no_gradient() -> None:
    student, head, teacher, other, ids = problem()
    teacher.requires_grad_()
    for names in (["jsd"], ["tvd"]):
        chosen = {name: build(name, {}) for name in names}
        terms = answer_terms((student, head), (teacher, other), ids, chosen, VOCAB, 4)
        (terms.logp.sum() + terms.losses[names[0]].sum()).backward()
        assert teacher.grad is None and other.weight.grad is None


def test_autocast_computes_products_in_bfloat16() -> None:
    parts = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(parts, chunked(["jsd"], 6))
        expected = results(parts, dense(["jsd"]))
    assert got[0].dtype == torch.float32 and got[2].dtype == torch.float32
    for one, other in zip(got, expected, strict=True):
        assert (one - other).abs().max() < 0.02 * max(1.0, float(other.abs().max()))
    assert (got[0] - results(parts, chunked(["jsd"], 6))[0]).abs().max() > 1e-5  # it was bfloat16 indeed


def test_no_vocabulary_sized_tensor_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary-sized tensor has as many rows as a chunk, not as the batch."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: set[int] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(value, Tensor) and value.shape[-1:] == (VOCAB,):
                    seen.add(value.numel() // VOCAB)
            return out

    monkeypatch.setitem(vocabulary.KEEP_BYTES, "cpu", 0)
    for names in (["jsd"], ["tvd"]):
        seen.clear()
        with Watch():
            results(problem(), chunked(names, 4))
        assert {4, 3} <= seen  # 23 tokens: five chunks of four, and three
        assert not any(rows >= TOKENS for rows in seen)
    seen.clear()
    with Watch():
        results(problem(), dense(["jsd"]))
    assert TOKENS in seen  # the watch does see such a tensor
