"""Where the figures of a training go besides its report: TensorBoard, and the other trackers Trainer knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, RecipeError

BOARD = "tensorboard"


def chosen(names: tuple[str, ...] | None) -> list[str]:
    """The trackers of a run.

    Args:
        names: `trainer.report_to`; None is TensorBoard where it is installed, `none` or an empty list no tracker.

    Raises:
        RecipeError: Trainer knows no such name.
        EdgekitError: its package is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    ready = get_available_reporting_integrations()
    if names is None:
        return [BOARD] if BOARD in ready else []
    wanted = [name for name in names if name != "none"]
    if unknown := [name for name in wanted if name not in INTEGRATION_TO_CALLBACK]:
        raise RecipeError(
            f"trainer.report_to: there is no tracker {unknown[0]!r}.",
            fix=f"There are: {', '.join(sorted(INTEGRATION_TO_CALLBACK))}.",
        )
    if missing := [name for name in wanted if name not in ready]:
        raise EdgekitError(
            f"trainer.report_to names {missing[0]}, which is not installed.",
            fix=f"Install it:  pip install {missing[0].replace('_', '-')}",
        )
    return wanted


def board(folder: Path) -> Any:
    """Trainer's TensorBoard callback, writing to a folder of the run instead of the one with its checkpoints."""
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback
