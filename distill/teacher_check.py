"""Can the teacher do the task? Asked before any Gen-Data budget is spent.

A teacher that answers nothing right, or less than its student, teaches nothing, and an hour later the run says "0.00 %
to 0.00 %". Here both answer a few dozen questions, by the run's own metric. Where answers are wrong by their form
alone ("Answer: yes.", "12 cm"), it is said which metric or which form would match.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from edgekit.data import Sample
from edgekit.data.scoring import SCORING, exact, relaxed, score_answer, vqa
from edgekit.distill.batch import encode_prompts
from edgekit.distill.evaluate import batched
from edgekit.distill.generators.transformers import greedy
from edgekit.distill.judges import KEY as JUDGE_KEY
from edgekit.errors import EdgekitError
from edgekit.inputs.processor import Processor
from edgekit.recipe.per_dataset import Choice, describe, pick
from edgekit.stats import paired, score_interval

QUESTIONS, FEWEST = 48, 12
"""Questions asked, and how few say nothing."""
POOL = 10_000
"""Test questions that are drawn from."""
ANSWER_TOKENS = 32
NEAR_ZERO = 0.05
GAIN = 0.25
"""Share of the questions that another metric or form must bring to be named."""
ANYWAY = "To go on all the same:  edgekit distill --anyway   (masters.gen_data.check_teacher: false)"

_OPENING = re.compile(
    r"^(?:(?:so|thus|therefore)[, ]+)?(?:(?:the|my|final|correct|short)\s+)*(?:answer|response)\b(?:\s+is)?\s*[:=-]?\s*"
    r"|^(?:assistant|a)\s*:\s*|^(?:it|this|that|there)(?:'s|\s+is|\s+are)\s+",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[*_`\"'#$]|\\boxed|[{}\[\]()]")
_QUANTITY = re.compile(r"([-+]?[\d.,]*\d)\s*(?:%|[^\W\d_][\w/.^-]*)?")


@dataclass(frozen=True)
class Asked:
    """What teacher and student said to the same questions.

    Attributes:
        teacher: Its name.
        metric: By which the answers were scored, in words.
        questions: (data set, question) of each.
        answers: Accepted references of each.
        said: The teacher's answers.
        student_said: The student's.
        scores: (n,) of the teacher, in [0, 1].
        student_scores: (n,) of the student.
    """

    teacher: str
    metric: str
    questions: list[tuple[str | None, str]]
    answers: list[list[str]]
    said: list[str]
    student_said: list[str]
    scores: list[float]
    student_scores: list[float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def n(self) -> int:
        """Questions asked."""
        return len(self.said)


def from_dict(value: dict[str, Any]) -> Asked:
    """The inverse of `as_dict`, read from JSON."""
    fields = {key: item for key, item in value.items() if key in Asked.__dataclass_fields__}
    return Asked(**{**fields, "questions": [(name, text) for name, text in value["questions"]]})


Ask = Callable[[Sequence[Sample]], list[str]]


def choose(test: Iterable[Sample], train: Iterable[Sample], judge: Choice, seed: int) -> list[Sample]:
    """Questions to ask: drawn from the test questions, and filled up from the train questions.

    Args:
        test: The first POOL are drawn from, each with the same chance.
        train: Looked at where there are too few of the others.
        judge: Questions that another than the rule judges are left out: their metric says nothing.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    chosen = _drawn(itertools.islice(test, POOL), judge, QUESTIONS, rng)
    if len(chosen) < QUESTIONS:
        chosen += _drawn(itertools.islice(train, POOL), judge, QUESTIONS - len(chosen), rng)
    return chosen


def _drawn(questions: Iterable[Sample], judge: Choice, count: int, rng: np.random.Generator) -> list[Sample]:
    kept: list[Sample] = []
    seen = 0
    for sample in questions:
        if not sample.answers or pick(judge, sample.dataset, JUDGE_KEY) != "rule":
            continue
        seen += 1
        if len(kept) < count:
            kept.append(sample)
        elif (place := int(rng.integers(seen))) < count:
            kept[place] = sample
    return kept


def ask(questions: Sequence[Sample], scoring: Choice, name: str, teacher: Ask, student: Ask) -> Asked:
    """Have both answer, and score what they say."""
    said, others = teacher(questions), student(questions)
    return Asked(
        teacher=name,
        metric=describe(scoring),
        questions=[(sample.dataset, sample.text) for sample in questions],
        answers=[list(sample.answers) for sample in questions],
        said=said,
        student_said=others,
        scores=[score_answer(scoring, text, sample) for text, sample in zip(said, questions, strict=True)],
        student_scores=[score_answer(scoring, text, sample) for text, sample in zip(others, questions, strict=True)],
    )


@torch.no_grad()
def greedy_answers(model: Any, processor: Processor, questions: Sequence[Sample]) -> list[str]:
    """Greedy answers of a loaded model, which is left in the mode it came in; no random state is touched."""
    training = model.training
    model.eval()
    said = [
        processor.decode(ids)
        for group in batched(iter(questions), 16)
        for ids in greedy(model, processor, encode_prompts(processor, list(group)), ANSWER_TOKENS)
    ]
    model.train(training)
    return said


