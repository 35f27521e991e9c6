"""iPhones, iPads and Macs through coremltools: what must be there, and how a Core ML bundle is timed on them.

coremltools 9 drives a device from a Mac: `Device.get_connected_devices` asks devicectl, `prepare_for_model_debugging`
builds its runner app with xcodebuild and installs it, and `MLModelAsyncWrapper` loads a program and times its
predictions there (coremltools/models/ml_program/experimental: remote_device.py, async_wrapper.py, perf_utils.py). The
runner keeps one state for each loaded model, so an empty cache is a model loaded anew.

None of this could be run where it was written: it is tested with fakes recorded from that source (docs/devices.md).
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import platform
import shutil
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.console import note
from edgekit.devices import ROW, SAMPLES, Address
from edgekit.devices._apple_programs import PREFILL_TOKENS, Program, arguments, lengths, programs, takes
from edgekit.errors import EdgekitError
from edgekit.files import write_json, write_text
from edgekit.system.temporary import room

NAMES = {"iphone": "iPhone", "ipad": "iPad"}
OPTIONS = {
    "team": "development team that signs the runner app; else EDGEKIT_APPLE_TEAM",
    "profile": "UUID of a provisioning profile instead; else EDGEKIT_APPLE_PROFILE",
    "bundle_id": "identifier of the runner app; it must be the profile's",
    "units": "compute units: all, cpu_only, cpu_and_gpu or cpu_and_ne",
    "udid": "which of several devices",
}
DECODE_STEPS = 32
REPETITIONS = 20
WARMUP = 3
LIST_S, BUILD_S, LOAD_S, CALL_S = 120.0, 3600.0, 3600.0, 600.0
"""Seconds after which devicectl, xcodebuild, a load (the phone compiles it) and any other call are given up."""

T = TypeVar("T")


def missing_here(kind: str) -> str:
    """What this machine lacks to drive such a device, or ""."""
    if platform.system() != "Darwin":
        what = "A Mac is the device itself" if kind == "mac" else f"An {NAMES[kind]} is driven from a Mac with Xcode"
        return f"{what}; this is {platform.system()}"
    try:
        import coremltools  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "coremltools":
            raise
        return "coremltools is not installed: pip install 'edgekit[coreml]'"
    if kind == "mac":
        return ""
    lacking = [name for name in ("xcodebuild", "devicectl") if shutil.which(name) is None]
    if lacking:
        return (
            f"{' and '.join(lacking)} not found: install Xcode, and put the folder that `xcrun --find devicectl` names "
            "into PATH"
        )
    return ""


def reach(kind: str, address: Address) -> tuple[bool, str]:
    """Whether a device of a kind can be used now, and what it is or what is missing."""
    if lacking := missing_here(kind):
        return False, lacking
    if kind == "mac":
        return True, f"this Mac, macOS {platform.mac_ver()[0]}"
    try:
        found = find(kind, address)
    except EdgekitError as error:
        return False, " ".join(str(error).split())
    return True, f"{found.name}, {kind} with OS {found.os_version} ({found.os_build_number})"


def find(kind: str, address: Address) -> Any:
    """The connected device of coremltools.

    Raises:
        EdgekitError: none is connected, several are, or devicectl fails.
    """
    from coremltools.models.ml_program.experimental.remote_device import Device, DeviceType

    try:
        found = _in_time(lambda: Device.get_connected_devices(DeviceType(kind)), LIST_S)
    except Exception as error:  # its own private error type, ValueError, or what subprocess and json raise
        raise EdgekitError("devicectl cannot list the devices.", why=str(error)) from error
    wanted = address.options.get("udid")
    found = [device for device in found if wanted in (None, device.udid)]
    if not found:
        raise EdgekitError(
            f"No {kind} is connected{f' with the UDID {wanted}' if wanted else ''}.",
            why="devicectl lists none in the state 'connected'.",
            fix="Connect it by cable, unlock it, trust this Mac, and turn Developer Mode on.",
        )
    if len(found) > 1:
        names = ", ".join(f"{device.name} ({device.udid})" for device in found)
        raise EdgekitError(f"Several are connected: {names}.", fix=f"Name one:  --device '{kind}?udid=...'")
    return found[0]


@contextmanager
def connect(kind: str, address: Address) -> Iterator[AppleMachine]:
    """A device with the runner app on it.

    Raises:
        EdgekitError: not reachable, or the runner cannot be built, signed or started.
    """
    if lacking := missing_here(kind):
        raise EdgekitError(f"No {kind} can be used here.", why=lacking)
    with room("apple") as place:
        device = None if kind == "mac" else asyncio.run(_prepare(find(kind, address), address, place))
        yield AppleMachine(kind, address, device)


async def _prepare(device: Any, address: Address, place: Path) -> Any:
    from coremltools.models.ml_program.experimental.remote_device import AppSigningCredentials

    given = address.options
    team = given.get("team", os.environ.get("EDGEKIT_APPLE_TEAM", ""))
    profile = given.get("profile", os.environ.get("EDGEKIT_APPLE_PROFILE"))
    if not (team or profile):
        raise EdgekitError(
            "The runner app must be signed, and nothing says by whom.",
            fix=f"Give  --device '{address.device}?team=TEAMID'  or profile=UUID, or set EDGEKIT_APPLE_TEAM.",
        )
    credentials = AppSigningCredentials(team, profile, given.get("bundle_id"))
    note(f"Building the runner app and installing it on {device.name}; keep it unlocked.")
    try:
        work = device.prepare_for_model_debugging(credentials=credentials, working_directory=place)
        return await _within(work, BUILD_S, "build and start the runner app")
    except EdgekitError:
        raise
    except Exception as error:  # ValueError, its private devicectl error, or what xcodebuild says
        raise EdgekitError(f"The runner app does not start on {device.name}.", why=str(error)) from error


class AppleMachine:
    """A device that runs Core ML packages and says how long each call took.

    Args:
        kind: iphone, ipad or mac.
        address: With its options.
        device: Of coremltools, prepared; None for this Mac.
    """

    def __init__(self, kind: str, address: Address, device: Any) -> None:
        self._kind, self._address, self._device = kind, address, device

    def describe(self) -> dict[str, Any]:
        """Name, system, and which compute units were asked for."""
        if self._device is None:
            about = {"name": platform.node(), "system": f"macOS {platform.mac_ver()[0]}", "cpu": platform.machine()}
        else:
            system = f"{self._device.os_version} ({self._device.os_build_number})"
            about = {"name": self._device.name, "system": system, "udid": self._device.udid}
        return {**about, "compute_units": self._units().name}

    def _units(self) -> Any:
        from coremltools import ComputeUnit

        wanted = self._address.options.get("units", "all").upper()
        if wanted not in ComputeUnit.__members__:
            raise EdgekitError(
                f"There are no compute units {wanted.lower()!r}.",
                fix=f"There are: {', '.join(name.lower() for name in ComputeUnit.__members__)}.",
            )
        return ComputeUnit[wanted]

    def run(self, folder: Path) -> str | None:
        """Time every program of the job's bundle; see `edgekit.devices.Timer`."""
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        try:
            raw = _wait_for(self._measure(programs(Path(job["folder"]))))
            row = row_of(raw)
        except EdgekitError as error:
            return " ".join(str(error).split())
        except Exception as error:  # coremltools raises anything; the row fails with its words
            return f"coremltools: {type(error).__name__}: {error}"
        write_text(folder / SAMPLES, "".join(json.dumps(item) + "\n" for item in raw))
        write_json(folder / ROW, row)
        return None

    async def _measure(self, found: list[Program]) -> list[dict[str, Any]]:
        raw: list[dict[str, Any]] = []
        for program in found:
            model = self._wrapper(program)
            await _within(model.load(), LOAD_S, "load the program")
            raw.append({"test": "load", "program": program.name, "ms": _ms(model.load_duration_in_nano_seconds)})
            raw.append({"test": "plan", "program": program.name, **await _placement(model)})
            await _within(model.unload(), CALL_S, "unload the program")
            tests = [("pp", count) for count in lengths(program)] if program.decodes else [("call", 1)]
            for kind, tokens in tests:
                raw += await self._repeat(program, kind, tokens)
            if program.decodes and takes(program, 1):
                raw += await self._decode(program)
        return raw

    async def _repeat(self, program: Program, kind: str, tokens: int) -> list[dict[str, Any]]:
        """The same call again and again, a program with a state from an empty one: loaded anew each time."""
        raw = []
        model = None
        for number in range(WARMUP + REPETITIONS):
            if model is None or program.stateful:
                if model is not None:
                    await _within(model.unload(), CALL_S, "unload the program")
                model = self._wrapper(program)
                await _within(model.load(), LOAD_S, "load the program")
            spent = await _call(model, arguments(program, tokens, 0), model.make_state_if_needed())
            if number >= WARMUP:
                name = f"{kind}{tokens}" if kind == "pp" else program.name
                raw.append({"test": name, "program": program.name, "tokens": tokens, "ms": spent})
        if model is not None:
            await _within(model.unload(), CALL_S, "unload the program")
        return raw

    async def _decode(self, program: Program) -> list[dict[str, Any]]:
        """Token by token behind a prompt, in one cache that grows."""
        model = self._wrapper(program)
        await _within(model.load(), LOAD_S, "load the program")
        state = model.make_state_if_needed()
        prompt = PREFILL_TOKENS[0] if takes(program, PREFILL_TOKENS[0]) else 1
        await _call(model, arguments(program, prompt, 0), state)
        raw = []
        for step in range(DECODE_STEPS):
            spent = await _call(model, arguments(program, 1, prompt + step), state)
            raw.append({"test": f"tg{DECODE_STEPS}", "program": program.name, "tokens": 1, "ms": spent})
        await _within(model.unload(), CALL_S, "unload the program")
        return raw

    def _wrapper(self, program: Program) -> Any:
        from coremltools.models import MLModel
        from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

        model = MLModel(str(program.package), skip_model_load=True, function_name=program.function)
        return MLModelAsyncWrapper.from_spec_or_path(
            spec_or_path=str(program.package),
            weights_dir=model.weights_dir or "",
            compute_units=self._units(),
            function_name=program.function,
            device=self._device,
        )


