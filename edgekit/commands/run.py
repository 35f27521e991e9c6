"""`edgekit run`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.console import note, print_json, print_piece, print_text, stderr
from edgekit.errors import EdgekitError
from edgekit.report import with_source

IMAGE = "/image"


def command(
    model: Annotated[str, typer.Argument(help="Bundle, Hugging Face folder, or demo:teacher / demo:student.")],
    prompt: Annotated[
        str | None, typer.Option(help="The question; the first turn with --chat.", show_default=False)
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Picture; may be repeated.", show_default=False)] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Several turns, one a line of standard input.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 32,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from so many tokens; 0 for all.", min=0)] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages what was there before.")] = 1.0,
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
    json_out: Annotated[
        bool, typer.Option("--json", help="Print text, token_ids and timings as JSON; a line a turn with --chat.")
    ] = False,
) -> None:
    """Answer a question about a picture, on any runtime.

    With --chat each line is a turn; `/image FILE` adds a picture to the next one, the end of the input ends the chat.

    Example:  edgekit run demo:student --image cat.png --prompt "what is in the image?"
    """
    from edgekit import api

    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k,
        "repetition_penalty": repetition_penalty, "seed": seed, "stops": stop, "threads": threads,
    }  # fmt: skip
    show = print_piece if (sys.stdout.isatty() if stream is None else stream) and not json_out else None
    if chat:
        _talk(api.chat(model, **settings), prompt, image or [], show, json_out)
        return
    if prompt is None:
        raise typer.BadParameter("a question is needed without --chat", param_hint="--prompt")
    said = api.run(model, prompt, image or [], **settings, on_text=show)
    if json_out:
        print_json(said)
    else:
        _tell(said, show is not None)


def _talk(
    say: Callable[..., dict[str, Any]],
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
            note(str(error))  # a mistyped file name is no reason to lose a conversation
            waiting = []
            continue
        waiting = []
        if json_out:
            print_text(json.dumps(said))
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


def _tell(said: dict[str, Any], shown: bool) -> None:
    print_text("" if shown else said["text"])
    times = said["timings"]
    kept = f", {times['cached_tokens']} kept" if times["cached_tokens"] else ""
    name = with_source(said["runtime"], said["verified_by"])
    stderr().print(
        f"{name}: first token after {times['ttft_ms']:.1f} ms (image {times['image_encode_ms']:.1f}, "
        f"{times['prompt_tokens']} prompt tokens {times['prefill_ms']:.1f}{kept}), {len(said['token_ids'])} tokens",
        style="dim",
        markup=False,
    )
