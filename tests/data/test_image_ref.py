"""Images as they come: whole ones give the pixels that transformers' `load_image` gives, all others a reason."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin
from transformers.image_utils import load_image

from edgekit import api
from edgekit.data import ImageRef
from edgekit.data.image_ref import as_image_ref
from edgekit.errors import DataError


def noise(width: int = 60, height: int = 44, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 1 << 16, (height, width), dtype=np.uint16))
    return Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA").convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scan(data: bytes) -> int:
    """Where the first scan's data begin."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4])


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_cut_short_and_closed_again_is_refused(options: dict[str, Any], mode: str) -> None:
    """Pillow fills the rest with grey and says nothing: the fault is found by its missing data."""
    options = {key: value for key, value in options.items() if (key, mode) != ("subsampling", "L")}
    data = encoded(noise(mode=mode), "JPEG", **options)
    for share in (0.05, 0.3, 0.5, 0.8, 0.95):
        cut = data[: scan(data) + int((len(data) - scan(data)) * share)].rstrip(b"\xff")
        if "progressive" not in options:
            Image.open(io.BytesIO(cut + b"\xff\xd9")).load()  # a decoder takes it
        for end in (b"\xff\xd9", b"", bytes(4000), b"\xff\xd9" + bytes(100)):
            with pytest.raises(DataError, match="Cannot read the image embedded in a row"):
                ImageRef(data=cut + end).open()


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("end", [b"", b"a trailer of some camera" * 9, bytes(200)])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (60, 44), (129, 17)])
def test_a_whole_jpeg_is_read_to_the_last_pixel(options: dict[str, Any], end: bytes, size: tuple[int, int]) -> None:
    for image in (noise(*size), noise(*size, mode="L"), Image.new("RGB", size, "teal")):
        chosen = {key: value for key, value in options.items() if (key, image.mode) != ("subsampling", "L")}
        data = encoded(image, "JPEG", **chosen)
        wanted = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(np.asarray(ImageRef(data=data + end).open()), wanted)


