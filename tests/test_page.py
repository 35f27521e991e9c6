"""The HTML report: hostile text stays text, plots stand where their numbers say, and a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit import charts
from edgekit.page import html
from edgekit.report import Example, Lineage, Report, Row, SpeedTest, Stretch

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*191}}\u202egnp.exe</style></title>\x00"
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
    "RU5ErkJggg=="
)


def rows(name: str = "onnx-int8") -> tuple[Row, ...]:
    base = Row(
        "a" * 64, "student (reference)", "pytorch", "checkpoint", "fp32", "host", "ok", n=500, accuracy=0.866,
        accuracy_ci95=(0.85, 0.88), ttft_ms=6.5, ttft_ms_ci95=(6.4, 6.7), decode_tokens_per_s=780.0,
        peak_memory_bytes=441_000_000, size_bytes=3_090_000, load_ms=900.0, preprocess_ms=0.4, image_encode_ms=2.0,
        tests=(SpeedTest("pp512", "tokens/s", 9000.0, 100.0), SpeedTest("img", "images/s", reason="no")),
        sustained=tuple(Stretch(float(n), 100.0 - n, 10.0) for n in range(1, 11)),
    )  # fmt: skip
    other = replace(
        base, bundle="b" * 64, name=name, runtime="onnxruntime", target="onnx", precision="int8", accuracy=0.86,
        accuracy_ci95=(0.845, 0.875), accuracy_delta=-0.006, accuracy_delta_ci95=(-0.01, 0.001), ttft_ms=0.8,
        ttft_ms_ci95=(0.75, 0.9), peak_memory_bytes=88_000_000, size_bytes=1_580_000,
        accuracy_p=0.2, accuracy_p_holm=0.4,
    )  # fmt: skip
    failed = Row("", f"{name}-broken", "unknown", "unknown", "unknown", "host", "failed", reason=f"bad {name}")
    return base, other, failed


def report(text: str = "onnx-int8") -> Report:
    lineage = (Lineage(text, "b" * 64, "a" * 64, "c" * 64, text, {}),)
    return Report(
        2, text, text, 1, {"cpu": text}, rows(text), run=text, versions={text: text}, notes=(text,), turns=20,
        verdict=f"FAIL: {text}", methods={text: text}, lineage=lineage,
    )  # fmt: skip


def raw(name: str = "onnx-int8") -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {"bundle": row.bundle, "name": row.name, "runtime": row.runtime, "ttft_ms": (row.ttft_ms or 1) * noise,
         "itl_ms": [noise, 2 * noise]}
        for row in rows(name)[:2]
        for noise in rng.lognormal(0, 0.2, 60)
    ]  # fmt: skip


def example(text: str = "red") -> Example:
    return Example(text, f"what colour? {text}", text, PICTURE, {"0": "it is red now", "1": f"it is {text} blue now"})


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
    pictures = [attrs["src"] for tag, attrs in read.tags if tag == "img"]
    assert pictures == [PICTURE]
    addresses = [
        value for _, attrs in read.tags for name, value in attrs.items() if name in ("href", "src", "xlink:href")
    ]
    assert addresses == pictures
    policy = next(attrs["content"] for _, attrs in read.tags if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for bad in ("https://example.org/x.png", "data:image/svg+xml;base64,AAAA", f"{PICTURE}' onload='x"):
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
    assert base.high < base.y < base.low and base.left < base.x < base.right
    assert charts.pareto(rows()[2:], "ttft_ms", 1, "ms") is None


def test_boxes_hold_the_percentiles() -> None:
    lines = charts.distributions([(0, list(np.linspace(1, 101, 101))), (1, [])], "ms")
    assert lines is not None and len(lines.boxes) == 1
    assert lines.boxes[0].text == "1: median 51 ms, 5 % below 6, 5 % above 96"
    assert list(lines.boxes[0].places) == sorted(lines.boxes[0].places)


SHOTS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


def shoot(page: Path, out: Path, width: int, scheme: str) -> Image.Image:
    """A picture of the page in headless Chromium."""
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
