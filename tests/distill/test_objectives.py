"""Each objective against values worked out by hand, at equality, under gradcheck, and inside a step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgekit.checkpoint.folder import load_model
from edgekit.distill.hidden_states import Recorder, sizes
from edgekit.distill.objectives import Objective, Side, build
from edgekit.distill.objectives.align_kd import cross_block, most_attended
from edgekit.distill.objectives.hidden_l2 import matched_layers
from edgekit.errors import CheckpointError, RecipeError
from edgekit.recipe.model import OBJECTIVES

P, Q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)  # the teacher's shares, the student's
TEACHER, STUDENT = torch.tensor([P]).log() + 3.0, torch.tensor([Q]).log() - 1.0  # logits: any constant may be added
IDS = torch.tensor([1])


def kl(p: Any, q: Any) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mix(share: float) -> list[float]:
    return [share * p + (1 - share) * q for p, q in zip(P, Q, strict=True)]


def taid_by_hand(t: float) -> float:
    raw = [q ** (1 - t) * p**t for p, q in zip(P, Q, strict=True)]
    return kl([value / sum(raw) for value in raw], Q)


def pld_by_hand() -> float:
    """Label 1 first, then the teacher's order of the rest: 0, 2."""
    places = [(P[1], Q[1], 1.0), (P[0], Q[0], Q[0] + Q[2]), (P[2], Q[2], Q[2])]
    return sum(weight * (math.log(left) - math.log(own)) for weight, own, left in places)


BY_HAND: list[tuple[str, dict[str, Any], float]] = [
    ("jsd", {}, 0.5 * kl(P, mix(0.5)) + 0.5 * kl(Q, mix(0.5))),
    ("jsd", {"beta": 0.9}, 0.9 * kl(P, mix(0.9)) + 0.1 * kl(Q, mix(0.9))),
    ("forward_kl", {}, kl(P, Q)),
    ("reverse_kl", {}, kl(Q, P)),
    ("skew_kl", {"alpha": 0.1}, kl(P, mix(0.1))),
    ("tvd", {}, 0.5 * (0.3 + 0.1 + 0.4)),
    ("taid", {"t0": 0.4}, taid_by_hand(0.4)),
    # H(student) 0.950 < H(teacher) 1.030: the student is the surer one, so the forward KL is the strong one.
    ("bd_kd", {"strong": 3.0, "weak": 0.5}, 3.0 * kl(P, Q) + 0.5 * kl(Q, P)),
    ("pld", {}, pld_by_hand()),
    ("pld", {"top": 1}, -P[1] * math.log(Q[1])),
    ("ce", {}, -math.log(Q[1])),
    ("hidden_l2", {}, kl(P, Q)),
    ("image_weighted", {}, 0.5 * kl(P, mix(0.5)) + 0.5 * kl(Q, mix(0.5))),
    ("image_weighted", {"divergence": "forward_kl"}, kl(P, Q)),
    ("align_kd", {}, -sum(p * math.log(q) for p, q in zip(P, Q, strict=True))),
]
NAMES = sorted({name for name, _, _ in BY_HAND})


def test_every_objective_is_tested() -> None:
    assert OBJECTIVES.names() == NAMES


@pytest.mark.parametrize(("name", "settings", "expected"), BY_HAND)
def test_by_hand(name: str, settings: dict[str, Any], expected: float) -> None:
    assert build(name, settings).per_token(STUDENT, TEACHER, IDS).item() == pytest.approx(expected, abs=1e-6)


def test_temperature() -> None:
    soft = [[value**0.5 for value in shares] for shares in (P, Q)]
    p, q = ([value / sum(shares) for value in shares] for shares in soft)
    assert build("forward_kl", {"temperature": 2.0}).per_token(STUDENT, TEACHER, IDS).item() == pytest.approx(
        4 * kl(p, q), abs=1e-6
    )
    assert build("reverse_kl", {"temperature": 2.0}).per_token(STUDENT, TEACHER, IDS).item() == pytest.approx(
        4 * kl(q, p), abs=1e-6
    )


def test_bd_kd_changes_sides_with_the_entropies() -> None:
    swapped = build("bd_kd", {"strong": 3.0, "weak": 0.5}).per_token(TEACHER, STUDENT, IDS).item()
    assert swapped == pytest.approx(0.5 * kl(Q, P) + 3.0 * kl(P, Q), abs=1e-6)