def verdict(asked: Asked) -> str:
    """What was found, in one line.

    Raises:
        EdgekitError: the teacher answers next to nothing right, or significantly less than the student.
    """
    line = (
        f"{asked.teacher} answers {_share(asked.scores)} of {asked.n} questions right by {asked.metric}, "
        f"the student {_share(asked.student_scores)}."
    )
    if asked.n < FEWEST:
        return f"{line} So few questions do not tell whether it can teach."
    form = _form(asked)
    if _near_zero(asked.scores):
        raise EdgekitError(
            line,
            why="A student learns from its answers.\n" + "\n".join([*form, *_examples(asked)]),
            fix=("" if form else "Ask it yourself:  edgekit run TEACHER --image IMAGE --prompt QUESTION\n") + ANYWAY,
        )
    ahead = paired(asked.scores, asked.student_scores)
    if ahead.ci95[1] < 0 and ahead.p_value < 0.05:
        low, high = ahead.ci95
        raise EdgekitError(
            f"{asked.teacher} answers fewer questions right than its student: {line}",
            why=f"The difference is {ahead.delta:+.1%} [{low:+.1%}, {high:+.1%}].\n"
            + "\n".join([*form, *_examples(asked)]),
            fix=f"Use a teacher that can do the task.\n{ANYWAY}",
        )
    return " ".join([line, *_poor_sets(asked), *form])


def _near_zero(scores: Sequence[float]) -> bool:
    return float(np.mean(scores)) <= NEAR_ZERO and score_interval(scores)[1] <= 5 * NEAR_ZERO


def _share(scores: Sequence[float]) -> str:
    low, high = score_interval(scores)
    return f"{np.mean(scores):.1%} [{low:.1%}, {high:.1%}]"


def _poor_sets(asked: Asked) -> list[str]:
    """Of a mixed file, the data sets on which the teacher answers nothing."""
    sets = {name for name, _ in asked.questions if name is not None}
    told = []
    for name in sorted(sets):
        scores = [score for (own, _), score in zip(asked.questions, asked.scores, strict=True) if own == name]
        if len(sets) > 1 and len(scores) >= FEWEST and _near_zero(scores):
            told.append(f"Of {name} it answers {_share(scores)}.")
    return told


def _examples(asked: Asked, count: int = 3) -> list[str]:
    """Wrong answers, one a line; of different references first."""
    wrong = [place for place, score in enumerate(asked.scores) if score < 0.5]
    firsts = {asked.answers[place][0]: place for place in reversed(wrong)}
    order = dict.fromkeys([*sorted(firsts.values()), *wrong])
    lines = []
    for place in list(order)[:count]:
        question, wanted, said = asked.questions[place][1], asked.answers[place][0], asked.said[place]
        lines.append(f"{_short(question)} -> {_short(said)}, wanted {_short(wanted)}")
    return lines


def _short(text: str) -> str:
    return repr(text if len(text) <= 70 else text[:67] + "...")


# ---------------------------------------------------------------------------------------------------------------- form


def _form(asked: Asked) -> list[str]:
    """What would match more answers: other metrics, else other forms; empty where nothing would."""
    told = []
    base = float(np.mean(asked.scores))
    metrics = {name: _by_metric(name, asked) for name in SCORING.names()}
    better = {name: value for name, value in metrics.items() if value >= max(base + GAIN, 0.5)}
    if better:
        best = max(better, key=lambda name: better[name])
        told.append(f"By the metric {best} it would be {better[best]:.1%}: edgekit distill --set data.scoring={best}")
    forms = {name: float(np.mean(_matches(same, asked))) for name, same in FORMS.items()}
    found = next((name for name, value in forms.items() if value >= base + GAIN), None)
    if found is not None:
        told.append(
            f"{forms[found]:.1%} of its answers differ from the references in their form alone: {found}. Let the "
            "questions say how to answer (as in 'Answer with a single word.'), or write the references so."
        )
    return told


def _by_metric(name: str, asked: Asked) -> float:
    """Mean score by another metric; 0 where it cannot score these."""
    score = SCORING.load(name).score
    rows = zip(asked.questions, asked.said, asked.answers, strict=True)
    return float(np.mean([score(said, answers, question) for (_, question), said, answers in rows]))


def _matches(same: Callable[[str, str], bool], asked: Asked) -> list[bool]:
    rows = zip(asked.said, asked.answers, asked.scores, strict=True)
    return [score >= 0.5 or any(same(said, answer) for answer in answers) for said, answers, score in rows]


def _plain(text: str) -> str:
    """Without an opening such as "Answer:", markup, punctuation and articles; number words as digits."""
    return vqa.normalise(_OPENING.sub("", _MARKUP.sub("", text).strip()))


def _same_punctuation(said: str, wanted: str) -> bool:
    return bool(vqa.normalise(said)) and vqa.normalise(said) == vqa.normalise(wanted)


def _same_opening(said: str, wanted: str) -> bool:
    return bool(_plain(said)) and _plain(said) == _plain(wanted)


def _same_quantity(said: str, wanted: str) -> bool:
    one, other = _quantity(said), _quantity(wanted)
    return one is not None and one == other


def _quantity(text: str) -> Any:
    found = _QUANTITY.fullmatch(exact.normalise(_OPENING.sub("", _MARKUP.sub("", text).strip())))
    return relaxed.number(found[1]) if found else None


def _held(said: str, wanted: str) -> bool:
    inner = _plain(wanted)
    return bool(inner) and re.search(rf"(?<!\w){re.escape(inner)}(?!\w)", _plain(said)) is not None


FORMS: dict[str, Callable[[str, str], bool]] = {
    "case, punctuation, articles or number words": _same_punctuation,
    "words before the answer, such as 'Answer:', or markup": _same_opening,
    "a unit after the number": _same_quantity,
    "the answer stands inside a longer text": _held,
}
"""From the narrowest on; the first that matches enough is named."""
