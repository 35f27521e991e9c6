"""`edgekit app --platform ios`: what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from manifests import changed

from edgekit import api
from edgekit.api import results
from edgekit.apps import PLATFORMS, ios
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, StorageError, UnsupportedError

NAME = 'Ask "it" \\(nil)'


def write(bundle: Path, out: Path, **given: Any) -> results.AppWritten:
    """The one app that is written."""
    (written,) = api.app(bundle, platforms="ios", out=out, **given)
    return written


def test_a_project_with_the_bundle_in_it(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "app"
    written = write(tiny_bundle, out, name=NAME, bundle_id="org.example.ask")
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {*written.files, ".edgekit-app.json"} and written.written
    assert {name.split("/")[0] for name in written.files} == {
        "App", "App.xcodeproj", "Edgekit", "EdgekitONNX", "Model", "README.md",
    }  # fmt: skip
    for one in json.loads((out / "Model/app/model.json").read_text())["files"]:
        data = (out / "Model/app" / one["url"]).resolve().read_bytes()
        assert hashlib.sha256(data).hexdigest() == one["sha256"], one["path"]
    constants = (out / "App/Sources/Constants.swift").read_text()
    assert r'static let name = "Ask \"it\" \\(nil)"' in constants  # a literal, not an interpolation
    assert f'bundleHash = "{Bundle.load(tiny_bundle).hash}"' in constants
    assert "import EdgekitONNX" in constants and "Runtime.onnx" in constants and "downloads = false" in constants
    assert "@available(iOS 18.0, *)" in constants
    for name in ("README.md", "App/Sources/Constants.swift", "App.xcodeproj/project.pbxproj"):
        assert not re.search(r"@[A-Z]+@", (out / name).read_text()), name


def test_the_project_file_is_whole(tiny_bundle: Path, tmp_path: Path) -> None:
    """What Xcode would read: brackets pair, each object that is named is there, and so is each file and package."""
    write(tiny_bundle, tmp_path / "app", name=NAME, bundle_id="org.example.ask")
    text = (tmp_path / "app/App.xcodeproj/project.pbxproj").read_text()
    plain = re.sub(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/', "", text)
    assert all(plain.count(one) == plain.count(other) for one, other in ("{}", "()"))
    objects = set(re.findall(r"^\t\t(ED[0-9A-F]{22}) (?:/\*.*?\*/ )?= \{", text, re.MULTILINE))
    assert set(re.findall(r"ED[0-9A-F]{22}", text)) == objects and len(objects) > 15
    for path in re.findall(r"(?:relativePath|path) = ([\w/]+);", text):
        assert (tmp_path / "app" / path).is_dir(), path
    for package in re.findall(r"relativePath = (\w+);", text):
        assert f'name: "{package}"' in (tmp_path / "app" / package / "Package.swift").read_text()
    assert text.count(r'INFOPLIST_KEY_CFBundleDisplayName = "Ask \"it\" \\(nil)";') == 2
    assert text.count("PRODUCT_BUNDLE_IDENTIFIER = org.example.ask;") == 2
    assert text.count("IPHONEOS_DEPLOYMENT_TARGET = 18.0;") == 2


@pytest.mark.parametrize("target", ios.ADAPTERS)
def test_each_target_gets_its_adapter_and_no_other(target: str, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = changed(tiny_bundle, tmp_path / "bundle", "manifest.json", lambda manifest: {**manifest, "target": target})
    write(bundle, tmp_path / "app")
    adapter = ios.ADAPTERS[target]
    constants = (tmp_path / "app/App/Sources/Constants.swift").read_text()
    assert f"import {adapter.module}\n" in constants and f"@available(iOS {adapter.ios}, *)" in constants
    sources = list((tmp_path / "app" / adapter.package / "Sources" / adapter.module).glob("*.swift"))
    assert f"static let {adapter.runtime} = Runtime(" in "".join(path.read_text() for path in sources)
    assert f'targets: ["{target}"]' in "".join(path.read_text() for path in sources)
    packages = {path.parent.name for path in (tmp_path / "app").glob("*/Package.swift")}
    assert packages == {"Edgekit", adapter.package}
    read_me = (tmp_path / "app/README.md").read_text()
    assert f"`{adapter.module}`: {adapter.ran}" in read_me and "nothing was compiled against Apple's SDK" in read_me
    assert (ios.RAN in read_me) == (target in ("onnx", "gguf"))


def test_a_model_that_is_downloaded_comes_by_the_apps_own_hashes(tiny_bundle: Path, tmp_path: Path) -> None:
    written = write(tiny_bundle, tmp_path / "app", model_url="https://models.example/tiny/")
    assert [name for name in written.files if name.startswith("Model/")] == ["Model/app/model.json"]
    files = json.loads((tmp_path / "app/Model/app/model.json").read_text())["files"]
    assert {one["url"] for one in files} == {f"https://models.example/tiny/{one['path']}" for one in files}
    assert "downloads = true" in (tmp_path / "app/App/Sources/Constants.swift").read_text()
    assert "https://models.example/tiny/" in (tmp_path / "app/README.md").read_text()


def test_what_it_refuses(tiny_bundle: Path, tmp_path: Path) -> None:
    other = changed(tiny_bundle, tmp_path / "other", "manifest.json", lambda m: {**m, "target": "executorch"})
    large = changed(tiny_bundle, tmp_path / "large", "app/model.json", lambda m: {**m, "bytes": 500_000_000})
    for bundle, given, kind, words in (
        (other, {}, UnsupportedError, r"'executorch' does not run on ios(.|\n)*coreml, coreai, onnx, gguf"),
        (large, {}, EdgekitError, r"500 MB is too large(.|\n)*200 MB(.|\n)*--model-url"),
        (tiny_bundle, {"model_url": "http://models.example/tiny"}, EdgekitError, "not encrypted(.|\n)*https://"),
        (tiny_bundle, {"name": "Ask $(HOME)"}, EdgekitError, r"\$\("),
    ):
        with pytest.raises(kind, match=words):
            write(bundle, tmp_path / "app", **given)
        assert not (tmp_path / "app").exists()
    write(large, tmp_path / "app", model_url="https://models.example/large")
    (tmp_path / "app/App.xcodeproj/xcuserdata").mkdir()
    (tmp_path / "app/App.xcodeproj/xcuserdata/me.plist").write_text("what Xcode leaves")
    write(large, tmp_path / "app", model_url="https://models.example/large")
    (tmp_path / "app/App/Sources/AskView.swift").write_text("import SwiftUI")
    with pytest.raises(StorageError, match=r"changed since it was written: App/Sources/AskView\.swift"):
        write(large, tmp_path / "app", model_url="https://models.example/large")


def test_what_swift_and_xcode_leave_does_not_go_into_an_app(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ios.SOURCES, tmp_path / "ios")
    (tmp_path / "ios/Edgekit/.build").mkdir(exist_ok=True)
    (tmp_path / "ios/Edgekit/.build/debug.yaml").write_text("built")
    monkeypatch.setattr(ios, "SOURCES", tmp_path / "ios")
    assert not [name for name in write(tiny_bundle, tmp_path / "app", dry_run=True).files if ".build" in name]


def test_the_library_speaks_for_the_families_that_python_names() -> None:
    text = (ios.SOURCES / "Edgekit/Sources/EdgekitCore/Families/Family.swift").read_text()
    listed = re.search(r"let families: .*?= \[(.*?)\n\]", text, re.DOTALL)
    assert listed and set(re.findall(r'"(\w+)":', listed[1])) == set(ios.FAMILIES)
    assert "ios" in PLATFORMS.names()
