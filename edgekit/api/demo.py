"""demo card, demo train: the built-in models."""

from __future__ import annotations

from edgekit.api import arguments
from edgekit.api.arguments import PathLike, checked
from edgekit.api.distilling_results import DemoCard


def demo_cards() -> dict[str, DemoCard]:
    """The card of each shipped demo model, by its name."""
    from edgekit.demo import cards

    return {name: DemoCard.read(record) for name, record in cards().items()}


@checked
def demo_train(role: str, out: PathLike, work: PathLike, *, seed: int = 0, threads: int | None = None) -> DemoCard:
    """Train a demo model from scratch.

    Args:
        role: teacher, mid or student; with `scenes:` before it, of the task `scenes`.
        out: Folder to write, text or Path.
        work: Folder for checkpoints; a stopped training goes on from there.
        seed: Of weights, data order and augmentation.
        threads: CPU threads; torch's choice when None.

    Returns:
        Its card, which lies in the folder as card.json too.
    """
    from edgekit.distill.demo_models import train

    return DemoCard.read(
        train(role, arguments.path(out, "out"), arguments.path(work, "work"), seed=seed, threads=threads)
    )
