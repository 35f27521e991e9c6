"""Temporary magnitude masks on a teacher: Eq. 1-3 of MASTERS.

No masked teacher is stored and no second dense copy is held: each stage reads the dense tensors through the
memory-mapped safetensors, one at a time, and zeroes what lies below that tensor's threshold.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgekit.checkpoint.folder import check_checkpoint, checkpoint_hash
from edgekit.checkpoint.skeleton import placed_tensors, skeleton
from edgekit.checkpoint.tensors import check_tensors
from edgekit.checkpoint.weights import weight_files
from edgekit.errors import CheckpointError, RecipeError
from edgekit.families import Family, family_of
from edgekit.files import new_folder, write_json
from edgekit.seal import FOLDER_SEAL

Scope = Literal["all", "language", "vision"]
MASK_RECORD = "edgekit-mask.json"
CHUNK = 1 << 18
"""Entries of a tensor worked on at a time."""


def magnitude_threshold(weight: Tensor, ratio: float) -> float:
    """Threshold below which `ratio` of the entries of |weight| fall.

    Source: MASTERS, arXiv:2512.22238, Eq. (1); per layer, not global (section 3.1). Found exactly, by counting: bits
    of a float without its sign order as its magnitude does, so their upper half is counted, then the lower half of
    those that share the right upper one. That needs a few megabytes beside the weight, and time linear in its size.

    Args:
        weight: Any shape, any float dtype; read only.
        ratio: Share to mask, in [0, 1), dimensionless.

    Returns:
        Threshold in the weight's own units; 0.0 for ratio 0.

    Raises:
        RecipeError: ratio outside [0, 1).
    """
    if not 0 <= ratio < 1:
        raise RecipeError(f"The mask ratio {ratio} is not in [0, 1).")
    below = math.floor(ratio * weight.numel())
    if below == 0:
        return 0.0
    flat = weight.detach().reshape(-1)
    if flat.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        flat = flat.float()
    if flat.dtype != torch.float32:
        counts = _counts((part & 0x7FFF for part in torch.split(flat.view(torch.int16), CHUNK)), 15, flat.device)
        bits, _ = _place(counts, below)
        return float(torch.tensor(bits, dtype=torch.int16).view(flat.dtype))
    parts = torch.split(flat.view(torch.int32), CHUNK)
    counts = _counts(((part & 0x7FFFFFFF) >> 16 for part in parts), 15, flat.device)
    upper, rank = _place(counts, below)
    same = (part[(part & 0x7FFFFFFF) >> 16 == upper] & 0xFFFF for part in parts)
    lower, _ = _place(_counts(same, 16, flat.device), rank)
    return float(torch.tensor(upper << 16 | lower, dtype=torch.int32).view(torch.float32))


def _counts(parts: Iterable[Tensor], bits: int, device: torch.device) -> Tensor:
    """How often each whole number below 2^bits occurs."""
    counts = torch.zeros(1 << bits, dtype=torch.int64, device=device)
    for part in parts:
        counts += torch.bincount(part, minlength=1 << bits)
    return counts


def _place(counts: Tensor, rank: int) -> tuple[int, int]:
    """The value at a rank, from 0, among counted values; and its rank among those equal to it."""
    total = counts.cumsum(0)
    value = int(torch.searchsorted(total, rank, right=True))
    return value, rank - int(total[value] - counts[value])


@torch.no_grad()
def mask_into(target: Tensor, dense: Tensor, ratio: float) -> float:
    """Write a weight into `target` with the share `ratio` of smallest magnitudes set to zero (Eq. 2).

    Args:
        target: Contiguous, of any float dtype and device; may be `dense` itself.
        dense: Of the same shape; decides the threshold.
        ratio: Share to mask, in [0, 1).

    Returns:
        The threshold, in the weight's own units.
    """
    threshold = magnitude_threshold(dense, ratio)
    for into, part in zip(torch.split(target.view(-1), CHUNK), torch.split(dense.reshape(-1), CHUNK), strict=True):
        into.copy_(part.where(part.abs() >= threshold, 0.0))
    return threshold


def mask_ratio(step: int, steps: int, r_max: float, fall: float) -> float:
    """Mask ratio at an iteration.

    Source: MASTERS Eq. (3), r[i] = r_max - s * floor(i M / I), M = r_max / s + 1; clamped at 0, below which the printed
    formula goes at its end.

    Args:
        step: i, from 0 to I.
        steps: I, iterations of this teacher.
        r_max: Ratio of the first stage.
        fall: s, fall per stage.
    """
    stages = r_max / fall + 1
    # A tiny push up: 0.3 / 0.1 is 2.9999999999999996 in binary, which would cost the last stage its first iteration.
    return max(0.0, round(r_max - fall * math.floor(step * stages / steps + 1e-9), 10))


def stage_ratios(steps: int, r_max: float, fall: float) -> list[float]:
    """The distinct ratios of a schedule in their order."""
    return list(dict.fromkeys(mask_ratio(step, steps, r_max, fall) for step in range(steps)))


def maskable(
    model: nn.Module, family: Family, scope: Scope = "all", exclude: tuple[str, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of the linear layers a mask may touch: never embeddings, norms, biases or the output head.

    Args:
        model: The teacher.
        family: Says which parameter names are vision and which language.
        scope: Which part.
        exclude: fnmatch patterns of parameter names to leave whole.
    """
    parts = family.prefixes
    prefixes = tuple(p for part in (parts if scope == "all" else (scope,)) for p in parts[part])
    heads: Any = model
    output = heads.get_output_embeddings()
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if not isinstance(module, nn.Linear) or module is output or not weight.startswith(prefixes):
            continue
        if not any(fnmatch(weight, pattern) for pattern in exclude):
            yield weight, module.weight


