"""run and chat: answers of a bundle or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api import arguments
from edgekit.api.arguments import Folder, Folders, ImageInputs, Texts, checked, told
from edgekit.api.results import HowGenerated, Said, SideBySide
from edgekit.api.settings import AnswerSettings, ChatSettings, RunSettings

if TYPE_CHECKING:
    from edgekit.checkpoint.generation import Generation, Mode
    from edgekit.runtimes.generate import Answer
    from edgekit.runtimes.session import Session


@told(RunSettings)
def run(asked: RunSettings) -> Said:
    """Answer a question with a bundle or a checkpoint.

    Returns:
        The answer, how it was made, and its timings.

    Raises:
        EdgekitError: an argument, an image or the model cannot be used.
    """
    from edgekit.inputs.chat import question
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.sampling import Sampling, chooser

    mode, ends = _mode(asked.generation), _stops(asked)
    opened = arguments.opened_images(asked.images)
    sampling = Sampling(asked.temperature, asked.top_p, asked.top_k, asked.seed)
    name, session = _open(asked.model, asked)
    settings = _settings(session, mode, asked.repetition_penalty)
    said = answer(
        session, question(asked.prompt, len(opened)), opened, max_new_tokens=asked.max_new_tokens,
        choose=chooser(sampling, session.vocab_size), generation=settings, stops=ends, on_text=asked.on_text,
    )  # fmt: skip
    session.close()
    return _said(said, name, session, settings, mode)


@checked
def run_all(
    prompt: str,
    images: ImageInputs = None,
    models: Folders | None = None,
    *,
    generation: str = "model",
    max_new_tokens: int = 32,
    threads: int = 1,
    timeouts: Texts = (),
) -> list[SideBySide]:
    """Ask every runtime the same, each in a process of its own.

    Args:
        prompt, images: The question; images as for `run`.
        models: One or several bundles and checkpoints; the student and all bundles of the latest run when None.
        generation: As for `run`.
        max_new_tokens: Longest answer; greedy.
        threads: CPU threads of each.
        timeouts: One `PHASE=TIME` or several; see `edgekit.system.timeouts`.

    Returns:
        One for each; what cannot answer holds its `problem`.

    Raises:
        EdgekitError: an argument or an image cannot be used; there is nothing to ask.
    """
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.runtimes.side_by_side import ask_all
    from edgekit.system.timeouts import Timeouts, changed

    mode, limits = _mode(generation), changed(Timeouts(), arguments.texts(timeouts, "timeouts"))
    with arguments.image_files(images) as files:  # one clear error, not one for each runtime
        if models is None:
            from edgekit.api.runs import latest_run

            run = latest_run()
            bundles = sorted(path for path in run.bundles.glob("*") if (path / "manifest.json").exists())
            folders = [run.student, *bundles]
        else:
            folders = [resolve_checkpoint(name) for name in arguments.models(models, "models")]
        found = ask_all(
            folders, prompt, files, max_new_tokens=max_new_tokens, threads=threads, timeouts=limits, generation=mode
        )
    return [_beside(one) for one in found]


def _beside(told: dict[str, Any]) -> SideBySide:
    """What a worker's process told."""
    if "generation" not in told:
        return SideBySide(**told)
    how = told["generation"]
    generation = HowGenerated(how["mode"], how["settings"], tuple(how["not_followed"]))
    return SideBySide(**{**told, "generation": generation})


@told(ChatSettings)
def chat(asked: ChatSettings) -> Callable[..., Said]:
    """A conversation whose cache is kept from turn to turn.

    Returns:
        `say(text, images=None, on_text=None)`, which takes images as `run` does and gives what `run` gives.
    """
    from edgekit.runtimes.generate import Chat
    from edgekit.runtimes.sampling import Sampling, chooser

    mode, ends = _mode(asked.generation), _stops(asked)
    sampling = Sampling(asked.temperature, asked.top_p, asked.top_k, asked.seed)
    name, session = _open(asked.model, asked)
    settings = _settings(session, mode, asked.repetition_penalty)
    choose = chooser(sampling, session.vocab_size)
    talk = Chat(session, max_new_tokens=asked.max_new_tokens, choose=choose, generation=settings, stops=ends)

    @checked
    def say(text: str, images: ImageInputs = None, on_text: Callable[[str], None] | None = None) -> Said:
        said = talk.say(text, arguments.opened_images(images), on_text=on_text)
        return _said(said, name, session, settings, mode)

    return say


def _stops(asked: AnswerSettings) -> list[str]:
    return arguments.texts(asked.stops if asked.stops is not None else [], "stops")


def _mode(generation: str) -> Mode:
    from edgekit.checkpoint.generation import check_mode

    return check_mode(generation)


def _settings(session: Session, mode: Mode, penalty: float | None) -> Generation:
    """The model's settings or none, with the caller's own penalty in the place of theirs."""
    from edgekit.checkpoint.generation import check_penalty
    from edgekit.runtimes.session import generation_of

    found = generation_of(session, mode)
    return found if penalty is None else replace(found, repetition_penalty=check_penalty(penalty))


def _open(model: Folder, asked: AnswerSettings) -> tuple[str, Session]:
    from edgekit.bundle import Bundle
    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.console import note
    from edgekit.runtimes import RUNTIMES, asking, runtime_for
    from edgekit.runtimes.generate import exhausted

    folder: Path = resolve_checkpoint(arguments.model(model, "model"))
    with asking(asked.runtime):
        name = runtime_for(folder)
    if name != "pytorch" and (text := Bundle.load(folder, verify=False).unsealed):
        note(text)
    with exhausted(f"load {folder}"):
        return name, RUNTIMES.load(name).open(folder, asked.threads)


def _said(said: Answer, runtime: str, session: Session, generation: Generation, mode: Mode) -> Said:
    from edgekit.checkpoint.generation import acting
    from edgekit.runtimes import RUNTIMES

    timing_note = RUNTIMES.load(runtime).timing_note
    return Said(
        text=said.text,
        token_ids=said.token_ids,
        finish=said.finish,
        generation=HowGenerated(mode, acting(generation), tuple(generation.not_followed)),
        runtime=runtime,
        verified_by=session.verified_by,
        timings=said.timings,
        timing_note=None if timing_note is None else timing_note(),
    )
