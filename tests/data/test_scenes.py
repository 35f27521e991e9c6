"""The drawn task: pixels and answers worked out by hand, splits that do not meet, specs."""

from __future__ import annotations

import hashlib
import io
import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from edgekit import api
from edgekit.data import Sample, open_data, samples, scenes
from edgekit.data.scenes import HELD_OUT, KINDS, PAIRS, Placed, Scene, questions, scene
from edgekit.errors import DataError

RED, BLUE, PALE = [255, 0, 0], [0, 0, 255], [230, 240, 250]
BY_HAND = Scene(
    (
        Placed(0, 1, "red", "cross", down=0, right=2),
        Placed(1, 0, "blue", "circle"),
        Placed(1, 3, "red", "triangle"),
        Placed(3, 3, "teal", "cross"),
    ),
    (230, 240, 250),
    "by hand",
)
# What can be asked of the scene above, each answer read off the grid:
#      . red cross     .  .
#   blue circle  .     .  red triangle
#      .     .         .  .
#      .     .         .  teal cross
ANSWERS = {
    "How many shapes are there?": "four", "How many circles are there?": "one", "How many squares are there?": "zero",
    "How many triangles are there?": "one", "How many crosses are there?": "two",
    "How many red shapes are there?": "two", "How many blue shapes are there?": "one",
    "How many teal shapes are there?": "one", "How many shapes are in row one?": "one",
    "How many shapes are in row two?": "two", "How many shapes are in row three?": "zero",
    "How many shapes are in row four?": "one", "How many shapes are in column one?": "one",
    "How many shapes are in column two?": "one", "How many shapes are in column three?": "zero",
    "How many shapes are in column four?": "two",
    "What is in row two?": "blue circle, red triangle", "What is in column four?": "red triangle, teal cross",
    "Where is the red cross from the blue circle?": "one up, one right",
    "Where is the blue circle from the red cross?": "one down, one left",
    "Where is the red cross from the red triangle?": "one up, two left",
    "Where is the red triangle from the red cross?": "one down, two right",
    "Where is the red cross from the teal cross?": "three up, two left",
    "Where is the teal cross from the red cross?": "three down, two right",
    "Where is the blue circle from the teal cross?": "two up, three left",
    "Where is the teal cross from the blue circle?": "two down, three right",
    "Describe the picture.": "four shapes, red cross first, blue circle next, teal cross last",
}  # fmt: skip


def test_pixels_of_cells() -> None:
    pixels = BY_HAND.pixels()
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    cross = pixels[0:8, 8:16]
    # ..##.. twice, ###### twice, ..##.. twice: two pixels from the left and at the very top of its cell.
    red = (cross == RED).all(-1)
    assert red.sum(1).tolist() == [2, 2, 6, 6, 2, 2, 0, 0]
    assert red[0].tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert red[2].tolist() == [False] * 2 + [True] * 6
    assert ((pixels[8:16, 0:8] == BLUE).all(-1)).sum(1).tolist() == [0, 2, 4, 6, 6, 4, 2, 0]
    assert (pixels[16:24] == PALE).all() and (pixels[24:32, :24] == PALE).all()
    assert np.unique(pixels.reshape(-1, 3), axis=0).shape[0] == 4  # three colours and the ground, nothing between


def test_cells() -> None:
    cells = BY_HAND.cells()
    # circle 1, square 2, triangle 3, cross 4; black 1, blue 2, brown 3, gray 4, green 5, red 6, teal 7, yellow 8
    assert {number: cell for number, cell in enumerate(cells) if cell != (0, 0)} == {
        1: (4, 6), 4: (1, 2), 7: (3, 6), 15: (4, 7),
    }  # fmt: skip
    assert len(cells) == 16


def test_answers_worked_out_by_hand() -> None:
    asked: dict[str, str] = {}
    for number in range(200):  # the key chooses which are asked, never what is right
        shown = Scene(BY_HAND.placed, BY_HAND.ground, f"key {number}")
        asked |= {text: answer for _, text, answer in questions(shown)}
    assert asked == ANSWERS


