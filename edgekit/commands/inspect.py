"""`edgekit inspect`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands._options import Columns, Wide
from edgekit.console import print_json, print_text
from edgekit.units import bytes_text
from edgekit.visible import one_line

if TYPE_CHECKING:
    from edgekit.formats.counting import ComponentFacts, Inspection, Moved

SHOWN = 6
"""So many names of a list are shown; --operations and --json have all."""


def command(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Folder of a bundle; a checkpoint or demo model too.")
    ],
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens in the cache when one is decoded; those of an image and a question by default.",
            min=1,
            show_default=False,
        ),
    ] = None,
    operations: Annotated[bool, typer.Option("--operations", help="List every operation of each component.")] = False,
    columns: Columns = None,
    wide: Wide = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what an export holds and costs, of any target: nothing is run.

    Parameters, bits per weight, operations, states, sizes, and what a token and an image take.

    Example:  edgekit inspect runs/demo/bundles/onnx-int8

    Example:  edgekit inspect bundles/coreml-int4 --tokens 1024 --json
    """
    from edgekit import api, schema

    found = api.inspect(source, tokens=tokens)
    if json_out:
        print_json(schema.to_json(found))
    else:
        _show(found, operations, columns, wide)


def _show(found: Inspection, operations: bool, columns: str | None, wide: bool) -> None:
    mark = f"  {found.hash[:12]}" if found.hash else ""
    print_text(f"{one_line(found.name)}: {found.target} {found.precision}, {bytes_text(found.size_bytes, 2)}{mark}")
    _print_components(found, columns, wide)
    token = f"a token with {found.cache_tokens} in the cache"
    print_text(_moved(token, found.per_token, f"cache {bytes_text(found.cache_bytes_per_token, 2)} a token"))
    if found.per_image is not None:
        print_text(_moved("an image or tile", found.per_image, "pixels and features"))
    print_text(
        f"size: weights {bytes_text(found.weight_bytes, 2)}, constants {bytes_text(found.constant_bytes, 2)}, programs "
        f"{bytes_text(found.program_bytes, 2)}, tokenizer and the rest {bytes_text(found.other_bytes, 2)}"
    )
    for name, part in found.components.items():
        _print_lists(name, part, None if operations else SHOWN)
    print_text(f"apart: {found.apart_means}")
    if found.apps:
        print_text(f"apps: {found.apps}")
    for text in found.notes:
        print_text(f"note: {text}")


def _print_components(found: Inspection, columns: str | None, wide: bool) -> None:
    from edgekit.tables import print_table, read_columns

    head = ("component", "parameters", "bits/weight", "weights", "constants", "operations", "apart", "work", "for a")
    rows = [
        [
            name, _parameters(part), "" if part.bits_per_weight is None else f"{part.bits_per_weight:.2f}",
            bytes_text(part.weight_bytes, 2), bytes_text(part.constant_bytes, 2), f"{sum(part.operations.values()):,}",
            f"{sum(part.apart.values()):,}", _work(part.flops), part.run,
        ]
        for name, part in found.components.items()
    ]  # fmt: skip
    rows.append(
        [
            "all", f"{found.parameters:,}", f"{found.bits_per_weight:.2f}", bytes_text(found.weight_bytes, 2),
            bytes_text(found.constant_bytes, 2), "", "", "", "",
        ]
    )  # fmt: skip
    # A pipe has no width: there a line stays one line.
    every = wide or not sys.stdout.isatty()
    print_table(head, rows, columns=read_columns(columns), wide=every)


def _parameters(part: ComponentFacts) -> str:
    shared = f" (+{part.shared_parameters:,} shared)" if part.shared_parameters else ""
    return f"{part.parameters:,}{shared}"


def _moved(what: str, moved: Moved, rest: str) -> str:
    return (
        f"{what}: {_work(moved.flops)}, {_work(moved.attention_flops)} of it between activations; "
        f"{bytes_text(moved.bytes_moved, 2)} moved, {bytes_text(moved.weight_bytes, 2)} of it weights; the rest: {rest}"
    )


def _print_lists(name: str, part: ComponentFacts, most: int | None) -> None:
    lists = {"operations": part.operations, "apart": part.apart, "stored as": part.weight_types}
    for title, counts in lists.items():
        if counts:
            print_text(f"{name} {title}: {_listed(counts, most)}")
    for state in part.states:
        names = state.names[0] if len(state.names) == 1 else f"{state.names[0]} ... {state.names[-1]}"
        shape = ", ".join(map(str, state.shape))
        print_text(
            f"{name} states: {len(state.names)} x {state.dtype} [{shape}], {bytes_text(state.bytes, 2)}: {names}"
        )


def _listed(counts: dict[str, int], most: int | None) -> str:
    shown: Iterable[tuple[str, int]] = list(counts.items())[:most]
    left = len(counts) - most if most is not None and len(counts) > most else 0
    return ", ".join(f"{one_line(key)} {count:,}" for key, count in shown) + (
        f", and {left} more kinds" if left else ""
    )


def _work(flops: int) -> str:
    for unit, step in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if flops >= step:
            return f"{flops / step:.2f} {unit}"
    return f"{flops} FLOP"
