"""The catalogue of phones: published figures, each with the page that it was read from."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.yaml_text import Document

CATALOG = Path(__file__).parent / "catalog"


@dataclass(frozen=True)
class Figure:
    """One published number."""

    value: float
    source: str
    note: str = ""


@dataclass(frozen=True)
class Phone:
    """A device of the catalogue; None for what was not found published."""

    name: str
    kind: str
    chip: str
    year: int
    memory_gb: Figure | None = None
    app_limit_gb: Figure | None = None
    app_limit_entitled_gb: Figure | None = None
    bandwidth_gb_s: Figure | None = None
    gpu_tflops: Figure | None = None
    cpu_ghz: Figure | None = None
    """Clocks of the cores added up, without those of the smallest kind (Cortex-A5xx): 2 x 4 GHz and 6 x 3 are 26."""


@cache
def catalog() -> dict[str, Phone]:
    """Every device of the catalogue by its file's name, oldest first."""
    found = {path.stem: read_phone_file(path) for path in CATALOG.glob("*.yaml")}
    return dict(sorted(found.items(), key=lambda item: (item[1].year, item[1].name)))


def read_phone_file(path: Path) -> Phone:
    """A device from its file.

    Raises:
        EdgekitError: not valid, every problem with its line; every number needs the source that it was read from.
    """
    from edgekit.yaml_text import read_yaml_file

    return _phone(read_yaml_file(path, "the device file", EdgekitError), str(path))


def _phone(document: Document, source: str) -> Phone:
    from edgekit import schema

    problems: list[str] = []
    phone = schema.read(Phone, document.value, problems)
    if phone is not None:
        problems = _phone_problems(phone)
    problems = document.all_problems(problems)
    if phone is None or problems:
        raise EdgekitError(f"{source} is not valid.", why="\n".join(problems))
    return phone


def _phone_problems(phone: Phone) -> list[str]:
    """Numbers that cannot be, or have no source, and limits that are above what they are of."""
    problems = []
    for name, figure in vars(phone).items():
        if not isinstance(figure, Figure):
            continue
        if not (math.isfinite(figure.value) and figure.value > 0 and figure.source.startswith("https://")):
            problems.append(f"{name}: {phone.name} needs a positive value and the https address of its source")
    rising = [
        (name, figure)
        for name in ("app_limit_gb", "app_limit_entitled_gb", "memory_gb")
        if (figure := getattr(phone, name)) is not None
    ]
    for (name, figure), (above, other) in itertools.pairwise(rising):
        if figure.value > other.value:
            problems.append(f"{name}: {figure.value:g} is above {above}, {other.value:g}")
    return problems
