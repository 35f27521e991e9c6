"""Peak memory and time of a teacher's mask stages: in place from the stored weights, beside a dense copy.

    python benchmarks/masking.py [--width 1024] [--ratios 0.6,0.45,0.3,0.15,0] [--repeats 3] [--json]

    edgekit     MaskedTeacher.set_ratio: each dense tensor read from the memory-mapped safetensors, masked, copied in
    deep-copy   a second, dense model is kept; each stage copies a tensor from it and masks that
    state-dict  the dense weights are kept as a cloned state dict, each stage loads them all and masks in place

Each way starts in a fresh process, several times in turn, from the same random Idefics3 checkpoint (three decoder
layers of the given width) written to disk.
Memory is the process's own (anonymous) memory above what it holds with the teacher loaded, sampled during the stages:
pages of the mapped file are the page cache's, which the kernel takes back when it needs them; they are given beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit.checkpoint.folder import load_model
from edgekit.demo.tiny import write_checkpoint
from edgekit.distill.masking import MaskedTeacher, mask_into, maskable
from edgekit.families import family_of

Stage = Callable[[float], None]


def edgekit(model: nn.Module, folder: Path) -> Stage:
    teacher = MaskedTeacher(model, folder, family_of("idefics3"))

    def stage(ratio: float) -> None:
        teacher.set_ratio(ratio)

    return stage


@torch.no_grad()
def deep_copy(model: nn.Module, folder: Path) -> Stage:
    dense = dict(maskable(copy.deepcopy(model), family_of("idefics3")))
    weights = dict(maskable(model, family_of("idefics3")))

    @torch.no_grad()
    def stage(ratio: float) -> None:
        for name, weight in weights.items():
            mask_into(weight, dense[name], ratio)

    return stage


def state_dict(model: nn.Module, folder: Path) -> Stage:
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    weights = dict(maskable(model, family_of("idefics3")))

    @torch.no_grad()
    def stage(ratio: float) -> None:
        model.load_state_dict(dense)
        for weight in weights.values():
            mask_into(weight, weight, ratio)

    return stage


WAYS: dict[str, Callable[[nn.Module, Path], Stage]] = {
    "edgekit": edgekit,
    "deep-copy": deep_copy,
    "state-dict": state_dict,
}


def memory() -> dict[str, int]:
    """Anonymous and file-backed resident bytes of this process."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {key: int(rows[field].split()[0]) * 1024 for key, field in (("own", "RssAnon"), ("mapped", "RssFile"))}


class Watch:
    """Highest memory while the block runs, above what was held at its start; sampled every 2 ms."""

    def __enter__(self) -> Watch:
        self.start = memory()
        self.peak = dict(self.start)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            for key, value in memory().items():
                self.peak[key] = max(self.peak[key], value)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def above(self) -> dict[str, int]:
        """Bytes above the start."""
        return {key: self.peak[key] - self.start[key] for key in self.start}


def once(name: str, folder: Path, ratios: list[float]) -> dict[str, Any]:
    """One way in this process: peak bytes above the loaded teacher, seconds per stage, and a sum over the weights."""
    model = load_model(folder)
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # what was read lazily from the file would count as the stages' memory
    with Watch() as watch:
        stage = WAYS[name](model, folder)
        start = time.perf_counter()
        for ratio in ratios:
            stage(ratio)
        seconds = (time.perf_counter() - start) / len(ratios)
    stage(ratios[0])
    check = sum(float(weight.double().sum()) for _, weight in maskable(model, family_of("idefics3")))
    return {"way": name, **watch.above(), "stage_s": seconds, "check": check}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 1024), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--ratios", default="0.6,0.45,0.3,0.15,0")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ratios = [float(value) for value in args.ratios.split(",")]
    if args.once:
        print(json.dumps(once(args.once[0], Path(args.once[1]), ratios)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "teacher"
        write_checkpoint("smolvlm", folder, seed=0, width=args.width)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        rows: list[dict[str, Any]] = []
        for _ in range(args.repeats):
            for name in WAYS:
                command = [sys.executable, __file__, "--once", name, str(folder), "--ratios", args.ratios]
                rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    if len({row["check"] for row in rows}) > 1:
        raise SystemExit("The ways do not end in the same weights.")
    summary = [_summary(name, [row for row in rows if row["way"] == name], size) for name in WAYS]
    if args.json:
        print(json.dumps({"weights_bytes": size, "ratios": ratios, "ways": summary}, indent=2))
        return
    print(f"weights {size / 1e6:,.0f} MB, {len(ratios)} stages, medians of {args.repeats} fresh processes")
    print(f"{'way':12} {'own memory':>12} {'of weights':>11} {'mapped file':>12} {'s a stage':>10}")
    for row in summary:
        shown = (
            f"{row['own'] / 1e6:9,.0f} MB {row['share']:11.1%} {row['mapped'] / 1e6:9,.0f} MB {row['stage_s']:10.2f}"
        )
        print(f"{row['way']:12} {shown}")


def _summary(name: str, rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    middle = {key: statistics.median(row[key] for row in rows) for key in ("own", "mapped", "stage_s")}
    return {"way": name, **middle, "share": middle["own"] / size}


if __name__ == "__main__":
    main()
