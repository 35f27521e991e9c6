"""Verify: tolerances, modules one by one, and faults put into a bundle, each found in the part it was put into."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from manifests import reseal
from tracing import traced_once
from typer.testing import CliRunner

from edgekit import api
from edgekit.bundle import Bundle
from edgekit.cli import build
from edgekit.demo.shapes import draw
from edgekit.errors import BundleError, EdgekitError
from edgekit.families import idefics3
from edgekit.families.sizes import fit_image
from edgekit.inputs.agreement import odd_images
from edgekit.inputs.official import ODD
from edgekit.report.parity import PARTS, of_verify, read_parity
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.attribute import ROUNDING_NATS
from edgekit.runtimes.generate import Chat, answer, follow
from edgekit.runtimes.sampling import greedy
from edgekit.runtimes.verify import EQUAL_DB, _Gap, verify_bundle


def rewritten(bundle: Path, folder: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """A copy of a bundle that was changed and sealed again, as a faulty exporter would have."""
    shutil.copytree(bundle, folder)
    reseal(folder, lambda manifest: change(manifest, folder))
    return reseal(folder)


def weights(component: str, edit: Callable[[Any], None], pick: Callable[[Any], bool]) -> Any:
    """A change of the last weight of a graph that `pick` takes: what comes first hardly moves so narrow a model."""

    def change(manifest: dict[str, Any], folder: Path) -> None:
        import onnx

        path = folder / manifest["components"][component]["file"]
        graph = onnx.load(path)
        for tensor in reversed(graph.graph.initializer):
            values = onnx.numpy_helper.to_array(tensor).copy()
            if values.dtype == np.float32 and pick(values):
                edit(values)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
                break
        else:
            raise AssertionError("no such weight")
        onnx.save(graph, path)

    return change


def one_weight(values: Any) -> None:
    values.reshape(-1)[values.size // 2] += 1.0


def matrix(values: Any) -> bool:
    return bool(values.ndim == 2 and min(values.shape) > 8)


def preprocessing(**values: Any) -> Any:
    """Another setting in the file that the runtime reads, and in the manifest."""

    def change(manifest: dict[str, Any], folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        settings = json.loads(path.read_text())
        assert set(values) <= set(settings)
        path.write_text(json.dumps({**settings, **values}))
        manifest["preprocessing"] = idefics3.read_preprocessing(folder)

    return change


@pytest.fixture(scope="module")
def tiled(tiny_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint whose images are split into up to 2 x 2 tiles and a view of the whole, and its bundle."""
    model = tiny_of("smolvlm")
    out = tmp_path_factory.mktemp("tiled") / "bundle"
    with traced_once(model, None):
        return model, export_checkpoint(model, "onnx", "fp32", out, prompts=2).folder


@pytest.fixture(scope="module")
def good(tiled: tuple[Path, Path]) -> dict[str, Any]:
    """What verify says of that bundle, part by part."""
    model, bundle = tiled
    return verify_bundle(bundle, model, None, 8, attribution=True)


def test_a_good_bundle(tiled: tuple[Path, Path], good: dict[str, Any]) -> None:
    _, bundle = tiled
    result = good
    assert result["passed"] and result["odd_pictures"] == len(ODD)
    assert result["pixel_max_abs"] == 0 and result["prompt_ids_equal"] == 1
    assert set(result["components"]) == {"vision", "embedding", "decoder"}
    for module in result["components"].values():
        assert module["cosine"] == pytest.approx(1) and module["snr_db"] > 80 and module["max_abs"] < 1e-4
    found = result["attribution"]
    assert found["largest"] is None and set(found["parts"]) == set(PARTS)
    assert all(part["loss"]["mean_kl"] < ROUNDING_NATS for part in found["parts"].values())
    assert found["total"]["top1_disagreement"] == 0
    assert read_parity(bundle / "parity.json").attribution is not None