def test_relation_in_one_line() -> None:
    row = Scene(tuple(Placed(2, column, color, "cross") for column, color in enumerate(("red", "blue", "gray"))))
    found = {text: answer for number in range(40) for text, answer in KINDS["relation"](row, scenes.Draws(str(number)))}
    assert found["Where is the red cross from the gray cross?"] == "two left"
    assert found["Where is the blue cross from the red cross?"] == "one right"
    assert len(found) == 6


def test_lists_take_lines_of_two_first() -> None:
    full = [Placed(0, column, color, "cross") for column, color in enumerate(("red", "blue", "gray", "teal"))]
    shown = Scene((*full, Placed(2, 1, "red", "circle")))
    for number in range(20):
        (first, answer), (second, other) = KINDS["list"](shown, scenes.Draws(str(number)))
        assert (first, answer) == ("What is in column two?", "blue cross, red circle")
        assert (second, other) == ("What is in row one?", "red cross, blue cross, gray cross, teal cross")


def test_the_same_everywhere() -> None:
    """Of another platform or version these may not differ: figures seen once, held from then on."""
    digest = hashlib.sha256()
    for row in samples("scenes:test:pictures=40"):
        digest.update(row.images[0].encoded() + f"{row.id}|{row.text}|{row.answer}".encode())
    assert digest.hexdigest() == "3a55703f16c451cd829be278d5430b1a1e251618b65f33493dd3ac1097aae52d"
    first = next(samples("scenes:train"))
    assert first == next(samples("scenes:train")) == next(samples("scenes"))


def test_png_holds_the_pixels() -> None:
    for index in range(5):
        pixels = scene("train", 0, index).pixels()
        assert np.array_equal(np.array(Image.open(io.BytesIO(scenes.png(pixels)))), pixels)


def test_png_is_one_stored_block() -> None:
    """Of 65,535 bytes at most, a byte a row for its filter among them: 15 x (1 + 3 x 1456) are just as many."""
    most = np.arange(15 * 1456 * 3, dtype=np.uint32).astype(np.uint8).reshape(15, 1456, 3)
    assert np.array_equal(np.array(Image.open(io.BytesIO(scenes.png(most)))), most)
    with pytest.raises(ValueError, match="1365 x 16 is more than one stored block"):
        scenes.png(np.zeros((16, 1365, 3), np.uint8))  # 65,536


def test_a_shape_stands_on_white_a_pixel_from_its_corner() -> None:
    pixels = Scene((Placed(0, 0, "black", "square"),)).pixels()
    assert (pixels[1:7, 1:7] == 0).all() and pixels.sum(dtype=int) == 255 * 3 * (32 * 32 - 36)


def compositions(spec: str) -> Iterator[set[tuple[str, str]]]:
    wanted = scenes.wanted(spec)
    base, _, half = wanted.split.partition("-")
    for index in range(half == "new", wanted.pictures, 2 if half else 1):
        yield {(one.color, one.shape) for one in scene(base, wanted.seed, index).placed}


def test_held_out_compositions_are_never_in_train() -> None:
    assert len(HELD_OUT) == 8 and len(PAIRS) == 32
    assert {color for color, _ in HELD_OUT} == {color for color, _ in PAIRS}
    assert Counter(shape for _, shape in HELD_OUT) == dict.fromkeys(scenes.SHAPES, 2)
    for seed in (0, 1, 1_000_000):
        assert set().union(*compositions(f"scenes:train:pictures=1500:seed={seed}")) == set(PAIRS) - set(HELD_OUT)
    new, seen = list(compositions("scenes:test-new")), list(compositions("scenes:test-seen"))
    assert len(new) == len(seen) == 500
    assert all(pairs & set(HELD_OUT) for pairs in new) and not any(pairs & set(HELD_OUT) for pairs in seen)
    assert set().union(*new) == set(PAIRS)


def test_scenes_keep_their_bounds() -> None:
    counts = Counter()
    for index in range(600):
        shown = scene("train", 0, index)
        counts[len(shown.placed)] += 1
        places = [(one.row, one.column) for one in shown.placed]
        assert places == sorted(set(places)) and len({one.name for one in shown.placed}) == len(places)
        assert all(0 <= one.down <= 2 and 0 <= one.right <= 2 for one in shown.placed)
        assert {name.partition("-")[0] for name, _, _ in questions(shown)} == set(KINDS)
    assert set(counts) == set(range(3, 9)) and min(counts.values()) > 60  # 100 expected of each


