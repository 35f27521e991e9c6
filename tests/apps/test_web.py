"""The web library beside the bundle's own answers in Python: on Node.js, and as a page in Chromium."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_answers import asked, check, wanted
from web_library import ANSWERS, BROWSER, LIBRARY, MODULES, chromium, node, package, run

from edgekit import api
from edgekit.data import Sample
from edgekit.demo.tiny import NAMES
from edgekit.external_results import phone

PRECISIONS = ("fp32", "fp16", "int8", "int4")
VISION, DECODER = "/model/onnx/vision_encoder.onnx", "/model/onnx/decoder_model_merged.onnx"
# As the page's own code, but for one line: a GPU whose kernels are wrong.
WRONG = {
    "name": "/edgekit/session.js",
    "from": "return logits.slice(-this.model.vocab_size);",
    "to": "return this.piece ? logits.slice(-this.model.vocab_size).reverse() : logits.slice(-this.model.vocab_size);",
}
Browse = Callable[..., dict[str, Any]]


def answered(bundle: Path, folder: Path, **task: Any) -> Any:
    return run(
        ANSWERS, [str(LIBRARY), str(package("onnxruntime-web") / "dist")], {"bundle": str(bundle), **task}, folder
    )


def test_the_library_is_well_typed() -> None:
    """tsc in strict mode over the library and the page, as they are."""
    command = [node(), str(package("typescript") / "bin" / "tsc"), "-p", str(LIBRARY.parent / "tsconfig.json")]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert checked.returncode == 0, checked.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_demo_answers_on_node_as_here(
    precision: str, demo_bundle: Callable[[str], Path], demo_questions: list[Sample], tmp_path: Path
) -> None:
    package("onnxruntime-web")
    bundle = demo_bundle(precision)
    found = answered(bundle, tmp_path, questions=asked(demo_questions))
    assert found["said"] == wanted(bundle, demo_questions)
    assert len({one["text"] for one in found["said"]}) > 8
    check(found["tested"])


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_every_family_gives_its_golden_vectors_on_node(
    family: str, family_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    package("onnxruntime-web")
    check(answered(family_bundle(family), tmp_path)["tested"])


@pytest.mark.slow
def test_a_prompt_in_pieces_is_the_same_prompt(
    demo_bundle: Callable[[str], Path], demo_questions: list[Sample], tmp_path: Path
) -> None:
    """As on the GPU, where onnxruntime-web is wrong for longer ones."""
    questions = asked(demo_questions[:10])
    whole, pieces = (
        answered(demo_bundle("fp32"), tmp_path, questions=questions, tests=False, piece=piece)["said"]
        for piece in (0, 24)
    )
    assert whole == pieces


# ---------------------------------------------------------------------------------------------------------- in Chromium


@pytest.fixture(scope="module")
def page(demo_bundle: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's student in fp32, as an app."""
    out = tmp_path_factory.mktemp("app") / "page"
    api.app(demo_bundle("fp32"), out=out, name="Ask a picture", ort=package("onnxruntime-web"))
    return out


