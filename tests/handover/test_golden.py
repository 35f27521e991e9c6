"""Golden vectors: what is in them is what the bundle gives, and `verify` finds whatever is changed in them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from PIL import Image
from tracing import traced_once

from edgekit.bundle import MANIFEST, Bundle, seal, sealed
from edgekit.errors import BundleError
from edgekit.handover import GOLDEN, MODEL, PROMPT, VECTORS, golden
from edgekit.handover.drawn import drawn_images
from edgekit.inputs.processor import Processor
from edgekit.inputs.resizing import COLUMNS, ORDER, TALL_ROWS, installed_order
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes._bundled import PreparedSession
from edgekit.runtimes.generate import answer
from edgekit.runtimes.golden import check_handover, golden_answers
from edgekit.runtimes.verify import verify_bundle


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ONNX bundle with golden answers."""
    out = tmp_path_factory.mktemp("golden") / "b"
    with traced_once(tiny_checkpoint):
        return export_checkpoint(tiny_checkpoint, "onnx", "fp32", out, prompts=1, answers=golden_answers).folder


def resealed(folder: Path, out: Path, change: Callable[[Path], None], **fields: Any) -> Bundle:
    """A copy with something changed in it, sealed as an export seals."""
    shutil.copytree(folder, out)
    manifest = Bundle.load(out).manifest
    change(out)
    kept = {item.name: getattr(manifest, item.name) for item in dataclasses.fields(manifest)}
    for made in ("schema_version", "files", "seal"):
        del kept[made]
    seal(out, **{**kept, **fields})
    return Bundle.load(out)


