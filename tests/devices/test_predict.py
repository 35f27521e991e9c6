"""Predictions: the catalogue, the arithmetic, and that nothing predicted looks measured."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit import schema
from edgekit.bundle import Bundle
from edgekit.devices import DEVICES, Address, parse_address, predict
from edgekit.devices._catalogue import Figure, Phone, _phone, catalog
from edgekit.devices.predict import Shares, Work
from edgekit.errors import EdgekitError
from edgekit.formats.counting import Load
from edgekit.formats.inspecting import inspect_bundle
from edgekit.manifest import Manifest
from edgekit.report.files import read_report
from edgekit.report.prediction import Estimate, Prediction, table
from edgekit.runtimes import bench
from edgekit.runtimes.placement import place_at
from edgekit.yaml_text import Document

SETTINGS = bench.Settings(
    data="easy-vqa:test", limit=8, warmup=0, max_new_tokens=3, trace=2, prompt_tokens=(), new_tokens=(), repetitions=0
)
FULL = Shares(compute=(0.25, 0.5, 1.0), bandwidth=(0.25, 0.5, 1.0), call_ms=(0.0, 1.0, 2.0))


def test_the_catalogue_names_a_source_for_every_number() -> None:
    phones = catalog()
    assert len(phones) >= 10 and next(iter(phones)) == "iphone-13" and "iphone-17-pro" in phones
    assert {phone.year for phone in phones.values()} >= {2021, 2022, 2023, 2024, 2025}
    for name, phone in phones.items():
        assert name.replace("-", " ").lower() == phone.name.lower(), name
        assert phone.kind in ("iphone", "android"), name
        figures = [item for item in vars(phone).values() if isinstance(item, Figure)]
        assert figures and all(item.source.startswith("https://") for item in figures)
        limits = phone.app_limit_gb, phone.app_limit_entitled_gb, phone.memory_gb
        if all(limits):
            values = [item.value for item in limits if item is not None]
            assert values == sorted(values), name  # an app never gets more than there is


@pytest.mark.parametrize(
    "change",
    [{"value": -1}, {"value": math.inf}, {"source": "somewhere"}, {"unit": "GB"}],
)
def test_a_catalogue_entry_that_is_not_valid(change: dict[str, object]) -> None:
    good = {"name": "X", "kind": "iphone", "chip": "A", "year": 2026}
    figure = {"value": 8, "source": "https://example.com"}
    assert _phone(Document({**good, "memory_gb": figure}), "it").memory_gb == Figure(8, "https://example.com")
    with pytest.raises(EdgekitError):
        _phone(Document({**good, "memory_gb": {**figure, **change}}), "it")


def test_times_by_hand() -> None:
    # 2e9 operations at 1 TFLOPS: 2 ms at best; 1e7 bytes at 10 GB/s: 1 ms.
    compute = predict.milliseconds(Load(2e9, 1e7), 1, 10, FULL)
    assert (compute.low, compute.value, compute.high) == (2 + 0, 4 + 1, 8 + 2)
    memory = predict.milliseconds(Load(1e6, 1e8), 1, 10, FULL)
    wider = predict.milliseconds(Load(1e6, 1e8), 1, 10, replace(FULL, form=(0.5, 1.0, 3.0)))
    assert (wider.low, wider.value, wider.high) == (memory.low / 2, memory.value, memory.high * 3)
    assert (memory.low, memory.value, memory.high) == (10, 20 + 1, 40 + 2)
    rate = predict.per_second(1, memory)
    assert rate.low < rate.value < rate.high == pytest.approx(100)


@pytest.mark.parametrize(
    ("weights", "fit"), [(0.5e9, "fits"), (1.5e9, "tight"), (2.5e9, "tight"), (6e9, "does not fit")]
)
def test_memory_verdicts(weights: float, fit: str) -> None:
    needed = predict.memory_needed(Work(0, None, None, None, weights, 0))
    assert needed.low == pytest.approx(weights * 1.1 + 40e6) and needed.low < needed.value < needed.high
    figure = Figure(2, "https://x")
    phone = Phone("P", "iphone", "A", 2026, app_limit_gb=figure, app_limit_entitled_gb=replace(figure, value=3))
    verdict, why = predict.memory_fit(needed, phone)
    assert verdict == fit
    assert ("entitlement" in why) == (weights == 1.5e9)
    assert predict.memory_fit(needed, Phone("P", "iphone", "A", 2026))[0] == "unknown"
    assert predict.memory_fit(needed, Phone("P", "iphone", "A", 2026, memory_gb=figure))[0] == (
        "does not fit" if needed.low > 2e9 else "unknown"
    )


def test_what_a_bundle_has_to_do(tiny_bundle: Path) -> None:
    """The figures of `edgekit inspect`, and no others."""
    bundle = Bundle.load(tiny_bundle)
    work, found = predict.work_of(bundle), inspect_bundle(bundle)
    assert work.prompt_tokens == found.cache_tokens == 16 + 32
    assert found.per_image is not None
    assert work.decode == Load(found.per_token.flops, found.per_token.bytes_moved)
    assert work.image == Load(found.per_image.flops, found.per_image.bytes_moved)
    each = 2 * 2 * 1 * 16 * 4  # key and value, layers, heads, head_dim, bytes
    assert work.cache_bytes == each * (48 + predict.ROOM_TOKENS)
    assert work.prefill is not None
    attention = 4 * 2 * 2 * 16  # operations, layers, query heads, head_dim; for each earlier token
    products = found.per_token.flops - attention * 48
    # The ONNX decoder gives the logits of every token, so the head runs for each.
    assert predict.head_operations(bundle.manifest) == 0
    assert work.prefill.operations == pytest.approx(48 * (products + attention * 48 / 2))
    assert work.prefill.bytes == found.per_token.weight_bytes + each * 48


def test_without_what_reads_the_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = predict.predict_on(Bundle.load(tiny_bundle), catalog()["iphone-15-pro"])
    assert found.decode_tokens_per_s is None and found.ttft_ms is None and found.memory_fit == "fits"
    assert any("onnx is not installed" in text for text in found.notes)


def test_a_missing_peak_gives_no_time(tiny_bundle: Path) -> None:
    found = predict.predict_on(Bundle.load(tiny_bundle), catalog()["iphone-air"])
    assert found.decode_tokens_per_s is None and any("bandwidth was not found" in text for text in found.notes)


def test_a_bench_without_the_phone(tiny_bundle: Path, tmp_path: Path) -> None:
    report = bench.bench([tiny_bundle], None, SETTINGS, tmp_path, device="iphone://iphone-15-pro")
    (row,) = report.rows
    assert (row.device, row.verified_by, row.status) == ("host", "runtime", "ok")  # measured here, and says so
    (found,) = report.predictions
    assert (found.device, found.verified_by, found.bundle) == ("iPhone 15 Pro", "prediction", row.bundle)
    assert found.decode_tokens_per_s is not None
    assert found.decode_tokens_per_s.low < found.decode_tokens_per_s.value < found.decode_tokens_per_s.high
    assert "is not at hand: An iPhone is driven from a Mac" in report.notes[-1]
    assert read_report(json.loads((tmp_path / "report.json").read_text())) == report
    text = (tmp_path / "report.html").read_text()
    assert "<h2>Predicted, not measured</h2>" in text and "iPhone 15 Pro (A17 Pro)" in text
    text = (tmp_path / "report.md").read_text()
    assert "## Predicted, not measured" in text and "iPhone 15 Pro" in text.split("## Predicted")[1]
    assert "iPhone 15 Pro" not in (tmp_path / "results.csv").read_text() + (tmp_path / "results.jsonl").read_text()
    with pytest.raises(EdgekitError, match="no iphone 'iphone-99'"):
        bench.bench([tiny_bundle], None, SETTINGS, tmp_path, device="iphone://iphone-99")


def test_every_predicted_cell_is_marked(tiny_bundle: Path) -> None:
    address = parse_address("iphone")
    from edgekit.devices import iphone

    assert iphone.DEVICE.predict is not None
    found = iphone.DEVICE.predict(tiny_bundle, address)
    assert [one.device for one in found] == [phone.name for phone in catalog().values() if phone.kind == "iphone"]
    for cells in table(found):
        assert all(cell == "" or ("*" in cell and "[" in cell) for cell in (cells[2], *cells[5:]))


def test_predictions_travel_as_json() -> None:
    one = Prediction("h", "b", "X", "A", "fits", Estimate(1, 0, 2))
    problems: list[str] = []
    assert schema.read(Prediction, schema.to_json(one), problems) == one and problems == []


def _of_last_token(bundle: Bundle) -> Manifest:
    """Its manifest, as if the decoder gave the logits of the last token alone."""
    decoder = bundle.manifest.components["text_decoder"]
    logits, *others = decoder.outputs
    one = replace(logits, shape=(1, 1, logits.shape[-1]))
    parts = {**bundle.manifest.components, "text_decoder": replace(decoder, outputs=(one, *others))}
    return replace(bundle.manifest, components=parts)


def test_a_head_that_only_the_last_token_goes_through(tiny_bundle: Path) -> None:
    whole = Bundle.load(tiny_bundle)
    last = replace(whole, manifest=_of_last_token(whole))
    decoder = whole.manifest.components["text_decoder"]
    width, vocabulary = decoder.inputs[0].shape[-1], decoder.outputs[0].shape[-1]
    assert isinstance(width, int) and isinstance(vocabulary, int)
    every, one = predict.work_of(whole), predict.work_of(last)
    assert every.prefill is not None and one.prefill is not None
    assert every.prefill.operations - one.prefill.operations == pytest.approx(47 * 2 * width * vocabulary)
    assert every.decode == one.decode


@pytest.mark.parametrize(("bits", "prefill"), [(8.5, True), (4.5, True), (16.0, False), (None, False)])
def test_what_is_said_of_a_cpu(bits: float | None, prefill: bool) -> None:
    work = Work(1000, Load(1e9, 1e6), Load(1e12, 1e9), Load(1e9, 1e9), 1e9, 0, bits=bits)
    times, notes = predict.predicted_times(work, catalog()["galaxy-s25"], None)
    assert set(times) == ({"prefill", "decode"} if prefill else {"decode"})  # never an image, which nobody published
    assert any("no time of an image" in text for text in notes)
    # 1e9 bytes at 0.641 of 84.8 GB/s are 18.4 ms, and a call 0.5.
    assert times["decode"].value == pytest.approx(1000 / (0.641 * 84.8) + 0.5)
    if prefill:  # 29.82 GHz x 64 operations x 0.504
        assert times["prefill"].value == pytest.approx(1e12 / (29.82e9 * 64 * 0.504) * 1000 + 0.5)
    elsewhere, notes = predict.predicted_times(work, catalog()["pixel-9"], None)
    assert any("no published row" in text and "Tensor G4" in text for text in notes)
    own, other = times["decode"], elsewhere["decode"]
    assert other.high / other.low > own.high / own.low  # its range says that less is known


def test_a_bench_without_the_android_phone(tiny_bundle: Path, tmp_path: Path) -> None:
    report = bench.bench([tiny_bundle], None, SETTINGS, tmp_path, device="android://galaxy-s25")
    (row,), (found,) = report.rows, report.predictions
    assert (row.device, row.verified_by) == ("host", "runtime")
    assert (found.device, found.verified_by) == ("Galaxy S25", "prediction") and found.decode_tokens_per_s is not None
    assert found.ttft_ms is None and found.memory_fit == "unknown"  # no limit of an app is published
    assert "Galaxy S25" not in (tmp_path / "results.csv").read_text()


def test_an_android_phone_that_is_away_is_an_error_and_no_prediction() -> None:
    for place in ("", "R5CT10", "galaxy-s99"):
        assert not DEVICES.load("android").can_predict(Address("android", place))
        with (
            pytest.raises(EdgekitError, match=r"(?s)adb.*Start it:.*android://pixel-9, android://galaxy-s25"),
            place_at(Address("android", place, {"port": "1"})),
        ):
            pass
    assert DEVICES.load("android").can_predict(Address("android", "pixel-9"))
    assert DEVICES.load("iphone").can_predict(Address("iphone", ""))
    assert not DEVICES.load("host").can_predict(Address("host"))
