"""The Android library's core on the JVM beside Python on many cases, and its Android files against stubs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import kotlin_library as kotlin
import pytest
from android_stubs import differences, read_declarations
from app_vectors import write_vectors

pytestmark = [pytest.mark.slow, pytest.mark.matrix]  # minutes of a compiler: `make test-kotlin`
MIN_SDK = 29


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    try:
        kotlin.build()
    except kotlin.Missing as error:
        pytest.skip(str(error))


def test_values_worked_out_by_hand_and_downloads_with_faults(tmp_path: Path) -> None:
    print(kotlin.run("units", tmp_path))


def test_resizing_settings_shares_and_tokenizers_are_pythons(tmp_path: Path) -> None:
    print(kotlin.run("vectors", write_vectors(tmp_path / "vectors")))


def test_adapters_and_app_fit_the_stubs_of_the_sdk() -> None:
    kotlin.check_android(kotlin.place() / "out" / "android")


def test_stubs_are_as_the_sdk_declares_them_in_its_oldest_version(tmp_path: Path) -> None:
    try:
        declared = read_declarations(kotlin.android_declarations())
    except kotlin.Missing as error:
        pytest.skip(str(error))
    stubs = kotlin.TESTS / "stubs" / "android"
    problems, looked = differences(stubs, declared, MIN_SDK)
    assert problems == []
    assert looked >= 40
    assert f"minSdk = {MIN_SDK}" in (kotlin.ANDROID / "app" / "build.gradle.kts").read_text()

    changed = tmp_path / "stubs"
    shutil.copytree(stubs, changed)
    bitmap = changed / "graphics" / "Bitmap.java"
    bitmap.write_text(bitmap.read_text().replace("public int getWidth()", "public String getWidth()"))
    assert [one.split(":")[0] for one in differences(changed, declared, MIN_SDK)[0]] == [
        "android.graphics.Bitmap.getWidth"
    ]
    assert "android.os.PowerManager.getCurrentThermalStatus is there since 29" in str(differences(stubs, declared, 28))


def test_each_stub_names_the_page_it_was_read_from() -> None:
    for file in (kotlin.TESTS / "stubs").rglob("*.*"):
        classes = re.findall(r"^\s*(?:public |open |abstract |sealed )*(?:class|interface) \w+", file.read_text(), re.M)
        assert not classes or "/** https://" in file.read_text(), file
