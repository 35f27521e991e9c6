"""Eq. 4 and 6-11 against values worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from edgekit.data import Sample
from edgekit.distill.groups import Group, Weights, row_means
from edgekit.distill.judges import rule
from edgekit.distill.loss import joint_loss
from edgekit.distill.objectives import Rows, build
from edgekit.distill.objectives.jsd import jsd
from edgekit.distill.policy import Measured, k3
from edgekit.distill.responses import Used
from edgekit.distill.rewards import distill_rewards, group_advantages
from edgekit.inputs.chat import question
from edgekit.recipe.reading import ablation_recipe_path, load_recipe


def test_jsd_by_hand() -> None:
    student = torch.tensor([[0.25, 0.75]]).log()
    teacher = torch.tensor([[0.5, 0.5]]).log()
    middle = (0.375, 0.625)
    expected = 0.5 * (0.5 * math.log(0.5 / middle[0]) + 0.5 * math.log(0.5 / middle[1])) + 0.5 * (
        0.25 * math.log(0.25 / middle[0]) + 0.75 * math.log(0.75 / middle[1])
    )
    assert jsd(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    # b weighs the teacher's side: b -> 0 leaves (1 - b) KL(p_S, m) with m -> p_S, which is 0.
    assert jsd(student, teacher, 1e-6).item() == pytest.approx(0, abs=1e-5)


def test_jsd_bounds_and_zero() -> None:
    logits = torch.randn(5, 11)
    assert jsd(logits, logits).abs().max() < 1e-6
    apart = jsd(torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]]))
    assert apart.item() == pytest.approx(math.log(2), rel=1e-5)
    swapped = torch.randn(5, 11)
    assert torch.allclose(jsd(logits, swapped), jsd(swapped, logits), atol=1e-6)


def test_jsd_gradient() -> None:
    teacher = torch.randn(3, 5, dtype=torch.double)
    student = torch.randn(3, 5, dtype=torch.double, requires_grad=True)

    def double(logits: torch.Tensor) -> torch.Tensor:
        p, q = logits.log_softmax(-1), teacher.log_softmax(-1)
        m = torch.logaddexp(p + math.log(0.3), q + math.log(0.7))
        return (0.7 * (q.exp() * (q - m)).sum(-1) + 0.3 * (p.exp() * (p - m)).sum(-1)).sum()

    assert torch.autograd.gradcheck(double, (student,))
    (expected,) = torch.autograd.grad(double(student), student)
    (got,) = torch.autograd.grad(jsd(student, teacher, beta=0.7).sum(), student)
    assert torch.allclose(got, expected, atol=1e-5)


def test_jsd_leaves_the_teacher_alone() -> None:
    teacher = torch.randn(2, 3, requires_grad=True)
    jsd(torch.randn(2, 3, requires_grad=True), teacher).sum().backward()
    assert teacher.grad is None


def test_distill_rewards() -> None:
    distances = torch.tensor([[0.1, 0.3, 0.2, 9.0], [0.2, 0.2, 0.2, 0.2]])
    present = torch.tensor([[True, True, True, False], [True] * 4])
    rewards = distill_rewards(distances, present)
    assert torch.allclose(rewards[0], torch.tensor([1.0, 0.0, 0.5, 0.0]))
    assert rewards[1].tolist() == [0.0] * 4  # no spread
    assert distill_rewards(distances[:1], torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[0.0] * 4]


def test_a_relative_spread_that_is_too_small_is_none() -> None:
    """(0.4 - 0.3) / 0.4 is a quarter, (0.4 - 0.1) / 0.4 three."""
    distances, present = torch.tensor([[0.3, 0.4], [0.1, 0.4]]), torch.ones(2, 2, dtype=torch.bool)
    for least, expected in ((0.2, [[1.0, 0.0]] * 2), (0.3, [[0.0, 0.0], [1.0, 0.0]]), (0.8, [[0.0, 0.0]] * 2)):
        assert distill_rewards(distances, present, least).tolist() == expected


def test_advantages() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    assert torch.allclose(group_advantages(rewards)[0], torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(group_advantages(rewards, "population")[0], torch.tensor([-1.0, 0, 1]) * math.sqrt(1.5))
    assert group_advantages(rewards)[1].tolist() == [0.0] * 3
    assert group_advantages(torch.tensor([[2.0]])).tolist() == [[0.0]]
    half = math.sqrt(0.5)  # of two, the sample's deviation is their distance over the root of 2
    assert torch.allclose(group_advantages(torch.tensor([[0.1, 0.3]])), torch.tensor([[-half, half]]), atol=1e-5)
    assert torch.allclose(group_advantages(rewards / 100)[0], torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4)


def test_rule_judge() -> None:
    judge = rule.make("exact")
    one = Sample("a", (), question("q", 0), "yes")
    assert judge([(one, "Yes."), (one, "no"), (one, ""), (one, "yes yes")]) == [1.0, 0.0, 0.0, 0.0]


def test_row_means_and_k3() -> None:
    assert row_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2, 1])).tolist() == [2.0, 5.0]
    assert k3(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == 0
    assert k3(torch.tensor([-1.0]), torch.tensor([-2.0])).item() == pytest.approx(math.exp(-1) + 1 - 1)


def _group() -> Group:
    # One question, G = 3: response 0 drawn twice (right), response 1 once (wrong, two tokens).
    return Group(
        owners=torch.tensor([0, 0]),
        lengths=torch.tensor([1, 2]),
        slots=torch.tensor([[0, 0, 1]]),
        r_acc=torch.tensor([1.0, 0.0]),
        present=torch.tensor([True, True]),
        ref_logp=torch.tensor([-0.5, -1.0, -1.0]),
        writer_logp=torch.tensor([-0.5, -1.0, -1.0]),
        from_teacher=torch.tensor([[True, False, False]]),
        reference=torch.tensor([-1]),
    )


def test_joint_loss_by_hand() -> None:
    logp = torch.tensor([-0.5, -1.0, -1.0], requires_grad=True)
    distance = torch.tensor([0.1, 0.2, 0.4], requires_grad=True)
    loss, logs, _ = joint_loss(Measured(logp), {"jsd": distance}, _group(), Weights({"jsd": 1.0}))
    # D: 0.1, 0.1, 0.3 -> R_distill 1, 1, 0; R = 2, 2, 0; A = (1, 1, -2) / std(sample) 1.1547
    scale = math.sqrt((2 * (2 / 3) ** 2 + (4 / 3) ** 2) / 2)
    advantages = [2 / 3 / scale, 2 / 3 / scale, -4 / 3 / scale]
    assert loss.item() == pytest.approx(-sum(advantages) / 3 + (0.1 + 0.1 + 0.3) / 3, abs=1e-6)
    loss.backward()
    # rho's gradient is A; at logp == ref the KL's is 0. Mean over tokens, then over the three draws.
    assert logp.grad is not None and distance.grad is not None
    assert torch.allclose(
        logp.grad, torch.tensor([-2 * advantages[0] / 3, -advantages[2] / 2 / 3, -advantages[2] / 2 / 3])
    )
    assert torch.allclose(distance.grad, torch.tensor([2 / 3, 1 / 6, 1 / 6]))
    assert logs["r_acc"].item() == pytest.approx(2 / 3)


def test_kl_pulls_towards_the_reference() -> None:
    logp = torch.tensor([-2.0, -1.0, -1.0], requires_grad=True)
    weights = Weights({"jsd": 0.0}, kl_beta=0.1, accuracy=False, distill=False)
    loss, _, _ = joint_loss(Measured(logp), {"jsd": torch.zeros(3)}, _group(), weights)
    gap = -0.5 + 2.0
    assert loss.item() == pytest.approx(2 / 3 * 0.1 * (math.exp(gap) - gap - 1), rel=1e-5)
    loss.backward()
    assert logp.grad is not None and logp.grad[0] < 0  # a step down the gradient raises logp towards ref_logp


def test_an_empty_response_has_no_distance_and_no_reward() -> None:
    group = _group()
    group = Group(**{**vars(group), "present": torch.tensor([True, False]), "r_acc": torch.zeros(2)})
    distance = torch.tensor([0.1, 5.0, 5.0], requires_grad=True)
    loss, logs, _ = joint_loss(
        Measured(torch.zeros(3, requires_grad=True) - 1), {"jsd": distance}, group, Weights({"jsd": 1.0}, grpo=0.0)
    )
    assert loss.item() == pytest.approx(0.2 / 3)
    loss.backward()
    assert distance.grad is not None and distance.grad[1:].tolist() == [0.0, 0.0]
    assert logs["r_distill"].item() == 0  # one distance left: no spread


def test_equal_rewards_leave_the_policy_alone() -> None:
    group = Group(**{**vars(_group()), "r_acc": torch.ones(2)})
    logp = torch.tensor([-0.5, -1.0, -1.0], requires_grad=True)
    loss, _, _ = joint_loss(Measured(logp), {"jsd": torch.full((3,), 0.2)}, group, Weights({"jsd": 1.0}))
    loss.backward()
    assert logp.grad is not None and logp.grad.abs().max() < 1e-6


def test_a_clipped_ratio_stops_pushing() -> None:
    """A of the right response (drawn twice) is +0.577, of the wrong one -1.155; clip 0.2 by hand."""
    scale = math.sqrt((2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 2)
    good, bad = 1 / 3 / scale, -2 / 3 / scale
    weights = Weights({"jsd": 0.0}, kl_beta=0.0, distill=False, clip=0.2)
    # exp(0.1) < 1.2 is free; the wrong response's tokens are at exp(-1), beyond 0.8, and at exp(-0.1).
    logp = torch.tensor([-0.4, -2.0, -1.1], requires_grad=True)
    loss, _, _ = joint_loss(Measured(logp), {"jsd": torch.zeros(3)}, _group(), weights)
    expected = -(2 * math.exp(0.1) * good + (0.8 + math.exp(-0.1)) / 2 * bad) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx(
        [-2 * math.exp(0.1) * good / 3, 0.0, -math.exp(-0.1) * bad / 2 / 3], abs=1e-6
    )
    # A good response 1.5 times as likely as under pi_ref is pushed no more; a bad one as likely still is.
    logp = torch.tensor([-0.5 + math.log(1.5), -1.0 + math.log(1.5), -1.0], requires_grad=True)
    joint_loss(Measured(logp), {"jsd": torch.zeros(3)}, _group(), weights)[0].backward()
    assert logp.grad is not None and logp.grad[0] == 0 and logp.grad[1] > logp.grad[2] > 0


# Two questions of two draws; D of the responses is 0.1, 0.3 and 5.0, and the last one is empty.
TWO = Group(
    owners=torch.tensor([0, 0, 1]),
    lengths=torch.tensor([1, 2, 1]),
    slots=torch.tensor([[0, 1], [2, 2]]),
    r_acc=torch.tensor([1.0, 0.0, 0.0]),
    present=torch.tensor([True, True, False]),
    ref_logp=torch.full((4,), -1.0),
    writer_logp=torch.full((4,), -1.0),
    from_teacher=torch.tensor([[True, False], [True, True]]),
    reference=torch.tensor([0, -1]),
)


@pytest.mark.parametrize(
    ("rows", "reference", "expected"),
    [
        ("drawn", [0, -1], (0.1 + 0.3) / 4), ("teacher", [0, -1], 0.1 / 3),
        ("reference", [0, -1], 0.1), ("reference", [1, 0], 0.2), ("reference", [-1, 1], 0.3),
        ("reference", [-1, -1], 0.0),
    ],
)  # fmt: skip
def test_what_an_objective_is_averaged_over(rows: Rows, reference: list[int], expected: float) -> None:
    group = Group(**{**vars(TWO), "reference": torch.tensor(reference)})
    distances = {"jsd": torch.zeros(4), "sft": torch.tensor([0.1, 0.2, 0.4, 5.0])}
    weights = Weights({"jsd": 1.0, "sft": 3.0}, grpo=0.0, rows={"sft": rows})
    loss, logs, _ = joint_loss(Measured(torch.full((4,), -1.0)), distances, group, weights, {"sft": torch.tensor(0.5)})
    assert logs["sft"].item() == pytest.approx(expected + 0.5) and logs["jsd"].item() == 0
    assert loss.item() == pytest.approx(3 * (expected + 0.5))


@pytest.mark.parametrize(("wrote", "expected"), [([False, False], 0.0), ([False, True], 0.3)])
def test_one_draw_of_the_teacher_or_none(wrote: list[bool], expected: float) -> None:
    group = Group(**{**vars(TWO), "from_teacher": torch.tensor([wrote, [False, False]])})
    weights = Weights({"jsd": 1.0}, grpo=0.0, rows={"jsd": "teacher"})
    distances = {"jsd": torch.tensor([0.1, 0.2, 0.4, 5.0])}
    loss = joint_loss(Measured(torch.full((4,), -1.0)), distances, group, weights).loss
    assert loss.item() == pytest.approx(expected)


def test_reference_answers_alone_have_no_policy_term() -> None:
    group = Group(
        **{**vars(TWO), "slots": torch.empty(2, 0, dtype=torch.long), "from_teacher": torch.empty(2, 0).bool()}
    )
    weights = Weights({"sft": 2.0}, rows={"sft": "reference"})
    loss, logs, _ = joint_loss(
        Measured(torch.full((4,), -1.0)), {"sft": torch.tensor([0.1, 0.2, 0.4, 5.0])}, group, weights
    )
    assert loss.item() == pytest.approx(0.2) and set(logs) == {"sft"}


def test_the_distance_of_the_reward_is_jsd_else_the_first() -> None:
    """D of (0, 0, 1) is (0.5, 0.5, 0.1) by one and (0.1, 0.1, 0.3) by the other: R_distill (0, 0, 1) or (1, 1, 0)."""
    one, other = torch.tensor([0.5, 0.1, 0.1]), torch.tensor([0.1, 0.3, 0.3])
    logp = torch.tensor([-0.5, -1.0, -1.0])
    for names, expected in ((("forward_kl", "jsd"), 2 / 3), (("forward_kl", "tv"), 1 / 3)):
        _, logs, _ = joint_loss(
            Measured(logp), dict(zip(names, (one, other), strict=True)), _group(), Weights(dict.fromkeys(names, 1.0))
        )
        assert logs["r_distill"].item() == pytest.approx(expected)


def test_the_policy_of_two_questions_by_hand() -> None:
    """R is (1, 0) and (0, 0); A = 0.7071, -0.7071, 0, 0, by the population's deviation 1, -1, 0, 0."""
    logp = torch.full((4,), -1.0, requires_grad=True)
    for std, size in (("sample", math.sqrt(0.5)), ("population", 1.0)):
        logp.grad = None
        weights = Weights({"jsd": 0.0}, grpo=2.0, distill=False, advantage_std=std)  # type: ignore[arg-type]
        loss, logs, _ = joint_loss(Measured(logp), {"jsd": torch.zeros(4)}, TWO, weights)
        loss.backward()
        assert logp.grad is not None
        # Two, the mean over four draws, and over two tokens of the second response.
        assert logp.grad.tolist() == pytest.approx([-2 * size / 4, size / 4, size / 4, 0.0], abs=1e-6)
        assert logs["r_acc"].item() == 0.25 and logs["kl"].item() == 0


