"""`optimum-cli export <target>-vlm`: edgekit's export as commands of Hugging Face optimum, one for each target.

optimum looks for `REGISTER_COMMANDS` in every file of the namespace `optimum.commands.register`; pyproject.toml puts
this folder there, which therefore has no `__init__.py`. Nothing of optimum is imported before it asks, so that edgekit
needs no optimum.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

TYPED = "vlm"
TASKS = ("image-text-to-text", "image-to-text")  # what optimum calls them: Gemma 3 is of its second


def __getattr__(name: str) -> Any:
    """REGISTER_COMMANDS, made when optimum asks for it."""
    if name != "REGISTER_COMMANDS":
        raise AttributeError(name)
    from optimum.commands.export.base import ExportCommand

    from edgekit.export import TARGETS

    return [(_command(target), ExportCommand) for target in TARGETS.names()]


def _command(target: str) -> Any:
    """The command class of a target."""
    from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

    class Export(BaseOptimumCLICommand):  # type: ignore[misc]
        """The command."""

        COMMAND = CommandInfo(
            name=f"{target}-{TYPED}",
            help=f"Export a vision-language model to {target} with edgekit, checked against PyTorch.",
        )

        @staticmethod
        def parse_args(parser: ArgumentParser) -> None:
            """The options."""
            add_options(parser, target)

        def run(self) -> None:
            """Export, and say how it compares with PyTorch."""
            given = self.args
            check_task(given.model, given.task)
            export(target, given.model, given.output, given.precision, given.image_size, given.data, given.samples)

    Export.__name__ = Export.__qualname__ = f"{target.title()}VlmExport"
    return Export


def add_options(parser: ArgumentParser, target: str) -> None:
    """The options of a target's command.

    Args:
        parser: optimum's, of this command.
        target: Name in edgekit.export.
    """
    parser.add_argument("--model", required=True, help="Hugging Face folder, demo:teacher or demo:student.")
    parser.add_argument(
        "--task", default="auto", help=f"{TASKS[0]}, or auto: optimum infers it from the model's class."
    )
    parser.add_argument("output", type=Path, help="Folder of the bundle; it appears whole or not at all.")
    parser.add_argument(
        "--precision", default="fp32", help=f"How weights are stored, default fp32; `edgekit targets` lists {target}'s."
    )
    parser.add_argument(
        "--image-size", action="append", metavar="WxH", help="Image size, for families that bake it; may be repeated."
    )
    parser.add_argument("--data", help="Questions for the comparison with PyTorch; stock questions by default.")
    parser.add_argument("--samples", type=int, help="How many; as `edgekit export` by default.")


def check_task(model: str, task: str) -> None:
    """End the program where a model is of another task than edgekit exports.

    Args:
        model: Checkpoint.
        task: Of optimum's names; `auto` asks its TasksManager by the class that config.json names. A model without
            a class that transformers has is left to the export, which says what it lacks.
    """
    import transformers
    from optimum.exporters.tasks import TasksManager

    from edgekit.console import print_error
    from edgekit.errors import EdgekitError
    from edgekit.families import read_optional_json

    if task == "auto":
        (name, *_) = read_optional_json(Path(model) / "config.json").get("architectures") or [""]
        found = getattr(transformers, str(name), None)
        if found is None:
            return
        try:
            task = TasksManager.infer_task_from_model(found)
        except ValueError:  # a class of none of its tasks: the export knows more of it
            return
    if TasksManager.map_from_synonym(task) not in TASKS:
        error = EdgekitError(
            f"{model} is for {task}; edgekit exports vision-language models, {TASKS[0]}.",
            why="Named by --task, or inferred by optimum from the class in config.json.",
            fix="optimum's own `optimum-cli export onnx` and its kin take models of other tasks.",
        )
        print_error(error)
        raise SystemExit(error.exit_code)


def export(
    target: str,
    model: str,
    output: Path,
    precision: str,
    image_sizes: list[str] | None,
    data: str | None,
    samples: int | None,
) -> None:
    """What `edgekit export MODEL --target TARGET --out OUTPUT` does, with its messages and exit codes.

    Args:
        target, precision: Names.
        model: Checkpoint.
        output: Folder.
        image_sizes: Such as 448x336.
        data, samples: Questions of the comparison, and how many.
    """
    from edgekit.cli import build

    given = ["--target", target, "--precision", precision, "--out", str(output)]
    if samples is not None:
        given += ["--samples", str(samples)]
    given += [word for size in image_sizes or [] for word in ("--image-size", size)]
    given += ["--data", data] if data is not None else []
    build()(args=["export", *given, "--", model], prog_name="edgekit")
