"""Ablations: the arms, their comparison by hand, and a whole one, stopped and resumed."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from edgekit import api
from edgekit.data import samples
from edgekit.distill import tuning
from edgekit.distill.ablate import Ablation
from edgekit.distill.ablation_table import columns_of, markdown, table
from edgekit.distill.arms import ARMS, DEFAULT, arms_of
from edgekit.distill.outcomes import Difference, after_holm, compared, difference
from edgekit.distill.recommend import Start, settings_between
from edgekit.distill.tuning import Choice, Tuning, check_rates, read_rates
from edgekit.errors import DataError, EdgekitError, NotFiniteError
from edgekit.recipe.model import Recipe
from edgekit.recipe.reading import ablation_recipe_path, demo_recipe_path, load_recipe, read_recipe
from edgekit.stats import seeds_interval
from edgekit.workspace import Run

NINE = ["jsd", "jsd_labels", "mid", "mask", "rewards", "full", "full_without_mid", "taid", "align_kd"]


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(ablation_recipe_path())


def test_arms(recipe: Recipe) -> None:
    arms = arms_of(recipe)
    assert list(arms) == NINE and list(DEFAULT) == [*NINE, "recipe"]  # which is full MASTERS here
    total = sum(recipe.steps(number) for number in range(2))
    for name, arm in arms.items():
        assert sum(arm.steps(number) for number in range(len(arm.teachers))) == total, name
        assert arm.masters.gen_data == recipe.masters.gen_data and arm.data == recipe.data
        assert arm.trainer.batch_questions == recipe.trainer.batch_questions
    assert arms["full"] == recipe
    masked = {name for name, arm in arms.items() if arm.r_max(0) != 0}
    rewarded = {name for name, arm in arms.items() if arm.masters.grpo_weight}
    ladder = {name for name, arm in arms.items() if len(arm.teachers) == 2}
    assert masked == {"mask", "full", "full_without_mid"}
    assert rewarded == {"rewards", "full", "full_without_mid"}
    assert ladder == {"mid", "mask", "rewards", "full"}
    assert arms["taid"].objective == {"taid": 1.0} and arms["align_kd"].trainer.attention == "eager"
    assert {arm.teachers[-1].checkpoint for arm in arms.values()} == {"demo:teacher"}


def test_arms_that_are_the_same_run_are_run_once(recipe: Recipe) -> None:
    alone = dataclasses.replace(recipe, teachers=recipe.teachers[1:])
    assert list(arms_of(alone)) == ["jsd", "jsd_labels", "mask", "rewards", "full", "taid", "align_kd"]
    assert list(arms_of(recipe, ["full"])) == ["jsd", "full"]  # never without what it is compared with
    with pytest.raises(EdgekitError, match="no arm 'fulll'"):
        arms_of(recipe, ["fulll"])


def test_arms_by_name(recipe: Recipe) -> None:
    recipe = dataclasses.replace(recipe, objective_settings={"jsd": {"beta": 0.3}})
    arms = arms_of(recipe, list(ARMS))
    assert [*arms, "recipe"] == list(ARMS)
    assert len({arm.hash for arm in arms.values()}) == len(arms)
    assert {name for name, arm in arms.items() if arm.masters.grpo_weight} == {
        name for name, arm in ARMS.items() if arm.rewarded
    }
    plain = dataclasses.replace(arms["jsd"], objective={}, objective_settings={})
    told = {
        "forward_kl": ({"forward_kl": 1.0}, {}),
        "jsd_labels": ({"jsd": 1.0, "ce": 1.0}, {"jsd": {"beta": 0.3}, "ce": {"over": "reference"}}),
        "jsd_right": ({"jsd": 1.0}, {"jsd": {"beta": 0.3, "over": "right"}}),
        "image_weighted": ({"image_weighted": 1.0}, {}),
    }
    for name, (objective, settings) in told.items():
        assert arms[name] == dataclasses.replace(plain, objective=objective, objective_settings=settings), name
    for name, other in (("full_topr", "full"), ("rewards_topr", "rewards")):
        masters = dataclasses.replace(arms[other].masters, off_policy="topr")
        assert arms[name] == dataclasses.replace(arms[other], masters=masters)
    assert arms["full_without_distill"].masters.rewards == dataclasses.replace(recipe.masters.rewards, distill=False)
    # PPO's clip of the recipe does not stay beside TOPR, which would be refused.
    clipped = dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, off_policy="clip", clip=0.2))
    topr = arms_of(clipped, ["full_topr"])["full_topr"]
    assert (topr.masters.off_policy, topr.masters.clip) == ("topr", None)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_what_is_no_arm_of_its_own_is_said(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    topr = dataclasses.replace(recipe, masters=dataclasses.replace(recipe.masters, off_policy="topr"))
    assert list(arms_of(topr, ["full", "full_topr"])) == ["jsd", "full"]
    assert printed(capsys) == "Run once, as they are the same with this recipe: full_topr = full"
    assert list(arms_of(recipe, ["jsd_labels"])) == ["jsd", "jsd_labels"] and not printed(capsys)


def test_rewards_of_a_recipe_of_plain_distillation(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's: forward KL on the reference answers, no mask, no rewards, one teacher."""
    demo = load_recipe(demo_recipe_path())
    arms = arms_of(demo, ["rewards", "full_topr", "mid", "recipe", "forward_kl"])
    assert list(arms) == ["jsd", "forward_kl", "rewards", "full_topr"]
    assert arms["rewards"].masters == dataclasses.replace(demo.masters, grpo_weight=1.0)
    assert arms["rewards"].objective == arms["full_topr"].objective == {"jsd": 1.0}
    assert arms["rewards"].objective_settings == {} and arms["full_topr"].masters.off_policy == "topr"
    # The recipe's own objective with its settings is what the arm of that name is.
    assert arms["forward_kl"] == demo and arms["jsd"].masters.grpo_weight == 0
    told = printed(capsys)
    assert "masters.grpo_weight is 0). Arms of MASTERS have rewards of weight 1 and JSD for their objective." in told
    assert "mid = jsd, recipe = forward_kl" in told and "No arm has a mask, as r_max is 0" in told
    assert list(arms_of(demo)) == ["jsd", "jsd_labels", "rewards", "taid", "align_kd", "recipe"]
    assert "; the arm 'recipe' is it as it stands." in printed(capsys)
    settings = settings_between(demo, arms["full_topr"])
    assert load_recipe(demo_recipe_path(), settings) == arms["full_topr"]


def test_seeds_interval_by_hand() -> None:
    low, high = seeds_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5 %
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def scores(folder: Path, seed: int, arm: str, when: str, values: list[float]) -> None:
    reports = folder / f"seed-{seed}" / arm / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    (reports / f"accuracy-{when}.json").write_text(json.dumps({"ids": [], "answers": [], "scores": values}))


def test_report_by_hand(recipe: Recipe, tmp_path: Path) -> None:
    made = Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 2)
    for seed in (0, 1):
        scores(made.folder, seed, "jsd", "before", [0.0] * 100)
        scores(made.folder, seed, "jsd", "after", [1.0] * 50 + [0.0] * 50)
        scores(made.folder, seed, "full", "after", [1.0] * (60 + 2 * seed) + [0.0] * (40 - 2 * seed))
    result = made.report().as_dict()
    plain, full = result["arms"]
    assert plain["gain"] is None and plain["accuracy"] == (0.5, 0.5) and plain["verdict"] == ""
    assert full["mean"] == pytest.approx(0.61) and full["gain"] == pytest.approx(0.11)
    assert full["over_seeds"] == pytest.approx(seeds_interval([0.10, 0.12]))
    low, high = full["over_questions"]
    assert 0.05 < low < 0.11 < high < 0.18 and full["verdict"] == "open"  # two seeds are never enough
    assert full["teacher_forwards"] == plain["teacher_forwards"] == 450 * 32 * 8
    assert "| full MASTERS | 61.00 (60.00, 62.00) | +11.00 |" in (made.folder / "report.md").read_text()
    assert markdown(result).count("\n| ") == 4
    assert b"<svg" in (made.folder / "gain.svg").read_bytes()