@pytest.mark.parametrize(
    "name", ["jsd", "forward_kl", "reverse_kl", "skew_kl", "tvd", "taid", "bd_kd", "image_weighted"]
)
def test_zero_at_equality(name: str) -> None:
    logits = torch.randn(6, 40) * 4
    loss = build(name, {}).per_token(logits, logits + 2.0, torch.zeros(6, dtype=torch.long))
    assert loss.abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    """Against finite differences, in double; the teacher's logits get none."""
    torch.manual_seed(1)
    student = (torch.randn(3, 7, dtype=torch.double) * 2).requires_grad_()
    teacher = (torch.randn(3, 7, dtype=torch.double) * 2).requires_grad_()
    ids = torch.tensor([0, 3, 6])
    # TAID's target holds the student fixed, so at t = 1, where it is the teacher, both derivatives are the same.
    objective = build(name, {"t0": 1.0} if name == "taid" else {})
    loss = objective.per_token(student, teacher, ids).double()
    (got,) = torch.autograd.grad(loss.sum(), student, retain_graph=True)
    assert torch.autograd.grad(loss.sum(), teacher, allow_unused=True)[0] is None
    step, expected = 3e-3, torch.zeros_like(got)  # the losses are taken in float32
    for place in range(student.numel()):
        moved = []
        for sign in (1, -1):
            changed = student.detach().clone()
            changed.view(-1)[place] += sign * step
            moved.append(objective.per_token(changed, teacher, ids).double().sum().item())
        expected.view(-1)[place] = (moved[0] - moved[1]) / (2 * step)
    assert torch.allclose(got, expected, atol=2e-3)


