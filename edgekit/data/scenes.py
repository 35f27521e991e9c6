"""Scenes: images of three to eight shapes on a 4 x 4 grid, drawn here, with answers of 2 to 15 tokens.

    scenes:train                           every kind of question about 8,000 images
    scenes:test                            1,000 images, every second one with a composition that train never shows
    scenes:test-seen, scenes:test-new      its two halves
    scenes:train:list+relation             only these kinds
    scenes:train:count:seed=3:pictures=50  other images, or another number of them

A composition is a colour with a shape; one shape of each colour is held out of train. Answers are exact and have one
order. Tokens, by the tokenizer of `edgekit demo train scenes:...` with the end of the turn: count 2, list and relation
about 6, description 15. Everything is drawn from a hash, so that no library's version changes a pixel or a word.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgekit.data import BadRow, ImageRef, Sample, Source
from edgekit.demo.shapes import COLORS
from edgekit.errors import DataError
from edgekit.inputs.chat import question

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
GRID, CELL = 4, 8
IMAGE_SIZE = GRID * CELL
GLYPHS = {
    "circle": ("..##..", ".####.", "######", "######", ".####.", "..##.."),
    "square": ("######", "######", "######", "######", "######", "######"),
    "triangle": ("..##..", "..##..", ".####.", ".####.", "######", "######"),
    "cross": ("..##..", "..##..", "######", "######", "..##..", "..##.."),
}
"""Pixels of each shape: drawn by a library they would depend on its version."""
SHAPES = tuple(GLYPHS)
PAIRS = tuple((color, shape) for color in COLORS for shape in SHAPES)
HELD_OUT = tuple((color, SHAPES[number % len(SHAPES)]) for number, color in enumerate(COLORS))
"""Compositions that only the test split shows: one of each colour, two of each shape."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SPLITS = ("train", "test", "test-seen", "test-new")
IMAGES = {"train": 8000, "test": 1000}
MOST_IMAGES = 10_000_000


@dataclass(frozen=True)
class Placed:
    """A shape in its cell; rows and columns count from 0 at the top left, offsets are pixels within the cell."""

    row: int
    column: int
    color: str
    shape: str
    down: int = 1
    right: int = 1

    @property
    def name(self) -> str:
        """Such as `red circle`."""
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What an image shows.

    Attributes:
        placed: Three to eight shapes in reading order, no colour and shape twice.
        ground: Its pale colour.
        key: What it was drawn from; its questions are drawn from the same.
    """

    placed: tuple[Placed, ...]
    ground: tuple[int, int, int] = (255, 255, 255)
    key: str = ""

    def pixels(self) -> np.ndarray[Any, Any]:
        """uint8 (32, 32, 3)."""
        import numpy as np

        image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), self.ground, np.uint8)
        for one in self.placed:
            glyph = np.array([[mark == "#" for mark in line] for line in GLYPHS[one.shape]])
            top, left = one.row * CELL + one.down, one.column * CELL + one.right
            image[top : top + len(glyph), left : left + len(glyph)][glyph] = COLORS[one.color]
        return image

    def cells(self) -> list[tuple[int, int]]:
        """Of each of the 16 cells in reading order the number of its shape and of its colour, from 1; 0 where empty."""
        found = [(0, 0)] * (GRID * GRID)
        for one in self.placed:
            found[one.row * GRID + one.column] = (SHAPES.index(one.shape) + 1, list(COLORS).index(one.color) + 1)
        return found


class Draws:
    """Whole numbers from the hash of a text: the same on every platform and in every version of everything."""

    def __init__(self, key: str) -> None:
        self._left = int.from_bytes(hashlib.shake_256(key.encode()).digest(128), "big")

    def below(self, count: int) -> int:
        """One of 0 to count - 1."""
        self._left, value = divmod(self._left, count)
        return value

    def pick(self, values: Sequence[T], count: int) -> list[T]:
        """So many of the values, no place twice, in the order drawn; all where there are no more."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]