def test_what_is_unlearnt_has_a_column(recipe: Recipe, tmp_path: Path) -> None:
    other = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, retention="easy-vqa:train"))
    made = Ablation(other, tmp_path, tmp_path / "a", ["full"], 2)
    for seed in (0, 1):
        for arm, right in (("jsd", 70), ("full", 40 + 20 * seed)):
            scores(made.folder, seed, arm, "before", [0.0] * 100)
            scores(made.folder, seed, arm, "after", [1.0] * 50 + [0.0] * 50)
            scores(made.folder, seed, arm, "retention-before", [1.0] * 80 + [0.0] * 20)
            scores(made.folder, seed, arm, "retention-after", [1.0] * right + [0.0] * (100 - right))
    result = made.report().as_dict()
    assert result["untouched"]["retention"] == 0.8
    plain, full = (arm["retention"] for arm in result["arms"])
    assert plain[0] == pytest.approx(-0.1) and full[0] == pytest.approx(-0.3)  # (0.4 + 0.6) / 2 - 0.8
    assert full[1] < -0.3 < full[2] < 0
    text = markdown(result)
    assert "verdict | what else it could |" in text and "| -30.00 [" in text and "| 80.00 |" in text


def test_verdicts() -> None:
    def of(questions: Any, seeds: Any, holm: float | None = 0.01) -> str:
        return Difference(0.1, questions, seeds, holm, holm).verdict

    assert of((0.1, 0.2), (0.05, 0.3)) == "better" and of((-0.2, -0.1), (-0.3, -0.1)) == "worse"
    assert of((0.1, 0.2), (-0.05, 0.3)) == "open" and of((0.1, 0.2), None, None) == ""
    assert of((0.1, 0.2), (0.05, 0.3), 0.06) == "open"  # alone it would hold, among its fellows it does not


def test_differences_and_holm_by_hand() -> None:
    found = after_holm(
        {name: Difference(0.1, (0.1, 0.2), (0.1, 0.2), p) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.015))}
    )
    # Sorted 0.01 x 3, 0.015 x 2 = 0.03 (as large as the one before), 0.04 x 1.
    assert [one.p_holm for one in found.values()] == pytest.approx([0.03, 0.04, 0.03])
    # 300 questions of which ours gains 30, 33 and 36; per seed 0.10, 0.11 and 0.12.
    plain = np.zeros((3, 300))
    ours = np.stack([np.arange(300) < right for right in (30, 33, 36)]).astype(float)
    one = difference(ours, plain)
    assert one.gain == pytest.approx(0.11) and one.over_seeds == pytest.approx(seeds_interval([0.10, 0.11, 0.12]))
    t = 0.11 / (0.01 / math.sqrt(3))
    over_seeds = 1 - t / math.sqrt(2 + t * t)  # Student's t of 2 degrees of freedom, two-sided, in closed form
    assert one.p_value == pytest.approx(over_seeds, rel=1e-6) and one.p_value > 1e-4
    assert difference(plain, plain).p_value == 1 and difference(plain + 1, plain).p_value is not None
    assert difference(ours[:1], plain[:1]).p_value is None


def ladder_of(gains: dict[str, list[int]], questions: int = 400) -> dict[str, Any]:
    """Arm -> (seeds, questions) scores with so many right ones, nested, so that only the counts matter."""
    return {arm: np.stack([np.arange(questions) < n for n in right]).astype(float) for arm, right in gains.items()}


def test_better_than_both_needs_both() -> None:
    plain, labels, both = compared(
        ladder_of(
            {
                "jsd": [200, 201, 199, 200, 202],
                "jsd_labels": [220, 221, 220, 219, 222],
                "full": [219, 222, 220, 220, 222],
                "full_topr": [240, 241, 239, 241, 242],
                "mid": [180, 182, 179, 180, 181],
            }
        )
    )
    assert {name: one.verdict for name, one in plain.items()} == {
        "jsd_labels": "better",
        "full": "better",
        "full_topr": "better",
        "mid": "worse",
    }
    assert {name: one.verdict for name, one in labels.items()} == {
        "full": "open",
        "full_topr": "better",
        "mid": "worse",
    }
    assert both == {"full": False, "full_topr": True, "mid": False}
    assert compared(ladder_of({"jsd": [1, 2], "full": [3, 4]}))[1:] == ({}, {})


