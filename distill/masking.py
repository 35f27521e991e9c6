"""Temporary magnitude masks on a teacher: Eq. 1-3 of MASTERS.

No masked teacher is stored and no second dense copy is held: each stage reads the dense tensors through the
memory-mapped safetensors, one at a time, and zeroes what lies below that tensor's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor, nn

from edgekit.errors import CheckpointError, RecipeError

Scope = Literal["all", "language", "vision"]


def magnitude_threshold(weight: Tensor, ratio: float) -> float:
    """Threshold below which `ratio` of the entries of |weight| fall.

    Source: MASTERS, arXiv:2512.22238, Eq. (1); per layer, not global (section 3.1).

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
    # kthvalue counts from 1: the value after the `below` smallest is the first one kept.
    return float(weight.detach().abs().float().flatten().kthvalue(below + 1).values)


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
    model: nn.Module, family: ModuleType, scope: Scope = "all", exclude: tuple[str, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of the linear layers a mask may touch: never embeddings, norms, biases or the output head.

    Args:
        model: The teacher.
        family: Says which parameter names are vision and which language.
        scope: Which part.
        exclude: fnmatch patterns of parameter names to leave whole.
    """
    parts = family.PARTS
    prefixes = tuple(p for part in (parts if scope == "all" else (scope,)) for p in parts[part])
    heads: Any = model
    output = heads.get_output_embeddings()
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if not isinstance(module, nn.Linear) or module is output or not weight.startswith(prefixes):
            continue
        if not any(fnmatch(weight, pattern) for pattern in exclude):
            yield weight, module.weight


class MaskedTeacher:
    """A loaded teacher whose mask ratio can be set again and again.

    Args:
        model: Loaded from `folder`, on any device, of any float dtype.
        folder: Its checkpoint folder with safetensors.
        family: Its family module.
        scope, exclude: See `maskable`.
    """

    def __init__(
        self, model: nn.Module, folder: Path, family: ModuleType, scope: Scope = "all", exclude: tuple[str, ...] = ()
    ) -> None:
        self.model = model
        self.ratio = 0.0
        self.weights = dict(maskable(model, family, scope, exclude))
        self._stored = _stored_tensors(model, folder)
        if missing := [name for name in self.weights if name not in self._stored]:
            raise CheckpointError(
                f"{folder} does not hold the tensor {missing[0]} by itself.",
                why="Masks are made from the stored dense weights, tensor by tensor.",
                fix="Save the teacher once with save_pretrained and use that folder.",
            )

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
                    dense = stored.get_tensor(key)
                    thresholds[name] = magnitude_threshold(dense, ratio)
                    self.weights[name].copy_(dense.where(dense.abs().float() >= thresholds[name], 0.0))
        self.ratio = ratio
        return thresholds

    def masked_share(self) -> float:
        """Share of the maskable entries that are zero now."""
        zeros = sum(int((weight == 0).sum()) for weight in self.weights.values())
        return zeros / max(1, sum(weight.numel() for weight in self.weights.values()))


def _stored_tensors(model: nn.Module, folder: Path) -> dict[str, tuple[Path, str]]:
    """For each tensor name of the model, the file that holds it and its name there.

    The names may differ: transformers keeps the hub's old layouts readable by renaming at load and back at save, so
    its own rules are asked. A tensor it puts together from several is left out.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    own = model.state_dict()
    prefix = getattr(model, "base_model_prefix", None)
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - a file handle, not a dict
                name, converted = rename_source_key(key, renamings, converters, prefix, own)
                if converted is None:
                    found[name] = (path, key)
    return found
