"""The documentation as pages: none without a way in, no link that leads nowhere, messages and commands that exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_reference import page
from package_index import need_package_index
from PIL import Image
from typer.testing import CliRunner

from edgekit import api
from edgekit.cli import VERBS, build
from edgekit.recipe.reading import load_recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
RECIPES = sorted((DOCS / "recipes").glob("*.yaml"))
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def in_nav(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    else:
        for below in part.values() if isinstance(part, dict) else part:
            yield from in_nav(below)


def test_every_page_stands_once_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(in_nav(nav)) == PAGES


def anchors(text: str) -> set[str]:
    """Of a page's headings, as the site and public viewers of Markdown make them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (DOCS / name).parent / path if path else DOCS / name
        assert target.exists(), link
        assert target.resolve().is_relative_to(DOCS), f"{link} is not part of the site"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def commands(text: str) -> Iterator[list[str]]:
    """Of the blocks of a page, with lines that go on put together."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\S*/)?edgekit ", line):
                yield re.sub(r"(^|\s)#.*", "", line).split()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_commands_of_a_tutorial_exist(path: Path) -> None:
    found = list(commands(path.read_text(encoding="utf-8")))
    assert found or path.stem == "first"
    for command in found:
        verb = command[1]
        assert verb in VERBS, command
        steps = [verb, *([command[2]] if verb in ("data", "demo") else [])]
        shown = CliRunner().invoke(build(), [*steps, "--help"])
        assert shown.exit_code == 0
        for option in (word for word in command if word.startswith("--")):
            assert re.search(rf"{option}\b", shown.stdout), (command, option)


def test_the_page_of_the_command_line_is_what_it_says_today() -> None:
    """python tests/helpers/cli_reference.py > docs/reference/cli.md"""
    assert (DOCS / "reference/cli.md").read_text(encoding="utf-8") == page()


# ----------------------------------------------------------------------------------------------------------- messages


def texts() -> Iterator[str]:
    """Every text of the sources, with a mark where a value stands in it."""
    for top in ("edgekit", "distill", "export", "runtimes", "devices"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_every_message_that_is_explained_is_one_of_ours() -> None:
    told = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    ours = list(texts())
    assert len(told) >= 20
    for message in told:
        wanted = re.compile(".*".join(re.escape(part) for part in message.rstrip(".").split("…")), re.DOTALL)
        assert any(wanted.search(text) for text in ours), message


# ------------------------------------------------------------------------------------------------------------ recipes


def test_the_gallery_is_what_is_there() -> None:
    named = re.findall(r"\]\(\.\./recipes/(\S+?)\)", (DOCS / "tutorials/recipes.md").read_text(encoding="utf-8"))
    assert sorted(named) == [path.name for path in RECIPES] and len(RECIPES) == 6


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_gallery_is_one(path: Path) -> None:
    assert load_recipe(path, {}).name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_gallery_runs(
    path: Path, tiny_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own settings but for sizes and times, on tiny models; where it wants a judge, by rule."""
    for number, color in enumerate(("red", "blue", "green")):
        Image.new("RGB", (60, 40), color).save(tmp_path / f"{number}.png")
    rows = [{"question": f"what is there, {n}?", "image": f"{n % 3}.png", "answer": "red"} for n in range(24)]
    for name in ("train", "test", "other"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, seed in (("teacher", 2), ("mid-teacher", 3), ("student", 1)):
        (tmp_path / name).symlink_to(tiny_of("smolvlm", seed=seed))
    (tmp_path / "edgekit.yaml").write_text(path.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)  # which names of data start from
    fewer: dict[str, Any] = {
        "trainer.steps": 2, "trainer.batch_questions": 2, "trainer.threads": 1,
        "data.test_limit": 4, "masters.gen_data.max_new_tokens": 3, "masters.gen_data.check_teacher": False,
        "masters.gen_data.check_images": False, "masters.rewards": {"judge": "rule"}, "trainer.report_to": [],
    }  # fmt: skip
    if "warmup_steps" in path.read_text(encoding="utf-8"):
        fewer |= {"trainer.warmup_steps": 1}
    if path.stem == "captions":
        fewer |= {"masters.probe.questions": 8}
    if path.stem == "qad":
        fewer |= {"qad.steps": 2, "qad.batch_questions": 2}
    done = api.distill(tmp_path / "edgekit.yaml", workspace=tmp_path, overrides=fewer)
    assert done.manifest["status"] == "finished" and (done.student / "model.safetensors").exists()


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    need_package_index()
    command = ["make", "-s", "-C", str(ROOT), "site", f"SITE={tmp_path / 'site'}", f"SITE_VENV={tmp_path / 'env'}"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-3000:]
    assert "edgekit distill" in (tmp_path / "site/reference/cli.html").read_text(encoding="utf-8")
    shown = (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
    assert "BenchSettings" in shown and "with_genai" in shown
