"""Generators write responses: one file each, holding a `GENERATOR`.

Token ids are those of the vocabulary that teachers and student share; each response ends with its end token unless it
was cut off. Whether a model is loaded here, in an engine or on a server is the generator's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edgekit.data import Sample
from edgekit.inputs.processor import Processor
from edgekit.recipe import model as recipe
from edgekit.recipe.model import GenData
from edgekit.registry import Registry


@dataclass(frozen=True)
class Source:
    """Whose responses are wanted, and what may be needed to get them.

    Attributes:
        name: Of the checkpoint, for messages.
        folder: Its dense weights.
        processor: Its tokenizer, template and image parameters.
        settings: Sampling, and the server.
        load: The model in eval mode, masked at `ratio`; called by generators that run it in this process only.
        ratio: Mask ratio.
        teacher: Number in the ladder, from 1; 0 for the student.
        scope, exclude: What a mask may touch; see `masking.maskable`.
        work: Folder for what a generator must write aside.
    """

    name: str
    folder: Path
    processor: Processor
    settings: GenData
    load: Callable[[], Any]
    ratio: float = 0.0
    teacher: int = 0
    scope: Literal["all", "language", "vision"] = "all"
    exclude: tuple[str, ...] = ()
    work: Path = Path("work")


@dataclass(frozen=True)
class Said:
    """A greedy answer.

    Attributes:
        text: Without the space that opens it.
        logp: Log-probability of the sample's reference answer where the generator can score it, else of the text,
            nats; None where it does not tell.
    """

    text: str
    logp: float | None


class Writing(Protocol):
    """A generator that is ready to answer for one checkpoint at one mask ratio."""

    def sample(self, samples: Sequence[Sample], count: int, seed: int) -> list[list[list[int]]]:
        """`count` sampled responses, as token ids, to each of the samples; `seed` decides every draw it can decide."""

    def answers(self, samples: Sequence[Sample]) -> list[Said]:
        """The greedy answer to each sample, a few tokens long."""

    def close(self) -> None:
        """Give back memory, threads and files."""


@dataclass(frozen=True)
class Generator:
    """Who writes responses.

    Attributes:
        check: An EdgekitError where this machine or environment cannot run it with these settings.
        open: Made ready for one checkpoint at one mask ratio.
    """

    check: Callable[[GenData], None]
    open: Callable[[Source], Writing]


GENERATORS: Registry[Generator] = recipe.GENERATORS
PROBE_TOKENS = 16
"""Tokens of a greedy answer at most: enough to tell whether it depends on the image."""
