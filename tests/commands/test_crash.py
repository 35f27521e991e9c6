"""A runtime that ends its own process, through the real commands: a failed row with the reason and the last lines."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CRASH = "import os, sys, signal\nprint('native trouble', file=sys.stderr, flush=True)\n{}\n"
ABORT, LEAVE = "os.kill(os.getpid(), signal.SIGABRT)", "os._exit(0)"
CHATTER = ("torchao", "_pytree", "mxfp8")


def edgekit(site: Path, crash: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with an onnxruntime before the real one that ends the process which imports it."""
    site.mkdir()
    (site / "onnxruntime.py").write_text(CRASH.format(crash))
    paths = [str(site), os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent.parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "edgekit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def test_verify(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    ran = edgekit(tmp_path / "site", ABORT, "verify", str(bundle), "--reference", str(tiny_checkpoint))
    assert ran.returncode == 3, ran.stderr
    assert "FAILED    answers: its process was ended by SIGABRT: " in ran.stdout and "native trouble" in ran.stdout
    found = json.loads((bundle / "parity.json").read_text())
    assert found["passed"] is False and found["compared"] is False and "SIGABRT" in found["why"]
    assert not any(word in ran.stderr for word in CHATTER), ran.stderr  # the reference was loaded by then


@pytest.mark.slow
def test_matrix(tmp_path: Path) -> None:
    """Both rows are tried, and the command ends as any matrix with failed rows does."""
    asked = ["targets", "--matrix", "--target", "onnx", "--family", "internvl"]
    ran = edgekit(tmp_path / "site", ABORT, *asked, "--precision", "fp32", "--precision", "int8", "--json")
    assert ran.returncode == 3, ran.stderr
    rows = json.loads(ran.stdout)
    assert [(row["precision"], row["passed"]) for row in rows] == [("fp32", False), ("int8", False)]
    assert all("ended by SIGABRT" in row["why"] and row["why"].endswith("native trouble") for row in rows)
    assert not any(word in ran.stderr for word in CHATTER), ran.stderr


@pytest.mark.parametrize(("crash", "said"), [(ABORT, "ended by SIGABRT"), (LEAVE, "ended before its work was done")])
def test_bench(crash: str, said: str, tiny_bundle: Path, tmp_path: Path) -> None:
    asked = ["bench", str(tiny_bundle), "--data", "easy-vqa:test", "--limit", "2", "--out", str(tmp_path / "out")]
    ran = edgekit(tmp_path / "site", crash, *asked)
    assert ran.returncode == 3, ran.stderr
    (row,) = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    assert row["status"] == "failed" and said in row["reason"] and row["reason"].endswith("native trouble")
    assert said in ran.stdout


def test_only_known_chatter_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    known = "Failed to load /lib/torchao/_C_mxfp8.so: Could not load this library"
    with caplog.at_level(logging.WARNING):
        logging.getLogger("torchao").warning(known)
        logging.getLogger("torchao").warning("another warning")
        logging.getLogger("torchao").error(known)
        logging.getLogger("torch.utils._pytree").warning("register_constant() on Enum subclasses is deprecated")
    assert [record.getMessage() for record in caplog.records] == ["another warning", known]


def test_sigterm_leaves_nothing_half_written(tmp_path: Path) -> None:
    """`timeout`, or a container that is stopped, in the middle of a write."""
    code = """
import os, signal, sys
from pathlib import Path
from edgekit import cli
from edgekit.files import new_folder
def work():
    with new_folder(Path(sys.argv[1])) as folder:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGTERM)
cli.build = lambda: work
cli.main()
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, timeout=60)
    assert (ran.returncode, list(tmp_path.iterdir())) == (143, [])