def test_taid_moves_to_the_teacher() -> None:
    objective = build("taid", {"t0": 0.2, "momentum": 0.9, "rate": 0.1})
    objective.after_step(2.0, 1, 100)  # the first loss says nothing of a fall: m stays 0
    assert objective.t == pytest.approx(0.2 + 0.1 * 0.8 * 0.5)  # type: ignore[attr-defined]
    t = objective.t  # type: ignore[attr-defined]
    objective.after_step(1.0, 2, 100)
    m = 0.1 * (2.0 - 1.0) / 2.0
    assert objective.t == pytest.approx(t + 0.1 * (1 - t) / (1 + math.exp(-m)))  # type: ignore[attr-defined]
    again = build("taid", {"t0": 0.2, "momentum": 0.9, "rate": 0.1})
    again.restore(objective.state())
    for each in (objective, again):
        each.after_step(0.9, 3, 100)
    assert again.state() == objective.state()
    objective.after_step(0.9, 95, 100)
    assert objective.t == pytest.approx(0.2 + 0.8 * 0.95)  # type: ignore[attr-defined]
    objective.after_step(0.0, 100, 100)
    objective.after_step(0.0, 100, 100)  # a loss of 0 divides by nothing
    assert objective.t == 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("jsd", {"beta": 1.0}, r"beta 1.0 is not in \(0, 1\)"),
        ("image_weighted", {"divergence": "tvd"}, "not one of jsd, forward_kl, reverse_kl"),
        ("image_weighted", {"softness": 0}, "above 0"),
        ("jsd", {"betta": 0.5}, "unknown setting 'betta'"),
        ("tvd", {"beta": 0.5}, "There are: over"),
        ("taid", {"t0": "x"}, "objective_settings.taid"),
        ("pld", {"top": 0}, "from 1 on"),
        ("pld", {"top": 2.5}, "a whole number"),
        ("ce", {"over": "student"}, "is not 'reference' or 'teacher'"),
        ("forward_kl", {"temperature": 0}, "above 0"),
        ("forward_kl", {"temperature": True}, "above 0"),
    ],
)
def test_settings_gone_wrong(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(name, settings)


# ------------------------------------------------------------------------------------------------------- looking inside


def side(images: Tensor, attention: Tensor, image_at: list[list[int]], text_at: list[list[int]]) -> Side:
    return Side(
        hidden={},
        attention=attention,
        images=images,
        image_at=torch.tensor(image_at, dtype=torch.bool),
        text_at=torch.tensor(text_at, dtype=torch.bool),
        owners=torch.arange(len(image_at)),
        image_counts=torch.tensor(image_at).sum(1),
    )


def test_align_kd_by_hand() -> None:
    # One response, four places: image, image, text, text; two heads against one.
    theirs = torch.zeros(1, 2, 4, 4)
    theirs[0, :, 2, :2] = torch.tensor([[0.6, 0.2], [0.4, 0.0]])
    theirs[0, :, 3, :2] = torch.tensor([[0.2, 0.1], [0.0, 0.3]])
    ours = torch.zeros(1, 1, 4, 4)
    ours[0, 0, 2, :2], ours[0, 0, 3, :2] = torch.tensor([0.5, 0.1]), torch.tensor([0.1, 0.4])
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    places = ([[1, 1, 0, 0]], [[0, 0, 1, 1]])
    teacher, student = side(images, theirs, *places), side(images * 2, ours, *places)
    assert torch.allclose(cross_block(teacher), torch.tensor([[0.6, 0.4], [0.2, 0.0], [0.2, 0.0], [0.1, 0.3]]))
    assert most_attended(teacher, 1).tolist() == [0]  # 1.2 against 0.6
    objective = build("align_kd", {"top": 1, "focus": 10.0})
    adapters: Any = objective.adapters(sizes_of(2, 2, 1, 2))
    with torch.no_grad():
        adapters["heads"].weight.copy_(torch.tensor([[0.5, 0.5]]))
        adapters["vision"].weight.copy_(torch.eye(2))
        adapters["vision"].bias.zero_()
    seen = (0.0**2 + 0.0**2 + 0.0**2 + 0.2**2) / 4  # means of the heads 0.5, 0.1, 0.1, 0.2 against 0.5, 0.1, 0.1, 0.4
    vision, focus = (1.0 + 4.0) / 4, 1.0 / 2
    part = objective.batch_part(student, teacher, adapters)
    assert part is not None and part.item() == pytest.approx(seen + vision + 10 * focus, abs=1e-6)


def sizes_of(ours: int, theirs: int, our_heads: int, their_heads: int) -> Any:
    from edgekit.distill.objectives import Sizes

    return Sizes(ours, theirs, 1, 1, our_heads, their_heads)


def test_align_kd_needs_as_many_image_tokens_and_some() -> None:
    objective = build("align_kd", {})
    one = side(torch.ones(2, 2), torch.zeros(1, 1, 3, 3), [[1, 1, 0]], [[0, 0, 1]])
    two = side(torch.ones(1, 2), torch.zeros(1, 1, 3, 3), [[1, 0, 0]], [[0, 1, 1]])
    with pytest.raises(CheckpointError, match="same number of tokens"):
        objective.batch_part(one, two, None)
    none = side(torch.ones(0, 2), torch.zeros(1, 1, 3, 3), [[0, 0, 0]], [[1, 1, 1]])
    assert objective.batch_part(none, none, None) is None


def test_hidden_l2_by_hand() -> None:
    assert matched_layers(2, 4) == [(1, 2), (2, 4)] and matched_layers(3, 3) == [(1, 1), (2, 2), (3, 3)]
    objective = build("hidden_l2", {"hidden": 2.0})
    assert objective.adapters(sizes_of(8, 8, 1, 1)) is None
    blank = side(torch.ones(0, 1), torch.zeros(1, 1, 1, 1), [[0]], [[1]])
    ours = Side(**{**vars(blank), "hidden": {1: torch.tensor([[1.0, 2.0]]), 2: torch.tensor([[0.0, 0.0]])}})
    theirs = Side(
        **{**vars(blank), "hidden": {n: torch.tensor([[float(n), 2.0]]) for n in (1, 2, 3, 4)}}
    )  # layers 2 and 4 are met
    part = objective.batch_part(ours, theirs, None)
    assert part is not None and part.item() == pytest.approx(2.0 * ((1.0 + 0.0) / 2 + (16.0 + 4.0) / 2) / 2)


def test_recorder_sees_what_the_model_itself_reports(tiny_checkpoint: Path) -> None:
    from edgekit.data import samples
    from edgekit.distill.batch import embed, encode_prompts, response_hidden
    from edgekit.inputs.processor import Processor

    processor = Processor.load(tiny_checkpoint)
    model = load_model(tiny_checkpoint, attn="eager")
    questions = list(samples("easy-vqa:test", limit=2))
    recorder = Recorder(model, frozenset({"hidden", "attention"}))
    responses = [[5, 6, 7], [8], [9, 10]]
    owners = torch.tensor([0, 1, 1])
    with torch.no_grad():
        prompts = embed(model, processor, encode_prompts(processor, questions), 0)
        with recorder.on():
            states = response_hidden(model, prompts, owners.tolist(), responses, 0, pack=False)
        got = recorder.side(prompts, owners, responses)
        tokens = int(got.image_counts[0])
        assert got.image_counts.tolist() == [tokens, tokens] and len(got.images) == 2 * tokens
        assert torch.equal(got.image_at.sum(1), torch.tensor([tokens] * 3))
        assert got.text_at[0].sum() == len(encode_prompts(processor, questions).ids[0]) - tokens + 3
        # The last layer's states, through the final norm, are what the head gets.
        final = model.get_decoder().norm(got.hidden[len(got.hidden)])
        assert torch.allclose(final, states, atol=1e-5)
        assert got.attention is not None
        rows = got.attention.sum(-1)[:, 0][got.text_at | got.image_at]
        assert torch.allclose(rows, torch.ones_like(rows), atol=1e-5)
    assert not model.get_decoder().layers[0]._forward_hooks


def test_attention_needs_eager(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, attn="sdpa")
    with pytest.raises(CheckpointError, match="attention: eager"):
        Recorder(model, frozenset({"attention"}))
    assert sizes(model, model).student_layers == 2


def test_all_objectives_share_one_interface() -> None:
    for name in NAMES:
        objective = build(name, {})
        assert isinstance(objective, Objective) and objective.looks_at <= {"hidden", "attention"}
        objective.restore(objective.state())
