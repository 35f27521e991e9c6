"""`edgekit app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    out: Annotated[Path, typer.Option(help="Folder of the app; of several platforms, one for each in it.")],
    platform: Annotated[str, typer.Option(help="Platforms, with commas: web, ios, android.")] = "web",
    name: Annotated[
        str | None, typer.Option(help="The app's name; the bundle's by default.", show_default=False)
    ] = None,
    bundle_id: Annotated[
        str, typer.Option("--bundle-id", help="The app's identifier for systems and stores.")
    ] = "com.example.edgekit",
    model_url: Annotated[
        str,
        typer.Option(
            "--model-url",
            help="Address of the folder that the bundle is downloaded from; in the app by default.",
            show_default=False,
        ),
    ] = "",
    ort: Annotated[
        Path | None,
        typer.Option(
            help="Folder of onnxruntime-web, for the web; node_modules, else npm, by default.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, and write nothing.")] = False,
    json_out: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write an app around a bundle: library, sample, self-test.

    Example:  edgekit app runs/demo/bundles/onnx-int8 --platform web --out ask
    """
    from edgekit import api

    platforms = [one.strip() for one in platform.split(",") if one.strip()]
    written = api.app(
        bundle, platforms=platforms, out=out, name=name, bundle_id=bundle_id, model_url=model_url, ort=ort,
        dry_run=dry_run,
    )  # fmt: skip
    if json_out:
        print_json([one.as_json() for one in written])
        return
    for one in written:
        verb = "wrote" if one.written else "would write"
        print_text(f"{verb} {one.out}: {len(one.files)} files, {one.bytes / 1e6:.1f} MB, for {one.platform}")
        kept = f"downloaded from {one.model_url}" if one.model_url else "in the app"
        print_text(f"  the model: {one.model_bytes / 1e6:.1f} MB, {kept}")
        if one.written:
            print_text(f"  next: {one.start}")