def edited(file: str, edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        value = json.loads((folder / file).read_text())
        edit(value)
        (folder / file).write_text(json.dumps(value))

    return change


def test_what_an_app_needs_is_listed(bundle: Path) -> None:
    manifest, model = Bundle.load(bundle).manifest, json.loads((bundle / MODEL).read_text())
    assert manifest.schema_version == 4 and manifest.preprocessing[ORDER] == installed_order()
    kinds = {row["path"]: row["for"] for row in model["files"]}
    assert {part.file for part in manifest.components.values()} <= {name for name in kinds if kinds[name] == "model"}
    assert kinds["tokenizer.json"] == kinds[PROMPT] == "text" and kinds[VECTORS] == "golden"
    assert not {"config.json", "chat_template.jinja", MODEL, "manifest.json"} & kinds.keys()
    for row in model["files"]:
        data = (bundle / "app" / row["url"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row["bytes"], row["sha256"])
    assert model["bytes"] == sum(row["bytes"] for row in model["files"] if row["for"] != "golden")
    assert sum(row["bytes"] for row in model["files"] if row["for"] == "golden") < 300_000


def test_images_are_what_they_say(bundle: Path) -> None:
    value = golden.read_golden(bundle)
    assert [entry["name"] for entry in value["pictures"]] == list(drawn_images())
    for entry in value["pictures"]:
        with Image.open(bundle / GOLDEN / entry["file"]) as image:
            stored = image.size
        turned = entry["name"] == "exif"
        assert stored == ((entry["height"], entry["width"]) if turned else (entry["width"], entry["height"]))
        if entry["raw"] is not None:
            data = (bundle / GOLDEN / entry["raw"]).read_bytes()
            assert len(data) == entry["width"] * entry["height"] * 3
            assert hashlib.sha256(data).hexdigest() == entry["rgb_sha256"]
    assert [entry["name"] for entry in value["pictures"] if entry["raw"] is None] == ["large"]


def test_a_jpeg_that_every_decoder_reads_alike(bundle: Path) -> None:
    """Blocks of one grey each, turned clockwise."""
    pixels = np.frombuffer((bundle / GOLDEN / "exif.rgb").read_bytes(), np.uint8).reshape(96, 64, 3)
    greys = np.random.default_rng(5).integers(0, 256, (8, 12), dtype=np.uint8)
    assert (pixels[::8, ::8, 0] == np.rot90(greys, -1)).all() and (pixels == pixels[..., :1]).all()


def test_what_is_transparent_lies_over_white(bundle: Path) -> None:
    pixels = np.frombuffer((bundle / GOLDEN / "alpha.rgb").read_bytes(), np.uint8).reshape(72, 48, 3)
    assert (pixels[0, 0] == 255).all()
    with Image.open(bundle / GOLDEN / "alpha.png") as image:
        assert (np.asarray(image)[-1, -1, :3] == pixels[-1, -1]).all()


def test_vectors_are_those_of_the_processor(bundle: Path) -> None:
    manifest, value = Bundle.load(bundle).manifest, golden.read_golden(bundle)
    processor = Processor.load(bundle).as_exported(manifest.preprocessing)
    assert len(value["strings"]) > 100 and len(value["conversations"]) == 12
    for entry in value["strings"]:
        assert processor.tokenizer.encode(entry["text"], add_special_tokens=False).ids == entry["ids"]
    files = {entry["name"]: entry for entry in value["pictures"]}
    for entry in value["conversations"]:
        images = [golden.opened(bundle, files[name]["file"]) for name in entry["pictures"]]
        inputs = processor.encode(entry["messages"], images)
        assert unfolded(entry["ids"]) == inputs.ids[0].tolist()
        whole = "".join(part if isinstance(part, str) else part[0] * part[1] for part in entry["expanded"])
        grids = [] if inputs.pixels is None else inputs.pixels.grids
        assert whole == processor.prompt(entry["messages"], grids)
        if len(images) == 1 and inputs.pixels is not None:
            pixels = files[entry["pictures"][0]]["pixels"]
            data = inputs.pixels.values.astype("<f4").tobytes()
            assert pixels["sha256"] == hashlib.sha256(data).hexdigest()
            assert all(inputs.pixels.values.reshape(-1)[place] == number for place, number in pixels["samples"])


def unfolded(ids: Iterable[int | list[int]]) -> list[int]:
    """The inverse of `golden.folded`, as an app does it."""
    found: list[int] = []
    for one in ids:
        found += [one[0]] * one[1] if isinstance(one, list) else [one]
    return found


def test_runs_of_one_token_are_pairs() -> None:
    ids = [1, 7, 7, 7, 7, 7, 2, 2, 2, 3, 3, 3, 3]
    assert golden.folded(ids) == [1, [7, 5], 2, 2, 2, [3, 4]] and unfolded(golden.folded(ids)) == ids
    assert golden._folded_text("a<i><i>b<i>", "<i>") == ["a", ["<i>", 2], "b", ["<i>", 1]]


def test_answers_are_the_runtimes_own(bundle: Path) -> None:
    value = golden.read_golden(bundle)
    found = value["answers"]
    assert (found["runtime"], found["verified_by"], found["why"]) == ("onnxruntime", "runtime", "")
    assert [row["conversation"] for row in found["single"]] == list(golden.ANSWERED) and len(found["chat"]) == 2
    session = RUNTIMES.load("onnxruntime").open_session(bundle, 1)
    files = {entry["name"]: entry["file"] for entry in value["pictures"]}
    for row in found["single"]:
        asked = value["conversations"][row["conversation"]]
        images = [golden.opened(bundle, files[name]) for name in asked["pictures"]]
        said = answer(session, asked["messages"], images, max_new_tokens=16)
        assert (said.token_ids, said.text, said.finish) == (row["ids"], row["text"], row["finish"])
        assert row["gap"] > 0
    first, second = found["chat"]
    assert first["cached"] == 0 and second["cached"] >= len(unfolded(first["ids"]))


def test_verify_makes_it_all_again(bundle: Path) -> None:
    result = verify_bundle(bundle, None, None, None)
    names = {"app_prompt", "app_pixels", "app_strings", "app_conversations", "app_model", "app_answers"}
    assert result["passed"] and result["checks"].keys() == names and result["handover"] == ""


FAULTS: dict[str, tuple[str, Callable[[Any], None], set[str]]] = {
    "a piece": (PROMPT, lambda value: value.update(generation="Assistant: "), {"app_prompt", "app_model"}),
    "pixels": (VECTORS, lambda value: value["pictures"][3]["pixels"].update(sha256="0"), {"app_pixels", "app_model"}),
    "an id": (VECTORS, lambda value: value["strings"][0]["ids"].append(1), {"app_strings", "app_model"}),
    "a prompt": (VECTORS, lambda value: value["conversations"][0].update(ids=[]), {"app_conversations", "app_model"}),
    "an answer": (VECTORS, lambda value: value["answers"]["single"][0]["ids"].append(3), {"app_answers", "app_model"}),
    "a turn": (VECTORS, lambda value: value["answers"]["chat"][1].update(cached=1), {"app_answers", "app_model"}),
    "a hash": (MODEL, lambda value: value["files"][0].update(sha256="0" * 64), {"app_model"}),
    "a file left out": (MODEL, lambda value: value["files"].pop(0), {"app_model"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_finds_what_was_changed(bundle: Path, tmp_path: Path, fault: str) -> None:
    file, edit, missed = FAULTS[fault]
    shares, _ = check_handover(resealed(bundle, tmp_path / "b", edited(file, edit)))
    assert {name for name, share in shares.items() if share != 1.0} == missed


def test_another_order_of_resizing_shows_on_the_tall_image(bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.load(bundle).manifest
    other = COLUMNS if installed_order() == TALL_ROWS else TALL_ROWS
    turned = resealed(bundle, tmp_path / "b", lambda _: None, preprocessing={**manifest.preprocessing, ORDER: other})
    shares, _ = check_handover(turned)
    assert shares["app_pixels"] == 0.9 and shares["app_model"] == 0
    with pytest.raises(BundleError, match="resize_order: sideways is none of"):
        resealed(bundle, tmp_path / "c", lambda _: None, preprocessing={**manifest.preprocessing, ORDER: "sideways"})


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value["pictures"][0].pop("file"),
        lambda value: value["pictures"].append(7),
        lambda value: value["conversations"][0].update(pictures=["nobody"]),
        lambda value: value["pictures"][0].update(file="../manifest.json"),
        lambda value: value.update(format=2),
        lambda value: value.update(strings={}),
        lambda value: value["strings"].extend([value["strings"][0]] * 2000),
    ],
)
def test_a_strangers_vectors_are_refused(bundle: Path, tmp_path: Path, edit: Callable[[Any], None]) -> None:
    with pytest.raises(BundleError):
        check_handover(resealed(bundle, tmp_path / "b", edited(VECTORS, edit)))


def test_a_bundle_from_before_says_so(bundle: Path, tmp_path: Path) -> None:
    def older(folder: Path) -> None:
        for name in ("app", "golden"):
            shutil.rmtree(folder / name)

    preprocessing = {name: value for name, value in Bundle.load(bundle).manifest.preprocessing.items() if name != ORDER}
    before = resealed(bundle, tmp_path / "b", older, preprocessing=preprocessing)
    shares, left = check_handover(before)
    assert shares == {} and "nothing for an app" in left
    session = RUNTIMES.load("onnxruntime").open_session(before.folder, 1)
    assert isinstance(session, PreparedSession) and session.processor.params[ORDER] == COLUMNS


def test_an_older_bundle_says_the_same_twice(bundle: Path, tmp_path: Path) -> None:
    """From before a field of the manifest: what is read for it, its default, stands in neither file."""
    old = resealed(bundle, tmp_path / "b", edited(MODEL, lambda value: value["cache"].pop("rewinds")))
    assert check_handover(old)[0]["app_model"] == 0  # the manifest says it and the model does not
    value = json.loads((old.folder / MANIFEST).read_text())
    del value["cache"]["rewinds"], value["seal"]
    (old.folder / MANIFEST).write_bytes(sealed(value))
    assert check_handover(Bundle.load(old.folder))[0]["app_model"] == 1


def test_a_template_that_no_app_can_write_still_exports(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "m"))
    path = checkpoint / "chat_template.jinja"
    path.write_text(path.read_text().replace("{{ part['text'] }}", "{{ part['text'] | replace('12', '') }}"))
    with traced_once(tiny_checkpoint):
        out = export_checkpoint(checkpoint, "onnx", "fp32", tmp_path / "b", prompts=1, answers=golden_answers).folder
    why = json.loads((out / PROMPT).read_text())["unsupported"]
    value = golden.read_golden(out)
    assert "where its pieces give" in why and value["conversations"] == [] and value["answers"]["why"] == why
    result = verify_bundle(out, None, None, None)
    assert result["passed"] and "no golden answers" in result["handover"]
