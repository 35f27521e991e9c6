"""Core ML devices against fakes: devicectl's JSON and the runner app's replies, below coremltools' own remote API.

coremltools' wrappers run as they are; what is replaced are the commands that only a Mac has, and the app on the phone.
"""

from __future__ import annotations

import json
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import api
from edgekit.devices import DEVICES, ROW, SAMPLES, Address, _apple, _apple_programs, parse_address
from edgekit.errors import EdgekitError

remote_device = pytest.importorskip("coremltools.models.ml_program.experimental.remote_device")


def phone(name: str, udid: str, *, kind: str = "iPhone", state: str = "connected") -> dict[str, Any]:
    """One device as `xcrun devicectl list devices -j` writes it, as far as coremltools reads it."""
    return {
        "identifier": f"id-{udid}",
        "connectionProperties": {"tunnelState": state},
        "deviceProperties": {
            "name": name, "osVersionNumber": "26.1", "osBuildUpdate": "23B85", "developerModeStatus": "enabled",
        },
        "hardwareProperties": {"deviceType": kind, "udid": udid},
    }  # fmt: skip


class App(remote_device._RemoteService):  # type: ignore[misc, name-defined]
    """The runner app: every call takes a millisecond for each token, every load ten, and it keeps a state per model."""

    def __init__(self, socket: Any = None, **_: Any) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = CALLS

    async def call_method(self, name: str, params: dict[str, Any], resource: Path | None = None, **_: Any) -> Any:
        self.calls.append((name, params))
        result: dict[str, Any] = {"modelID": params["modelID"]}
        if name == "MLModelService.Load":
            result["duration"] = 10_000_000
        elif name == "MLModelService.Prediction":
            if params["computeUnits"] == "CPU_ONLY":
                raise ValueError("the app was ended by the system")
            shape = params["inputs"].get("inputs_embeds", {"shape": [1, 7]})["shape"]
            result |= {"duration": 1_000_000 * shape[1], "outputs": {}}
            with tempfile.NamedTemporaryFile(delete=False) as empty:
                return result, Path(empty.name)
        elif name == "MLModelService.ComputePlan":
            raise ValueError("no plan of this model")
        return result, None

    def fire_and_forget(self, name: str, params: dict[str, Any], **_: Any) -> None: ...

    @property
    def is_alive(self) -> bool:
        return True