def check_mask(folder: Path, family: Family, scope: Scope, exclude: tuple[str, ...]) -> None:
    """Make sure that a mask has something to mask, and that each pattern leaves something out.

    Args:
        folder: Of the teacher; only its configuration is read.
        family: Its family.
        scope, exclude: See `maskable`.

    Raises:
        RecipeError: nothing is left, or a pattern fits no weight.
    """
    names = [name for name, _ in maskable(skeleton(folder), family, scope)]
    shown = f"Weights of {folder.name} are, for example:\n" + "\n".join(dict.fromkeys([names[0], names[-1]]))
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name in names):
            raise RecipeError(
                f"masters.mask.exclude: the pattern {pattern!r} fits none of the {len(names)} weights of a mask.",
                why=shown,
                fix="A pattern fits the whole name:  '*.down_proj.weight'",
            )
    if all(any(fnmatch(name, pattern) for pattern in exclude) for name in names):
        raise RecipeError(
            f"masters.mask.exclude leaves none of the {len(names)} weights of scope {scope!r} to mask.",
            why=shown,
            fix="Exclude less, or switch the mask off:  --set masters.mask.r_max=0",
        )


class MaskedTeacher:
    """A loaded teacher whose mask ratio can be set again and again.

    Args:
        model: Loaded from `folder`, on any device, of any float dtype.
        folder: Its checkpoint folder with safetensors.
        family: Its family.
        scope, exclude: See `maskable`.
    """

    def __init__(
        self, model: nn.Module, folder: Path, family: Family, scope: Scope = "all", exclude: tuple[str, ...] = ()
    ) -> None:
        self.model = model
        self.ratio = 0.0
        self.weights = dict(maskable(model, family, scope, exclude))
        self._stored = _dense_tensors(model, folder, list(self.weights))

    @torch.no_grad()
    def set_ratio(self, ratio: float) -> dict[str, float]:
        """Restore the dense weights and mask them at `ratio`, in place.

        Returns:
            The threshold of each masked tensor, in its own units.
        """
        thresholds = {}
        by_file: dict[Path, list[tuple[str, str]]] = {}
        for name in self.weights:
            path, key = self._stored[name]
            by_file.setdefault(path, []).append((name, key))
        for path, names in by_file.items():
            with safe_open(str(path), framework="pt") as stored:
                for name, key in names:
                    thresholds[name] = mask_into(self.weights[name], stored.get_tensor(key), ratio)
        self.ratio = ratio
        return thresholds


