"""Writes that happen whole or not at all, names that stay inside, and the operating system's refusals."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgekit.asides import clear_left_behind
from edgekit.errors import BundleError, StorageError
from edgekit.files import (
    inside,
    new_folder,
    scratch,
    sha256_file,
    sha256_json,
    sha256_tree,
    storage_errors,
    tree_files,
    write_bytes,
    write_json,
)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "No space left while writing"),
        (errno.EDQUOT, "No space left while writing"),
        (errno.EACCES, "Cannot write"),
        (errno.EROFS, "Cannot write"),
        (errno.ENOTDIR, "a file of that name is in the way"),
    ],
)
def test_refusals_become_storage_errors(tmp_path: Path, code: int, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught, storage_errors(tmp_path / "f"):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path / "f") in caught.value.what and caught.value.fix
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "bad disk"), ValueError("a bug")):
        with pytest.raises(type(error), match=str(error.args[-1])), storage_errors(tmp_path):
            raise error


def test_a_full_disk_met_by_a_library_of_its_own_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), storage_errors(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="shape"), storage_errors(tmp_path):
        raise RuntimeError("shape mismatch")


def test_a_folder_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match="in the way"):
        write_bytes(tmp_path / "f" / "g", b"y")
    with pytest.raises(StorageError, match="in the way"), new_folder(tmp_path / "f" / "g"):
        pass
    (tmp_path / "d").mkdir()
    with pytest.raises(StorageError, match="in the way"):
        write_bytes(tmp_path / "d", b"y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "f"]


def test_a_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    """Who has the old file open goes on reading the old bytes, never a mixture."""
    write_bytes(tmp_path / "f", b"old")
    with (tmp_path / "f").open("rb") as reader:
        write_bytes(tmp_path / "f", b"newer")
        assert reader.read() == b"old"
    assert (tmp_path / "f").read_bytes() == b"newer"


def test_a_write_cut_off_half_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new bytes go to another name: at no moment is the old file open for writing."""
    path = tmp_path / "f"
    write_bytes(path, b"old")
    seen = []

    def stopped(_: int) -> None:
        seen.append((path.read_bytes(), len(list(tmp_path.iterdir()))))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert seen == [(b"old", 2)]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with new_folder(out) as folder:
        (folder / "old").write_text("x")
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="No space left"), new_folder(out, replace=True) as folder:
        (folder / "new").write_text("y")
    assert tree_files(tmp_path) == ["out/old"]


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
        assert folder.parent == tmp_path / "deep"  # the same file system, so that the last step is a rename
    assert tree_files(tmp_path) == ["deep/out/a"]


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from edgekit.files import new_folder
with new_folder(Path({str(tmp_path / "out[1]")!r})) as folder:
    (folder / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    (half,) = tree_files(tmp_path)
    assert half.startswith(".out[1].") and half.endswith(".tmp/half")
    (tmp_path / ".out[1].mine.tmp").mkdir()  # no name that is written here
    with new_folder(tmp_path / "out[1]") as first:
        (first / "a").write_text("a")
        assert [name for name in tree_files(tmp_path) if name.endswith("half")] == []
        with new_folder(tmp_path / "out[1]") as second:
            (second / "b").write_text("b")
            assert (first / "a").read_text() == "a"
        shutil.rmtree(tmp_path / "out[1]")
    assert tree_files(tmp_path) == ["out[1]/a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out[1].mine.tmp", "out[1]"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_left_behind_goes_with_the_next_write_of_its_name(tmp_path: Path, kind: str) -> None:
    """Killed in the middle of a write; a writer that lives keeps its own, in another process too."""
    program = f"""
import os, signal, sys, time
from pathlib import Path
from edgekit import files
def stop(descriptor):
    print("writing", flush=True)
    time.sleep(60)
files._sync = stop
if {kind!r} == "file":
    files.write_bytes(Path({str(tmp_path / "f")!r}), b"half")
else:
    with files.new_folder(Path({str(tmp_path / "f")!r}), replace=True) as folder:
        (folder / "half").touch()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    (left,) = tmp_path.iterdir()
    write_bytes(tmp_path / "f", b"x")
    (tmp_path / "f").unlink()
    assert clear_left_behind(tmp_path) == [] and left.exists()  # its writer lives
    process.kill()
    process.wait()
    write_bytes(tmp_path / "other", b"x")
    assert left.exists()
    write_bytes(tmp_path / "f", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "other"]


def test_all_that_was_left_behind_below_a_folder(tmp_path: Path) -> None:
    for name in ("a/.x.0123abcd.tmp", "b/c/.y.json.89abcdef.tmp"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "b" / ".folder.01234567.old").mkdir()
    (tmp_path / "b" / ".folder.01234567.old" / "whole").touch()
    kept = [".x.0123abc.tmp", ".x.0123abcd.tmp.gz", "x.0123abcd.tmp", ".x.0123ABCD.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    assert clear_left_behind(tmp_path) == ["a/.x.0123abcd.tmp", "b/.folder.01234567.old", "b/c/.y.json.89abcdef.tmp"]
    # A folder that was moved out of the way of one that never came is the last whole one.
    assert tree_files(tmp_path) == sorted([*kept, "b/folder/whole"])


def test_what_counts_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file before the rename, its folder after it."""
    seen: list[tuple[str, bool]] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((name.relative_to(tmp_path).as_posix(), (tmp_path / "deep" / "out").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("x")
        aside = folder.name
    before = {name for name, there in seen if not there}
    assert before == {".", f"deep/{aside}", f"deep/{aside}/sub", f"deep/{aside}/sub/a"}
    assert seen[-1] == ("deep", True)
    seen.clear()
    write_bytes(tmp_path / "deep" / "f", b"x")
    (first, _), (last, _) = seen
    assert first.startswith("deep/.f.") and last == "deep" and (tmp_path / "deep" / "f").exists()


def test_scratch_is_inside_and_gone_at_the_end(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with pytest.raises(ValueError, match="stop"), scratch(tmp_path):
        with tempfile.NamedTemporaryFile(delete=False) as stream:
            assert tmp_path in Path(stream.name).parents
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == [] and tempfile.gettempdir() == before


@pytest.mark.parametrize(
    "name", ["../b", "a/../../b", "a/../b", "/etc/passwd", "a/..", "..", ".", "", "a\\b", "a\0b", "\ud800"]
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=r"leads out of|is no file name"):
        inside(tmp_path, name)


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (folder / "file").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "within").symlink_to(folder / "sub")
    for name in ("file", "up/secret"):
        with pytest.raises(BundleError, match="leads out of"):
            inside(folder, name)
    assert inside(folder, "within/x") == folder / "within" / "x"
    assert inside(folder, "..x/y") == folder / "..x" / "y"


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    values: list[Any] = [{"b": 1, "a": [1.5, None]}, {"a": [1.5, None], "b": 1}, {"a": [1.5, None], "b": 2}]
    first, same, other = map(sha256_json, values)
    assert first == same != other


def test_a_trees_hash_knows_names_and_contents_but_not_the_place(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> str:
        for file, text in files.items():
            write_bytes(tmp_path / name / file, text.encode())
        return sha256_tree(tmp_path / name)

    first = tree("one", a="x", b="y")
    assert tree("two", b="y", a="x") == first
    assert len({first, tree("three", a="y", b="x"), tree("four", a="xy", b=""), tree("five", a="x", c="y")}) == 4
    (tmp_path / "two" / "extra").write_text("z")
    assert sha256_tree(tmp_path / "two") != first == sha256_tree(tmp_path / "two", names=["b", "a"])


def test_json_is_indented_in_the_order_given(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "é", "a": 1})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": "é",\n  "a": 1\n}\n'