FAULTS: dict[str, tuple[str, Any]] = {
    "mean": ("preprocessing", preprocessing(image_mean=[0.48, 0.46, 0.41])),
    "std": ("preprocessing", preprocessing(image_std=[0.27, 0.26, 0.28])),
    "filter": ("preprocessing", preprocessing(resample=0)),
    "tiles": ("preprocessing", preprocessing(do_image_splitting=False)),
    "one vision weight": ("vision", weights("vision_encoder", one_weight, matrix)),
    "one embedding row": (
        "embedding", weights("token_embedding", lambda rows: rows.__imul__(-1.0), lambda rows: rows.ndim == 2)
    ),
    "one decoder weight": ("decoder", weights("text_decoder", one_weight, matrix)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_in_its_part(tiled: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    model, bundle = tiled
    part, change = FAULTS[fault]
    if fault == "one embedding row":
        change = one_row_of(bundle, model)
    result = verify_bundle(rewritten(bundle, tmp_path / "b", change), model, None, 4, attribution=True)
    found = result["attribution"]
    assert found["largest"] == part
    for name in PARTS:
        loss = found["parts"][name]["loss"]["mean_kl"]
        # Images and words that do not fit each other are a loss without a figure.
        assert (loss is None or loss > 1e-6) if name == part else (loss is not None and loss < ROUNDING_NATS)
    assert not result["passed"]
    if part == "preprocessing":
        missed = {name for name, check in result["checks"].items() if not check["held"]}
        assert missed & {"pixel_max_abs", "prompt_ids_equal"}
    else:
        assert not result["checks"][f"{part}_snr_db"]["held"]
        assert all(result["checks"][f"{name}_snr_db"]["held"] for name in PARTS[1:] if name != part)


def one_row_of(bundle: Path, model: Path) -> Any:
    """The embedding of a token that stands in every stock prompt."""
    from edgekit.inputs.chat import question
    from edgekit.inputs.processor import Processor

    token = int(Processor.load(model).encode(question("What is in the image?", 0), []).ids[0, -1])

    def edit(rows: Any) -> None:
        rows[token] *= -1

    return weights("token_embedding", edit, lambda rows: rows.ndim == 2)


def test_tiles_in_another_order(tiled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns before rows: no parameter says it, and only the image's pixels tell."""
    model, bundle = tiled
    whole = idefics3._tiles

    def turned(image: Any, params: dict[str, Any]) -> Any:
        tiles, (rows, cols) = whole(image, params)
        order = [r * cols + c for c in range(cols) for r in range(rows)]
        return [*(tiles[place] for place in order), *tiles[len(order) :]], (rows, cols)

    monkeypatch.setattr(idefics3, "_tiles", turned)
    result = verify_bundle(bundle, model, None, 16, attribution=True)
    assert not result["passed"] and not result["checks"]["pixel_max_abs"]["held"]
    assert result["prompt_ids_equal"] == 1 and result["attribution"]["largest"] == "preprocessing"


@pytest.mark.slow
def test_the_share_of_quantisation(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from edgekit.export import TARGETS

    bundle = export_checkpoint(tiny_checkpoint, "onnx", "int8", tmp_path / "b").folder
    result = api.verify(bundle, reference=tiny_checkpoint, samples=4, attribute=True)
    found = result.attribution
    assert found is not None
    assert "fp32" in TARGETS.load("onnx").precisions and found.note == ""
    for part in ("vision", "decoder"):
        row = found.parts[part]
        assert row.export is not None and row.quantisation is not None
        assert row.export.mean_kl < ROUNDING_NATS < row.loss.mean_kl
        assert row.quantisation.mean_kl == pytest.approx(row.loss.mean_kl - row.export.mean_kl)
    assert found.parts["embedding"].loss.mean_kl < ROUNDING_NATS  # it stays float32 in int8
    assert found.parts["preprocessing"].quantisation is None
    assert found.largest in ("vision", "decoder")
    assert {"vision_snr_db", "embedding_snr_db", "decoder_snr_db"} <= set(result.checks)


def test_the_command_line(
    tiled: tuple[Path, Path], good: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = tiled
    broken = rewritten(bundle, tmp_path / "b", preprocessing(image_mean=[0.4, 0.4, 0.4]))
    given = ["--reference", str(model), "--samples", "2", "--attribute"]
    bad = CliRunner().invoke(build(), ["verify", str(broken), *given])
    assert bad.exit_code == 3 and "costs most: preprocessing" in bad.stdout and "MISSED    pixel_max_abs" in bad.stdout
    assert "no share of quantisation: the bundle is fp32" in bad.stdout
    with pytest.raises(EdgekitError, match="without the checkpoint"):
        verify_bundle(bundle, None, None, 1, attribution=True)
    monkeypatch.setattr("edgekit.api.verify", lambda *_, **__: of_verify(good, "here"))
    shown = CliRunner().invoke(build(), ["verify", str(bundle), *given])
    assert shown.exit_code == 0 and "none, all is within rounding" in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"])
def test_every_family(tiny_of: Callable[..., Path], tmp_path: Path, family: str) -> None:
    """Whole, within rounding part by part, blamed rightly; and a chat's logits are those of a fresh prefill."""
    model = tiny_of(family)
    bundle = export_checkpoint(model, "onnx", "fp32", tmp_path / "bundle")
    result = verify_bundle(bundle.folder, model, None, 8, attribution=True)
    assert result["passed"], result["checks"]
    assert result["pixel_max_abs"] == 0 and result["attribution"]["largest"] is None
    params = bundle.manifest.preprocessing
    ours, theirs = (RUNTIMES.load(runtime_for(folder)).open_session(folder, 1) for folder in (bundle.folder, model))
    seen: list[Any] = []

    def choose(logits: Any, ids: Sequence[int]) -> int:
        seen.append(logits)
        return greedy(logits)

    chat, kept = Chat(ours, max_new_tokens=4, choose=choose), 0
    for text, images in (("is there a circle?", [draw(0)[0]]), ("sure?", []), ("here?", [draw(1)[0], draw(2)[0]])):
        seen.clear()
        got = chat.say(text, images)
        kept += got.timings.cached_tokens
        asked, shown = chat.messages[:-1], [fit_image(image, params) for image in chat.images]
        fresh = next(follow(theirs, asked, shown, got.token_ids))
        np.testing.assert_allclose(seen[0], fresh, atol=1e-4)
        assert got.token_ids == answer(theirs, asked, shown, max_new_tokens=4).token_ids
    assert kept > 0
    for number, (part, component) in enumerate({"embedding": "token_embedding", "decoder": "text_decoder"}.items()):
        edit = one_row_of(bundle.folder, model) if part == "embedding" else weights(component, one_weight, matrix)
        broken = rewritten(bundle.folder, tmp_path / f"broken {number}", edit)
        assert verify_bundle(broken, model, None, 4, attribution=True)["attribution"]["largest"] == part


def test_each_file_of_the_bundle_is_hashed_once(
    tiled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit import bundle as bundles

    model, bundle = tiled
    hashed: list[str] = []
    real = bundles.sha256_file
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    monkeypatch.setattr(
        bundles, "sha256_file", lambda path: (hashed.append(path.relative_to(folder).as_posix()), real(path))[1]
    )
    verify_bundle(folder, model, None, 1)
    assert sorted(hashed) == sorted(bundles.Bundle.load(folder, verify=False).manifest.files)


def test_a_manifest_that_says_otherwise_than_the_files(tiled: tuple[Path, Path], tmp_path: Path) -> None:
    """A phone reads the manifest, the runtime here the files: both must say the same."""
    model, bundle = tiled

    def change(manifest: dict[str, Any], folder: Path) -> None:
        manifest["preprocessing"]["mean"] = [0.48, 0.46, 0.41]

    result = verify_bundle(rewritten(bundle, tmp_path / "b", change), model, None, 1)
    missed = [name for name, check in result["checks"].items() if not check["held"]]
    assert not result["passed"] and missed == ["parameters_equal", "app_model"]


def test_a_module_gap_by_hand() -> None:
    gap = _Gap()
    gap.add(np.array([3.0, 0.0]), np.array([3.0, 0.3]))
    gap.add(np.array([0.0, 4.0]), np.array([0.0, 4.0]))
    found = gap.result()
    assert found.snr_db == pytest.approx(10 * math.log10(25 / 0.09)) and found.max_abs == pytest.approx(0.3)
    assert found.cosine == pytest.approx(25 / math.sqrt(25 * 25.09)) and found.values == 4
    assert _Gap().result().snr_db is None
    same = _Gap()
    same.add(np.ones(3), np.ones(3))
    assert same.result().snr_db == EQUAL_DB
    same.add(np.ones(3), np.array([1, np.nan, 1]))
    assert same.result().snr_db is None and same.result().max_abs is None


def test_odd_images_are_what_they_say() -> None:
    assert [(image.mode, image.size) for image in odd_images()] == list(ODD)


def test_reading_parity_json(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(tiny_bundle, copy)
    with pytest.raises(BundleError, match=r"no .*parity\.json"):
        read_parity(copy / "parity.json")
    result = verify_bundle(copy, None, None, 1)
    assert (
        result["passed"]
        and not result["compared"]
        and read_parity(copy / "parity.json").bundle == Bundle.load(copy).hash
    )
    newer = {**result, "schema_version": 99}
    (copy / "parity.json").write_text(json.dumps(newer))
    with pytest.raises(BundleError, match="parity report schema 99"):
        read_parity(copy / "parity.json")
