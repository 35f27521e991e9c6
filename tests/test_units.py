"""Numbers for people, and words that were mistyped."""

from __future__ import annotations

import subprocess
import sys

from edgekit.errors import ContextError, did_you_mean, nearest
from edgekit.units import bytes_text, hours_text


def test_units() -> None:
    counts = (0, 999, 1000, 1_234_567, 2.5e9, 1.5e15)
    assert [bytes_text(count) for count in counts] == ["0 B", "999 B", "1.0 kB", "1.2 MB", "2.5 GB", "1,500.0 TB"]
    assert bytes_text(1_234_567, 2) == "1.23 MB"
    assert [hours_text(hours) for hours in (1500, 1, 0.5, 0.002)] == ["1,500.0 h", "1.0 h", "30.0 min", "7 s"]


def test_the_nearest_word() -> None:
    assert nearest("onyx", ["onnx", "gguf"]) == "onnx" and nearest("q", ["onnx"]) is None
    assert did_you_mean("onyx", iter(["onnx"])) == "Did you mean 'onnx'?" and did_you_mean("q", ["onnx"]) == ""


def test_a_full_cache_says_what_helps() -> None:
    error = ContextError(512, fix="or export it with a larger --option context=TOKENS")
    assert error.what == "The prompt and its answer take more than 512 tokens."
    assert error.fix.endswith("a shorter answer; or export it with a larger --option context=TOKENS.")


def test_help_shows_each_summary_whole() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "edgekit", "--help"], capture_output=True, text=True, check=True
    ).stdout
    told = told.partition("Commands:")[2]
    assert "..." not in told and "exit 3 when a gate is missed" in " ".join(told.split())
