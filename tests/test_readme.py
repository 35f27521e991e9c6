"""The README promises only what is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekit.cli import VERBS, build
from edgekit.data import SOURCES
from edgekit.devices import DEVICES
from edgekit.export import TARGETS
from edgekit.families import FAMILIES, no_split
from edgekit.runtimes import RUNTIMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OVERVIEW = (ROOT / "docs/overview.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line[line.index("edgekit ") :].split("#")[0].split()
    for block in BLOCKS
    for line in block.splitlines()
    if re.match(r"(cd \S+ && )?(\S*/)?edgekit ", line)
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_exist(command: list[str]) -> None:
    verb = command[1]
    assert verb in VERBS
    steps = [verb, *([command[2]] if verb in ("data", "demo") else [])]
    shown = CliRunner().invoke(build(), [*steps, "--help"])
    assert shown.exit_code == 0
    for option in (word for word in command if word.startswith("--")):
        assert re.search(rf"{option}\b", shown.stdout), option


def test_every_verb_is_named_and_no_other() -> None:
    rows = re.findall(r"^\| (`edgekit .*?) \|", OVERVIEW, re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`(?:edgekit )?(\w+)`", row)}
    assert named == set(VERBS)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(BLOCKS), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_demo_installs_only_what_it_uses(tmp_path: Path) -> None:
    """From nothing: no compiler runs for the demo, and the tests' part comes into the same environment."""

    def planned(target: str) -> str:
        command = ["make", "-n", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", target]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    demo, test = planned("demo"), planned("test")
    assert "'.[onnx,demo,report]'" in demo and "gguf" not in demo and "llama" not in demo and "[dev]" not in demo
    assert demo.count("-m venv") == test.count("-m venv") == 1
    assert "'.[onnx,demo,report]'" in test and "'.[dev]'" in test and "llama-cpp-python" in test
    assert test.index("[onnx,demo,report]") < test.index("[dev]") < test.index("-m pytest")


def test_what_works_today_is_all_there_is() -> None:
    assert FAMILIES.names() == [
        *("gemma3", "idefics3", "internvl", "lfm2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_5", "qwen3_vl")
    ]
    assert [name for name in FAMILIES.names() if FAMILIES.load(name).split is no_split] == []
    assert TARGETS.names() == ["coreai", "coreml", "executorch", "gguf", "onnx"]
    assert DEVICES.names() == ["android", "host", "ipad", "iphone", "mac", "ssh", "web"]
    assert RUNTIMES.names() == ["coreai", "coreml", "executorch", "llamacpp", "onnxruntime", "pytorch"]
    assert SOURCES.names() == ["datasets", "easy_vqa", "image_folder", "jsonl", "parquet", "scenes"]


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    assert "@" not in re.sub(r"`[^`]*`|https?://\S+", "", README)  # no placeholder left
