"""`edgekit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands._options import RuntimeName
from edgekit.console import print_json, print_text

if TYPE_CHECKING:
    from edgekit.report.parity import Attribution, Parity


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    reference: Annotated[
        str | None,
        typer.Option(help="Checkpoint it was exported from; its run's student by default.", show_default=False),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Questions; the run's test questions by default.", show_default=False)
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="How many questions; 32, and up to 160 until their answers have 300 tokens, by default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of each side.", min=1)] = 1,
    runtime: RuntimeName = None,
    attribute: Annotated[
        bool, typer.Option("--attribute", help="Say which part costs what, and what of it is quantisation.")
    ] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a bundle's files, and its answers against PyTorch's; exit 3 when a tolerance is missed.

    Example:  edgekit verify runs/demo/bundles/onnx-int8
    """
    from edgekit import api, schema

    result = api.verify(
        bundle, reference=reference, data=data, samples=samples, threads=threads, runtime=runtime, attribute=attribute
    )
    if json_out:
        print_json(schema.to_json(result))
    else:
        _show(result)
    if not result.passed:
        raise typer.Exit(3)


def _show(result: Parity) -> None:
    files = result.files
    print_text(f"files     whole: {files.count} files, {files.bytes:,} bytes, {result.bundle[:12]}")
    if not files.sealed:
        print_text("manifest  has no seal: it is of an older schema, and a change of manifest.json would not be seen")
    source = "" if result.verified_by == "runtime" else f"  verified_by: {result.verified_by}"
    if not result.compared:
        died = not (result.passed or result.checks)
        print_text(f"{'FAILED    answers' if died else 'answers   not compared'}: {result.why}")
    for name, check in result.checks.items():
        print_text(
            f"{'held  ' if check.held else 'MISSED'}    {name:18} {_figure(check.value)}  "
            f"(tolerance {check.bar:g}){source}"
        )
    if result.handover:
        print_text(f"          apps: {result.handover}")
    if not result.compared:
        return
    for name, module in result.components.items():
        print_text(
            f"          {name:18} cosine {_figure(module.cosine)}, SNR {_figure(module.snr_db)} dB, "
            f"max difference {_figure(module.max_abs)}{source}"
        )
    seen = f"{result.tokens} tokens of {result.samples} answers, generation {result.generation}"
    print_text(f"          mean KL {_figure(result.mean_kl)} nats over {seen}{source}")
    if result.attribution is not None:
        _show_attribution(result.attribution)


def _show_attribution(found: Attribution) -> None:
    from edgekit.report.parity import PartLoss

    print_text(
        f"{'part taken from the bundle':28}{'mean KL':>12}{'best differs':>14}{'fp32 export':>13}{'quantisation':>14}"
    )
    for part, row in {**found.parts, "all of them": PartLoss(found.total)}.items():
        loss = row.loss
        shares = "".join(
            f"{'' if one is None else _figure(one.mean_kl):>{width}}"
            for one, width in ((row.export, 13), (row.quantisation, 14))
        )
        print_text(f"{part:28}{_figure(loss.mean_kl):>12}{loss.top1_disagreement:>14.2%}{shares}")
    print_text(f"costs most: {found.largest or 'none, all is within rounding'}")
    if found.note:
        print_text(f"no share of quantisation: {found.note}")


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