def write_masked(
    folder: Path, ratio: float, out: Path, scope: Scope = "all", exclude: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Write a checkpoint with its mask in it, for a server or an engine that cannot mask.

    The weights go through one tensor at a time: names, dtypes, shapes and files stay those of the dense checkpoint.

    Args:
        folder: Dense Hugging Face folder.
        ratio: Share to mask in each tensor, in [0, 1).
        out: Folder to write, whole or not at all; an earlier masked checkpoint there is replaced.
        scope, exclude: See `maskable`.

    Returns:
        What edgekit-mask.json in `out` holds: source_sha256, ratio, scope, exclude, thresholds.

    Raises:
        CheckpointError: as `check_checkpoint` and `check_tensors`, or a tensor is not stored by itself.
        RecipeError: ratio outside [0, 1).
        StorageError: `out` is there and is no masked checkpoint.
    """
    if not 0 <= ratio < 1:
        raise RecipeError(f"The mask ratio {ratio} is not in [0, 1).")
    config = check_checkpoint(folder)
    model = check_tensors(folder)
    names = [name for name, _ in maskable(model, family_of(str(config["model_type"])), scope, exclude)]
    stored = {key: name for name, (_, key) in _dense_tensors(model, folder, names).items()}
    thresholds: dict[str, float] = {}
    with new_folder(out, replace=(out / MASK_RECORD).exists() and out.resolve() != folder.resolve()) as aside:
        for path in weight_files(folder):
            place = aside / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            thresholds |= _write_masked_file(path, place, ratio, stored)
        for path in sorted(folder.iterdir()):
            # A card's figures and a seal are the dense one's; other safetensors are none of the model's.
            left = path.suffix == ".safetensors" or path.name in (MASK_RECORD, FOLDER_SEAL, "card.json")
            if path.is_file() and not left:
                shutil.copyfile(path, aside / path.name)
        record = {
            "source_sha256": checkpoint_hash(folder),
            "ratio": ratio,
            "scope": scope,
            "exclude": list(exclude),
            "thresholds": thresholds,
        }
        write_json(aside / MASK_RECORD, record)
    return record


def _write_masked_file(source: Path, target: Path, ratio: float, names: dict[str, str]) -> dict[str, float]:
    """One safetensors file. Masking changes neither dtype nor shape, so the header is the source's, byte for byte.

    Args:
        source, target: Files.
        ratio: Share to mask.
        names: Stored name -> the model's name of the tensors to mask.

    Returns:
        Thresholds by the model's names.
    """
    thresholds = {}
    with source.open("rb") as stream:
        (size,) = struct.unpack("<Q", length := stream.read(8))
        header = stream.read(size)
    entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
    with safe_open(str(source), framework="pt") as stored, target.open("wb") as stream:
        stream.write(length + header)
        for key in sorted(entries, key=lambda key: entries[key]["data_offsets"]):
            weight = stored.get_tensor(key)
            if key in names:
                thresholds[names[key]] = mask_into(weight, weight, ratio)
            stream.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return thresholds


def _dense_tensors(model: nn.Module, folder: Path, names: list[str]) -> dict[str, tuple[Path, str]]:
    """For each of `names`, its file and its name there; one that is not stored by itself is an error."""
    # One that transformers puts together from several has no magnitudes of its own to go by.
    whole = [one for one in placed_tensors(model, folder) if one.whole]
    found = {one.name: (one.stored.path, one.stored.key) for one in whole}
    if missing := [name for name in names if name not in found]:
        raise CheckpointError(
            f"{folder} does not hold the tensor {missing[0]} by itself.",
            why="Masks are made from the stored dense weights, tensor by tensor.",
            fix="Save the teacher once with save_pretrained and use that folder.",
        )
    return {name: found[name] for name in names}
