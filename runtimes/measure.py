"""The measuring itself: every subject in a process of its own, all of them taking turns on the same questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.console import Bar, progress
from edgekit.devices import Board
from edgekit.recipe.model import Bench
from edgekit.recipe.per_dataset import Choice
from edgekit.runtimes.crew import Away, Member, WorkerDied, WorkerError
from edgekit.runtimes.journal import Journal
from edgekit.runtimes.speed import Test, tests
from edgekit.runtimes.worker import TRACE, Job
from edgekit.system.energy import Rapl

TURNS = 20
SHORTEST_TURN = 4  # questions; a turn begins with one that is not timed, which should not be most of the work
TURNS_OF_PROCESS = 4  # at least, before a fresh process takes over
STRETCHES = 20  # of a sustained run


@dataclass(frozen=True)
class Settings(Bench):
    """How a bench is run: a recipe's `bench`, with its data known."""

    data: str = ""
    scoring: Choice = "exact"
    trace: int = 64
    """Questions whose logits are compared with the reference's."""
    sustain_s: float = 0.0
    """Seconds that each row answers without a pause at the end."""

    def speed_tests(self) -> list[Test]:
        """What each subject is timed on beside the questions."""
        return tests(self.prompt_tokens, self.new_tokens) if self.repetitions else []


@dataclass
class Measured:
    """What is known of one subject so far.

    Attributes:
        title: For the progress display.
        problem: Why it was given up.
        answers: One for each question, as `worker.Worker.ask` gives them.
        figures: Named single values.
        speeds: Test -> one value per repetition, tokens or images per second; or why there are none.
        sustained: Stretches of the sustained run.
        joules: Of all turns, where the machine tells.
    """

    title: str
    problem: str | None = None
    answers: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    speeds: dict[str, list[float] | str] = field(default_factory=dict)
    sustained: list[dict[str, float]] = field(default_factory=list)
    joules: float | None = None


@dataclass
class _Runner:
    measured: Measured
    member: Member | Away
    renew: Callable[[], Member] | None = None
    """Starts another process of the same job; None where that costs too much: on a board."""


def turn_lengths(questions: int) -> list[int]:
    """Questions of each turn: about TURNS turns, none shorter than SHORTEST_TURN but the last."""
    each = max(SHORTEST_TURN, math.ceil(questions / TURNS))
    return [min(each, questions - start) for start in range(0, questions, each)]


def turns_of_process(rounds: int, processes: int) -> int:
    """Rounds that each of so many processes has; fewer processes where that would be less than TURNS_OF_PROCESS."""
    return max(TURNS_OF_PROCESS, math.ceil(rounds / processes))


def measure(
    jobs: Sequence[Job | None],
    found: Sequence[Measured],
    settings: Settings,
    place: Path,
    questions: int,
    compare: bool,
    boards: Sequence[Board | None] = (),
    journal: Journal | None = None,
) -> None:
    """Measure subjects side by side.

    Args:
        jobs: Of each subject; None where it has a problem already.
        found: Filled as it is measured; one that went wrong holds its problem.
        settings: Of the bench.
        place: Folder for what the workers write.
        questions: In the data.
        compare: Whether the first subject is the reference of the others.
        boards: Where each job runs, None for here; all here when empty.
        journal: Told each turn; what it knows already is not asked again.
    """
    rounds, keeping = _take_up(found, journal), _Keeping(found, journal)
    with ExitStack() as stack:
        runners = []
        for number, (measured, job) in enumerate(zip(found, jobs, strict=True)):
            if job is not None and measured.problem is None:
                try:
                    member = _start(job, place / str(number), boards[number] if boards else None)
                except WorkerError as error:
                    measured.problem = str(error)
                    keeping.turn(measured, [])
                    continue
                stack.enter_context(member)
                away = bool(boards) and boards[number] is not None
                renew = None if away else _Renewing(job, place / str(number), stack)
                runners.append(_Runner(measured, member, renew))
                _attempt(runners[-1], lambda one: _load(one, settings.warmup))
                if runners[-1].measured.problem is not None:
                    keeping.turn(measured, [])
        _answer(runners, questions, settings, rounds, keeping)
        for runner in _alive(runners):
            _attempt(runner, _memory)
        _test_speed(runners, settings)
        if settings.trace:
            _compare(runners, settings.trace, place, compare and found[0].problem is None)
        for runner in _alive(runners):
            if settings.sustain_s:
                _attempt(runner, lambda one: _sustain(one, settings.sustain_s))
            if runner.measured.problem is None:
                _attempt(runner, lambda one: one.measured.figures.update(one.member.call("reload")))


def _take_up(found: Sequence[Measured], journal: Journal | None) -> int:
    """Give each subject what a bench before has of it, in rounds that all of them have; how many these are."""
    if journal is None:
        return 0
    for number, measured in enumerate(found):
        measured.problem = measured.problem or journal.problem(number)
    well = [number for number, measured in enumerate(found) if measured.problem is None]
    kept = {number: journal.answers(number) for number in well}
    rounds = min((max((row["turn"] for row in rows), default=-1) + 1 for rows in kept.values()), default=0)
    for number, rows in kept.items():
        found[number].answers = [row for row in rows if row["turn"] < rounds]
    return rounds


@dataclass(frozen=True)
class _Keeping:
    """Writes into a journal, where there is one."""

    found: Sequence[Measured]
    journal: Journal | None

    def turn(self, measured: Measured, rows: Sequence[dict[str, Any]]) -> None:
        """A turn's answers, or that there were none any more."""
        if self.journal is None:
            return
        number = next(place for place, one in enumerate(self.found) if one is measured)
        if measured.problem is not None:
            self.journal.give_up(number, measured.problem)
        else:
            self.journal.add(number, rows)