def test_weights_of_the_paper() -> None:
    usual = Weights({"jsd": 1.0})
    assert (usual.grpo, usual.kl_beta, usual.clip, usual.accuracy, usual.distill) == (1.0, 0.1, None, True, True)
    assert (usual.kl, usual.topr, usual.min_spread) == ("k3", False, 0.0)
    assert usual.advantage_std == "sample" and usual.rows == {}


def test_which_models_a_loss_asks() -> None:
    """mu for TOPR and for the weighted KL, pi_ref for the whole KL; nothing that weighs nothing asks for any."""
    for settings, mu, reference in (
        ({}, False, False), ({"topr": True}, True, False), ({"kl": "weighted"}, True, False),
        ({"kl": "full"}, False, True), ({"kl": "full", "topr": True}, True, True),
        ({"kl": "weighted", "kl_beta": 0.0}, False, False), ({"kl": "full", "kl_beta": 0.0}, False, False),
        ({"kl": "weighted", "kl_beta": 0.0, "topr": True}, True, False), ({"kl": "k3", "kl_beta": 9.0}, False, False),
        ({"topr": True, "grpo": 0.0}, False, False), ({"kl": "weighted", "grpo": 0.0}, False, False),
        ({"kl": "full", "grpo": 0.0}, False, False), ({"kl": "weighted", "grpo": 0.5, "kl_beta": 0.5}, True, False),
        ({"kl": "full", "grpo": 0.5, "kl_beta": 0.5}, False, True), ({"topr": True, "grpo": 0.5}, True, False),
    ):  # fmt: skip
        weights = Weights({"jsd": 1.0}, **settings)  # type: ignore[arg-type]
        assert (weights.needs_mu, weights.needs_reference) == (mu, reference), settings


