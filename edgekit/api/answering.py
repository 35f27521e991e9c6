"""run and chat: answers of a bundle or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.runtimes.generate import Answer
    from edgekit.runtimes.session import Session


def run(
    model: Path | str,
    prompt: str,
    images: list[Path],
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stops: list[str] | None = None,
    threads: int = 1,
    on_text: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Answer a question with a bundle or a checkpoint.

    Args:
        model: Bundle, Hugging Face folder, or `demo:student`.
        prompt: The question.
        images: Files, in order; turned upright by their EXIF tag, as transformers does when it loads a file.
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        top_p, top_k, repetition_penalty, seed: Of sampling; the penalty counts for greedy answers too.
        stops: Texts that end the answer.
        threads: CPU threads.
        on_text: Told each piece of text as it comes.
    Returns:
        text, token_ids, finish (eos, stop or length), runtime, verified_by and timings in milliseconds.
    """
    from edgekit.chat import question
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.sampling import Sampling, chooser

    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed)
    pictures = [_picture(path) for path in images]
    name, session = _open(model, threads)
    said = answer(
        session, question(prompt, len(pictures)), pictures, max_new_tokens=max_new_tokens,
        choose=chooser(sampling, session.vocab_size), stops=stops or [], on_text=on_text,
    )  # fmt: skip
    session.close()
    return _as_dict(said, name, session)


def run_all(
    prompt: str,
    images: list[Path],
    models: list[Path | str] | None = None,
    *,
    max_new_tokens: int = 32,
    threads: int = 1,
    timeouts: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Ask every runtime the same, each in a process of its own.

    Args:
        prompt, images: The question.
        models: Bundles and checkpoints; the student and all bundles of the latest run when None.
        max_new_tokens: Longest answer; greedy.
        threads: CPU threads of each.
        timeouts: `PHASE=TIME` each; see `edgekit.timeouts`.
    Returns:
        One entry each, as `edgekit.runtimes.side_by_side.ask_all` says; what cannot answer holds its `problem`.
    Raises:
        EdgekitError: a picture cannot be read; there is nothing to ask.
    """
    from edgekit.checkpoint import resolve_checkpoint
    from edgekit.runtimes.side_by_side import ask_all
    from edgekit.timeouts import Timeouts, changed

    limits = changed(Timeouts(), timeouts)
    for path in images:
        _picture(path)  # one clear error, not one for each runtime
    if models is None:
        from edgekit.api.runs import latest_run

        run = latest_run()
        bundles = sorted(path for path in run.bundles.glob("*") if (path / "manifest.json").exists())
        folders = [run.student, *bundles]
    else:
        folders = [resolve_checkpoint(str(model)) for model in models]
    return ask_all(folders, prompt, images, max_new_tokens=max_new_tokens, threads=threads, timeouts=limits)


def chat(
    model: Path | str,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stops: list[str] | None = None,
    threads: int = 1,
) -> Callable[..., dict[str, Any]]:
    """A conversation whose cache is kept from turn to turn.

    Args:
        model, max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stops, threads: As for `run`.
    Returns:
        `say(text, images=[], on_text=None)`, which gives what `run` gives; images are files.
    """
    from edgekit.runtimes.generate import Chat
    from edgekit.runtimes.sampling import Sampling, chooser

    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed)
    name, session = _open(model, threads)
    talk = Chat(session, max_new_tokens=max_new_tokens, choose=chooser(sampling, session.vocab_size), stops=stops or [])

    def say(text: str, images: Sequence[Path] = (), on_text: Callable[[str], None] | None = None) -> dict[str, Any]:
        return _as_dict(talk.say(text, [_picture(path) for path in images], on_text=on_text), name, session)

    return say


def _open(model: Path | str, threads: int) -> tuple[str, Session]:
    from edgekit.bundle import Bundle
    from edgekit.checkpoint import resolve_checkpoint
    from edgekit.console import note
    from edgekit.runtimes import RUNTIMES, runtime_for
    from edgekit.runtimes.generate import exhausted

    folder = resolve_checkpoint(str(model))
    name = runtime_for(folder)
    if name != "pytorch" and (text := Bundle.load(folder, verify=False).unsealed):
        note(text)
    with exhausted(f"load {folder}"):
        return name, RUNTIMES.load(name).open_session(folder, threads)


def _picture(path: Path) -> Image:
    from edgekit.data import ImageRef
    from edgekit.pictures import upright

    return upright(ImageRef(path=path).open())


def _as_dict(said: Answer, runtime: str, session: Session) -> dict[str, Any]:
    from edgekit.runtimes import RUNTIMES
    from edgekit.runtimes.session import verified_by

    timing_note = getattr(RUNTIMES.load(runtime), "timing_note", None)
    return {
        "text": said.text,
        "token_ids": said.token_ids,
        "finish": said.finish,
        "runtime": runtime,
        "verified_by": verified_by(session),
        "timings": said.timings.as_dict(),
        "timing_note": None if timing_note is None else timing_note(),
    }
