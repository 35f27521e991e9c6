"""An Android phone over adb: pushes a bundle and a program of yours, runs it there, and reads what it says.

`edgekit bench --device 'android?llama_bench=build/bin/llama-bench'` times the bundle on the phone with a program built
for it: llama.cpp's llama-bench, ONNX Runtime's onnxruntime_perf_test, or a runner of ExecuTorch that prints its
statistics. These programs time and do not answer questions, so the accuracy in the report is measured here, on the very
same bundle. Battery and thermal state stand in the raw samples before and after each run.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.devices import ROW, SAMPLES, Address, Device, _adb
from edgekit.devices._adb import Adb, AdbError
from edgekit.devices.predict import models_of, predict_kind
from edgekit.errors import EdgekitError
from edgekit.files import tree_files, write_json, write_text

OPTIONS = {
    "llama_bench": "llama.cpp's llama-bench for the phone, for bundles of target gguf",
    "onnxruntime": "onnxruntime_perf_test for the phone, for bundles of target onnx",
    "executorch": "a runner of ExecuTorch that prints PyTorchObserver, for bundles of target executorch",
    "args": "arguments of that program instead of the usual ones; {model}, {tokenizer}, {threads} are filled in",
    "libs": "a folder of libraries that the program needs, pushed beside it",
    "port": "of adb's server, instead of 5037",
}
ROOM = "/data/local/tmp"
REPETITIONS = 20
PROMPT_TOKENS = 64  # of the prefill that a graph without a runner of its own is timed on
SILENCE_S = 900.0  # a program that prints nothing for so long has hung
SEVERE = 3  # THERMAL_STATUS_SEVERE of Android's PowerManager: the clock is cut

PROGRAMS = {"gguf": "llama_bench", "onnx": "onnxruntime", "executorch": "executorch"}
"""Target of a bundle -> the option that names its program."""

USUAL = {
    "llama_bench": "-m {model} -p 512 -n 128 -r 5 -t {threads} -o jsonl",
    "onnxruntime": "-I -e cpu -m times -r {repetitions} -s -x {threads}",
    "executorch": "--model_path={model} --tokenizer_path={tokenizer} --prompt=What --seq_len=128 "
    "--cpu_threads={threads} --warmup=1",
}


def reach(address: Address) -> tuple[bool, str]:
    """Whether a phone can be used now, and what it is or what is missing."""
    try:
        adb = _find(address)
        about = _describe(adb)
    except EdgekitError as error:
        return False, " ".join(str(error).split())
    return True, f"{about['name']}, Android {about['system']}, {about['cpu']}"


@contextmanager
def connect(address: Address) -> Iterator[Phone]:
    """A phone with a folder of our own, which goes away with the block.

    Raises:
        EdgekitError: no server, no phone, or one that does not trust this machine.
    """
    adb = _find(address)
    place = f"{ROOM}/edgekit-{secrets.token_hex(6)}"
    _must(adb, f"mkdir -m 700 {place}")
    try:
        yield Phone(address, adb, place)
    finally:
        with contextlib.suppress(AdbError):  # unplugged: the next run of adb shell can remove it
            adb.shell(f"rm -rf {place}")


def _find(address: Address) -> Adb:
    """The phone of a serial number, or the only one."""
    text = address.options.get("port")
    port = _adb.server_port() if text is None else _adb.port_of(text, "The option port")
    listed = Adb("", port).devices()
    found = [one for one in listed if address.place in ("", one.serial)]
    if not found:
        which = f" {address.place}" if address.place else ""
        raise AdbError(
            f"adb knows no phone{which}.",
            why=f"It lists {', '.join(one.serial for one in listed) or 'none'}.",
            fix="Turn USB debugging on in the developer options, and connect it.",
        )
    ready = [one for one in found if one.state == "device"]
    if not ready:
        advice = {"unauthorized": "Confirm the question that the phone shows.", "offline": "Connect it again."}
        raise AdbError(
            f"{found[0].serial} is {found[0].state}.", fix=advice.get(found[0].state, "See:  adb devices -l")
        )
    if len(ready) > 1:
        raise AdbError(
            f"Several are connected: {', '.join(one.serial for one in ready)}.", fix="Name one:  android://SERIAL"
        )
    return Adb(ready[0].serial, port)


def _must(adb: Adb, command: str) -> str:
    code, out, err = adb.shell(command)
    if code != 0:
        raise AdbError(f"The phone's {command.split()[0]} ended with {code}.", why=(err or out).strip()[-300:])
    return out


def _describe(adb: Adb) -> dict[str, Any]:
    def prop(name: str) -> str:
        return adb.shell(f"getprop {name}")[1].strip()

    memory = re.search(r"MemTotal:\s+(\d+)", adb.shell("cat /proc/meminfo")[1])
    return {
        "name": f"{prop('ro.product.manufacturer')} {prop('ro.product.model')}".strip(),
        "cpu": prop("ro.soc.model") or prop("ro.board.platform"),
        "abi": prop("ro.product.cpu.abi"),
        "system": prop("ro.build.version.release"),
        "build": prop("ro.build.fingerprint"),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
    }


def state_of(battery: str, thermal: str) -> dict[str, Any]:
    """Battery and thermal state from `dumpsys battery` and `dumpsys thermalservice`; None for what is not said."""

    def number(pattern: str, text: str) -> int | None:
        found = re.search(pattern, text)
        return None if found is None else int(found[1])

    tenths = number(r"(?m)^\s*temperature: (-?\d+)", battery)
    return {
        "battery_percent": number(r"(?m)^\s*level: (\d+)", battery),
        "battery_c": None if tenths is None else tenths / 10,
        "plugged": bool(re.search(r"(?m)^\s*(?:AC|USB|Wireless) powered: true", battery)),
        "thermal_status": number(r"Thermal Status: (\d+)", thermal),
    }


class Phone:
    """A phone that is ready.

    Args:
        address: With the programs' paths.
        adb: Of the phone.
        place: A folder of it that is ours.
    """

    def __init__(self, address: Address, adb: Adb, place: str) -> None:
        self._options, self._adb, self._place = address.options, adb, place

    def describe(self) -> dict[str, Any]:
        """Model, processor, Android version and build, memory, battery and thermal state."""
        return {**_describe(self._adb), "serial": self._adb.serial, **self._state()}

    def _state(self) -> dict[str, Any]:
        return state_of(self._adb.shell("dumpsys battery")[1], self._adb.shell("dumpsys thermalservice")[1])

    def run(self, folder: Path) -> str | None:
        """Push the job's bundle and its program, and time it; see `edgekit.devices.Timer`."""
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        try:
            raw, row = self._time(Bundle.load(Path(job["folder"]), verify=False), int(job["threads"]))
        except EdgekitError as error:
            return " ".join(str(error).split())
        write_text(folder / SAMPLES, "".join(json.dumps(item) + "\n" for item in raw))
        write_json(folder / ROW, row)
        return None

    def _time(self, bundle: Bundle, threads: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        target = bundle.manifest.target
        kind = PROGRAMS.get(target)
        if kind is None:
            raise EdgekitError(f"No program here runs bundles of target {target!r} on Android.")
        if kind not in self._options:
            raise EdgekitError(
                f"A bundle of target {target!r} needs a program built for the phone.",
                fix=f"Name it:  --device 'android?{kind}=PATH'  ({OPTIONS[kind]})",
            )
        before = self._state()
        program = self._push(bundle, Path(self._options[kind]))
        if kind == "onnxruntime":
            raw, row = self._graphs(bundle, program, threads)
        else:
            out = self._execute(program, self._arguments(kind, threads, bundle))
            raw, row = llama_bench(out) if kind == "llama_bench" else observer(out)
        after = self._state()
        hot = (after["thermal_status"] or 0) >= SEVERE
        raw = [{"test": "state", "when": "before", **before}, *raw, {"test": "state", "when": "after", **after}]
        return [{**item, "throttled": hot} for item in raw], row

    def _push(self, bundle: Bundle, program: Path) -> str:
        """The program's path on the phone; the bundle lies in `bundle` beside it."""
        if not program.is_file():
            raise EdgekitError(f"No program at {program}.")
        folders = {self._place, f"{self._place}/bundle"}
        files = [(bundle.folder / name, f"{self._place}/bundle/{name}") for name in bundle.manifest.files]
        if libs := self._options.get("libs"):
            files += [(Path(libs) / name, f"{self._place}/lib/{name}") for name in tree_files(Path(libs))]
        folders |= {str(PurePosixPath(target).parent) for _, target in files}
        _must(self._adb, "mkdir -p " + " ".join(shlex.quote(name) for name in sorted(folders)))
        for source, target in files:
            self._adb.push(source, target, 0o644)
        there = f"{self._place}/program"
        self._adb.push(program, there, 0o755)
        return there

    def _arguments(self, kind: str, threads: int, bundle: Bundle) -> list[str]:
        names = bundle.manifest.files
        models = {"gguf": ".gguf", "executorch": ".pte"}.get(bundle.manifest.target, "")
        model = next((name for name in names if name.endswith(models) and "mmproj" not in name), "")
        fill = {
            "model": f"{self._place}/bundle/{model}",
            "tokenizer": f"{self._place}/bundle/{bundle.manifest.text.tokenizer}",
            "threads": str(threads),
            "repetitions": str(REPETITIONS),
        }
        words = shlex.split(self._options.get("args", USUAL[kind]))
        return [re.sub(r"\{(\w+)\}", lambda found: fill.get(found[1], found[0]), word) for word in words]

    def _execute(self, program: str, arguments: list[str]) -> str:
        """What a program prints.

        Raises:
            EdgekitError: it does not end well; with the end of its own words, and of the phone's log.
        """
        library = f"LD_LIBRARY_PATH={self._place}/lib"
        command = f"cd {self._place} && {library} {shlex.join([program, *arguments])}"
        code, out, err = self._adb.shell(command, timeout_s=SILENCE_S)
        if code == 0:
            return out + err  # ExecuTorch's runners log to standard error
        tail = [line.strip() for line in (err or out).splitlines() if line.strip()][-4:]
        log = self._adb.shell("logcat -d -t 40 '*:E'")[1].splitlines()
        tail += [line.strip() for line in log if "program" in line or "lowmemorykiller" in line or "lmkd" in line][-3:]
        how = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
        raise EdgekitError(f"The program on {self._adb.serial} {how}.", why=" / ".join(tail))

    def _graphs(self, bundle: Bundle, program: str, threads: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Each graph on its own, the decoder on a prompt and on one token behind it."""
        raw: list[dict[str, Any]] = []
        row: dict[str, Any] = {}
        encoder = next(iter(bundle.manifest.encoders().values()))[0]
        view = bundle.manifest.view_tokens(encoder) or 1
        tests = {
            encoder: {"sequence_length": 1, "image_tokens": view},
            "text_decoder": {"sequence_length": PROMPT_TOKENS, "past_sequence_length": 0},
            "text_decoder ": {"sequence_length": 1, "past_sequence_length": PROMPT_TOKENS},
        }
        for name, sizes in tests.items():
            component = bundle.manifest.components[name.strip()]
            arguments = self._arguments("onnxruntime", threads, bundle)
            for axis, size in free_axes([spec.shape for spec in component.inputs], sizes).items():
                arguments += ["-f", f"{axis}:{size}"]
            out = self._execute(program, [*arguments, f"{self._place}/bundle/{component.file}"])
            found = perf_test(out)
            raw.append({"test": name.strip(), "tokens": sizes["sequence_length"], **found})
            row["load_ms"] = row.get("load_ms", 0.0) + (found["load_ms"] if not name.endswith(" ") else 0.0)
            row["peak_memory_bytes"] = max(row.get("peak_memory_bytes") or 0, found["peak_memory_bytes"] or 0) or None
            if name == encoder:
                row["image_encode_ms"] = found["p50_ms"]
            elif sizes["sequence_length"] > 1:
                row["prefill_tokens_per_s"] = 1000 * PROMPT_TOKENS / found["p50_ms"]
            else:
                row |= {"decode_tokens_per_s": 1000 / found["p50_ms"], "itl_ms_p50": found["p50_ms"]}
                row |= {"itl_ms_p95": found["p95_ms"], "itl_ms_p99": found["p99_ms"]}
        return raw, row


def free_axes(shapes: list[tuple[int | str, ...]], sizes: dict[str, int]) -> dict[str, int]:
    """Size of every named axis of some inputs: a sum of names is the sum of their sizes, any other name is 1."""
    found = {}
    for name in dict.fromkeys(axis for shape in shapes for axis in shape if isinstance(axis, str)):
        parts = [part.strip() for part in name.split("+")]
        found[name] = sum(sizes.get(part, 1) for part in parts)
    return found


def llama_bench(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Raw samples and row of llama-bench's `-o jsonl`.

    Raises:
        EdgekitError: there is no test in it.
    """
    raw, row = [], {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # its log is between the lines
            item = json.loads(line)
            prompt, new = int(item["n_prompt"]), int(item["n_gen"])
            speeds = [float(value) for value in item["samples_ts"]]
            if not speeds or not all(0 < speed < math.inf for speed in speeds):
                raise ValueError
            name = f"pp{prompt}" if prompt else f"tg{new}"
            build = item.get("build_commit", "")
            raw += [{"test": name, "tokens": prompt or new, "tokens_per_s": speed, "build": build} for speed in speeds]
            row["prefill_tokens_per_s" if prompt else "decode_tokens_per_s"] = float(np.median(speeds))
    if not row:
        raise EdgekitError("llama-bench printed no results.", why=out.strip()[-300:], fix="It needs  -o jsonl.")
    return raw, row


def observer(out: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Raw samples and row of the PyTorchObserver lines of ExecuTorch's runners (extension/llm/runner/stats.h).

    Raises:
        EdgekitError: there is none.
    """
    raw, rows = [], []
    for text in re.findall(r"PyTorchObserver\s+(\{.*\})", out):
        try:
            item = json.loads(text)
            rows.append(_observed(item))
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise EdgekitError(
                "The runner printed a PyTorchObserver line that says nothing.", why=f"{error!r}: {text[:300]}"
            ) from error
        raw.append({"test": "run", **item})
    if not rows:
        raise EdgekitError("The runner printed no PyTorchObserver line.", why=out.strip()[-300:])
    row: dict[str, Any] = {}
    for name in rows[0]:
        values = [value for item in rows if (value := item[name]) is not None]
        row[name] = float(np.median(values)) if values else None
    return raw, row


def _observed(item: dict[str, Any]) -> dict[str, float | None]:
    scale = 1000 / item.get("SCALING_FACTOR_UNITS_PER_SECOND", 1000)
    prefill = scale * (item["prompt_eval_end_ms"] - item["inference_start_ms"])
    decode = scale * (item["inference_end_ms"] - item["prompt_eval_end_ms"])
    return {
        "load_ms": scale * (item["model_load_end_ms"] - item["model_load_start_ms"]),
        "ttft_ms": scale * (item["first_token_ms"] - item["inference_start_ms"]),
        "prefill_tokens_per_s": 1000 * item["prompt_tokens"] / prefill if prefill > 0 else None,
        "decode_tokens_per_s": 1000 * item["generated_tokens"] / decode if decode > 0 else None,
    }


def perf_test(out: str) -> dict[str, Any]:
    """What onnxruntime_perf_test -s prints, in milliseconds and bytes.

    Raises:
        EdgekitError: no latency in it.
    """

    def number(label: str, unit: str) -> float | None:
        found = re.search(rf"{label}\s*:\s*([0-9.e+-]+)\s*{unit}", out)
        with contextlib.suppress(ValueError):  # two points in it
            return None if found is None else float(found[1])
        return None

    quantiles = {name: number(f"{name.upper()} Latency", "s") for name in ("p50", "p95", "p99")}
    if not all(quantiles.values()):  # a clock that stands still gives zeros
        raise EdgekitError(
            "onnxruntime_perf_test printed no latencies above 0.", why=out.strip()[-300:], fix="It needs  -s."
        )
    load, memory = number("Session creation time cost", "s"), number("Peak working set size", "")
    return {
        **{f"{name}_ms": 1000 * (value or 0.0) for name, value in quantiles.items()},
        "load_ms": 1000 * (load or 0.0),
        "peak_memory_bytes": None if memory is None else int(memory),
    }


DEVICE = Device(
    reach,
    timer=connect,
    options=OPTIONS,
    predict=partial(predict_kind, "android"),
    models=partial(models_of, "android"),
)