def test_weights_of_a_recipe() -> None:
    """Each from its own field: no two of them are the same number."""
    recipe = load_recipe(
        ablation_recipe_path(),
        {"objective": "{jsd: 0.25, ce: 3.0}", "masters.grpo_weight": "0.5", "masters.kl_beta": "0.125",
         "masters.kl_estimator": "full", "masters.off_policy": "topr", "masters.rewards.min_spread": "0.0625",
         "masters.advantage_std": "population", "masters.rewards.distill": "false"},
    )  # fmt: skip
    objectives = {"jsd": build("jsd", {"over": "right"}), "ce": build("ce", {"over": "reference"})}
    assert Weights.by(recipe, objectives) == Weights(
        {"jsd": 0.25, "ce": 3.0}, 0.5, 0.125, "full", None, True, True, False, 0.0625, "population",
        {"jsd": "right", "ce": "reference"},
    )  # fmt: skip
    masters = dataclasses.replace(
        recipe.masters, off_policy="clip", clip=0.2, rewards=dataclasses.replace(recipe.masters.rewards, accuracy=False)
    )
    clipped = Weights.by(dataclasses.replace(recipe, masters=masters), {})
    assert (clipped.clip, clipped.topr, clipped.accuracy, clipped.rows) == (0.2, False, False, {})


