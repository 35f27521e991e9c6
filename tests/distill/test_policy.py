"""Off-policy weights, KL estimators and the groups without a preference, against values worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from edgekit.checkpoint.folder import load_model
from edgekit.data import Sample
from edgekit.distill.answered import Answered
from edgekit.distill.gen_data import RESPONSES
from edgekit.distill.groups import Group, Weights
from edgekit.distill.joint import Collator, Item
from edgekit.distill.loss import joint_loss
from edgekit.distill.objectives import build
from edgekit.distill.policy import KL_RATIO_MAX, Measured, topr_weights
from edgekit.distill.rewards import distill_rewards
from edgekit.distill.shards import open_shards
from edgekit.distill.vocabulary import answer_terms, token_logps
from edgekit.errors import RecipeError
from edgekit.inputs.chat import question
from edgekit.inputs.processor import Processor
from edgekit.recipe.reading import read_recipe

NAN = math.nan
GOOD = (1 / 3) / math.sqrt((2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 2)
BAD = -2 * GOOD


def group(**changes: Any) -> Group:
    """One question, G = 3: response 0 (right, one token) by teacher and student, 1 (wrong, two) by the student."""
    one = Group(
        owners=torch.tensor([0, 0]),
        lengths=torch.tensor([1, 2]),
        slots=torch.tensor([[0, 0, 1]]),
        r_acc=torch.tensor([1.0, 0.0]),
        present=torch.tensor([True, True]),
        ref_logp=torch.tensor([-0.5, -1.0, -1.0]),
        writer_logp=torch.tensor([-0.5, -1.2, -0.9]),
        from_teacher=torch.tensor([[True, False, False]]),
        reference=torch.tensor([-1]),
    )
    return dataclasses.replace(one, **changes)


def pushed(logp: Tensor, one: Group, teacher: Tensor, **weights: Any) -> tuple[float, Tensor]:
    """The loss of R_acc alone, without KL unless asked, and its gradient on the tokens' log-probabilities."""
    logp = logp.detach().clone().requires_grad_()
    settings = Weights({"jsd": 0.0}, **{"kl_beta": 0.0, "distill": False, **weights})
    loss = joint_loss(Measured(logp, teacher), {"jsd": torch.zeros(len(logp))}, one, settings).loss
    loss.backward()
    assert logp.grad is not None
    return loss.item(), logp.grad


def test_topr_by_hand() -> None:
    logp = torch.tensor([-9.0, -2.0, -1.1])
    loss, grad = pushed(logp, group(), torch.tensor([-0.1, NAN, NAN]), topr=True)
    weight = math.exp(-3.1 + 2.1)  # over the sequence; the right response weighs 1 however unlikely it is
    assert loss == pytest.approx(-(2 * GOOD + weight * BAD) / 3, abs=1e-6)
    assert grad.tolist() == pytest.approx([-2 * GOOD / 3, *[-weight * BAD / 2 / 3] * 2], abs=1e-6)
    # One that has become likelier weighs 1 at most, as without TOPR.
    logp = torch.tensor([-0.5, -0.2, -0.1])
    teacher = torch.zeros(3)
    assert torch.equal(pushed(logp, group(), teacher, topr=True)[1], pushed(logp, group(), teacher)[1])


def test_topr_lets_go_of_a_response_the_student_would_never_write() -> None:
    loss, grad = pushed(torch.tensor([-0.5, -300.0, -0.1]), group(), torch.zeros(3), topr=True)
    assert grad[1:].tolist() == [0.0, 0.0] and grad[0] < 0
    assert loss == pytest.approx(-2 * GOOD / 3, abs=1e-6)
    assert pushed(torch.tensor([-0.5, -300.0, -0.1]), group(), torch.zeros(3))[1][1] > 0.1  # the paper's pushes on


