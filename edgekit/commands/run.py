"""`edgekit run`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgekit.commands._options import Columns, RuntimeName, Wide
from edgekit.console import note, print_error, print_json, print_piece, print_text, stderr
from edgekit.errors import EdgekitError
from edgekit.visible import json_text, one_line

if TYPE_CHECKING:
    from edgekit.api.results import HowGenerated, Said, SideBySide

IMAGE = "/image"


def command(
    model: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundle, Hugging Face folder, or demo:teacher / demo:student; several with --all.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The question; the first turn with --chat.", show_default=False)
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image; may be repeated.", show_default=False)] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Ask each model named, or the latest run's student and all its bundles.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Several turns, one a line of standard input.")] = False,
    generation: Annotated[
        Literal["model", "greedy"],
        typer.Option(
            help="model: greedy with the model's own settings (generation_config.json), as transformers' "
            "generate(do_sample=False); greedy: without them."
        ),
    ] = "model",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 32,
    temperature: Annotated[
        float, typer.Option(help="0 is greedy, whatever the model's settings say of sampling.", min=0)
    ] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from so many tokens; 0 for all.", min=0)] = 0,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1 discourages what was there before; the model's own, or none, by default.", show_default=False
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws.", show_default=False)] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.", show_default=False)
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream", help="Show text as it comes; on a terminal by default.", show_default=False
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    runtime: RuntimeName = None,
    timeout: Annotated[
        list[str] | None,
        typer.Option(
            help="With --all, give a model up that is longer than TIME at start (5m), load (1h), encode (30m), prefill "
            "(30m), decode (5m, one token) or answer (2h); may be repeated.",
            metavar="PHASE=TIME",
            show_default=False,
        ),
    ] = None,
    columns: Columns = None,
    wide: Wide = False,
    json_out: Annotated[
        bool, typer.Option("--json", help="Print text, token_ids and timings as JSON; a line a turn with --chat.")
    ] = False,
) -> None:
    """Answer a question about an image, on any runtime.

    With --chat each line is a turn; `/image FILE` adds an image to the next one, the end of the input ends the chat.

    Example:  edgekit run demo:student --image cat.png --prompt "what is in the image?"
    """
    from edgekit import api

    settings: dict[str, Any] = {
        "generation": generation, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
        "top_k": top_k, "repetition_penalty": repetition_penalty, "seed": seed, "stops": stop, "threads": threads,
        "runtime": runtime,
    }  # fmt: skip
    show = print_piece if (sys.stdout.isatty() if stream is None else stream) and not json_out else None
    if all_:
        found = _ask_all(model, prompt, image or [], {**settings, "timeouts": timeout or []}, chat)
        print_json([one.as_json() for one in found]) if json_out else _table(found, columns, wide)
        if all(one.problem for one in found):
            raise typer.Exit(1)
        return
    if model is None or len(model) != 1:
        raise typer.BadParameter("one model is needed; --all asks several", param_hint="MODEL")
    if timeout:
        raise typer.BadParameter("--all only: a single model runs in this process", param_hint="--timeout")
    if chat:
        _talk(api.chat(model[0], **settings), prompt, image or [], show, json_out)
        return
    if prompt is None:
        raise typer.BadParameter("a question is needed without --chat", param_hint="--prompt")
    said = api.run(model[0], prompt, image or [], **settings, on_text=show)
    if json_out:
        print_json(said.as_json())
    else:
        _tell(said, show is not None)


def _ask_all(
    models: list[str] | None,
    prompt: str | None,
    images: list[Path],
    settings: dict[str, Any],
    chat: bool,
) -> list[SideBySide]:
    from edgekit import api

    if prompt is None or chat:
        raise typer.BadParameter("--all wants one question, and no --chat", param_hint="--prompt")
    if settings["runtime"] is not None:
        raise typer.BadParameter("--all asks each model by its own runtime", param_hint="--runtime")
    if settings["temperature"] or settings["repetition_penalty"] is not None or settings["stops"]:
        raise typer.BadParameter("--all asks greedily, so that the answers can be compared", param_hint="--all")
    return api.run_all(
        prompt, images, None if not models else [*models], max_new_tokens=settings["max_new_tokens"],
        threads=settings["threads"], timeouts=settings["timeouts"], generation=settings["generation"],
    )  # fmt: skip


def _table(found: list[SideBySide], columns: str | None = None, wide: bool = False) -> None:
    """As wide as the terminal; lines of text where the output is none."""
    from edgekit.tables import print_table, read_columns

    head = ("model", "runtime", "answer", "same tokens", "TTFT ms", "tokens/s", "load ms")
    cells = [_cells(one) for one in found]
    if columns is None and not wide and not sys.stdout.isatty():
        for line in (head, *cells):
            print_text("\t".join(one_line(cell) for cell in line))
    else:
        order = ("answer", "same tokens", "TTFT ms", "tokens/s", "runtime", "load ms")
        print_table(head, cells, order=order, folding=["answer"], columns=read_columns(columns), wide=wide)
    for text in dict.fromkeys(_generation(one.generation) for one in found if one.generation is not None):
        note(text)


def _cells(one: SideBySide) -> list[str]:
    if one.problem:
        return [one.name, one.runtime, f"failed: {one.problem}", "", "", "", ""]
    times = one.timings
    spent = sum(times["itl_ms"])
    speed = f"{1000 * len(times['itl_ms']) / spent:.0f}" if spent else ""
    return [
        one.name, one.runtime, one.text, "yes" if one.same else "no", f"{times['ttft_ms']:.1f}", speed,
        f"{one.load_ms:.0f}",
    ]  # fmt: skip


def _talk(
    say: Callable[..., Said],
    prompt: str | None,
    images: list[Path],
    show: Callable[[str], None] | None,
    json_out: bool,
) -> None:
    waiting = list(images)
    for line in _lines(prompt):
        if line.startswith(f"{IMAGE} "):
            waiting += [Path(name) for name in shlex.split(line)[1:]]
            continue
        try:
            said = say(line, waiting, show)
        except EdgekitError as error:
            if not sys.stdin.isatty():
                raise
            print_error(error)  # a mistyped file name is no reason to lose a conversation
            waiting = []
            continue
        waiting = []
        if json_out:
            print_text(json_text(said.as_json()))
        else:
            _tell(said, show is not None)


def _lines(first: str | None) -> Iterator[str]:
    if first is not None:
        yield first
    while True:
        if sys.stdin.isatty():
            stderr().print("> ", end="", style="bold")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _tell(said: Said, shown: bool) -> None:
    from edgekit.report.text import with_source

    print_text("" if shown else said.text)
    times = said.timings
    kept = f", {times.cached_tokens} kept" if times.cached_tokens else ""
    told = "; timings not representative of an Apple device" if said.timing_note else ""
    name = with_source(said.runtime, said.verified_by)
    note(
        f"{name}: first token after {times.ttft_ms:.1f} ms (image {times.image_encode_ms:.1f}, "
        f"{times.prompt_tokens} prompt tokens {times.prefill_ms:.1f}{kept}), {len(said.token_ids)} tokens"
        f"{told}; {_generation(said.generation)}",
        style="dim",
    )


def _generation(how: HowGenerated) -> str:
    """How an answer was made, in words."""
    from edgekit.checkpoint.generation import shorten

    acted = ", ".join(f"{name} {shorten(value)}" for name, value in how.settings.items())
    left = ", ".join(how.not_followed)
    start = f"generation {how.mode}" + (f": {acted}" if acted else "")
    return f"{start}; set by the model and not followed: {left}" if left else start
