"""The HTML report: hostile text stays text, plots stand where their numbers say, and a browser shows it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import IMAGE, example, raw, report, rows

from edgekit.report import charts
from edgekit.report.html import html
from edgekit.report.model import Report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*191}}\u202egnp.exe</style></title>\x00"


class Reader(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_stays_text() -> None:
    page = html(report(HOSTILE), raw(HOSTILE), [example(HOSTILE)])
    read, plain = Reader(page), Reader(html(report(), raw(), [example()]))
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
    assert names == {tag for tag, _ in plain.tags}  # no name, answer or reason brought a tag of its own
    assert not [name for _, attrs in read.tags for name in attrs if name.startswith("on")]
    assert "<script>alert(1)</script>" in read.text and "{{7*191}}" in read.text and "1337" not in read.text
    assert "\u202e" not in page and "\\u202e" in page and "\x00" not in page


def test_nothing_is_fetched() -> None:
    read = Reader(html(report(), raw(), [example()]))
    images = [attrs["src"] for tag, attrs in read.tags if tag == "img"]
    assert images == [IMAGE]
    addresses = [
        value for _, attrs in read.tags for name, value in attrs.items() if name in ("href", "src", "xlink:href")
    ]
    assert addresses == images
    policy = next(attrs["content"] for _, attrs in read.tags if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for bad in ("https://example.org/x.png", "data:image/svg+xml;base64,AAAA", f"{IMAGE}' onload='x"):
        assert "img" not in {t for t, _ in Reader(html(report(), [], [replace(example(), picture=bad)])).tags}


def test_differences_are_marked() -> None:
    page = html(report(), (), [replace(example(), answers={"0": "it is red now", "1": "it is blue now"})])
    assert "it is<mark> blue</mark> now" in page and page.count("≠ PyTorch") == 1
    same = html(report(), (), [replace(example(), answers={"0": "red", "1": "red"})])
    assert "<mark>" not in same and "≠ PyTorch" not in same


def test_times_that_are_no_devices_are_said_beside_the_plots() -> None:
    base, other, _ = rows()
    odd = (replace(other, timing_note="weights are turned round"), replace(other, verified_by="evaluator"))
    legend = html(Report(2, "d", "exact", 1, {}, (base, *odd))).split('<ul class="legend">')[1].split("</ul>")[0]
    plain, meaningless, evaluated = legend.split("</li>")[:3]
    assert "times" not in plain and "(† its times mean nothing)" in meaningless
    assert "(times of the evaluator)" in evaluated


def test_a_report_without_anything_to_plot() -> None:
    page = html(Report(2, "d", "exact", 1, {}, (rows()[2],)))
    assert "<svg" not in page and "bad onnx-int8" in page
    assert "</html>" in html(Report(2, "d", "exact", 1, {}, ()))


def test_points_by_hand() -> None:
    """Nothing beats 0 (cheapest) and 2 (best); 1 costs more than 0 and is worth less; 3 is as good as 2 and dearer."""
    assert charts.on_front([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (4.0, 0.9)]) == [0, 2]
    axis = charts.Scale(1.0, 100.0, 0.0, 200.0, log=True)
    assert (axis(1.0), axis(10.0), axis(100.0), axis(1000.0)) == (0.0, 100.0, 200.0, 200.0)
    assert [tick.text for tick in charts.Scale(0.0, 10.0, 0.0, 1.0).ticks()] == ["0", "5", "10"]
    plot = charts.pareto(rows(), "ttft_ms", 1, "ms")
    assert plot is not None and [point.row for point in plot.points] == [0, 1]
    base, other = plot.points
    assert other.x < base.x and other.y > base.y  # left: faster; below: worse
    assert plot.label == "accuracy against PyTorch, points" and base.y == plot.zero
    assert other.high < other.y < other.low and base.left < base.x < base.right
    absolute = charts.pareto([replace(row, accuracy_delta=None) for row in rows()], "ttft_ms", 1, "ms")
    assert absolute is not None and absolute.label == "accuracy, %" and absolute.zero is None
    assert absolute.points[0].high < absolute.points[0].y < absolute.points[0].low
    assert charts.pareto(rows()[2:], "ttft_ms", 1, "ms") is None


def test_equal_accuracies_are_told_apart() -> None:
    """Six rows of one accuracy near 0, whose own intervals would fill the plot: the axis shows differences of half a
    point, and no mark hides another one.
    """
    base, other, _ = rows()
    near = {"accuracy": 0.01, "accuracy_ci95": (0.0, 0.06)}
    alike = [replace(other, **near, accuracy_delta=0.0, accuracy_delta_ci95=(0.0, 0.0), ttft_ms=0.8) for _ in range(6)]
    plot = charts.pareto([replace(base, **near), *alike], "ttft_ms", 1, "ms")
    assert plot is not None and plot.zero is not None
    assert [tick.text for tick in plot.y_ticks] == ["-0.5", "0", "0.5"]
    assert all(point.low == point.high == point.y == plot.zero for point in plot.points)
    marks = [(point.x, point.mark) for point in plot.points[1:]]
    assert len(set(marks)) == 6 and all(charts.TOP <= mark <= charts.HEIGHT for _, mark in marks)
    heights = sorted(mark for _, mark in marks)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= charts.MARK - 0.02
    # A difference as large as the axis' least is not cut off.
    apart = charts.pareto([replace(base, **near), replace(alike[0], accuracy_delta=-0.03)], "ttft_ms", 1, "ms")
    assert apart is not None and charts.TOP < apart.points[0].y < apart.points[1].y < charts.HEIGHT - charts.BOTTOM


def test_boxes_hold_the_percentiles() -> None:
    lines = charts.distributions([(0, list(np.linspace(1, 101, 101))), (1, [])], "ms")
    assert lines is not None and len(lines.boxes) == 1
    assert lines.boxes[0].text == "1: median 51 ms, 5 % below 6, 5 % above 96"
    assert list(lines.boxes[0].places) == sorted(lines.boxes[0].places)


SHOTS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


def shoot(page: Path, out: Path, width: int, scheme: str) -> Image.Image:
    """An image of the page in headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine to look at the page with")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={out.parent / f'profile-{width}-{scheme}'}", f"--screenshot={out}"]
    flags += ["--blink-settings=preferredColorScheme=" + ("0" if scheme == "dark" else "1")]
    # Headless windows are at least 500 wide, so a phone is a frame of its width.
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<body style="margin:0"><iframe src="{page.name}" style="border:0;width:{width}px;height:3000px">'
    )
    command = [chromium, *flags, f"--window-size={max(width, 500)},3000", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert out.exists(), done.stderr[-2000:]
    return Image.open(out).convert("RGB").crop((0, 0, width, 3000))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), SHOTS)
def test_a_browser_shows_it(tmp_path: Path, width: int, scheme: str) -> None:
    page = tmp_path / "report.html"
    page.write_text(html(report(), raw(), [example(), example("blue")]), encoding="utf-8")
    pixels = np.asarray(shoot(page, tmp_path / "shot.png", width, scheme)).astype(int)
    background = pixels[5, 5].mean()
    assert background < 60 if scheme == "dark" else background > 230
    # Ink down the page, and none of it over the right edge: the margin keeps its colour.
    assert (np.abs(pixels - pixels[5, 5]).max(axis=(1, 2)) > 60).mean() > 0.25
    assert np.abs(pixels[:, -6:] - pixels[5, 5]).max() < 12