def test_topr_takes_the_probability_of_whoever_drew_it() -> None:
    """The same wrong response, by the teacher and by the student."""
    one = group(slots=torch.tensor([[0, 1, 1]]), from_teacher=torch.tensor([[False, True, False]]))
    logp, teacher = torch.tensor([-0.5, -2.0, -1.0]), torch.tensor([-0.1, -0.3, -0.2])
    advantages = torch.tensor([[2.0, -1.0, -1.0]])
    got = topr_weights(Measured(logp, teacher), one, advantages)
    assert got[0].tolist() == pytest.approx([1.0, math.exp(-3.0 + 0.5), math.exp(-3.0 + 2.1)])
    # Where the student's is not known it weighs 1; the teacher's comes from the forward pass.
    unknown = dataclasses.replace(one, writer_logp=torch.full((3,), NAN))
    got = topr_weights(Measured(logp, teacher), unknown, advantages)
    assert got[0].tolist() == pytest.approx([1.0, math.exp(-2.5), 1.0])
    assert topr_weights(Measured(logp, teacher), one, torch.zeros(1, 3)).tolist() == [[1.0] * 3]


def test_no_gradient_flows_through_the_weights() -> None:
    teacher = torch.tensor([-0.1, -0.3, -0.2], requires_grad=True)
    logp = torch.tensor([-0.5, -2.0, -1.0], requires_grad=True)
    assert not topr_weights(Measured(logp, teacher.detach()), group(), torch.tensor([[1.0, 1.0, -2.0]])).requires_grad


@pytest.mark.parametrize("kl", ["k3", "full"])
def test_gradients_of_clip_and_kl(kl: str) -> None:
    """What has a value of its own (the paper's rho and detached weights have none) by finite differences."""
    doubles = {name: value.double() for name, value in vars(group()).items() if value.is_floating_point()}
    settings = Weights({"jsd": 1.0}, kl_beta=0.3, clip=0.2, distill=False)
    one, ref = group(**doubles), torch.randn(3, 5, dtype=torch.double).log_softmax(-1)

    def loss(logits: Tensor) -> Tensor:
        logp = logits.log_softmax(-1)
        full = (logp.exp() * (logp - ref)).sum(-1) if kl == "full" else None
        return joint_loss(Measured(logp[:, 0], None, full), {"jsd": logp[:, 1] ** 2}, one, settings).loss

    torch.manual_seed(1)
    assert torch.autograd.gradcheck(loss, (torch.randn(3, 5, dtype=torch.double, requires_grad=True),))


def test_weighted_kl_by_hand() -> None:
    logp, teacher = torch.tensor([-0.5, -2.0, -0.1]), torch.tensor([-0.2, 0.0, 0.0])
    loss, grad = pushed(logp, group(), teacher, kl="weighted", kl_beta=0.1, accuracy=False)

    def k3(gap: float) -> float:
        return math.exp(gap) - gap - 1

    assert KL_RATIO_MAX == 2.0
    ratios = [math.exp(-2.0 + 1.2), 2.0]  # e^0.8 is cut
    pull = (ratios[0] * k3(1.0) + ratios[1] * k3(-0.9)) / 2
    assert loss == pytest.approx(0.1 * pull / 3, abs=1e-6)
    # The ratio takes no gradient: that of k3 is 1 - e^gap.
    assert grad[1].item() == pytest.approx(0.1 * ratios[0] * (1 - math.e) / 2 / 3, abs=1e-6)
    unknown = group(writer_logp=torch.full((3,), NAN))
    assert pushed(logp, unknown, teacher, kl="weighted", kl_beta=0.1, accuracy=False)[0] == pytest.approx(
        0.1 * (k3(1.0) + k3(-0.9)) / 2 / 3, abs=1e-6
    )


