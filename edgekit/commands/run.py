"""`edgekit run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import print_json, print_text, stderr


def command(
    model: Annotated[str, typer.Argument(help="Bundle, Hugging Face folder, or demo:teacher / demo:student.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    image: Annotated[list[Path] | None, typer.Option(help="Picture; may be repeated.", show_default=False)] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 32,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set with this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from so many tokens; 0 for all.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="Of the draws.", show_default=False)] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    json_out: Annotated[bool, typer.Option("--json", help="Print text, token_ids and timings as JSON.")] = False,
) -> None:
    """Answer a question about a picture, on any runtime.

    Example:  edgekit run demo:student --image cat.png --prompt "what is in the image?"
    """
    from edgekit import api

    said = api.run(
        model, prompt, image or [], max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
        seed=seed, threads=threads,
    )  # fmt: skip
    if json_out:
        print_json(said)
        return
    print_text(said["text"])
    times = said["timings"]
    stderr().print(
        f"{said['runtime']}: first token after {times['ttft_ms']:.1f} ms (image {times['image_encode_ms']:.1f}, "
        f"{times['prompt_tokens']} prompt tokens {times['prefill_ms']:.1f}), {len(said['token_ids'])} tokens",
        style="dim",
        markup=False,
    )
