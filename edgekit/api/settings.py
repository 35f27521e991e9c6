"""What verbs of many options are told: one settings object each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgekit.api.arguments import Folder, PathLike, Texts, check_fields


@dataclass(frozen=True)
class BenchSettings:
    """How `bench` measures. What is None is as the run's recipe says (`bench:` in it), else as
    `edgekit.recipe.model.Bench` does.
    """

    reference: Folder | None = None
    """The student's checkpoint; found from the bundles' run when None."""
    data: PathLike | None = None
    """Questions, a data spec; the run's when None."""
    limit: int | None = None
    """The first so many questions; 0 for all."""
    threads: int | None = None
    """Of each runtime."""
    device: str = "host"
    """Where: an address, see `edgekit.devices`."""
    out: PathLike | None = None
    """Folder of the report; `reports/bench` of the run when None."""
    gates: Mapping[str, float | int | None] = field(default_factory=dict)
    """Fields of `edgekit.recipe.model.Gates` that override the recipe's; None leaves one as it is."""
    prompt_tokens: int | Iterable[int] | None = None
    """One length or several of the speed test `pp`, 0 for none."""
    new_tokens: int | Iterable[int] | None = None
    """The same of `tg`."""
    repetitions: int | None = None
    """Of each speed test, 0 for none."""
    processes: int | None = None
    """Fresh ones of each row, one after the other through the questions."""
    sustain_s: float = 0.0
    """Seconds that each row answers without a pause at the end, to see whether it slows down."""
    timeouts: Texts = ()
    """One `PHASE=TIME` or several, over the recipe's; see `edgekit.system.timeouts`."""
    imports: PathLike | Iterable[PathLike] = ()
    """One file or several with results measured elsewhere, whose rows are added; see `edgekit.external_results`."""
    measure: bool = True
    """False adds those to the report that lies in `out` already."""

    def __post_init__(self) -> None:
        """Plain values are checked, as `edgekit.api.arguments.checked` does."""
        check_fields(self)
