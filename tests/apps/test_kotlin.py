"""The Android library on the JVM beside Python, on many cases and on whole bundles; its Android files against stubs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kotlin_library as kotlin
import numpy as np
import pytest
from android_stubs import differences, read_declarations
from app_vectors import write_vectors
from web_answers import wanted

from edgekit.data import Sample
from edgekit.demo.tiny import NAMES
from edgekit.external_results import phone
from edgekit.inputs.images import as_rgb

pytestmark = [pytest.mark.slow, pytest.mark.matrix]  # minutes of a compiler: `make test-kotlin`
MIN_SDK = 29
PRECISIONS = ("fp32", "fp16", "int8", "int4")


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


def prove(*bundles: Path) -> None:
    """Each bundle's self-test passes, and what is tried around an answer; not even near ties part."""
    said = kotlin.run("bundles", *bundles)
    print(said)
    counts = re.findall(r"^.*\): (\d+) checks, (\d+) failed$", said, re.MULTILINE)
    assert len(counts) == len(bundles)
    for checks, failed in counts:
        assert int(checks) >= 26 and failed == "0"  # ten images, the strings, ten prompts, four answers, a chat


def test_golden_vectors_of_each_family_chats_and_caches(family_bundle: Callable[[str], Path]) -> None:
    bundles = [family_bundle(name) for name in (*NAMES, "smolvlm-heads")]
    prove(*bundles)
    said = kotlin.run("caches", *bundles)
    print(said)
    assert re.findall(r"^(\S+) .*: 0 of 150 tokens kept$", said, re.MULTILINE) == [
        "lfm2_vl", "qwen3_5",
    ]  # states cannot go back  # fmt: skip
    assert said.count(": 150 of 150 tokens kept") == len(NAMES) - 1


def test_the_demos_golden_vectors_and_answers_in_every_precision(
    demo_bundle: Callable[[str], Path], demo_questions: list[Sample], tmp_path: Path
) -> None:
    bundles = [demo_bundle(precision) for precision in PRECISIONS]
    prove(*bundles)
    said = kotlin.run("answers", questions(tmp_path, bundles, demo_questions), *bundles)
    print(said)
    assert re.findall(r"(\d+) of (\d+) answers have the same ids", said) == [("100", "100")] * 4


def questions(folder: Path, bundles: list[Path], asked: list[Sample]) -> Path:
    """Questions with their images as raw bytes, and what each bundle answers in Python."""
    entries = []
    for number, sample in enumerate(asked):
        (shown,) = [np.asarray(as_rgb(image.open())) for image in sample.images]
        (folder / f"{number}.rgb").write_bytes(shown.tobytes())
        entries.append(
            {"text": sample.text, "file": f"{number}.rgb", "height": shown.shape[0], "width": shown.shape[1]}
        )
    answers = {
        bundle.name: [{**one, "ids": said["ids"]} for one, said in zip(entries, wanted(bundle, asked), strict=True)]
        for bundle in bundles
    }
    (folder / "questions.json").write_text(json.dumps({"max_new_tokens": 8, "answers": answers}))
    return folder / "questions.json"


@pytest.mark.parametrize("precision", ("fp16", "int8"))
def test_llama_cpp_gives_the_demos_golden_answers(precision: str, tmp_path: Path) -> None:
    if find_spec("gguf") is None:
        pytest.skip("gguf is not installed")
    try:
        kotlin.llama_library(kotlin.place() / "out")
    except kotlin.Missing as error:
        pytest.skip(str(error))
    from exporting import export_checkpoint

    from edgekit.checkpoint.folder import resolve_checkpoint
    from edgekit.runtimes.golden import golden_answers

    out = tmp_path / f"gguf-{precision}"
    export_checkpoint(resolve_checkpoint("demo:student"), "gguf", precision, out, prompts=2, answers=golden_answers)
    prove(out)


@pytest.mark.parametrize(
    ("gap", "other", "result", "status"),
    [(None, False, "passed", "ok"), (0.01, True, "passed", "ok"), (0.5, True, "FAILED", "failed")],
)
def test_what_bench_shares_is_a_row_that_tells_of_the_self_test(
    gap: float | None, other: bool, result: str, status: str, demo_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where an answer parts at a near tie, that is no failure; elsewhere it is, and the row says so."""
    shutil.copytree(demo_bundle("fp32"), tmp_path / "bundle")
    file = tmp_path / "bundle/golden/golden.json"
    golden: dict[str, Any] = json.loads(file.read_text())
    if other:
        golden["answers"]["single"][0].update(ids=[1, 2], gap=gap)
    file.write_text(json.dumps(golden))
    kotlin.run("bench", tmp_path / "bundle", tmp_path / "phone.json")
    shared = (tmp_path / "phone.json").read_text()
    assert phone.claims(shared)
    (row,) = phone.rows(shared, "shared")
    assert row.status == status and (row.self_test or "").startswith(f"{result}: ")
    assert row.decode_tokens_per_s and row.peak_memory_bytes == 12_345_678
    assert "1 thread," in (row.origin or "") and "memory by nobody" in (row.origin or "")


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
