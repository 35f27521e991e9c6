"""What is inside an export, read from its own files and never run: one reader for each target, in the file of its name.

A third party's target brings its own reader in the entry-point group `edgekit.formats`; `checkpoint` looks into Hugging
Face folders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgekit.registry import Registry

if TYPE_CHECKING:
    from edgekit.bundle import Bundle

Role = Literal["product", "table", "other", "constant"]
"""A matrix or kernel; a table of which a run reads some rows; a norm, bias or baked position; no parameter at all."""


@dataclass(frozen=True)
class Held:
    """A tensor that a program holds.

    Attributes:
        key: The same for one copy, in whichever components it is used.
        numbers: Parameters; 0 for scales and zero points that stand beside the weight they belong to.
        size_bytes: Stored, with scales, zero points and palettes where they are not tensors of their own.
        kind: Type of a stored number, such as float16 or int4.
        role: What it is for.
        rows: Of a table; 0 for anything else.
    """

    key: str
    numbers: int
    size_bytes: int
    kind: str
    role: Role
    rows: int = 0


@dataclass(frozen=True)
class State:
    """A tensor that lives from one run to the next.

    Attributes:
        name: As the program calls it.
        dtype: NumPy's name.
        shape: A number is fixed; a name is free, and as long as what is in the cache.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Part:
    """One component: what it holds, and what one run of it does.

    A run of a vision encoder is one image, or one tile of it; a run of anything else is one token.

    Attributes:
        operations: How often each occurs; constants are none.
        weights: All tensors, each once.
        products: Multiply-adds with weights in a run.
        attention: Multiply-adds between activations in a run of a vision encoder; a decoder's depend on its cache.
        apart: Operations that leave the target's fast path, by name.
        states: What it remembers.
    """

    operations: dict[str, int]
    weights: tuple[Held, ...]
    products: int
    attention: int = 0
    apart: dict[str, int] = field(default_factory=dict)
    states: tuple[State, ...] = ()


@dataclass(frozen=True)
class Reader:
    """How a target's bundles are looked into.

    Attributes:
        apart: What `Part.apart` counts: the operations that leave the target's fast path.
        notes: What a reader of the figures should know of this target.
        read: The parts of a bundle by component; imports what it needs when it is called.
        told: What a reader should know of one bundle, beside `notes`.
    """

    apart: str
    notes: tuple[str, ...]
    read: Callable[[Bundle], dict[str, Part]]
    told: Callable[[Bundle], tuple[str, ...]] | None = None


READERS: Registry[Reader] = Registry(
    "edgekit.formats", "reader", "Reader", "READER", frozenset({"checkpoint"}), file="inspect"
)


def is_encoder(component: str) -> bool:
    """Whether a component takes images."""
    return component.startswith("vision_encoder")
