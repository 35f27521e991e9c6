"""The header of a GGUF file: what it says is followed only where it lies in the file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from edgekit.errors import BundleError
from edgekit.formats.gguf.header import Listed, Stored, read_header

pytest.importorskip("gguf", reason="gguf is not installed: pip install 'edgekit[gguf]'")


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


FIELDS = (
    text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
    text(b"llama.block_count") + struct.pack("<II", 4, 7),
    text(b"t.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
    text(b"t.scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.5, 1.0, 2.0),
    text(b"t.flag") + struct.pack("<I?", 7, True),
)
TENSOR = text(b"x.weight") + struct.pack("<IQQIQ", 2, 4, 3, 0, 0)  # 3 rows of 4 float32


def made(fields: tuple[bytes, ...] = FIELDS, tensor: bytes = TENSOR, count: int = 1, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, count, len(fields)) + b"".join(fields) + tensor
    return head + b"\0" * (-len(head) % 32) + b"\0" * 48


def test_an_honest_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(made())
    found = read_header(tmp_path / "a")
    assert found.tensors == {"x.weight": Stored((3, 4), 0)}
    assert found.number("llama.block_count") == 7 and found.fields["general.architecture"] == "llama"
    assert found.fields["t.tokens"] == Listed(2) and found.fields["t.scores"] == Listed(3, (0.5, 1.0, 2.0))
    assert found.number("t.flag") is None and found.number("nothing") is None


def test_cut_anywhere(tmp_path: Path) -> None:
    whole = made()
    for size in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:size])
        with pytest.raises(BundleError, match="no GGUF file"):
            read_header(tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGML" + made()[4:], "it begins with b'GGML'"),
        (made(version=1), "its version is 1"),
        (made(count=1 << 60), "n_tensors: 1,152,921,504,606,846,976 is more than 65,536"),
        (made()[:16] + struct.pack("<Q", 1 << 63) + made()[24:], "n_kv: 9,223,372,036,854,775,808 is more"),
        (made((*FIELDS, FIELDS[1])), "the key 'llama.block_count' stands twice"),
        (made((struct.pack("<Q", 5000) + b"k" * 5000,)), "a key: bytes: 5,000 is more than 4,096"),
        (made((text(b"k") + struct.pack("<IQ", 8, 1 << 40),)), "k: bytes: 1,099,511,627,776 is more than"),
        (made((text(b"k") + struct.pack("<I", 13),)), "k: 13 is no type of values"),
        (made((text(b"k") + struct.pack("<IIQ", 9, 9, 1),)), "k: 9 is no type of entries"),
        (made((text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 40),)), "k: entries: 1,099,511,627,776 is more than"),
        (made((text(b"k") + struct.pack("<IIQQ", 9, 8, 1, 1 << 40),)), "k: 1,099,511,627,776 bytes at"),
        (made((text(b"k") + struct.pack("<IIQ", 9, 10, 1 << 61),)), "go past its end"),
        (made((text(b"general.alignment") + struct.pack("<II", 4, 3),)), "general.alignment: 3 is no power of two"),
        (made((text(b"general.alignment") + struct.pack("<II", 4, 0),)), "general.alignment: 0 is no power of two"),
        (made(tensor=TENSOR + TENSOR, count=2), "the tensor 'x.weight' stands twice"),
        (made(tensor=text(b"x" * 65)), "the name of a tensor: bytes: 65 is more than 64"),
        (made(tensor=text(b"x") + struct.pack("<I", 5)), "x: axes: 5 is more than 4"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 1 << 32, 0, 0)), "x: size: 4,294,967,296 is more than"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 4, 99, 0)), "x: 99 is no type of tensors"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 4, 8, 0)), "x: rows of 4 numbers are no blocks of 32"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 4, 0, 1)), "x: 16 bytes at 1 do not lie in the file"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 13, 0, 0)), "x: 52 bytes at 0 do not lie in the file"),
        (made(tensor=text(b"x") + struct.pack("<IQIQ", 1, 4, 0, (1 << 64) - 32)), "do not lie in the file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_header(tmp_path / "a")
    assert said in str(caught.value)