def report_of(recipe: Recipe, folder: Path, gains: dict[str, list[int]], **settings: Any) -> dict[str, Any]:
    """A report of made scores."""
    made = Ablation(recipe, folder, folder / "a", list(gains), len(gains["jsd"]), **settings)
    for arm, values in ladder_of(gains).items():
        for seed, right in enumerate(values):
            scores(made.folder, seed, arm, "before", [0.0] * len(right))
            scores(made.folder, seed, arm, "after", right.tolist())
    return made.report().as_dict()


WINS = {"jsd": [200, 201, 199], "jsd_labels": [220, 221, 220], "full": [200, 202, 199], "full_topr": [260, 261, 260]}


def test_recommendation_of_an_arm_and_its_command(recipe: Recipe, tmp_path: Path) -> None:
    start = Start("own.yaml", {"masters.off_policy": "none", "data.test_limit": "400"})
    result = report_of(recipe, tmp_path, WINS, start=start)
    said = result["recommendation"]
    assert (said["arm"], said["better"]) == ("full_topr", True)
    assert said["text"].startswith("On your data: full MASTERS + TOPR. It is better than plain JSD (+15.08 points)")
    assert said["settings"] == {"masters.off_policy": "topr"}
    # What the user had set already is set once, and to the arm's value.
    assert said["command"] == ("edgekit distill own.yaml --set data.test_limit=400 --set masters.off_policy=topr")
    assert columns_of(result)[6:] == (
        "over JSD + labels",
        "its 95 % over questions",
        "its 95 % over seeds",
        "better than both",
    )
    _, rows, after = table(result)
    assert [row[-1] for row in rows] == ["", "", "", "no", "yes"] and rows[4][6] == "+10.00"
    assert all(len(row) == len(columns_of(result)) for row in rows) and said["command"] in after
    assert "(JSD + labels, large teacher: 129,600)" in markdown(result)  # 450 x 32 x (8 + the label)


def test_recommendation_of_plain_distillation(recipe: Recipe, tmp_path: Path) -> None:
    losing = {**WINS, "full_topr": [205, 206, 205]}
    said = report_of(recipe, tmp_path / "labels", losing)["recommendation"]
    assert (said["arm"], said["better"]) == ("jsd_labels", False)
    assert "plain distillation is the default. No arm is better than both" in said["text"]
    assert "JSD + labels is the better one (+5.08 points)" in said["text"]
    alone = {name: WINS[name] for name in ("jsd", "full_topr")}
    said = report_of(recipe, tmp_path / "alone", alone)["recommendation"]
    assert (said["arm"], said["better"]) == ("jsd", False) and "jsd_labels was not run" in said["text"]
    once = {name: values[:1] for name, values in WINS.items()}
    said = report_of(recipe, tmp_path / "once", once)["recommendation"]
    assert (said["arm"], said["better"]) == ("jsd", False) and "One seed" in said["text"]


@pytest.mark.parametrize("name", list(ARMS))
def test_settings_of_an_arm_make_its_recipe(recipe: Recipe, name: str) -> None:
    arm = ARMS[name].change(recipe)
    arm = dataclasses.replace(arm, trainer=dataclasses.replace(arm.trainer, learning_rate=1e-5))
    settings = settings_between(recipe, arm)
    assert load_recipe(ablation_recipe_path(), settings) == arm


# ---------------------------------------------------------------------------------------------------- learning rates


def test_rates() -> None:
    assert check_rates(read_rates("2e-3,5e-4, 1e-3,5e-4")) == (5e-4, 1e-3, 2e-3)
    for text, message in (("1e-3,fast", "not a list of numbers"), ("1e-3,0", "above 0"), ("1e-3,nan", "above 0")):
        with pytest.raises(EdgekitError, match=message):
            check_rates(read_rates(text))
    with pytest.raises(EdgekitError, match="nothing to choose among 1 learning rate"):
        check_rates([1e-3, 1e-3])