def test_ids_are_unique_and_do_not_depend_on_what_else_is_asked() -> None:
    every = {row.id: row for row in samples("scenes:test:pictures=60")}
    assert len(every) == sum(1 for _ in samples("scenes:test:pictures=60"))
    some = list(samples("scenes:test:relation+list:pictures=60"))
    assert {row.id.split("-")[3] for row in some} == {"list", "relation"}
    halves = [*samples("scenes:test-new:pictures=60"), *samples("scenes:test-seen:pictures=60")]
    for row in [*some, *halves]:
        assert every[row.id] == row
    assert len(halves) == len(every)
    other = {row.id for row in samples("scenes:test:pictures=60:seed=1")}
    assert other.isdisjoint(every) and other.isdisjoint(row.id for row in samples("scenes:train:pictures=60"))


def test_seeds_draw_other_images() -> None:
    texts = [
        b"".join(row.images[0].encoded() for row in samples(f"scenes:{spec}:description:pictures=4"))
        for spec in ("train", "test", "train:seed=1", "test:seed=1")
    ]
    assert len(set(texts)) == 4
    for index in range(0, 20, 2):  # those of test that show no new composition are not train's either
        assert scene("train", 0, index).placed != scene("test", 0, index).placed


def test_streamed_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    real = scenes.scene
    monkeypatch.setattr(scenes, "scene", lambda *args: drawn.append(args[2]) or real(*args))
    stream = open_data("scenes:train:description:pictures=10000000")
    assert drawn == []
    tracemalloc.start()
    ids = [row.id for row in itertools.islice(stream, 300) if isinstance(row, Sample)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drawn == list(range(300)) and ids[299] == "train-0-000299-description-0"
    assert held < 300 * 1000  # ids alone: an image is 3 kB


def test_questions_of_an_image_share_it() -> None:
    rows = list(samples("scenes:train:pictures=2"))
    assert len({id(row.images[0]) for row in rows}) == 2


def test_data_check_finds_nothing() -> None:
    found = api.data_check("scenes:test:pictures=20").findings
    assert (found.bad_count, found.warning_count) == (0, 0)
    assert found.good == sum(1 for _ in samples("scenes:test:pictures=20"))
    assert (found.widths, found.heights) == ((32, 32), (32, 32))
    assert found.forms == {"scenes": found.good}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("scenes:dev", "no split 'dev'"),
        ("scenes:", "no split ''"),
        ("scenes:train:lists", "no questions of kind 'lists'"),
        ("scenes:train:", "no questions of kind ''"),
        ("scenes:train:list+", "no questions of kind ''"),
        ("scenes:train:list:count", "names kinds of questions twice"),
        ("scenes:train:list:list", "says 'list' twice"),
        ("scenes:train:size=3", "no option 'size'"),
        ("scenes:train:seed=-1", "no whole number"),
        ("scenes:train:seed=", "no whole number"),
        ("scenes:train:seed=1e3", "no whole number"),
        ("scenes:train:seed=١", "no whole number"),
        ("scenes:train:seed=" + "9" * 19, "at most 18 digits"),
        ("scenes:train:seed=1:seed=1", "says 'seed' twice"),
        ("scenes:train:pictures=0", "not between 1 and 10,000,000"),
        ("scenes:train:pictures=10000001", "not between 1 and 10,000,000"),
    ],
)
def test_bad_specs(spec: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        open_data(spec)


def test_claims() -> None:
    assert scenes.claims("scenes") and scenes.claims("scenes:test") and not scenes.claims("scenes.jsonl")
    assert scenes.wanted("scenes:test:seed=007").seed == 7
    assert scenes.wanted("scenes:train:relation+count+relation").kinds == ("count", "relation")  # in one order, once
    assert scenes.wanted("scenes:test:pictures=5:list:seed=2") == scenes.Wanted("test", ("list",), 2, 5)