@pytest.fixture(scope="module")
def browse(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Browse:
    """`browse(scenario, ...)`: the results of scenarios of browser.mjs, by name."""
    package("playwright-core")
    found = chromium()

    def start(*scenarios: dict[str, Any], **more: Any) -> dict[str, Any]:
        work = tmp_path_factory.mktemp("browser")
        task = {"app": str(page), "chromium": found, "work": str(work), "scenarios": scenarios, **more}
        results: dict[str, Any] = run(BROWSER, [str(MODULES)], task, work, timeout_s=1500)
        broken = {name: result["failed"] for name, result in results.items() if "failed" in result}
        assert not broken, broken
        return results

    return start


@pytest.mark.slow
def test_the_page_answers_proves_itself_measures_and_works_without_a_network(browse: Browse, page: Path) -> None:
    found = browse({"name": "page"})["page"]
    assert found["loaded"]["state"] == "ready" and not found["errors"]
    assert found["first"]["text"] in ("yes", "no") or found["first"]["text"].isalpha()
    assert "tokens; first after" in found["first"]["figures"] and not found["second"]["error"]
    assert found["verdict"][0].startswith("Passed") and all(line.startswith("✓") for line in found["verdict"][1:])
    assert len(found["benched"]) == 7
    (row,) = phone.rows(json.dumps(found["saved"]), "saved")
    assert row.status == "ok" and row.prefill_tokens_per_s and row.runtime == "onnxruntime-web"
    saved = found["saved"]
    assert saved["schema_version"] == 2 and saved["threads"] == 2 and "Chrome/" in saved["browser"]
    assert (row.peak_memory_bytes is None) == ("memory_by" not in saved)  # it may take longer than the page waits
    assert 0 < saved["load_ms"] < 60_000 and "2 threads" in (row.origin or "")
    # The server is gone: from the browser's own store, cross-origin isolated by the service worker, with threads.
    assert found["offline"]["state"] == "ready" and found["offline"]["isolated"]
    assert found["same"] == found["first"]["text"]


@pytest.mark.slow
def test_the_same_token_ids_in_every_precision(
    browse: Browse, demo_bundle: Callable[[str], Path], demo_questions: list[Sample]
) -> None:
    questions = asked(demo_questions)
    bundles = {precision: demo_bundle(precision) for precision in PRECISIONS}
    found = browse(
        *(
            {"name": name, "do": "answers", "model": str(bundle), "questions": questions}
            for name, bundle in bundles.items()
        )
    )
    for name, bundle in bundles.items():
        said = [{key: one[key] for key in ("ids", "text", "finish")} for one in found[name]["said"]]
        assert len(said) >= 100 and said == wanted(bundle, demo_questions), name
        assert all(one["pieces"].strip() == one["text"] for one in found[name]["said"])
        check(found[name]["tested"])
        assert {one["name"]: one["count"] for one in found[name]["tested"]["checks"]}["files"] == 10


@pytest.mark.slow
def test_every_family_gives_its_golden_vectors(browse: Browse, family_bundle: Callable[[str], Path]) -> None:
    found = browse(
        *({"name": name, "do": "answers", "model": str(family_bundle(name)), "questions": []} for name in NAMES)
    )
    for name in NAMES:
        check(found[name]["tested"])


@pytest.mark.slow
def test_a_flipped_bit_is_refused(browse: Browse) -> None:
    """Of the download, and of the browser's own store, where the file is downloaded again, and refused again."""
    found = browse({"name": "damaged", "file": VISION})["damaged"]
    assert found["refused"]["state"] == "failed"
    assert "vision_encoder.onnx is not the file that was exported" in found["refused"]["error"]
    assert found["mended"]["state"] == "ready" and found["kept"] > 1_000_000
    assert found["healed"]["state"] == "ready" and found["fetched"] == 1
    assert found["again"]["state"] == "failed" and "is not the file" in found["again"]["error"]


@pytest.mark.slow
def test_a_download_goes_on_where_it_stopped(browse: Browse) -> None:
    """The browser is killed in the middle of a file; a line breaks; a server that knows no ranges sends it whole."""
    found = browse({"name": "resume", "file": DECODER})["resume"]
    assert found["resumed"]["state"] == "ready"
    assert [one["range"] is not None for one in found["requests"]] == [True]
    assert found["broken"]["state"] == "ready" and [one["range"] is not None for one in found["breaks"]] == [
        False,
        True,
    ]
    assert found["whole"]["state"] == "ready"


@pytest.mark.slow
@pytest.mark.matrix  # five minutes, nearly all of them waiting: Chromium says how much memory it has when it likes to
def test_an_answer_is_cancelled_and_memory_stays(browse: Browse, demo_questions: list[Sample]) -> None:
    """50 answers in five rounds; the first round may still grow."""
    found = browse({"name": "long", "questions": asked(demo_questions[:10]), "rounds": 5})["long"]
    assert found["cancelled"]["error"] == "AbortError" and 2 <= len(found["cancelled"]["ids"]) < 20
    assert found["after"][0]["ids"] == found["first"][0]["ids"]
    measured = found["measured"]
    assert len(measured) == 5 and max(measured[1:]) - measured[1] < 2_000_000, measured


@pytest.mark.slow
def test_a_gpu_is_used_only_where_its_answers_are_right(browse: Browse, demo_questions: list[Sample]) -> None:
    questions = asked(demo_questions[:10])
    found = browse(
        {"name": "right", "do": "gpu", "questions": questions},
        {"name": "wrong", "do": "gpu", "questions": questions, "replace": WRONG},
    )
    if not found["right"]["there"]:
        pytest.skip("this Chromium has no WebGPU, not even in software")
    assert found["right"]["runtime"]["name"] == "webgpu", found["right"]["runtime"]
    assert found["wrong"]["runtime"]["name"] == "wasm"
    assert "the GPU failed the self-test here" in found["wrong"]["runtime"]["why"]
    assert [one["ids"] for one in found["right"]["said"]] == [one["ids"] for one in found["wrong"]["said"]]