def test_the_best_rate_is_taken() -> None:
    assert Choice.of({1e-4: 0.5, 1e-3: 0.7, 1e-2: 0.7}).rate == 1e-3  # the smaller of equal ones
    assert Choice.of({1e-4: 0.5, 1e-3: None}).rate == 1e-4
    with pytest.raises(EdgekitError, match="no number"):
        Choice.of({1e-4: None, 1e-3: None})


def finish(run: Run, right: int) -> None:
    """Leave behind what a finished run leaves."""
    run.reports.mkdir(parents=True, exist_ok=True)
    (run.reports / "accuracy-after.json").write_text(json.dumps({"scores": [1.0] * right + [0.0] * (100 - right)}))
    run.student.mkdir(exist_ok=True)
    run.update(status="finished")


@pytest.fixture
def many(tmp_path: Path, recipe: Recipe) -> Recipe:
    """100 train questions, all of which a run learns from."""
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}], "answer": "yes", "id": str(n)} for n in range(100)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = dataclasses.replace(
        recipe.data, train=str(tmp_path / "train.jsonl"), train_limit=None, test="nowhere", retention="nowhere"
    )
    return dataclasses.replace(recipe, data=data)


def test_each_rate_is_run_once_on_questions_held_out(
    many: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "lacking", lambda run: False)
    monkeypatch.setattr(tuning, "drop_damaged", lambda run: False)
    ran: list[tuple[str, float]] = []
    right = {"jsd": {1e-4: 60, 1e-3: 80, 1e-2: 70}, "full": {1e-4: 50, 1e-3: 40, 1e-2: 0}}

    def train(run: Run, arm: Recipe) -> None:
        name, rate = run.name.split("-")[0], arm.trainer.learning_rate
        ran.append((name, rate))
        assert arm.trainer.seed == many.trainer.seed + 999 and arm.data.retention is None
        learnt = {row["id"] for file in run.questions.glob("*.parquet") for row in pq.read_table(file).to_pylist()}
        asked = {sample.id for sample in samples(arm.data.test)}
        assert len(learnt) == 80 == arm.data.train_limit and len(asked) == 20 and not learnt & asked
        if (name, rate) == ("full", 1e-2):
            raise NotFiniteError("The loss is nan at step 3.")
        if len(ran) == 3 and stop:
            raise KeyboardInterrupt
        finish(run, right[name][rate])

    arms, stop = arms_of(many, ["full"]), True
    made = Tuning(many, tmp_path / "a", (1e-4, 1e-3, 1e-2), 512)
    with pytest.raises(KeyboardInterrupt):
        made.choose(arms, train)
    stop = False
    chosen = Tuning(many, tmp_path / "a", (1e-4, 1e-3, 1e-2), 512).choose(arms, train)
    assert chosen["jsd"] == Choice(1e-3, {1e-4: 0.6, 1e-3: 0.8, 1e-2: 0.7})
    assert chosen["full"] == Choice(1e-4, {1e-4: 0.5, 1e-3: 0.4, 1e-2: None})
    every = [(name, rate) for name in ("jsd", "full") for rate in (1e-4, 1e-3, 1e-2)]
    assert ran == [*every[:3], *every[2:]]  # the third was stopped; it alone is run again
    assert Tuning(many, tmp_path / "a", (1e-4, 1e-3, 1e-2), 512).choose(arms, train) == chosen and len(ran) == 7
    assert made.record() == {"rates": [1e-4, 1e-3, 1e-2], "seed": many.trainer.seed + 999, "questions": 20}
    text = " ".join(capsys.readouterr().err.split())
    assert "Of 100 train questions 20 are held out" in text and "The loss is nan at step 3." in text


