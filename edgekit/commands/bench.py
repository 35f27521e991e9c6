"""`edgekit bench`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import note, print_json, stderr
from edgekit.timeouts import seconds_of


def command(
    bundles: Annotated[
        list[Path] | None, typer.Argument(help="Bundles; all of the latest run by default.", show_default=False)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="PyTorch checkpoint to compare with; the run's student by default.", show_default=False),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Questions; the run's by default.", show_default=False)] = None,
    limit: Annotated[
        int | None, typer.Option(help="The first so many questions; 0 for all.", min=0, show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each runtime.", min=1, show_default=False)] = None,
    device: Annotated[
        str, typer.Option(help="Device: host, ssh://user@board, iphone, ...; `edgekit devices` lists them.")
    ] = "host",
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default=False)] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Bar: points of accuracy below PyTorch.", show_default=False)
    ] = None,
    max_ttft_ms: Annotated[
        float | None, typer.Option(help="Bar: median milliseconds to the first token.", show_default=False)
    ] = None,
    min_decode: Annotated[
        float | None, typer.Option(help="Bar: decoded tokens per second.", show_default=False)
    ] = None,
    max_size: Annotated[int | None, typer.Option(help="Bar: bytes on disk.", show_default=False)] = None,
    max_memory: Annotated[
        int | None, typer.Option(help="Bar: bytes, high-water mark of the process.", show_default=False)
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option("--prompt-tokens", "-p", help="Lengths of the pp tests, 0 for none.", metavar="N,N")
    ] = None,
    new_tokens: Annotated[
        str | None, typer.Option("--new-tokens", "-n", help="Lengths of the tg tests, 0 for none.", metavar="N,N")
    ] = None,
    repetitions: Annotated[
        int | None,
        typer.Option("--repetitions", "-r", help="Of each pp, tg and img test; 0 for none.", min=0, show_default=False),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Fresh processes of each row, one after the other.", min=1, show_default=False),
    ] = None,
    sustain: Annotated[
        str | None, typer.Option(help="Answer so long without a pause, to see it slow down: 30s, 5m.", metavar="TIME")
    ] = None,
    timeout: Annotated[
        list[str] | None,
        typer.Option(
            help="Give a row up that is longer than TIME at start (5m), load (1h), encode (30m), prefill (30m), "
            "decode (5m, one token) or answer (2h); may be repeated.",
            metavar="PHASE=TIME",
            show_default=False,
        ),
    ] = None,
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", help="Results measured elsewhere: llama-bench, ExecuTorch, a phone.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure, or add imports to the report that is there.")
    ] = True,
    json_out: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Accuracy and latency of each bundle beside PyTorch's, with intervals; exit 3 when a bar is missed.

    Example:  edgekit bench --limit 2000 --max-drop 1
    """
    from edgekit import api
    from edgekit.schema import to_json

    bars = {"max_drop": max_drop, "max_ttft_ms": max_ttft_ms, "min_decode": min_decode, "max_size": max_size}
    report, folder = api.bench(
        bundles, reference=reference, data=data, limit=limit, threads=threads, device=device, out=out,
        bars={**bars, "max_memory": max_memory}, prompt_tokens=_lengths(prompt_tokens, "-p"),
        new_tokens=_lengths(new_tokens, "-n"), repetitions=repetitions, processes=processes,
        sustain_s=_seconds(sustain), timeouts=timeout or [], imports=imports or [], measure=measure,
    )  # fmt: skip
    if json_out:
        print_json(to_json(report))
    else:
        _print_table(report)
    note(f"Report: {folder / 'report.html'}")
    if report.verdict:
        note(report.verdict)
    if report.verdict.startswith("FAIL"):
        raise typer.Exit(3)


def _lengths(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise typer.BadParameter(f"{text!r} is not a list of lengths such as 512 or 128,512", param_hint=option)
    return [int(part) for part in text.split(",")]


def _seconds(text: str | None) -> float:
    if text is None:
        return 0.0
    seconds = seconds_of(text)
    if seconds is None:
        raise typer.BadParameter(f"{text!r} is not a time such as 30s or 5m", param_hint="--sustain")
    return seconds


def _print_table(report: object) -> None:
    """A table as wide as the terminal; the whole Markdown where the output is not a terminal."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from edgekit import prediction
    from edgekit.report import Report
    from edgekit.report_text import COLUMNS, footnotes, markdown, speed_table, table

    assert isinstance(report, Report)
    if not sys.stdout.isatty():
        sys.stdout.write(markdown(report))
        return
    for head, cells in ((COLUMNS, table(report)), speed_table(report)):
        grid = Table(*head, show_lines=True)
        for row in cells:
            grid.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(grid)
    if report.predictions:
        grid = Table(*prediction.COLUMNS, title="Predicted, not measured")
        for row in prediction.table(report.predictions):
            grid.add_row(*(Text(cell) for cell in row))
        Console(highlight=False).print(grid)
    for text in footnotes(report):
        stderr().print(f"- {text}", markup=False)
