"""Images of samples: where they are, and how they are read, whole or not at all."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from edgekit.errors import DataError
from edgekit.files import read_regular
from edgekit.inputs.images import upright

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 1 << 30
MOST_PIXELS = 178_956_970
"""Twice Pillow's own warning, where it refuses as well: 512 MB as RGB."""
# Pillow reads these by calling another program, or as a mere header.
_UNREAD = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "FITS"})
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATA_URI = re.compile(r"data:[^,]*?(;base64)?,", re.IGNORECASE)
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
)  # fmt: skip


@dataclass(frozen=True)
class ImageRef:
    """An image that is read when it is needed.

    Args:
        path: File to read; or
        data: Encoded bytes of an image file.
        origin: Where `data` was read, for messages; two images are the same image whatever it says.
    """

    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    origin: str = field(default="", repr=False, compare=False)

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path) if self.path is not None else f"embedded in {self.origin or 'a row'}"

    def open(self) -> Image:
        """The whole image decoded, the first of several frames, as a person sees it (`edgekit.inputs.images.upright`).

        `datasets` and transformers' `load_image` turn an image by its EXIF tag as well.

        Raises:
            DataError: missing, no file, not an image, damaged, cut short, or too large.
        """
        return upright(self.decoded())

    def decoded(self) -> Image:
        """The whole image as it is stored; a file of several frames stands at its first.

        Raises:
            DataError: as `open`.
        """
        from PIL import ImageFile

        from edgekit.data.jpeg import to_decode

        # A library may have switched it on for the whole process; half an image is no image here.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        encoded = self.encoded()
        try:
            data, twin = to_decode(encoded)
            image = _opened(data)
            image.load()
            if twin is not None and _opened(twin).tobytes() != image.tobytes():
                raise DataError("the image ends early: its last scan is not whole")
        except DataError as error:
            raise DataError(f"Cannot read the image {self.name}.", why=error.what) from error
        except Exception as error:  # decoders raise anything at damaged bytes: RuntimeError, struct.error, zlib.error
            raise DataError(f"Cannot read the image {self.name}.", why=self._reason(encoded, error)) from error
        return image

    def size(self) -> tuple[int, int]:
        """(width, height) by the image's header alone, not turned; nothing is decoded.

        Raises:
            DataError: missing, no file, or not an image.
        """
        encoded = self.encoded()
        try:
            return _opened(encoded).size
        except Exception as error:
            raise DataError(f"Cannot read the image {self.name}.", why=self._reason(encoded, error)) from error

    def encoded(self) -> bytes:
        """The bytes of the image file.

        Raises:
            DataError: no such file, or what is there is no file, is empty or too large.
        """
        if self.path is None:
            data = self.data or b""
        else:
            try:
                data = read_regular(self.path, MOST_BYTES)
            except FileNotFoundError as error:
                raise DataError(f"No image at {self.name}.") from error
            except (OSError, ValueError) as error:  # ValueError: a null byte in the name
                raise DataError(f"Cannot read the image {self.name}.", why=str(error)) from error
        if not data:
            raise DataError(f"Cannot read the image {self.name}.", why="It is empty.")
        return data

    def _reason(self, data: bytes, error: Exception) -> str:
        """Why bytes are no image, by what they are instead."""
        start = data[:200].lstrip().lower()
        if start.startswith(b"version https://git-lfs"):
            return "It is a Git LFS pointer, not the image itself: fetch it with  git lfs pull"
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"{")):
            return f"It is text, not an image: {data[:40]!r}"
        name = repr(str(self.path)) if self.path is not None else "its bytes"
        return re.sub(r"<_io\.BytesIO object at 0x[0-9a-f]+>", lambda _: name, str(error)) or type(error).__name__


def _opened(data: bytes) -> Image:
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=[name for name in Image.ID if name not in _UNREAD])
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"it has {width:,} x {height:,} pixels; at most {MOST_PIXELS:,} in all are decoded")
    return image


# ---------------------------------------------------------------------------------------------------------- references


def as_image_ref(value: Any, base: Path | None, location: str) -> ImageRef:
    """A reference from what a row holds.

    Args:
        value: A path, a file:// address, a data URI, base64 text, bytes, {"bytes", "path"}, or a Pillow image.
        base: Folder that relative paths start from.
        location: File and line, for messages.

    Raises:
        DataError: nothing of these, or an address that is not on this machine.
    """
    if isinstance(value, dict):  # as `datasets` stores an Image
        value = _stored(value)
    if isinstance(value, bytes):
        return ImageRef(data=value, origin=location)
    if not isinstance(value, str):
        if hasattr(value, "tobytes") and hasattr(value, "getbands"):
            return ImageRef(data=_saved(value), origin=location)
        raise DataError(f"an image is {type(value).__name__}, not a path or bytes")
    if not value:
        raise DataError("an image path is empty")
    if value[:5].lower() == "data:":
        return ImageRef(data=_from_data_uri(value), origin=location)
    if value[:5].lower() == "file:":
        return ImageRef(path=_from_file_address(value))
    if _ADDRESS.match(value):
        raise DataError(
            f"an image is a URL, {value[:60]!r}; only files and embedded bytes are read: fetch it, and name the file"
        )
    if (data := _from_base64(value)) is not None:
        return ImageRef(data=data, origin=location)
    return ImageRef(path=base / value if base is not None else Path(value))


def _stored(value: dict[str, Any]) -> Any:
    stored, path = value.get("bytes"), value.get("path")
    if isinstance(stored, str) and (data := _from_base64(stored)) is not None:
        stored = data
    if stored is not None and not isinstance(stored, bytes):
        raise DataError(f"an image's 'bytes' is {type(stored).__name__}, not bytes")
    found = stored or path
    if found is None:
        raise DataError("an image has neither bytes nor a path")
    return found


def _saved(image: Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _from_data_uri(text: str) -> bytes:
    found = _DATA_URI.match(text[:1000])
    if found is None or found[1] is None:
        raise DataError(f"an image is a data URI without ';base64,': {text[:60]!r}")
    try:
        # What was broken into lines, or lost its padding, is still read, as browsers do.
        rest = re.sub(r"\s+", "", unquote(text[found.end() :])).rstrip("=")
        return base64.b64decode(rest + "=" * (-len(rest) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"an image's data URI is no base64: {error}") from error


def _from_base64(text: str) -> bytes | None:
    """The bytes behind bare base64 of an image; None for any other text, a path among them."""
    if len(text) < 24 or not text[:24].replace("+", "a").replace("/", "a").isalnum():
        return None
    try:
        if not base64.b64decode(text[:24]).startswith(_SIGNATURES):
            return None
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_file_address(text: str) -> Path:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise DataError(f"an image is no address: {text[:60]!r}") from error
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise DataError(f"an image is on another machine, {text[:60]!r}; only file:///PATH is read")
    return Path(unquote(parts.path))
