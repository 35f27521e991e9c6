"""Text of others is shown, never obeyed: on the terminal, in JSON, in files."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekit import console
from edgekit.cli import build
from edgekit.errors import EdgekitError
from edgekit.files import write_json
from edgekit.report.text import escape
from edgekit.visible import json_text, message, one_line, visible

ROOT = Path(__file__).parent.parent
HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\rd\x9b31me\x85f\u2028g\u202eh\u2066i\x7fj\x00k\U000e0041l"
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


def test_by_hand() -> None:
    assert visible("a\x1b[2J\n\tb") == "a\\x1b[2J\n\tb"
    assert one_line("a\r\n\tb") == "a\\r\\n\\tb"
    assert visible("\x9b1m \x85 \u202e \u2028 \ud800") == "\\x9b1m \\x85 \\u202e \\u2028 \\ud800"
    letters = "Ärger 日本語\u3000\u00a0 שלום \U0001f468\u200d\U0001f469\u200d\U0001f467 नमस्\u200cते"
    assert visible(letters) == one_line(letters) == letters
    assert not CONTROLS.search(one_line(HOSTILE))


def test_json_keeps_the_value_and_shows_no_control() -> None:
    text = json_text({"answer": HOSTILE, HOSTILE: ["日本語"]}, indent=2)
    assert json.loads(text) == {"answer": HOSTILE, HOSTILE: ["日本語"]}
    assert not CONTROLS.search(text) and "日本語" in text and "\\u009b31m" in text and "\\udb40\\udc41" in text


def test_every_way_to_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    console.print_text(HOSTILE)
    console.print_piece(HOSTILE[:1] + "\x1b")
    console.print_piece("[2J")
    console.print_json({"text": HOSTILE})
    console.note(HOSTILE)
    console.print_error(EdgekitError(f"No file {HOSTILE}\nall is well", why=HOSTILE, fix=HOSTILE))
    with console.progress() as bar:
        bar.add_task(HOSTILE, total=1)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        console.print_traceback(type(error), error, error.__traceback__)
    out, err = capsys.readouterr()
    assert not CONTROLS.search(out) and not CONTROLS.search(err)
    assert out.count("\\x1b[2J") == 2 and "No file a\\x1b[2Jb" in err and "\\nall is well" in err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr(console, "stderr", lambda: Console(file=shown, force_terminal=True, width=200))
    with console.progress() as bar:
        bar.update(bar.add_task("one\x1b]0;x\x07two", total=1), completed=1)
    assert "one\\x1b]0;x\\x07two" in shown.getvalue() and "\x07" not in shown.getvalue()


def test_errors_on_one_line_and_below() -> None:
    told = message(EdgekitError("what\nfailed", why="why\nso", fix="do\x1b this"))
    assert told == "what\\nfailed\n  why\n  so\n  do\\x1b this"


def test_files_hold_no_controls(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": HOSTILE})
    raw = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(raw) == {"name": HOSTILE} and not CONTROLS.search(raw)
    assert not CONTROLS.search(escape(HOSTILE))


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "no\x1b[2Jfolder"], ["inspect", "no\x1b]0;t\x07"], ["targets", "x\x1b[2J"], ["\x1b[2J"],
        ["run", "demo:student", "--prompt", "q", "--image", "a\x9bb\nEverything is well.png"],
    ],
)  # fmt: skip
def test_what_the_shell_hands_over(command: list[str]) -> None:
    done = CliRunner().invoke(build(), command)
    assert done.exit_code in (1, 2) and not CONTROLS.search(done.output), done.output
    assert "\nEverything" not in done.output


def test_a_dying_process_last_words(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os, sys\n\n"
        "def die():\n    sys.stderr.write('\\x1b[2Jlast\\x9b words\\n'); sys.stderr.flush(); os._exit(3)\n"
    )
    code = (
        "import dying\nfrom edgekit.system.isolated import Isolated, ProcessDied\n"
        "from edgekit.console import print_error\n"
        "try:\n    with Isolated() as isolated: isolated.call(dying.die)\n"
        "except ProcessDied as error: print_error(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={"PATH": "", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert done.stderr.count("\\x1b[2Jlast\\x9b words") == 2 and not CONTROLS.search(done.stderr)


ALLOWED = {
    "edgekit/console.py",  # the one place
    "edgekit/cli.py",  # words of its own
    "edgekit/system/isolated.py",  # passes lines on, escaped
    "edgekit/tables.py",  # escaped cells
    "devices/_agent.py", "edgekit/system/frames.py",  # a pipe between two processes
}  # fmt: skip


def test_nothing_prints_past_it() -> None:
    """`print`, a console of rich's own, and the streams' write are for the one place that escapes."""
    found = []
    for path in [*ROOT.glob("edgekit/**/*.py"), *(p for f in ("distill", "export", "runtimes", "devices") for p in
                 (ROOT / f).rglob("*.py"))]:  # fmt: skip
        name = path.relative_to(ROOT).as_posix()
        if name in ALLOWED or re.match(r"edgekit/(distill|export|runtimes|devices)/", name):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "sys.stdout.write", "sys.stderr.write", "Console", "warnings.warn"):
                found.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
    assert not found