def test_over_right_responses_by_hand() -> None:
    """Two questions, G = 3: right ones are a (drawn twice) of the first and c of the second; d is right but empty."""
    group = Group(
        owners=torch.tensor([0, 0, 1, 1]),
        lengths=torch.tensor([1, 2, 2, 1]),
        slots=torch.tensor([[0, 0, 1], [2, 3, 3]]),
        r_acc=torch.tensor([1.0, 0.4, 0.5, 1.0]),
        present=torch.tensor([True, True, True, False]),
        ref_logp=torch.zeros(6),
        writer_logp=torch.zeros(6),
        from_teacher=torch.tensor([[True, False, False], [True, False, False]]),
        reference=torch.tensor([-1, -1]),
    )
    distance = torch.tensor([0.1, 7.0, 7.0, 0.2, 0.6, 7.0], requires_grad=True)
    weights = Weights({"jsd": 2.0}, grpo=0.0, rows={"jsd": "right"})
    seen = Measured(torch.zeros(6, requires_grad=True) - 1)
    loss, logs, _ = joint_loss(seen, {"jsd": distance}, group, weights)
    assert logs["jsd"].item() == pytest.approx((0.1 + 0.1 + 0.4) / 3)  # c's mean over its two tokens is 0.4
    assert loss.item() == pytest.approx(2 * 0.2)
    loss.backward()
    assert distance.grad is not None
    assert torch.allclose(distance.grad, torch.tensor([2 * 2 / 3, 0.0, 0.0, 2 / 6, 2 / 6, 0.0]))
    # Nothing is right: nothing is learnt.
    wrong = Group(**{**vars(group), "r_acc": torch.full((4,), 0.49)})
    distance = distance.detach().requires_grad_()
    loss, _, _ = joint_loss(Measured(torch.zeros(6, requires_grad=True) - 1), {"jsd": distance}, wrong, weights)
    loss.backward()
    assert loss.item() == 0 and distance.grad is not None and not distance.grad.any()


def test_whose_responses_are_written_for_whom() -> None:
    recipe = load_recipe(ablation_recipe_path())
    plain = dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, grpo_weight=0.0))
    written = {
        over: dataclasses.astuple(Used.by(plain, [build("jsd", {"over": over})]))
        for over in ("drawn", "right", "teacher", "reference")
    }
    assert written == {"drawn": (4, 4), "right": (4, 4), "teacher": (4, 0), "reference": (0, 0)}
