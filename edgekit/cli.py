"""The command line: one file per verb in edgekit/commands, each parsing, calling and printing."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from edgekit import __version__
from edgekit.console import print_error, print_traceback
from edgekit.errors import EdgekitError
from edgekit.system import interrupts
from edgekit.visible import visible

VERBS = (
    "init",
    "distill",
    "ablate",
    "probe",
    "mask",
    "export",
    "inspect",
    "verify",
    "bench",
    "compare",
    "run",
    "app",
    "card",
    "push",
    "data",
    "targets",
    "devices",
    "doctor",
    "demo",
)


class Group(TyperGroup):
    """Prints an EdgekitError as its message alone, and exits with its code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs in the order of the work, not of the alphabet."""
        return [verb for verb in VERBS if verb in self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Each verb with its whole summary."""
        verbs = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(limit=300)) for name, verb in verbs])

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except EdgekitError as error:
            if ctx.params.get("debug"):
                raise
            print_error(error)
            raise typer.Exit(error.exit_code) from error
        except TyperException as error:
            error.message = visible(
                error.message
            )  # what a shell put into the place of a pattern may be any file's name
            raise
        except KeyboardInterrupt as error:
            sys.stderr.write("\nInterrupted. What was done is kept: the same command goes on from there.\n")
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"edgekit {__version__}\n")
        raise typer.Exit


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take a big vision-language model to a phone, with proof at every step."""


def build() -> typer.Typer:
    """The application with every verb that works."""
    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for verb in VERBS:
        module = import_module(f"edgekit.commands.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(name=verb)(module.command)
    return app


def main() -> None:
    """Entry point of the `edgekit` command.

    SIGTERM, as `timeout` and a container's stop send it, unwinds as Ctrl-C does: what was half written is cleaned away.
    """
    sys.excepthook = print_traceback
    interrupts.install()
    try:
        build()()
    except SystemExit as end:
        if interrupts.asked():
            interrupts.leave(end.code if isinstance(end.code, int) else 1)
        raise
