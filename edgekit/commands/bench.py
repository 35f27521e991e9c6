"""`edgekit bench`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands._options import Columns, RuntimeName, Wide
from edgekit.console import note, print_json, print_text
from edgekit.system.timeouts import seconds_of
from edgekit.visible import one_line

if TYPE_CHECKING:
    from edgekit.report.model import Report


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
    runtime: RuntimeName = None,
    device: Annotated[
        str,
        typer.Option(
            help="Device: host, ssh://user@board, web (phones, by browser), iphone; `edgekit devices` lists all."
        ),
    ] = "host",
    out: Annotated[Path | None, typer.Option(help="Folder of the report.", show_default=False)] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Gate: points of accuracy below PyTorch.", show_default=False)
    ] = None,
    max_ttft_ms: Annotated[
        float | None, typer.Option(help="Gate: median milliseconds to the first token.", show_default=False)
    ] = None,
    min_decode: Annotated[
        float | None, typer.Option(help="Gate: decoded tokens per second.", show_default=False)
    ] = None,
    max_size: Annotated[int | None, typer.Option(help="Gate: bytes on disk.", show_default=False)] = None,
    max_memory: Annotated[
        int | None, typer.Option(help="Gate: bytes, high-water mark of the process.", show_default=False)
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
    external_results: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", help="Results measured elsewhere: llama-bench, ExecuTorch, a phone.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure, or add imports to the report that is there.")
    ] = True,
    columns: Columns = None,
    wide: Wide = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Accuracy and latency of each bundle beside PyTorch's, with intervals; exit 3 when a gate is missed.

    Example:  edgekit bench --limit 2000 --max-drop 1

    A phone:  edgekit bench --device 'web?phones=2&questions=50'
    """
    from edgekit import api
    from edgekit.schema import to_json

    gates = {"max_drop": max_drop, "max_ttft_ms": max_ttft_ms, "min_decode": min_decode, "max_size": max_size}
    settings = api.BenchSettings(
        reference=reference, data=data, limit=limit, threads=threads, runtime=runtime,
        device=device, out=out,
        gates={**gates, "max_memory": max_memory}, prompt_tokens=_lengths(prompt_tokens, "-p"),
        new_tokens=_lengths(new_tokens, "-n"), repetitions=repetitions, processes=processes,
        sustain_s=_seconds(sustain), timeouts=timeout or [], external_results=external_results or [], measure=measure,
    )  # fmt: skip
    report, folder = api.bench(bundles, settings)
    if json_out:
        print_json(to_json(report))
    else:
        _print_tables(report, columns, wide)
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


def _print_tables(report: Report, columns: str | None, wide: bool) -> None:
    """Tables as wide as the terminal; the whole Markdown where the output is no terminal and no columns are chosen."""
    from edgekit.report import prediction
    from edgekit.report.text import SPEED_ORDER, TABLE_ORDER, every_column, footnotes, markdown, speed_table
    from edgekit.report.text import terminal_table as table
    from edgekit.tables import print_table, read_columns

    if columns is None and not wide and not sys.stdout.isatty():
        print_text(markdown(report).rstrip("\n"))
        return
    if columns is not None:
        print_table(*every_column(report), columns=read_columns(columns))
    else:
        print_table(*table(report), order=TABLE_ORDER, wide=wide)
        print_table(*speed_table(report), order=SPEED_ORDER, wide=wide, title="Where the time goes")
    for row in report.rows:
        if row.reason is not None:
            print_text(f"{one_line(row.name)} {row.status}: {one_line(row.reason)}")
    if report.predictions:
        cells = prediction.table(report.predictions)
        print_table(prediction.COLUMNS, cells, order=prediction.ORDER, wide=wide, title="Predicted, not measured")
    for text in footnotes(report):
        note(f"- {text}")
