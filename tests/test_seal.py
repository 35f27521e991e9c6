"""Seals: every single byte that changes is seen, and what bears no seal is taken as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import DamagedError
from edgekit.seal import (
    BLANK,
    FOLDER_SEAL,
    KEY,
    check_folder,
    fault_of,
    intact,
    read_sealed_json,
    read_sealed_rows,
    seal_folder,
    sealed,
    write_sealed_json,
    write_sealed_rows,
)


def test_the_digest_is_of_all_bytes_with_zeros_in_its_place() -> None:
    data = f"before {KEY}: {BLANK} after".encode()
    digest = hashlib.sha256(data).hexdigest()
    assert sealed(data) == f"before {KEY}: {digest} after".encode()
    assert intact(sealed(data)) is True and intact(b"no seal at all") is None
    # A text that only speaks of seals comes before the real one.
    assert intact(sealed(f"{KEY} {BLANK}".encode() + data)) is True


@given(st.dictionaries(st.text(), st.text() | st.integers()), st.data())
def test_any_byte_that_changes_is_seen(value: dict[str, str | int], draw: st.DataObject) -> None:
    value.pop(KEY, None)
    data = sealed(json.dumps({**value, KEY: BLANK}).encode())
    place = draw.draw(st.integers(0, len(data) - 1))
    other = draw.draw(st.integers(0, 255).filter(lambda byte: byte != data[place]))
    changed = data[:place] + bytes([other]) + data[place + 1 :]
    # Where the key's own name changed there is no seal any more; everything else is told.
    assert intact(changed) is (
        None if data.rfind(KEY.encode()) <= place < data.rfind(KEY.encode()) + len(KEY) else False
    )


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "zero tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "zeros": lambda data: bytes(len(data)),
    "flipped": lambda data: data.replace(b"1", b"3", 1),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_json_that_is_not_as_it_was(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    write_sealed_json(path, {"b": [1, 2], "a": "é"})
    assert read_sealed_json(path) == {"b": [1, 2], "a": "é"}
    assert list(json.loads(path.read_bytes())) == ["b", "a", KEY]
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    with pytest.raises(DamagedError, match=r"x\.json is damaged"):
        read_sealed_json(path)


def test_a_byte_of_the_seals_own_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for place in range(len(KEY)):
        write_sealed_json(path, {"a": 1})
        other = KEY[:place] + "x" + KEY[place + 1 :]
        path.write_text(path.read_text().replace(KEY, other))
        with pytest.raises(DamagedError):
            read_sealed_json(path)


def test_json_of_before_there_were_seals(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_sealed_json(path) == {"a": 1}
    for text in ("[1]", "", '{"a": 1', "\0\0"):
        path.write_text(text)
        with pytest.raises(DamagedError):
            read_sealed_json(path)


@pytest.mark.parametrize("kind", [*DAMAGES, "removed"])
@pytest.mark.parametrize("name", ["weights", "sub/state", FOLDER_SEAL])
def test_a_folder_that_is_not_as_it_was(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 1000 + b"1")
    (tmp_path / "sub" / "state").write_bytes(b"0123456789")
    seal_folder(tmp_path)
    check_folder(tmp_path)
    (tmp_path / "README").write_text("added later")
    assert fault_of(tmp_path) is None
    path = tmp_path / name
    path.write_bytes(DAMAGES[kind](path.read_bytes())) if kind != "removed" else path.unlink()
    if (name, kind) == (FOLDER_SEAL, "removed"):
        assert fault_of(tmp_path) is None  # as a folder that never had one
        return
    fault = fault_of(tmp_path)
    assert fault is not None and name in fault
    with pytest.raises(DamagedError, match=name):
        check_folder(tmp_path)


def test_a_list_of_rows_bears_its_seal_in_the_last(tmp_path: Path) -> None:
    rows = [{"loss": 1.5, "step": 1}, {"loss": 1.25, "step": 2}]
    path = tmp_path / "log.json"
    write_sealed_rows(path, rows)
    held = json.loads(path.read_text())
    assert [row["loss"] for row in held] == [1.5, 1.25] and held[0] == rows[0]
    assert list(held[1])[-1] == KEY and read_sealed_rows(path) == rows
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedError):
            read_sealed_rows(path)
    path.write_text(json.dumps(rows))  # of before logs were sealed
    assert read_sealed_rows(path) == rows
    for other in ('{"loss": 1}', "[1, 2]", "[1, ", ""):
        path.write_text(other)
        with pytest.raises(DamagedError):
            read_sealed_rows(path)
    write_sealed_rows(path, [])
    assert read_sealed_rows(path) == []