def test_too_few_questions_to_hold_some_out(many: Recipe, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join((tmp_path / "train.jsonl").read_text().splitlines(keepends=True)[:4]))
    recipe = dataclasses.replace(many, data=dataclasses.replace(many.data, train=str(few)))
    with pytest.raises(DataError, match="4 questions, too few"):
        Tuning(recipe, tmp_path / "b", (1e-4, 1e-3), 512).choose(arms_of(recipe, ["full"]), lambda run, arm: None)


def test_rates_in_the_report(recipe: Recipe, tmp_path: Path) -> None:
    made = Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 2, rates=[1e-3, 5e-4, 2e-3], held_out=64)
    for seed in (0, 1):
        for arm in ("jsd", "full"):
            scores(made.folder, seed, arm, "before", [0.0] * 100)
            scores(made.folder, seed, arm, "after", [1.0] * 50 + [0.0] * 50)
    tried = {5e-4: 0.5, 1e-3: 0.75, 2e-3: None}
    made._take({"jsd": Choice.of(tried), "full": Choice.of({5e-4: 0.75, 1e-3: 0.5, 2e-3: 0.25})})
    assert [arm.trainer.learning_rate for arm in made.arms.values()] == [1e-3, 5e-4]  # what they are trained with
    result = json.loads(json.dumps(made.report().as_dict()))
    assert [arm["learning_rate"] for arm in result["arms"]] == [1e-3, 5e-4]
    assert result["arms"][0]["tried"] == {"0.0005": 0.5, "0.001": 0.75, "0.002": None}
    assert result["tuning"]["seed"] == 999 and result["recommendation"]["arm"] == "jsd"
    text = markdown(result)
    assert columns_of(result)[-1] == "learning rate" and "seed 999, which is none of those above" in text
    assert "plain JSD, large teacher: 0.0005 50.00, 0.001 75.00, 0.002 no number; full MASTERS: 0.0005 75.00" in text
    assert "one beyond it may be better: full MASTERS." in text
    # Another choice, or none, is another ablation.
    for rates, questions in (([1e-3, 5e-4], 64), ([1e-3, 5e-4, 2e-3], 65), ((), 64)):
        with pytest.raises(EdgekitError, match=r"with --learning-rates 0\.0005,0\.001,0\.002 --tuning-questions 64"):
            Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 2, rates=rates, held_out=questions)
    Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 3, rates=[5e-4, 1e-3, 2e-3], held_out=64)


def test_rates_for_an_ablation_begun_without(recipe: Recipe, tmp_path: Path) -> None:
    made = Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 1)
    scores(made.folder, 0, "jsd", "before", [0.0])
    with pytest.raises(EdgekitError, match="was started without --learning-rates"):
        Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 1, rates=[1e-3, 5e-4])


