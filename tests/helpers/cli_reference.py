"""The command line as a page: `python tests/helpers/cli_reference.py > docs/reference/cli.md`."""

from __future__ import annotations

from typing import Any

import typer

from edgekit.cli import build


def page() -> str:
    """Every command with its arguments, options and defaults."""
    root: Any = typer.main.get_command(build())
    parts = [
        "# Command line\n",
        "Every verb has `--help` with an example, and `--json` where it has a result. Exit codes: 0 done, 1 something "
        "to put right (the message says what), 2 usage, 3 a tolerance or a gate was missed.\n",
    ]
    parts += [text for name, command in root.commands.items() for text in _told(f"edgekit {name}", command)]
    return "\n".join(parts)


def _told(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [text for part, below in command.commands.items() for text in _told(f"{name} {part}", below)]
    said = [line.strip() for line in (command.help or "").strip().split("\n\n")]
    parts = [f"## {name}\n", *(f"{_said(one)}\n" for one in said if one)]
    rows = [_row(one) for one in command.params if not getattr(one, "hidden", False) and one.name != "help"]
    if rows:
        parts += ["| | |", "|---|---|", *rows, ""]
    return parts


def _row(one: Any) -> str:
    names = ", ".join([*one.opts, *one.secondary_opts]) if one.param_type_name == "option" else str(one.name)
    plain = isinstance(one.default, str | int | float) and not isinstance(one.default, bool) and one.default != ""
    shown = f" Default: `{one.default}`." if plain and getattr(one, "show_default", True) else ""
    return f"| `{names}` | {_plain(getattr(one, 'help', '') or '')}{shown} |"


def _said(text: str) -> str:
    """A paragraph of a help text; an example as what can be copied."""
    words, gap, command = " ".join(text.split("\n")).partition(":  ")
    return f"{words}:\n\n```\n{command}\n```" if gap and command.startswith("edgekit ") else _plain(text)


def _plain(text: str) -> str:
    """One line that a table can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


if __name__ == "__main__":
    print(page(), end="")