def test_what_is_not_asked_for_weighs_nothing() -> None:
    """The weighted KL leaves the push alone, TOPR leaves the KL alone, and a KL of no weight asks nobody."""
    logp, teacher = torch.tensor([-0.5, -2.0, -1.1]), torch.tensor([-0.1, -0.3, -0.2])

    def k3(gap: float) -> float:
        return math.exp(gap) - gap - 1

    ratios = [math.exp(-2.0 + 1.2), math.exp(-1.1 + 0.9)]
    push, pull = -(2 * GOOD + BAD) / 3, 0.1 * (k3(1.0) + k3(0.1)) / 2 / 3
    weighed = 0.1 * (ratios[0] * k3(1.0) + ratios[1] * k3(0.1)) / 2 / 3
    assert pushed(logp, group(), teacher, kl="weighted", kl_beta=0.1)[0] == pytest.approx(push + weighed, abs=1e-6)
    fallen = -(2 * GOOD + math.exp(-3.1 + 2.1) * BAD) / 3  # the student's probability of the wrong response
    assert pushed(logp, group(), teacher, topr=True, kl_beta=0.1)[0] == pytest.approx(fallen + pull, abs=1e-6)
    settings = Weights({"jsd": 0.0}, kl="weighted", kl_beta=0.0, distill=False)
    loss = joint_loss(Measured(logp), {"jsd": torch.zeros(3)}, group(), settings).loss  # no teacher was asked
    assert loss.item() == pytest.approx(push, abs=1e-6)
    quiet = Weights({"jsd": 1.0}, grpo=0.0, topr=True)
    assert joint_loss(Measured(logp), {"jsd": torch.ones(3)}, group(), quiet).loss.item() == 1
    with pytest.raises(ValueError, match="were not asked for"):
        topr_weights(Measured(logp), group(), torch.zeros(1, 3))


def test_a_ratio_that_overflows_pushes_nothing_where_nothing_is_preferred() -> None:
    """A response that pi_ref would never write, and the student does: exp(199) is infinite, and times 0 no number."""
    one = group(ref_logp=torch.full((3,), -200.0), r_acc=torch.ones(2))
    loss, grad = pushed(torch.full((3,), -1.0), one, torch.zeros(3), clip=0.2)
    assert loss == 0 and grad.tolist() == [0.0] * 3


def test_full_kl_replaces_the_estimate() -> None:
    full = torch.tensor([0.3, 0.5, 0.7], requires_grad=True)
    settings = Weights({"jsd": 0.0}, kl_beta=0.1, kl="full", accuracy=False, distill=False)
    seen = Measured(torch.tensor([-5.0, -5.0, -5.0], requires_grad=True), None, full)
    loss, logs, _ = joint_loss(seen, {"jsd": torch.zeros(3)}, group(), settings)
    assert loss.item() == pytest.approx(0.1 * (2 * 0.3 + 0.6) / 3) and logs["kl"].item() == pytest.approx(0.4)
    loss.backward()
    assert full.grad is not None and full.grad.tolist() == pytest.approx([0.2 / 3, 0.05 / 3, 0.05 / 3])


def test_distances_closer_than_the_spread_count_as_the_same() -> None:
    distances, present = torch.tensor([[0.100, 0.099], [0.2, 0.1], [0.0, 0.0]]), torch.ones(3, 2, dtype=torch.bool)
    assert distill_rewards(distances, present)[0].tolist() == [0.0, 1.0]
    assert distill_rewards(distances, present, 0.02).tolist() == [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert distill_rewards(distances, present, 0.5)[1].tolist() == [0.0, 1.0]  # a spread of just so much is enough
    assert distill_rewards(distances, present, 0.51)[1].tolist() == [0.0, 0.0]
    # What an empty response would have had does not count.
    assert distill_rewards(torch.tensor([[0.1, 0.1, 9.0]]), torch.tensor([[True, True, False]])).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    "right, distance, level, cancelled",
    [
        ([1.0, 0.0], [0.3, 0.1], 1.0, 1.0),  # R_acc 1, 0 and R_distill 0, 1
        ([1.0, 0.0], [0.1, 0.3], 0.0, 0.0),
        ([1.0, 1.0], [0.1, 0.1], 1.0, 0.0),  # nothing to cancel
        ([1.0, 1.0], [0.1, 0.3], 0.0, 0.0),
    ],
)
def test_groups_without_a_preference_are_counted(
    right: list[float], distance: list[float], level: float, cancelled: float
) -> None:
    one = group(slots=torch.tensor([[0, 1]]), from_teacher=torch.tensor([[True, False]]), r_acc=torch.tensor(right))
    distances = {"jsd": torch.tensor([distance[0], distance[1], distance[1]])}
    logs = joint_loss(Measured(torch.zeros(3, requires_grad=True)), distances, one, Weights({"jsd": 1.0})).logs
    assert logs["no_advantage"].item() == level and logs["cancelled"].item() == cancelled
    alone = joint_loss(Measured(torch.zeros(3)), distances, one, Weights({"jsd": 1.0}, distill=False)).logs
    assert "cancelled" not in alone


