"""`edgekit app`: what it writes, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from manifests import changed

from edgekit import api
from edgekit.apps import PLATFORMS, _ort_web, web
from edgekit.apps._ort_web import FILES
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, NoSpaceError, StorageError, UnsupportedError


@pytest.fixture(scope="module")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-web's names, and nothing in its files."""
    folder = tmp_path_factory.mktemp("ort")
    for name in FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_page_with_the_bundle_in_it(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    (written,) = api.app(tiny_bundle, out=tmp_path / "page", name='Ask "it" <b>', ort=ort)
    out = tmp_path / "page"
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {*written.files, ".edgekit-app.json"} and written.written
    settings = json.loads((out / "settings.js").read_text().partition("SETTINGS = ")[2].rstrip(";\n"))
    model = (out / settings["model"]).read_bytes()
    assert settings["sha256"] == hashlib.sha256(model).hexdigest() and settings["bytes"] == len(model)
    assert settings["bundle"] == Bundle.load(tiny_bundle).hash and settings["name"] == 'Ask "it" <b>'
    files = json.loads(model)["files"]
    base = (out / settings["model"]).parent
    for one in files:
        assert hashlib.sha256((base / one["url"]).resolve().read_bytes()).hexdigest() == one["sha256"], one["path"]
    assert json.loads((out / "manifest.webmanifest").read_text())["name"] == 'Ask "it" <b>'
    listed = json.loads(re.search(r"const FILES = (\[.*?\]);", (out / "sw.js").read_text(), re.DOTALL)[1])  # type: ignore[index]
    assert all((out / name).exists() for name in listed) and "edgekit/worker.js" in listed
    assert not re.search(r"@[A-Z]+@", (out / "README.md").read_text() + (out / "sw.js").read_text())


def test_its_own_folder_is_written_again_until_somebody_changes_it(
    tiny_bundle: Path, ort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "page"
    api.app(tiny_bundle, out=out, ort=ort)
    (out / "node_modules").mkdir()
    (out / "node_modules" / "x.js").write_text("a developer's tool")
    api.app(tiny_bundle, out=out, name="Another", ort=ort)
    assert "Another" in (out / "settings.js").read_text()
    (out / "style.css").write_text("body { color: red }")
    with pytest.raises(StorageError, match=r"changed since it was written: style\.css"):
        api.app(tiny_bundle, out=out, ort=ort)
    assert "red" in (out / "style.css").read_text()


def test_a_folder_of_somebody_else_is_left_alone(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="did not write it"):
        api.app(tiny_bundle, out=tmp_path / "mine", ort=ort)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_dry_run_writes_nothing(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    (plan,) = api.app(tiny_bundle, out=tmp_path / "page", ort=ort, dry_run=True)
    assert not (tmp_path / "page").exists() and not plan.written
    assert plan.bytes == sum(plan.files.values()) > plan.model_bytes > 0


def test_a_model_that_is_downloaded_is_not_in_the_app(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    url = "https://models.example/tiny/"
    (written,) = api.app(tiny_bundle, out=tmp_path / "page", model_url=url, ort=ort)
    assert [name for name in written.files if name.startswith("model/")] == ["model/app/model.json"]
    files = json.loads((tmp_path / "page" / "model/app/model.json").read_text())["files"]
    assert {one["url"] for one in files} == {f"https://models.example/tiny/{one['path']}" for one in files}


def test_what_a_platform_cannot_run_is_refused_by_name(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    def refused(error: type[EdgekitError], name: str, change: Any, words: str) -> None:
        bundle = changed(tiny_bundle, tmp_path / f"b{len(list(tmp_path.iterdir()))}", name, change)
        with pytest.raises(error, match=words):
            api.app(bundle, out=tmp_path / "page", ort=ort)
        assert not (tmp_path / "page").exists()

    refused(
        UnsupportedError,
        "manifest.json",
        lambda m: {**m, "target": "coreml"},
        r"'coreml' does not run on web(.|\n)*onnx",
    )
    refused(
        UnsupportedError, "app/prompt.json", lambda p: {"format": 1, "unsupported": "it counts to ten"}, "counts to ten"
    )
    kind = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    refused(UnsupportedError, "tokenizer.json", lambda t: {**t, "pre_tokenizer": kind}, "pre_tokenizer is 'Metaspace'")

    def as_of_old(manifest: dict[str, Any]) -> dict[str, Any]:
        files = {name: file for name, file in manifest["files"].items() if not name.startswith(("app/", "golden/"))}
        return {**manifest, "files": files}

    old = changed(tiny_bundle, tmp_path / "old", "manifest.json", as_of_old)
    for name in ("app", "golden"):
        shutil.rmtree(old / name)
    with pytest.raises(BundleError, match=r"nothing for an app(.|\n)*Export it again"):
        api.app(old, out=tmp_path / "page", ort=ort)


def test_wrong_arguments(tiny_bundle: Path, ort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, words in (
        ({"platforms": "windows"}, "Unknown platform 'windows'"),
        ({"platforms": ["web", "web"]}, "Name each platform once"),
        ({"name": " "}, "is no name for an app"),
        ({"bundle_id": "no dots"}, "is no bundle identifier"),
        ({"model_url": "javascript:alert(1)"}, "is no address"),
        ({"ort": tmp_path}, "does not hold onnxruntime-web's files"),
    ):
        with pytest.raises(EdgekitError, match=words):
            api.app(tiny_bundle, **{"out": tmp_path / "page", "ort": ort, **given})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(NoSpaceError, match="No space"):
        api.app(tiny_bundle, out=tmp_path / "page", ort=ort)
    assert not (tmp_path / "page").exists()


def test_a_model_too_large_says_the_limit(tiny_bundle: Path, ort: Path, tmp_path: Path) -> None:
    large = changed(tiny_bundle, tmp_path / "b", "app/model.json", lambda m: {**m, "bytes": 3_000_000_000})
    with pytest.raises(EdgekitError, match=r"3,000 MB is too large(.|\n)*2,000 MB"):
        api.app(large, out=tmp_path / "page", ort=ort)


def test_the_page_speaks_for_the_families_that_python_names() -> None:
    text = (web.SOURCES / "edgekit" / "families" / "index.js").read_text()
    listed = re.search(r"const FAMILIES = \{(.*?)\};", text, re.DOTALL)
    assert listed and set(re.findall(r"^\s*(\w+)[,:]", listed[1], re.MULTILINE)) == set(web.FAMILIES)
    assert "web" in PLATFORMS.names()


def test_without_onnxruntime_web_it_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EdgekitError, match=r"npm is not installed(.|\n)*npm install"):
        _ort_web.ort_files(None)


def test_an_archive_of_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for npm that packs something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho other > onnxruntime-web-1.30.0.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(EdgekitError, match="is not that package"):
        _ort_web.ort_files(None)
    assert not (tmp_path / "cache").exists()
    assert base64.b64decode(_ort_web.INTEGRITY.removeprefix("sha512-")).__len__() == 64