def _start(job: Job, place: Path, board: Board | None) -> Member | Away:
    return Member(job, place) if board is None else Away(board, job, place)


@dataclass
class _Renewing:
    """Starts one process after another of a job, each with a folder of its own."""

    job: Job
    place: Path
    stack: ExitStack
    count: int = 0

    def __call__(self) -> Member:
        self.count += 1
        return self.stack.enter_context(Member(self.job, self.place.with_name(f"{self.place.name}-{self.count}")))


def _alive(runners: Sequence[_Runner]) -> list[_Runner]:
    return [runner for runner in runners if runner.measured.problem is None]


def _attempt(runner: _Runner, step: Callable[[_Runner], None]) -> None:
    try:
        step(runner)
    except WorkerError as error:
        runner.measured.problem = str(error)
        runner.member.close()  # its memory is the others'


def _load(runner: _Runner, warmup: int) -> None:
    runner.measured.figures.update(runner.member.call("load"))
    if runner.measured.answers:
        runner.member.call("skip", count=len(runner.measured.answers))
    runner.member.call("warm", count=warmup)


def _memory(runner: _Runner) -> None:
    runner.measured.figures["peak_memory_bytes"] = runner.member.call("memory")


def in_turns(runners: Sequence[_Runner], rounds: int, first: int = 0) -> Iterator[tuple[int, _Runner]]:
    """(round, runner): in each round all that are well, and another one first each time."""
    for number in range(first, rounds):
        shift = number % len(runners) if runners else 0
        for runner in [*runners[shift:], *runners[:shift]]:
            if runner.measured.problem is None:
                yield number, runner


def _answer(runners: Sequence[_Runner], questions: int, settings: Settings, first: int, keeping: _Keeping) -> None:
    lengths, meter = turn_lengths(questions), Rapl()
    each = turns_of_process(len(lengths), settings.processes)
    alive = _alive(runners)
    with progress() as bar:
        done = sum(len(runner.measured.answers) for runner in alive)
        task = bar.add_task(_title(alive), total=max(1, questions * len(alive)), completed=done)
        for number, runner in in_turns(alive, len(lengths), first):
            before = len(runner.measured.answers)
            if number > first and number % each == 0:
                _attempt(runner, lambda one: _renew(one, settings.warmup))
            if runner.measured.problem is None:
                _attempt(
                    runner,
                    lambda one, turn=number: _turn(one, turn, lengths[turn], meter, turn // each),  # type: ignore[misc]
                )
            keeping.turn(runner.measured, runner.measured.answers[before:])
            _show(bar, task, alive)


def _renew(runner: _Runner, warmup: int) -> None:
    """A fresh process goes on with the questions: where memory comes to lie is drawn anew."""
    if runner.renew is None:
        return
    runner.member.close()
    runner.member = runner.renew()
    runner.member.call("load")
    runner.member.call("skip", count=len(runner.measured.answers))
    runner.member.call("warm", count=warmup)


def _title(alive: Sequence[_Runner]) -> str:
    if not alive:
        return "Nothing to ask"
    names = [runner.measured.title for runner in alive]
    return names[0] if len(names) == 1 else f"{len(names)} runtimes in turns"


def _show(bar: Bar, task: Any, alive: Sequence[_Runner]) -> None:
    bar.update(task, completed=sum(len(runner.measured.answers) for runner in alive))


def _turn(runner: _Runner, turn: int, count: int, meter: Rapl, process: int) -> None:
    before = meter.look()
    rows = runner.member.call("ask", count=count, turn=turn)
    if meter and isinstance(runner.member, Member):  # it is this machine's meter
        spent = meter.joules(before, meter.look())
        # The untimed answer at a turn's begin costs energy as the others do.
        if spent is not None:
            runner.measured.joules = (runner.measured.joules or 0.0) + spent * len(rows) / (len(rows) + 1)
    runner.measured.answers += [{**row, "process": 0 if runner.renew is None else process} for row in rows]


def _test_speed(runners: Sequence[_Runner], settings: Settings) -> None:
    for test in settings.speed_tests():
        # One untimed repetition first, as llama-bench does.
        for number, runner in in_turns(_alive(runners), settings.repetitions + 1):
            _attempt(runner, lambda one, test=test, first=number == 0: _test(one, test, first))  # type: ignore[misc]


def _test(runner: _Runner, test: Test, warming: bool) -> None:
    speeds = runner.measured.speeds.setdefault(test.name, [])
    if isinstance(speeds, str):
        return
    try:
        spent = runner.member.call("speed", kind=test.kind, tokens=test.tokens)
    except WorkerDied:
        raise
    except WorkerError as error:
        runner.measured.speeds[test.name] = str(error)
        return
    if not warming and spent["ms"] > 0:
        speeds.append(1000 * spent["count"] / spent["ms"])
    elif not warming:
        runner.measured.speeds[test.name] = f"the clock says {spent['ms']:g} ms: it stood still, or jumped"


def _compare(runners: Sequence[_Runner], count: int, place: Path, reference: bool) -> None:
    alive = _alive(runners)
    if not reference or len(alive) < 2:
        return
    first, *others = alive
    _attempt(first, lambda one: one.member.call("trace", out=str(place), count=count))
    if first.measured.problem is not None:
        return
    for runner in others:
        _attempt(
            runner,
            lambda one: one.measured.figures.update(one.member.call("compare", trace=str(place / TRACE), count=count)),
        )


def _sustain(runner: _Runner, seconds: float) -> None:
    runner.measured.sustained = runner.member.call("sustain", seconds=seconds, points=STRETCHES)