def test_the_terms_add_up() -> None:
    logp = torch.tensor([-0.7, -2.0, -1.1], requires_grad=True)
    distances = {"jsd": torch.tensor([0.1, 0.2, 0.3])}
    for settings in (Weights({"jsd": 0.7}, grpo=0.5), Weights({"jsd": 0.7}, grpo=0.5, clip=0.1, min_spread=1.0)):
        loss, _, terms = joint_loss(Measured(logp), distances, group(), settings)
        assert sorted(terms) == ["kl", "objective", "policy"]
        assert sum(float(term.detach()) for term in terms.values()) == pytest.approx(float(loss.detach()), abs=1e-6)


def test_terms_of_no_weight_cannot_spoil_the_loss() -> None:
    """k3 overflows where the student has left a text of pi_ref's far behind."""
    logp = torch.tensor([-0.5, -300.0, -0.1], requires_grad=True)
    for settings in (Weights({"jsd": 1.0}, grpo=0.0), Weights({"jsd": 1.0}, kl_beta=0.0)):
        loss = joint_loss(Measured(logp), {"jsd": torch.tensor([0.1, 0.2, 0.3])}, group(), settings).loss
        assert torch.isfinite(loss)


# ------------------------------------------------------------------------------------------------ where mu comes from


@pytest.mark.parametrize("names", [["jsd"], ["jsd", "tvd"]])
@pytest.mark.parametrize("rows", [1, 4, None])
def test_the_teachers_log_probabilities(names: list[str], rows: int | None) -> None:
    """By the hand-written JSD and by the general path, of the shared vocabulary, and nothing else changes by it."""
    torch.manual_seed(0)
    hidden, heads = torch.randn(9, 6), (nn.Linear(6, 23, bias=False), nn.Linear(8, 25, bias=False))
    other, ids = torch.randn(9, 8) * 3, torch.randint(0, 20, (9,))
    chosen = {name: build(name, {}) for name in names}
    with torch.no_grad():
        expected = heads[1](other)[:, :20].log_softmax(-1)[torch.arange(9), ids]
    results = []
    for wanted in (False, True):
        state = hidden.clone().requires_grad_()
        terms = answer_terms((state, heads[0]), (other, heads[1]), ids, chosen, 20, rows, teacher_logp=wanted)
        (terms.logp.sum() + terms.losses["jsd"].sum()).backward()
        results.append((terms.logp, terms.losses["jsd"], state.grad))
        if wanted:
            assert terms.teacher_logp is not None and not terms.teacher_logp.requires_grad
            assert (terms.teacher_logp - expected).abs().max() < 1e-5
        else:
            assert terms.teacher_logp is None
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert (token_logps(other, heads[1], ids, 20) - expected).abs().max() < 1e-6


def test_backward_runs_twice_over_terms_that_are_to_be_used_again() -> None:
    torch.manual_seed(0)
    hidden, head, ids = torch.randn(9, 6, requires_grad=True), nn.Linear(6, 23, bias=False), torch.arange(9)
    terms = answer_terms((hidden, head), (torch.randn(9, 6), head), ids, {"jsd": build("jsd", {})}, 23, again=True)
    (first,) = torch.autograd.grad(terms.losses["jsd"].sum(), hidden, retain_graph=True)
    torch.autograd.grad(terms.logp.sum(), hidden, retain_graph=True)
    (again,) = torch.autograd.grad(terms.losses["jsd"].sum(), hidden)
    assert torch.equal(first, again) and first.abs().max() > 0


