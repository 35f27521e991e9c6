"""An Android app's manifest, resources and assets, built by aapt into a package that is aligned, signed, inspected."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import kotlin_library as kotlin
import pytest

from edgekit import api

FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")  # Debian's, of Android 10
APP = kotlin.ANDROID / "app" / "src" / "main"
NAME = "Ask \"it\" \\u0041 & 'co' <b> @string/x %s %d ?y"


@pytest.fixture(scope="module")
def package(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An APK of all of an app but the code, and app/ with its sources."""
    if shutil.which("aapt") is None or not FRAMEWORK.exists():
        pytest.skip("aapt and android-framework-res are not installed")
    folder = tmp_path_factory.mktemp("apk")
    api.app(tiny_bundle, platforms="android", out=folder / "app", name=NAME)
    main = folder / "app/app/src/main"
    manifest = (main / "AndroidManifest.xml").read_text().replace("${applicationId}", "org.example.edgekit")
    (folder / "AndroidManifest.xml").write_text(manifest.replace("<manifest ", '<manifest package="edgekit.app" '))
    (folder / "gen").mkdir()
    command = ["aapt", "package", "-f", "-m", "-M", folder / "AndroidManifest.xml", "-S", main / "res", "-I", FRAMEWORK]
    command += ["-A", main / "assets", "--min-sdk-version", "29", "--target-sdk-version", "36", "-0", "onnx"]
    run([*command, "-J", folder / "gen", "-F", folder / "app.apk"])
    return folder


def run(command: list[str | Path]) -> str:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_manifest_and_resources_build(package: Path) -> None:
    said = run(["aapt", "dump", "badging", package / "app.apk"])
    assert "launchable-activity: name='edgekit.app.MainActivity'" in said
    assert re.findall(r"uses-permission: name='([^']*)'", said) == ["android.permission.INTERNET"]
    texts = run(["aapt", "dump", "strings", package / "app.apk"])
    assert NAME in re.findall(r"^String #\d+: (.*)$", texts, re.MULTILINE)


def test_the_bundle_lies_in_it_whole_and_its_model_unpacked(package: Path) -> None:
    """aapt leaves out names that it takes for a tool's."""
    assets = package / "app/app/src/main/assets"
    with zipfile.ZipFile(package / "app.apk") as archive:
        for file in assets.rglob("*"):
            if file.is_file():
                found = archive.getinfo(f"assets/{file.relative_to(assets).as_posix()}")
                assert archive.read(found) == file.read_bytes(), file
                assert file.suffix != ".onnx" or found.compress_type == zipfile.ZIP_STORED
        assert len([one for one in archive.namelist() if one.endswith(".onnx")]) == 3


def test_the_app_uses_the_texts_that_there_are(package: Path) -> None:
    made = (package / "gen" / "edgekit" / "app" / "R.java").read_text()
    texts = re.search(r"class string \{(.*?)\n    \}", made, re.S)
    assert texts is not None
    named = set(re.findall(r"int (\w+)=", texts[1]))
    assert named == set(re.findall(r"int (\w+) =", kotlin.resource_class()))
    sources = "".join(file.read_text() for file in (APP / "kotlin").rglob("*.kt"))
    assert set(re.findall(r"R\.string\.(\w+)", sources)) == named - {"app_name"}


def test_it_is_aligned_and_signed(package: Path) -> None:
    if not all(map(shutil.which, ("zipalign", "apksigner", "keytool"))):
        pytest.skip("zipalign, apksigner and a JDK are not installed")
    key, aligned = package / "debug.jks", package / "aligned.apk"
    names = ["-alias", "debug", "-dname", "CN=debug", "-storepass", "android", "-keypass", "android"]
    run(["keytool", "-genkeypair", "-keyalg", "RSA", "-keystore", key, *names, "-validity", "1"])
    run(["zipalign", "-f", "4", package / "app.apk", aligned])
    run(["apksigner", "sign", "--ks", key, "--ks-pass", "pass:android", aligned])
    run(["zipalign", "-c", "4", aligned])
    assert "Verifies" in run(["apksigner", "verify", "--verbose", aligned])