def _wait_for(work: Coroutine[Any, Any, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return asyncio.run(work)


async def _within(work: Awaitable[T], seconds: float, what: str) -> T:
    """What a call to the device gives.

    Raises:
        EdgekitError: it took too long.
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except TimeoutError as error:
        raise EdgekitError(f"The device did not {what} within {seconds:g} s.") from error


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """What a call gives that cannot be broken off; where it takes too long, its thread is left behind.

    Raises:
        TimeoutError: it does.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # told to the one who waits
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found[0]


async def _call(model: Any, inputs: dict[str, Any], state: Any) -> float:
    """Milliseconds of one prediction, as the device itself counts them."""
    await _within(model.predict(inputs, state=state), CALL_S, "run the program")
    return _ms(model.last_predict_duration_in_nano_seconds)


def _ms(nanoseconds: int | None) -> float:
    if not isinstance(nanoseconds, (int, float)) or not 0 < nanoseconds < math.inf:
        raise EdgekitError(f"The device did not say how long that took, but {nanoseconds!r}.")
    return nanoseconds / 1e6


async def _placement(model: Any) -> dict[str, Any]:
    """How many operations the device prefers to run where, or why that is not known."""
    try:
        plan = await _within(model.retrieve_compute_plan(), LOAD_S, "make a plan")
    except Exception as error:  # a plan is worth having, but no reason to lose the timings
        return {"reason": str(error)}
    counts: dict[str, int] = {}
    program = plan.model_structure.program
    for function in program.functions.values() if program is not None else ():
        for operation in function.block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                where = type(usage.preferred_compute_device).__name__
                counts[where] = counts.get(where, 0) + 1
    return {"operations": counts}


def row_of(raw: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields of a report's row from raw samples: sums of loads, medians of calls."""

    def times(test: str) -> list[float]:
        return [item["ms"] for item in raw if item["test"] == test]

    row: dict[str, Any] = {"load_ms": sum(times("load"))}
    prefills = [item for item in raw if item["test"].startswith("pp")]
    if prefills:
        longest = max(item["tokens"] for item in prefills)
        spent = [item["ms"] for item in prefills if item["tokens"] == longest]
        row["prefill_tokens_per_s"] = 1000 * longest / float(np.median(spent))
    vision = [item["ms"] for item in raw if item["test"] == item.get("program") and "vision" in item["test"]]
    if vision:
        row["image_encode_ms"] = float(np.median(vision))
    if gaps := times(f"tg{DECODE_STEPS}"):
        p50, p95, p99 = (float(value) for value in np.quantile(gaps, (0.5, 0.95, 0.99)))
        row |= {"decode_tokens_per_s": 1000 / p50, "itl_ms_p50": p50, "itl_ms_p95": p95, "itl_ms_p99": p99}
    return row
