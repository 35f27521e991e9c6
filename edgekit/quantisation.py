"""Weight grids: what `export/` writes and what `distill/` trains against, said once for each target's precisions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """How the weights (N, K) of a linear layer, N outputs and K inputs, are put on a grid of 2^bits values.

    Attributes:
        bits: Of one stored weight.
        block: So many inputs of one output share a scale; None for all K. A last block may be shorter.
        symmetric: Zero is the middle of the grid; else each block has a zero point of its own.
    """

    bits: int
    block: int | None
    symmetric: bool
