"""What is ready on this machine: packages by extra, memory, disk, accelerators."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CORE = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "pyarrow",
    "tokenizers",
    "safetensors",
    "scipy",
    "pillow",
    "filelock",
)
OTHERS = {"demo": ("easy-vqa",), "lora": ("peft",), "tensorboard": ("tensorboard",)}
"""Extras that belong to no target."""


def checks(targets: Mapping[str, tuple[tuple[str, ...], str]]) -> list[dict[str, Any]]:
    """One row per thing: name, ready, detail, and what to do when it is missing.

    Args:
        targets: Extra -> the distributions of a target, and the command that installs them.
    """
    rows = [_python(), _packages("core", CORE, "pip install edgekit")]
    rows += [_packages(f"extra {name}", names, fix) for name, (names, fix) in targets.items()]
    rows += [_packages(f"extra {name}", names, f"pip install 'edgekit[{name}]'") for name, names in OTHERS.items()]
    return [*rows, _torchvision(), _memory(), _disk(), _accelerator()]


def _row(name: str, ready: bool, detail: str, fix: str = "") -> dict[str, Any]:
    return {"name": name, "ready": ready, "detail": detail, "fix": "" if ready else fix}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _python() -> dict[str, Any]:
    return _row("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages(name: str, packages: tuple[str, ...], fix: str) -> dict[str, Any]:
    found = {package: _version(package) for package in packages}
    missing = [package for package, number in found.items() if number is None]
    if missing:
        return _row(name, False, f"not installed: {', '.join(missing)}", f"{fix}")
    return _row(name, True, ", ".join(f"{package} {number}" for package, number in found.items()))


def _torchvision() -> dict[str, Any]:
    number = _version("torchvision")
    if number is None:
        return _row("torchvision", True, "not installed, and not needed")
    torch = _version("torch") or ""
    if "+cpu" in torch and "+cpu" not in number:
        fix = "pip uninstall torchvision  (a CUDA build beside a CPU torch breaks every image processor)"
        return _row("torchvision", False, f"{number} does not belong to torch {torch}", fix)
    return _row("torchvision", True, number)


def _memory() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free, {os.cpu_count()} cores"
    return _row("memory", memory.available > 2 * 2**30, detail, "The demo wants 2 GiB; close other programs.")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free
    return _row("disk here", free > 2**30, f"{free / 2**30:.1f} GiB free", "The demo wants 1 GiB; free some space.")


def _accelerator() -> dict[str, Any]:
    if _version("torch") is None:
        return _row("accelerator", True, "unknown without torch")
    import torch

    if torch.cuda.is_available():
        return _row("accelerator", True, f"{torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return _row("accelerator", True, "Apple GPU (mps)")
    return _row("accelerator", True, "none; the CPU is used")
