"""The Android app's manifest and resources, built by aapt into a package that is aligned, signed and inspected."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import kotlin_library as kotlin
import pytest

FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")  # Debian's, of Android 10
APP = kotlin.ANDROID / "app" / "src" / "main"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An APK of all but the code."""
    if shutil.which("aapt") is None or not FRAMEWORK.exists():
        pytest.skip("aapt and android-framework-res are not installed")
    folder = tmp_path_factory.mktemp("apk")
    model = folder / "assets" / "bundle" / "onnx" / "decoder.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(5000))
    manifest = (APP / "AndroidManifest.xml").read_text().replace("${applicationId}", "org.example.edgekit")
    (folder / "AndroidManifest.xml").write_text(manifest.replace("<manifest ", '<manifest package="edgekit.app" '))
    (folder / "gen").mkdir()
    command = ["aapt", "package", "-f", "-m", "-M", folder / "AndroidManifest.xml", "-S", APP / "res", "-I", FRAMEWORK]
    command += ["-A", folder / "assets", "--min-sdk-version", "29", "--target-sdk-version", "36", "-0", "onnx"]
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
    assert "application-label:'Edgekit'" in said


def test_model_files_lie_in_it_unpacked(package: Path) -> None:
    with zipfile.ZipFile(package / "app.apk") as archive:
        model = archive.getinfo("assets/bundle/onnx/decoder.onnx")
    assert model.compress_type == zipfile.ZIP_STORED
    gradle = (kotlin.ANDROID / "app" / "build.gradle.kts").read_text()
    assert re.search(r'noCompress \+= listOf\("onnx", "onnx_data", "pte"', gradle)


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