def test_images_of_several_parts_and_damaged_headers() -> None:
    first, second = noise(seed=1), noise(seed=2)
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert ImageRef(data=data).open().size == first.size
    for junk in (b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0", b"\xff\xd8\xff\xda\0\x02", encoded(first, "JPEG")[:30]):
        with pytest.raises(DataError):
            ImageRef(data=junk).open()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000"])
def test_half_a_file_of_any_kind_is_refused(kind: str) -> None:
    data = encoded(noise(), kind)
    with pytest.raises(DataError):
        ImageRef(data=data[: len(data) // 2]).open()


def test_nobody_else_can_let_half_images_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library may set Pillow's switch for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for kind in ("JPEG", "PNG", "GIF"):
        data = encoded(noise(), kind)
        with pytest.raises(DataError):
            ImageRef(data=data[: len(data) // 2]).open()


def special() -> dict[str, bytes]:
    clear = noise(mode="P")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "CMYK": encoded(noise(mode="CMYK"), "JPEG"),
        "grey": encoded(noise(mode="L"), "PNG"),
        "bits": encoded(noise(mode="1"), "PNG"),
        "palette": encoded(noise(mode="P"), "PNG"),
        "turned JPEG": encoded(noise(), "JPEG", exif=exif),
        "turned PNG": encoded(noise(), "PNG", exif=exif),
        "turned WebP": encoded(noise(), "WEBP", exif=exif, lossless=True),
        "animated GIF": encoded(clear, "GIF", save_all=True, append_images=[noise(mode="P", seed=5)]),
        "animated PNG": encoded(noise(), "PNG", save_all=True, append_images=[noise(seed=5)]),
        "animated WebP": encoded(noise(), "WEBP", save_all=True, append_images=[noise(seed=5)]),
        "pages": encoded(noise(), "TIFF", save_all=True, append_images=[noise(seed=5)]),
    }


@pytest.mark.parametrize(("name", "data"), special().items(), ids=special())
def test_the_pixels_are_those_of_transformers(tmp_path: Path, name: str, data: bytes) -> None:
    """Whatever the suffix says; an image is turned by its tag, and of several frames the first is seen."""
    path = tmp_path / "wrong-suffix.bmp"
    path.write_bytes(data)
    wanted = np.asarray(load_image(str(path)))
    for ref in (ImageRef(path=path), ImageRef(data=data)):
        np.testing.assert_array_equal(np.asarray(ref.open().convert("RGB")), wanted)


def test_deep_grey_keeps_its_shades_and_transparency_is_left_to_the_processor() -> None:
    deep = encoded(Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)), "PNG")
    assert np.asarray(ImageRef(data=deep).open()).tolist() == [[0, 1, 128, 255]]
    clear = encoded(noise(mode="P"), "PNG", transparency=7)
    assert ImageRef(data=clear).open().info["transparency"] == 7


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 x 60,000 pixels in a few hundred bytes; and one that Pillow would only warn of."""
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    for side, why in ((60_000, "pixels"), (14_000, "pixels")):
        header = b"IHDR" + side.to_bytes(4) * 2 + data[24:29]
        data[12:33] = header + zlib.crc32(header).to_bytes(4)
        with pytest.raises(DataError, match=why):
            ImageRef(data=bytes(data)).open()
    monkeypatch.setattr("edgekit.data.image_ref.MOST_PIXELS", 60 * 44 - 1)
    with pytest.raises(DataError, match=r"60 x 44 pixels; at most 2,639"):
        ImageRef(data=encoded(noise(), "PNG")).open()
    text = PngImagePlugin.PngInfo()
    text.add_text("bomb", "0" * (100 << 20), zip=True)
    with pytest.raises(DataError):
        ImageRef(data=encoded(noise(), "PNG", pnginfo=text)).open()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door.png")
    reasons = {
        "pipe.png": "a pipe, no file",
        "link.png": "a pipe, no file",
        "folder.png": "a folder, no file",
        "empty.png": "It is empty",
        "loop.png": "symbolic links",
        "door.png": "No such device",
        "/dev/zero": "a device, no file",
        "none.png": "No image at none.png",
        "a\0b.png": "null byte",
        "x" * 5000: "name too long",
    }
    for name, reason in reasons.items():
        raised: list[Exception] = []

        def look(name: str = name, raised: list[Exception] = raised) -> None:
            try:
                ImageRef(path=Path(name)).open()
            except DataError as error:
                raised.append(error)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), name
        assert raised and reason in str(raised[0]), (name, raised)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "It is text, not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "It is text, not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify"),  # never handed to Ghostscript
    ],
)
def test_what_it_is_instead(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    for ref in (ImageRef(path=tmp_path / "a.png"), ImageRef(data=data)):
        for read in (ref.open, ref.size):
            with pytest.raises(DataError, match=reason):
                read()


def test_the_check_decodes_every_image_and_keeps_the_order(tmp_path: Path) -> None:
    """More rows than are looked at ahead; the bad ones are named by file, line and reason."""
    data = encoded(noise(), "JPEG")
    cut = data[: len(data) // 2] + b"\xff\xd9"
    rows = []
    for number in range(150):
        name = f"{number}.jpg"
        (tmp_path / name).write_bytes(cut if number % 50 == 7 else data)
        rows.append({"question": "q", "image": name, "answer": "a"})
    spec = tmp_path / "q.jsonl"
    spec.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = api.data_check(str(spec)).findings
    assert [row.location for row in found.bad] == [f"{spec}:{number + 1}" for number in (7, 57, 107)]
    assert all("the image ends early" in row.reason or "truncated" in row.reason for row in found.bad)
    assert (found.good, found.widths, found.heights) == (147, (60, 60), (44, 44))
    assert api.data_check(str(spec), fast=True).findings.good == 150
    (tmp_path / "3.jpg").unlink()
    assert [row.location for row in api.data_check(str(spec), fast=True).findings.bad] == [f"{spec}:4"]


def test_the_check_warns_of_what_is_seen_otherwise_than_stored(tmp_path: Path) -> None:
    names = {"animated GIF": "2 frames", "turned PNG": "turned by its EXIF tag", "CMYK": ""}
    images = special() | {"deep": encoded(noise(mode="I;16"), "PNG")}
    for name, words in (names | {"deep": "16 bits"}).items():
        (tmp_path / "a.png").write_bytes(images[name])
        (tmp_path / "q.jsonl").write_text('{"question": "q", "image": "a.png", "answer": "a"}\n')
        found = api.data_check(str(tmp_path / "q.jsonl")).findings
        assert found.good == 1 and [words in row.reason for row in found.warnings] == [True] * bool(words)
        if name == "turned PNG":
            assert (found.widths, found.heights) == ((44, 44), (60, 60))


def test_progress_is_a_bar_where_the_length_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "q.jsonl"
    spec.write_text('{"question": "q", "answer": "a"}\n' * 20)
    api.data_check(str(spec), limit=10)
    assert "100 %" in capsys.readouterr().err


def test_a_reference_is_its_file_or_its_bytes() -> None:
    assert as_image_ref("a.png", Path("/x"), "here") == ImageRef(path=Path("/x/a.png"))
    assert as_image_ref("/9j/a.jpg", None, "here") == ImageRef(path=Path("/9j/a.jpg"))  # as base64 of a JPEG begins
    jpeg = encoded(noise(), "JPEG")
    assert as_image_ref(base64.b64encode(jpeg).decode(), None, "here") == ImageRef(data=jpeg)
    assert as_image_ref(noise(), None, "here").open().tobytes() == noise().tobytes()