def scene(split: str, seed: int, index: int) -> Scene:
    """One image; train and test draw from different texts, so that no seed makes them meet.

    Args:
        split: `train` or `test`; of test every odd image shows at least one of `HELD_OUT`.
        seed: Of the split.
        index: From 0.
    """
    key = f"scenes/{split}/{seed}/{index}"
    draws = Draws(key)
    count = 3 + draws.below(6)
    new = split == "test" and index % 2 == 1
    pairs = draws.pick(HELD_OUT, 1) if new else []
    seen = [pair for pair in PAIRS if pair not in HELD_OUT]
    pairs += draws.pick([pair for pair in PAIRS if pair not in pairs] if new else seen, count - len(pairs))
    placed = [
        Placed(*divmod(cell, GRID), *pair, down=draws.below(CELL - 5), right=draws.below(CELL - 5))
        for cell, pair in zip(_cells(draws, count), pairs, strict=True)
    ]
    red, green, blue = (228 + draws.below(28) for _ in range(3))
    return Scene(tuple(sorted(placed, key=lambda one: (one.row, one.column))), (red, green, blue), key)


def _cells(draws: Draws, count: int) -> list[int]:
    """Different cells, the second in the row of the first: there is always a line of two shapes to ask for."""
    (first,) = draws.pick(range(GRID * GRID), 1)
    others = [cell for cell in range(GRID * GRID) if cell != first]
    (second,) = draws.pick([cell for cell in others if cell // GRID == first // GRID], 1)
    return [first, second, *draws.pick([cell for cell in others if cell != second], count - 2)]


# ----------------------------------------------------------------------------------------------------------- questions


def _lines(placed: Sequence[Placed]) -> list[tuple[str, list[Placed]]]:
    """Rows and columns by name, and what is in them from left to right or from top to bottom."""
    rows = [(f"row {NUMBERS[k + 1]}", [one for one in placed if one.row == k]) for k in range(GRID)]
    return rows + [(f"column {NUMBERS[k + 1]}", [one for one in placed if one.column == k]) for k in range(GRID)]


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def count_questions(shown: Scene, draws: Draws) -> list[tuple[str, str]]:
    """Two of: how many shapes in all, of a kind, of a colour that is there, in a row or column."""
    asked = [("How many shapes are there?", len(shown.placed))]
    for shape in SHAPES:
        asked.append((f"How many {_plural(shape)} are there?", sum(one.shape == shape for one in shown.placed)))
    for color in COLORS:
        if number := sum(one.color == color for one in shown.placed):
            asked.append((f"How many {color} shapes are there?", number))
    asked += [(f"How many shapes are in {name}?", len(line)) for name, line in _lines(shown.placed)]
    return [(text, NUMBERS[number]) for text, number in draws.pick(asked, 2)]


def list_questions(shown: Scene, draws: Draws) -> list[tuple[str, str]]:
    """What is in two rows or columns that hold several shapes, those of two shapes first."""
    lines = draws.pick(_lines(shown.placed), 2 * GRID)
    several = sorted((one for one in lines if len(one[1]) >= 2), key=lambda one: len(one[1]))
    return [(f"What is in {name}?", ", ".join(one.name for one in line)) for name, line in several[:2]]


def relation_questions(shown: Scene, draws: Draws) -> list[tuple[str, str]]:
    """Where two shapes are from two others, those in another row and column if there are any."""
    pairs = [(a, b) for a in shown.placed for b in shown.placed if a is not b]
    apart = [(a, b) for a, b in pairs if a.row != b.row and a.column != b.column]
    return [
        (f"Where is the {a.name} from the {b.name}?", _offset(a.row - b.row, a.column - b.column))
        for a, b in draws.pick(apart or pairs, 2)
    ]


def _offset(down: int, right: int) -> str:
    vertical = f"{NUMBERS[abs(down)]} {'down' if down > 0 else 'up'}" if down else ""
    horizontal = f"{NUMBERS[abs(right)]} {'right' if right > 0 else 'left'}" if right else ""
    return ", ".join(filter(None, (vertical, horizontal)))


def description_questions(shown: Scene, draws: Draws) -> list[tuple[str, str]]:
    """How many shapes, and the first two and the last in reading order."""
    first, second, last = shown.placed[0], shown.placed[1], shown.placed[-1]
    told = f"{first.name} first, {second.name} next, {last.name} last"
    return [("Describe the picture.", f"{NUMBERS[len(shown.placed)]} shapes, {told}")]


KINDS: dict[str, Callable[[Scene, Draws], list[tuple[str, str]]]] = {
    "count": count_questions,
    "list": list_questions,
    "relation": relation_questions,
    "description": description_questions,
}


def questions(shown: Scene, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[tuple[str, str, str]]:
    """(id within the image, question, answer); a kind's are the same whichever others are asked."""
    for kind in kinds:
        for number, (text, answer) in enumerate(KINDS[kind](shown, Draws(f"{shown.key}/{kind}"))):
            yield f"{kind}-{number}", text, answer


def kind_of(ident: str) -> str:
    """The kind of the question with this id."""
    return ident.split("-")[-2]


# -------------------------------------------------------------------------------------------------------------- source


def claims(spec: str) -> bool:
    """Whether the spec is `scenes` or begins with `scenes:`."""
    return spec.partition(":")[0] == "scenes"


@dataclass(frozen=True)
class Wanted:
    """What a spec asks for."""

    split: str = "train"
    kinds: tuple[str, ...] = tuple(KINDS)
    seed: int = 0
    pictures: int = 0


def wanted(spec: str) -> Wanted:
    """What a spec asks for.

    Raises:
        DataError: no such split, kind or option, or one given twice.
    """
    split, *options = spec.split(":")[1:] or ["train"]
    if split not in SPLITS:
        raise DataError(f"scenes has no split {split!r}.", fix=f"There are: {', '.join(SPLITS)}.")
    found: dict[str, Any] = {"pictures": IMAGES[split.partition("-")[0]]}
    for number, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in [other.partition("=")[0] for other in options[:number]]:
            raise DataError(f"{spec!r} says {name!r} twice.")
        if equals:
            found[name] = _number(spec, name, value)
        elif "kinds" in found:
            raise DataError(f"{spec!r} names kinds of questions twice.", fix="Join them with +, as in list+relation.")
        else:
            found["kinds"] = _kinds(option)
    return Wanted(split, **found)


def _number(spec: str, name: str, value: str) -> int:
    if name not in ("seed", "pictures"):
        raise DataError(f"scenes has no option {name!r}.", fix="There are: seed=N and pictures=N.")
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise DataError(f"{name}={value[:40]} in {spec[:80]!r} is no whole number of at most 18 digits.")
    if name == "pictures" and not 1 <= int(value) <= MOST_IMAGES:
        raise DataError(f"{name}={value} in {spec[:80]!r} is not between 1 and {MOST_IMAGES:,}.")
    return int(value)


def _kinds(option: str) -> tuple[str, ...]:
    named = option.split("+")
    for kind in named:
        if kind not in KINDS:
            raise DataError(f"scenes has no questions of kind {kind!r}.", fix=f"There are: {', '.join(KINDS)}.")
    return tuple(kind for kind in KINDS if kind in named)


def rows(spec: str) -> Iterator[Sample | BadRow]:
    """Questions image by image, each image drawn when its turn comes.

    Raises:
        DataError: no such split, kind or option.
    """
    return _rows(wanted(spec))


def _rows(asked: Wanted) -> Iterator[Sample]:
    base, _, half = asked.split.partition("-")
    for index in range(1 if half == "new" else 0, asked.pictures, 2 if half else 1):
        shown = scene(base, asked.seed, index)
        where = f"scenes:{base}:seed={asked.seed} image {index}"
        image = ImageRef(data=png(shown.pixels()), origin=where)
        for name, text, answer in questions(shown, asked.kinds):
            ident = f"{base}-{asked.seed}-{index:06d}-{name}"
            yield Sample(ident, (image,), question(text), answer, f"{where} {name}", form="scenes")


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """A PNG file of uint8 (H, W, 3), its data stored as they are: packed, its bytes would depend on zlib's version."""
    height, width, _ = pixels.shape
    raw = b"".join(b"\0" + line.tobytes() for line in pixels)
    if len(raw) >= 1 << 16:
        raise ValueError(f"an image of {width} x {height} is more than one stored block")
    block = b"\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw
    packed = b"\x78\x01" + block + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


SOURCE = Source(claims, rows)
