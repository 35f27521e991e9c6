"""`edgekit devices`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.console import print_json, print_text


def command(
    addresses: Annotated[
        list[str] | None, typer.Argument(help="Addresses, as of --device; every device by default.", show_default=False)
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the devices, whether they can be used now, and why not.

    Example:  edgekit devices ssh://pi@raspberrypi
    """
    from edgekit import api

    rows = api.devices(addresses or ())
    if json_out:
        print_json([row.as_json() for row in rows])
        return
    for row in rows:
        print_text(f"{row.device:10} {'ready' if row.ready else 'not here':9} {row.detail}")
