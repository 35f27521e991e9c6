"""`edgekit app --platform android`: what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from manifests import changed

from edgekit import api
from edgekit.api.results import AppWritten
from edgekit.apps import PLATFORMS, android
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, StorageError, UnsupportedError

NAME = "Ask \"it\" \\u0041 & 'co' <b> @string/x %s %d @NAME@"
BUNDLE = "app/src/main/assets/bundle"


def write(bundle: Path, out: Path, **given: Any) -> AppWritten:
    """The one app that is written."""
    (written,) = api.app(bundle, platforms="android", out=out, **given)
    return written


def test_a_project_with_the_bundle_in_it(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "app"
    written = write(tiny_bundle, out, name=NAME, bundle_id="org.example.ask")
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == {*written.files, ".edgekit-app.json"} and written.written
    for one in json.loads((out / BUNDLE / "app/model.json").read_text())["files"]:
        data = (out / BUNDLE / "app" / one["url"]).resolve().read_bytes()
        assert hashlib.sha256(data).hexdigest() == one["sha256"], one["path"]
        assert data == (out / BUNDLE / one["path"]).read_bytes()  # where Models.kt looks for it
    constants = json.loads((out / "app/src/main/assets/edgekit.json").read_text())
    assert constants["bundle_sha256"] == Bundle.load(tiny_bundle).hash and constants["downloads"] is False
    read = (android.SOURCES / "app/src/main/kotlin/edgekit/app/Constants.kt").read_text()
    assert set(re.findall(r'file\.\w+\("(\w+)"', read)) == set(constants) - {"edgekit"}
    properties = (out / "gradle.properties").read_text().splitlines()
    assert "edgekit.applicationId=org.example.ask" in properties and "edgekit.target=onnx" in properties
    for name in android.TEMPLATES:
        text = (out / name).read_text().replace("@NAME@", "", 1)  # the app's own name has one
        assert not re.search(r"@[A-Z_]+@", text), name


def test_its_name_is_a_text_to_aapt(tiny_bundle: Path, tmp_path: Path) -> None:
    """In quotes, with what is markup to XML or an escape to Android taken for itself."""
    write(tiny_bundle, tmp_path / "app", name=NAME)
    (name,) = ElementTree.parse(tmp_path / "app/app/src/main/res/values/edgekit.xml").getroot()
    assert name.text == '"Ask \\"it\\" \\\\u0041 & \'co\' <b> @string/x %s %d @NAME@"'


@pytest.mark.parametrize("target", android.ADAPTERS)
def test_each_target_gets_its_adapter_and_no_other(target: str, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = changed(tiny_bundle, tmp_path / "bundle", "manifest.json", lambda manifest: {**manifest, "target": target})
    write(bundle, tmp_path / "app")
    out, adapter = tmp_path / "app", android.ADAPTERS[target]
    assert [one.name for one in (out / "adapters").iterdir()] == [target]
    assert {one.name for one in (out / "app/src").iterdir()} == {"main", target}
    opens = (out / f"app/src/{target}/kotlin/edgekit/app/OpenModel.kt").read_text()
    sources = "".join(path.read_text() for path in (out / "adapters" / target).rglob("*.kt"))
    assert f"class {adapter.kotlin}(" in sources and f"{adapter.kotlin}(" in opens
    assert f'manifest.target != "{target}"' in sources  # what it says to a bundle of another one
    read_me = (out / "README.md").read_text()
    assert f"`{adapter.kotlin}`: {adapter.ran}" in read_me and adapter.needs in read_me
    assert "nothing was compiled against the Android SDK" in read_me
    assert (android.RAN in read_me) == (target in ("onnx", "gguf"))


def test_gradle_finds_what_its_files_name(tiny_bundle: Path, tmp_path: Path) -> None:
    """Nothing here runs Gradle, so each alias, module, folder and property that its files name is looked up."""
    write(tiny_bundle, tmp_path / "app")
    out = tmp_path / "app"
    catalogue = tomllib.loads((out / "gradle/libs.versions.toml").read_text())
    libraries, plugins = catalogue["libraries"], catalogue["plugins"]
    for one in (*libraries.values(), *plugins.values()):
        assert set(one) <= {"module", "id", "version"} and re.fullmatch(
            r"[\w.-]+(:[\w.-]+)?", one.get("module", one.get("id"))
        )
        assert one.get("version", {"ref": "agp"})["ref"] in catalogue["versions"]
    scripts = {path: path.read_text() for path in sorted(android.SOURCES.rglob("*.kts"))}
    text = "".join(scripts.values())
    assert {one.replace(".", "-") for one in re.findall(r"\(libs\.plugins\.([\w.]+)\)", text)} == set(plugins)
    used = {one.replace(".", "-") for one in re.findall(r"\(libs\.(?!plugins)([\w.]+)\)", text)}
    assert used | {"compose-bom"} == set(libraries)
    properties = dict(
        line.split("=", 1) for line in (out / "gradle.properties").read_text().splitlines() if "=" in line
    )
    assert set(re.findall(r'gradleProperty\("([\w.]+)"\)', text)) <= set(properties)
    assert all(text.count(one) == text.count(other) for one, other in ("{}", "()"))
    for module in re.findall(r'project\(":(\w+)"\)', text):
        assert module in ("core", "adapter")
    assert (out / "core/build.gradle.kts").is_file() and (out / "adapters/onnx/build.gradle.kts").is_file()


def test_model_files_are_stored_as_they_are(tiny_bundle: Path) -> None:
    """By the ends of their names; small texts may be packed."""
    gradle = (android.SOURCES / "app/build.gradle.kts").read_text()
    listed = re.search(r"noCompress \+= listOf\((.*?)\)", gradle)
    assert listed
    ends = tuple(re.findall(r'"(\w+)"', listed[1]))
    files = json.loads((tiny_bundle / "app/model.json").read_text())["files"]
    assert [one["path"] for one in files if one["for"] == "model" and not one["path"].endswith(ends)] == []
    assert {"pte", "gguf", "onnx_data"} <= set(ends)


def test_a_model_that_is_downloaded_comes_by_the_apps_own_hashes(tiny_bundle: Path, tmp_path: Path) -> None:
    written = write(tiny_bundle, tmp_path / "app", model_url="https://models.example/tiny/")
    assert [name for name in written.files if name.startswith(BUNDLE)] == [f"{BUNDLE}/app/model.json"]
    files = json.loads((tmp_path / "app" / BUNDLE / "app/model.json").read_text())["files"]
    assert {one["url"] for one in files} == {f"https://models.example/tiny/{one['path']}" for one in files}
    assert json.loads((tmp_path / "app/app/src/main/assets/edgekit.json").read_text())["downloads"] is True
    assert "https://models.example/tiny/" in (tmp_path / "app/README.md").read_text()


def test_what_it_refuses(tiny_bundle: Path, tmp_path: Path) -> None:
    other = changed(tiny_bundle, tmp_path / "other", "manifest.json", lambda m: {**m, "target": "coreml"})
    large = changed(tiny_bundle, tmp_path / "large", "app/model.json", lambda m: {**m, "bytes": 500_000_000})
    for bundle, given, kind, words in (
        (other, {}, UnsupportedError, r"'coreml' does not run on android(.|\n)*onnx, executorch, gguf"),
        (large, {}, EdgekitError, r"500 MB is too large(.|\n)*200 MB(.|\n)*--model-url"),
        (tiny_bundle, {"model_url": "http://models.example/tiny"}, EdgekitError, "not encrypted(.|\n)*https://"),
        (tiny_bundle, {"bundle_id": "org.example.ask\nandroid.x=1"}, EdgekitError, "no bundle identifier"),
    ):
        with pytest.raises(kind, match=words):
            write(bundle, tmp_path / "app", **given)
        assert not (tmp_path / "app").exists()
    write(large, tmp_path / "app", model_url="https://models.example/large")


def test_it_is_written_again_after_gradle_until_somebody_changes_it(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "app"
    write(tiny_bundle, out)
    for name in (
        ".gradle/x.bin",
        "app/build/outputs/a.apk",
        "core/build/x.jar",
        "gradle/wrapper/w.jar",
        "local.properties",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("what Gradle leaves")
    write(tiny_bundle, out, name="Another")
    assert "Another" in (out / "README.md").read_text()
    (out / "app/src/main/kotlin/edgekit/app/AskScreen.kt").write_text("package edgekit.app")
    with pytest.raises(StorageError, match=r"changed since it was written: .*AskScreen\.kt"):
        write(tiny_bundle, out)


def test_what_gradle_leaves_does_not_go_into_an_app(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(android.SOURCES, tmp_path / "android")
    (tmp_path / "android/core/build").mkdir()
    (tmp_path / "android/core/build/core.jar").write_text("built")
    monkeypatch.setattr(android, "SOURCES", tmp_path / "android")
    assert not [name for name in write(tiny_bundle, tmp_path / "app", dry_run=True).files if "core.jar" in name]


def test_several_platforms_at_once_are_written_all_or_none(tiny_bundle: Path, tmp_path: Path) -> None:
    two = api.app(tiny_bundle, platforms=["ios", "android"], out=tmp_path / "both")
    assert [one.out for one in two] == [str(tmp_path / "both/ios"), str(tmp_path / "both/android")]
    other = changed(tiny_bundle, tmp_path / "other", "manifest.json", lambda m: {**m, "target": "coreml"})
    with pytest.raises(UnsupportedError, match="'coreml' does not run on android"):
        api.app(other, platforms=["ios", "android"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_library_speaks_for_the_families_that_python_names() -> None:
    text = (android.SOURCES / "core/src/main/kotlin/edgekit/families/Family.kt").read_text()
    listed = re.search(r"val FAMILIES: .*? = mapOf\((.*?)\n\)", text, re.DOTALL)
    assert listed and set(re.findall(r'"(\w+)" to', listed[1])) == set(android.FAMILIES)
    assert "android" in PLATFORMS.names()
