"""What the terminal shows of a bench's page: its address, a QR code of it, and a line for each phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from edgekit.console import is_main_process, note, stderr
from edgekit.devices._web_room import Guest, Room
from edgekit.visible import one_line

TENTHS = 10
QUIET = 2  # modules of light around the code; readers ask for four, and manage with two


def address(url: str) -> None:
    """The address, and its QR code where the terminal can show one and what makes it is installed."""
    console = stderr()
    note(f"Open on each phone:  {url}", console)
    if not console.is_terminal or not is_main_process():
        return
    try:
        lines = code(url)
    except ModuleNotFoundError as error:
        if error.name != "segno":
            raise
        note("pip install 'edgekit[web]' shows a QR code of it here.", console)
        return
    if "utf" not in (console.encoding or "").lower() or console.width < len(lines[0]):
        return
    for line in lines:
        console.print(line, style="#000000 on #ffffff", markup=False, highlight=False)


def code(url: str) -> list[str]:
    """Lines of half blocks, dark on light, two rows of the code in each.

    Raises:
        ModuleNotFoundError: segno is not installed.
    """
    import segno

    rows = [list(row) for row in segno.make(url, error="m", micro=False).matrix]
    width = len(rows[0]) + 2 * QUIET
    empty = [0] * width
    framed = [empty] * QUIET + [[0] * QUIET + row + [0] * QUIET for row in rows] + [empty] * QUIET
    framed += [empty] * (len(framed) % 2)
    marks = {(0, 0): " ", (1, 1): "█", (1, 0): "▀", (0, 1): "▄"}
    pairs = zip(framed[::2], framed[1::2], strict=True)
    return ["".join(marks[bool(up), bool(down)] for up, down in zip(*pair, strict=True)) for pair in pairs]


def state(guest: Guest, bundles: tuple[str, ...]) -> str:
    """What a phone is doing, in words."""
    if guest.gone:
        return f"left: {guest.gone}"
    if guest.bundle >= len(bundles):
        return "done"
    words = {"self-test": "self-test", "questions": "asked", "memory": "measuring memory", "load": "loading"}
    doing = {"opened": "opened", "download": "downloading"}.get(guest.phase, words.get(guest.phase, ""))
    if guest.phase == "download":
        doing += f" {guest.done / 1e6:.1f} of {guest.total / 1e6:.1f} MB"
    elif guest.phase in ("self-test", "questions") and guest.total:
        doing += f" {guest.done:g} of {guest.total:g}"
    return f"{bundles[guest.bundle]} ({guest.bundle + 1} of {len(bundles)}): {doing}"


@dataclass
class Lines:
    """For a log: a line where a phone begins something, or is a tenth further."""

    said: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def show(self, room: Room) -> None:
        """Say what is new."""
        for guest in room.guests:
            tenth = int(TENTHS * guest.done / guest.total) if guest.total else 0
            now = (guest.bundle, guest.phase, tenth, guest.gone)
            if self.said.get(guest.key) != now:
                self.said[guest.key] = now
                note(f"{guest.name}: {state(guest, room.wanted.bundles)}")


@dataclass
class Table:
    """For a terminal: a row for each phone, drawn anew."""

    live: Any

    def show(self, room: Room) -> None:
        """Draw it."""
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid.grid(padding=(0, 2))
        for guest in room.guests:
            failed = sum(visit.guest == guest.name and visit.problem is not None for visit in room.visits)
            more = f"{failed} failed" if failed else ""
            cells = (guest.name, state(guest, room.wanted.bundles), more)
            grid.add_row(*(Text(one_line(cell)) for cell in cells))
        waiting = room.phones - len(room.guests)
        if waiting > 0:
            grid.add_row(Text(f"waiting for {waiting} phone{'s' if waiting > 1 else ''}; Ctrl-C ends", style="dim"))
        self.live.update(grid)


@contextmanager
def shown() -> Iterator[Lines | Table]:
    """What shows the phones, on standard error."""
    console = stderr()
    if not console.is_terminal or not is_main_process():
        yield Lines()
        return
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield Table(live)