def test_another_recipe_in_the_folder_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    Ablation(recipe, tmp_path, tmp_path / "a", ["full"], 1)
    other = dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, learning_rate=1e-4))
    with pytest.raises(EdgekitError, match="another recipe"):
        Ablation(other, tmp_path, tmp_path / "a", ["full"], 1)
    missing = read_recipe({**yaml.safe_load(ablation_recipe_path().read_text()), "student": {"checkpoint": "nowhere"}})
    with pytest.raises(EdgekitError):
        Ablation(missing, tmp_path, tmp_path / "b", None, 1)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_whole_ablation_killed_and_resumed(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path, checkpoint_maker: Any
) -> None:
    """All arms on a ladder of two tiny teachers; killed in the middle it ends in the same report."""
    large = tmp_path / "large"
    large.mkdir()
    checkpoint_maker(large, seed=5, width=64)
    recipe = {
        "name": "tiny",
        "teachers": [{"checkpoint": str(tiny_teacher), "steps": 2}, {"checkpoint": str(large), "r_max": "auto"}],
        "student": {"checkpoint": str(tiny_checkpoint)},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 24, "test_limit": 12},
        "masters": {
            "mask": {"r_max": 0.4, "step": 0.4},
            "probe": {"questions": 8, "step": 0.4},
            "gen_data": {"check_teacher": False, "max_new_tokens": 3, "shard_questions": 8},
        },
        "trainer": {"steps": 3, "batch_questions": 4, "learning_rate": 1e-3, "save_steps": 1, "threads": 1},
    }
    command = [sys.executable, "-m", "edgekit", "ablate", "--seeds", "2", "--json"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    whole = subprocess.run(command, cwd=tmp_path / "whole", capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr[-3000:]
    expected = json.loads(whole.stdout)
    assert len(expected["arms"]) == 9 and expected["questions"] == 12
    folder = tmp_path / "killed/runs/tiny-ablation"
    for stop in ("seed-0/mid/manifest.json", "seed-0/taid/checkpoints", "seed-1/rewards/recipe.yaml"):
        with subprocess.Popen(command, cwd=tmp_path / "killed", stdout=-3, stderr=-3) as process:
            end = time.monotonic() + 300
            while process.poll() is None and not (folder / stop).exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
    resumed = subprocess.run(command, cwd=tmp_path / "killed", capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert json.loads(resumed.stdout) == expected
    arm = json.loads((folder / "seed-1/full/manifest.json").read_text())
    assert len(arm["schedule"]) == 2 and arm["schedule"][0]["mask_ratios"] == [0.4, 0.0]
    # One pass of responses per teacher and ratio serves all arms of a seed.
    passes = sorted(path.name for path in (folder / "seed-0/responses").iterdir())
    assert len(passes) == len(set(passes)) and "student-1" in passes
    assert not list(folder.glob("seed-*/*/checkpoints"))
    assert np.isfinite([arm["mean"] for arm in expected["arms"]]).all()


@pytest.mark.slow
def test_rates_are_chosen_and_labels_learnt_in_real_runs(
    tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path
) -> None:
    recipe = {
        "name": "tiny",
        "teachers": [{"checkpoint": str(tiny_teacher)}],
        "student": {"checkpoint": str(tiny_checkpoint)},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 16, "test_limit": 8},
        "masters": {"mask": {"r_max": 0.0}, "gen_data": {"check_teacher": False, "max_new_tokens": 3}},
        "trainer": {"steps": 2, "batch_questions": 4, "threads": 1},
    }
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    asked: Any = {"arms": ["jsd_labels", "jsd_right", "full_topr"], "seeds": 1, "tuning_questions": 8}
    asked |= {"learning_rates": [1e-3, 1e-2], "workspace": tmp_path}
    made = api.ablate(**asked)
    report, folder = made.as_json(), made.folder
    assert [arm["name"] for arm in report["arms"]] == ["jsd", "jsd_labels", "jsd_right", "full_topr"]
    for arm in report["arms"]:
        best = max(arm["tried"].values())
        assert arm["learning_rate"] == min(float(rate) for rate, score in arm["tried"].items() if score == best)
        run = Run(folder / "seed-0" / arm["name"], shared=folder / "seed-0")
        assert run.recipe().trainer.learning_rate == arm["learning_rate"]
        logs = json.loads((run.reports / "training-1.json").read_text())
        assert all(("ce" in row) == (arm["name"] == "jsd_labels") for row in logs if "jsd" in row)
    assert report["tuning"] == {"rates": [1e-3, 1e-2], "seed": 999, "questions": 8}
    chosen = {path.name for path in (folder / "tuning").iterdir() if path.is_dir()}
    assert chosen == {
        "questions",
        "responses",
        *(f"{arm['name']}-{rate}" for arm in report["arms"] for rate in (0.001, 0.01)),
    }
    # The reported runs were measured on test questions, those that choose on none of them.
    tuned = json.loads((folder / "tuning/jsd-0.001/reports/accuracy-after.json").read_text())["ids"]
    measured = json.loads((folder / "seed-0/jsd/reports/accuracy-after.json").read_text())["ids"]
    assert len(tuned) == len(measured) == 8 and set(measured) == {s.id for s in samples("easy-vqa:test", limit=8)}
    assert set(tuned) <= {s.id for s in samples("easy-vqa:train")}
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")}
    assert len(written) == 12 and api.ablate(**asked).as_json() == report
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("manifest.json")} == written