def test_a_draw_carries_the_probability_of_the_student_that_wrote_it(tiny_checkpoint: Path) -> None:
    processor = Processor.load(tiny_checkpoint)
    common = {"r_acc": 0.0, "text": "x", "ref_logp": [-1.0, -2.0]}
    rows: list[dict[str, Any]] = [
        {"token_ids": [5, 6], "source": "teacher", "writer_logp": None, **common},
        {"token_ids": [5, 6], "source": "student", "writer_logp": [-0.5, -0.25], **common},
        {"token_ids": [5, 7], "source": "student", **common},  # of an old file
    ]
    batch = Collator(processor, processor)([Item(Sample("a", (), question("q", 0), "x"), rows)])["batch"]
    assert batch.group.slots.tolist() == [[0, 0, 1]] and batch.group.from_teacher.tolist() == [[True, False, False]]
    assert batch.group.writer_logp[:2].tolist() == [-0.5, -0.25] and batch.group.writer_logp[2:].isnan().all()


def test_old_and_new_response_files_are_read_together(tmp_path: Path) -> None:
    def rows(name: str, kept: list[float] | None) -> list[dict[str, Any]]:
        blank = {"source": "student", "teacher": None, "mask_ratio": 0.0, "number": 0, "text": "x", "seed": 1}
        return [{"question_id": name, "token_ids": [3], "r_acc": 1.0, "ref_logp": [-1.0], "writer_logp": kept, **blank}]

    older = RESPONSES.remove(RESPONSES.get_field_index("writer_logp"))
    (tmp_path / "r").mkdir()
    pq.write_table(pa.Table.from_pylist(rows("a", None), schema=older), tmp_path / "r/shard-00000.parquet")
    pq.write_table(pa.Table.from_pylist(rows("b", [-0.5]), schema=RESPONSES), tmp_path / "r/shard-00001.parquet")
    table = open_shards(tmp_path / "r", tmp_path / "c", RESPONSES)
    assert table["writer_logp"] == [None, [-0.5]]

    class Questions:
        @staticmethod
        def select_columns(_: list[str]) -> Any:
            from datasets import Dataset

            return Dataset.from_dict({"id": ["b", "a"]})

    assert Answered.of(table, 1, Questions).to(0, "b")[0]["writer_logp"] == [-0.5]
    # Of the untouched student's the reference's are the writer's.
    assert Answered.of(table, 1, Questions, by_reference=True).to(1, "a")[0]["writer_logp"] == [-1.0]


def test_settings_that_do_not_go_together() -> None:
    def problems(**masters: Any) -> str:
        value = {
            "teachers": [{"checkpoint": "t"}],
            "student": {"checkpoint": "s"},
            "data": {"train": "a", "test": "b"},
            "masters": masters,
        }
        try:
            read_recipe(value)
        except RecipeError as error:
            return str(error)
        return ""

    assert "set masters.off_policy: clip" in problems(clip=0.2)
    assert "masters.clip: missing" in problems(off_policy="clip")
    assert "no effect" in problems(off_policy="topr", clip=0.2)
    assert "min_spread" in problems(rewards={"min_spread": 1.5})
    assert problems(off_policy="clip", clip=0.2) == problems(off_policy="topr", kl_estimator="full") == ""


def test_full_kl_of_the_untouched_student_is_zero(tiny_checkpoint: Path) -> None:
    """With real states: pi_ref beside itself, and beside another model."""
    from edgekit.distill.batch import embed, encode_prompts, response_hidden
    from edgekit.distill.objectives.reverse_kl import Loss

    model, processor = load_model(tiny_checkpoint), Processor.load(tiny_checkpoint)
    prompts = encode_prompts(processor, [Sample("a", (), question("what is there?", 0), "x")])
    with torch.no_grad():
        hidden = response_hidden(model, embed(model, processor, prompts, 0), [0], [[5, 6, 7]], 0)
        side, ids = (hidden, model.get_output_embeddings()), torch.tensor([5, 6, 7])
        assert answer_terms(side, side, ids, {"kl": Loss()}, 300).losses["kl"].abs().max() < 1e-6
        moved = answer_terms((hidden * 2, side[1]), side, ids, {"kl": Loss()}, 300).losses["kl"]
        p, q = ((s @ side[1].weight[:300].T).log_softmax(-1) for s in (hidden * 2, hidden))
        assert torch.allclose(moved, (p.exp() * (p - q)).sum(-1), atol=1e-5) and moved.min() > 0