CALLS: list[tuple[str, dict[str, Any]]] = []


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`mac(*devices)`: this machine becomes a Mac with Xcode to which these are connected."""

    def become(*devices: dict[str, Any]) -> None:
        CALLS.clear()
        monkeypatch.setattr(_apple, "platform", types.SimpleNamespace(system=lambda: "Darwin", mac_ver=lambda: ("26",)))
        monkeypatch.setattr(_apple, "shutil", types.SimpleNamespace(which=lambda name: f"/usr/bin/{name}"))
        listed = {"result": {"devices": list(devices)}}
        monkeypatch.setattr(remote_device._DeviceCtl, "_run_command", staticmethod(lambda command: listed))
        session = types.SimpleNamespace(is_alive=True)

        def build(self: Any, *given: Any) -> Any:
            SIGNED.append(given[2])
            return session

        monkeypatch.setattr(remote_device.Device, "_build_and_launch_model_runner_app", build)
        monkeypatch.setattr(remote_device, "_DeviceCtlSocket", lambda **_: None)
        monkeypatch.setattr(remote_device, "_DeviceCtlRemoteService", App)
        monkeypatch.setattr(
            "coremltools.models.ml_program.experimental.async_wrapper.compile_model",
            lambda model, destination_path: Path(destination_path).mkdir(),
        )

    return become


SIGNED: list[Any] = []


@pytest.fixture(scope="module")
def coreml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision encoder of fixed size, and a decoder with a state, any number of tokens and a mask that grows."""
    import coremltools as ct
    import numpy as np
    import torch
    from torch import Tensor, nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(8, 5)
            self.register_buffer("cache", torch.zeros(1, 1, 8))

        def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
            self.cache.add_(inputs_embeds.sum(1, keepdim=True))
            bias = attention_mask.sum() + position_ids.float().sum()
            logits: Tensor = self.out(inputs_embeds[:, -1:] + self.cache) + bias
            return logits

    folder = tmp_path_factory.mktemp("coreml")
    tokens, seen = ct.RangeDim(1, 512, default=4), ct.RangeDim(1, 512, default=6)
    example = (torch.zeros(1, 4, 8), torch.zeros(1, 1, 4, 6), torch.zeros(1, 4, dtype=torch.int32))
    ct.convert(
        torch.jit.trace(Decoder().eval(), example),
        inputs=[
            ct.TensorType("inputs_embeds", (1, tokens, 8), dtype=np.float16),
            ct.TensorType("attention_mask", (1, 1, tokens, seen), dtype=np.float16),
            ct.TensorType("position_ids", (1, tokens), dtype=np.int32),
        ],
        states=[ct.StateType(ct.TensorType(shape=(1, 1, 8), dtype=np.float16), name="cache")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    ).save(str(folder / "text_decoder.mlpackage"))
    ct.convert(
        torch.jit.trace(nn.Conv2d(3, 4, 2).eval(), torch.zeros(1, 3, 8, 8)),
        inputs=[ct.TensorType("pixel_values", (1, 3, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    ).save(str(folder / "vision_encoder.mlpackage"))
    return folder


def run(spec: str, folder: Path, place: Path) -> tuple[str | None, dict[str, Any], list[dict[str, Any]]]:
    (place / "job.json").write_text(json.dumps({"folder": str(folder), "runtime": "coreml"}))
    address = parse_address(spec)
    with _apple.connect(address.device, address) as machine:
        machine.describe()
        problem = machine.run(place)
    if problem is not None:
        return problem, {}, []
    lines = (place / SAMPLES).read_text().splitlines()
    return None, json.loads((place / ROW).read_text()), [json.loads(line) for line in lines]


def test_here_it_says_what_is_missing() -> None:
    found = {row.device: row for row in api.devices()}
    assert not found["iphone"].ready and "driven from a Mac with Xcode" in found["iphone"].detail
    assert not found["mac"].ready and "Linux" in found["mac"].detail


def test_a_mac_without_a_phone(mac: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    mac(phone("locked", "U1", state="disconnected"), phone("pad", "U2", kind="iPad"))
    ready, detail = DEVICES.load("iphone").reach(Address("iphone"))
    assert not ready and "No iphone is connected" in detail and "Developer Mode" in detail
    ready, detail = DEVICES.load("ipad").reach(Address("ipad"))
    assert ready and detail == "pad, ipad with OS 26.1 (23B85)"
    monkeypatch.setattr(_apple, "shutil", types.SimpleNamespace(which=lambda name: None))
    assert "xcodebuild and devicectl not found" in DEVICES.load("iphone").reach(Address("iphone"))[1]


def test_several_phones_want_a_name(mac: Callable[..., None]) -> None:
    mac(phone("one", "U1"), phone("two", "U2"))
    assert "Several are connected: one (U1), two (U2)" in DEVICES.load("iphone").reach(Address("iphone"))[1]
    assert DEVICES.load("iphone").reach(Address("iphone", "", {"udid": "U2"}))[1].startswith("two")
    assert "with the UDID U3" in DEVICES.load("iphone").reach(Address("iphone", "", {"udid": "U3"}))[1]


def test_the_runner_must_be_signed(mac: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac(phone("one", "U1"))
    monkeypatch.delenv("EDGEKIT_APPLE_TEAM", raising=False)
    with pytest.raises(EdgekitError, match="must be signed"):
        run("iphone", tmp_path, tmp_path)


def test_every_program_is_timed(mac: Callable[..., None], coreml_folder: Path, tmp_path: Path) -> None:
    mac(phone("one", "U1"))
    problem, row, raw = run("iphone?team=TEAM&units=cpu_and_ne", coreml_folder, tmp_path)
    assert problem is None
    assert SIGNED[-1].development_team == "TEAM"
    assert row["load_ms"] == 20  # two programs of ten
    assert row["prefill_tokens_per_s"] == pytest.approx(1000)  # a millisecond a token
    assert row["decode_tokens_per_s"] == pytest.approx(1000)
    assert row["image_encode_ms"] == 7
    assert [item["ms"] for item in raw if item["test"] == "pp64"] == [64.0] * _apple.REPETITIONS
    assert [item["reason"] for item in raw if item["test"] == "plan"] == ["no plan of this model"] * 2
    units = {params["computeUnits"] for name, params in CALLS if name == "MLModelService.Load"}
    assert units == {"CPU_AND_NE"}


def test_a_cache_grows_in_one_model_and_prompts_start_anew(
    mac: Callable[..., None], coreml_folder: Path, tmp_path: Path
) -> None:
    mac(phone("one", "U1"))
    run("iphone?team=TEAM", coreml_folder, tmp_path)
    calls = [params for name, params in CALLS if name == "MLModelService.Prediction"]
    by_model: dict[str, list[tuple[int, int]]] = {}
    for params in calls:
        if "inputs_embeds" in params["inputs"]:
            mask = params["inputs"]["attention_mask"]["shape"]
            assert mask[2] == params["inputs"]["inputs_embeds"]["shape"][1]
            by_model.setdefault(params["modelID"], []).append((mask[2], mask[3]))
    steps = [(16, 16), *((1, 17 + step) for step in range(_apple.DECODE_STEPS))]
    assert [found for found in by_model.values() if len(found) > 1] == [steps]
    alone = sorted(found[0] for found in by_model.values() if len(found) == 1)
    expected = [(n, n) for n in _apple_programs.PREFILL_TOKENS for _ in range(_apple.WARMUP + _apple.REPETITIONS)]
    assert alone == sorted(expected)


def test_what_fails_there_is_a_reason(mac: Callable[..., None], coreml_folder: Path, tmp_path: Path) -> None:
    mac(phone("one", "U1"))
    problem, *_ = run("iphone?team=T&units=cpu_only", coreml_folder, tmp_path)
    assert problem == "coremltools: ValueError: the app was ended by the system"
    (tmp_path / "empty").mkdir()
    problem, *_ = run("iphone?team=T", tmp_path / "empty", tmp_path)
    assert problem is not None and "holds no .mlpackage" in problem
    with pytest.raises(EdgekitError, match="no compute units 'gpu'"):
        run("iphone?team=T&units=gpu", coreml_folder, tmp_path)


def test_programs_of_one_length() -> None:
    def program(low: int, high: int) -> _apple_programs.Program:
        return _apple_programs.Program(
            Path("d.mlpackage"), "f", {"inputs_embeds": ((1, 1), (low, high), (8, 8))}, {}, True
        )

    assert _apple_programs.lengths(program(1, -1)) == list(_apple_programs.PREFILL_TOKENS)
    assert _apple_programs.lengths(program(1, 100)) == [16, 64]
    assert _apple_programs.lengths(program(128, 128)) == [128] and not _apple_programs.takes(program(128, 128), 1)
    assert _apple_programs.lengths(program(1, 1)) == [] and _apple_programs.takes(program(1, 1), 1)
