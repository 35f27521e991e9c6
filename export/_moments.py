"""How large the inputs of a model's linear layers are on calibration prompts.

The error that rounding leaves in a layer's output is (W - W') x. Its mean square over inputs x, taking inputs of
different channels as uncorrelated, is the sum over the weights of (w - w')^2 E[x_k^2], k the weight's input channel:
so E[x_k^2] says how much the error of a weight matters. llama.cpp's importance matrices hold the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.export.parity import TorchModules, follow
from edgekit.families import Split
from edgekit.inputs.processor import Inputs

if TYPE_CHECKING:
    from torch import nn

ANSWER = 8  # tokens of the reference's own answer that are seen behind each prompt
SAME = 1e-6  # converters move numbers that float16 cannot hold by less than that
FLOOR = 1e-6  # of the largest: no channel is free to be wrong because a few prompts left it silent


@dataclass(frozen=True)
class Moments:
    """Mean squares of the inputs of linear layers.

    Attributes:
        layers: Weight (N, K), float32, and E[x^2] (K,), float64, of each layer that was reached.
    """

    layers: Sequence[tuple[NDArray[Any], NDArray[np.float64]]] = ()

    def of(self, weight: NDArray[Any]) -> NDArray[np.float64] | None:
        """(K,) for a weight (N, K), above zero, mean 1; None where no layer has it.

        Layers are told by their numbers, because converters choose names of their own and keep one copy of weights that
        are equal; what goes into the layers of such a copy is added up.

        Args:
            weight: As the program holds it, in float16 or float32.
        """
        found = [moments for theirs, moments in self.layers if _equal(theirs, weight)]
        if not found:
            return None
        total = np.sum(found, axis=0)
        raised: NDArray[np.float64] = np.maximum(total, FLOOR * total.max())
        return raised / raised.mean() if raised.any() else np.ones_like(raised)


def _equal(theirs: NDArray[Any], weight: NDArray[Any]) -> bool:
    if theirs.shape != weight.shape:
        return False
    rows = (slice(1), slice(None))  # most are told apart by their first row

    def near(part: slice) -> bool:
        rounded = theirs[part].astype(weight.dtype).astype(np.float32)
        return bool(np.abs(rounded - weight[part].astype(np.float32)).max() <= SAME)

    return all(near(part) for part in rows)


def measure(split: Split, prompts: Sequence[Inputs], precisions: Mapping[str, str]) -> Moments:
    """Run the PyTorch modules on prompts, images included, and on the reference's own answers to them.

    Args:
        split: The modules; they stay as they are.
        prompts: Questions.
        precisions: Of the parts that are wanted, of vision and text.

    Returns:
        Of the layers of those parts.

    Raises:
        EdgekitError: there are no prompts, or no images where the vision encoder's layers are wanted.
    """
    if not prompts:
        raise EdgekitError(
            f"{next(iter(precisions.values()))} needs questions to calibrate with, and there are none.",
            fix="Name some:  edgekit export ... --calibration-data SPEC --calibrate 64",
        )
    text: Any = split.text
    modules = {"vision": [part.module for part in split.vision.values()], "text": [text]}
    layers = _linears([module for part in precisions for module in modules[part]])
    # Programs give the logits of the last token alone, so only that goes through the head.
    sums, counts = _watch(layers, split, prompts, last_only=text.lm_head)
    if "vision" in precisions and not any(layer in counts for layer in _linears(modules["vision"])):
        raise EdgekitError(
            f"{precisions['vision']} needs images to calibrate the vision encoder with, and these questions have none.",
            fix="Name questions with images:  edgekit export ... --calibration-data SPEC",
        )
    return Moments([(layer.weight.detach().float().numpy(), sums[layer] / counts[layer]) for layer in sums])


def _linears(modules: Sequence[nn.Module]) -> list[nn.Linear]:
    """Each once, though several sizes of images share them."""
    from torch import nn

    return list(dict.fromkeys(part for one in modules for part in one.modules() if isinstance(part, nn.Linear)))


def _watch(
    layers: Sequence[nn.Linear], split: Split, prompts: Sequence[Inputs], *, last_only: nn.Module
) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Sums of squares (K,) of what the layers are given, and how many rows that were."""
    sums: dict[Any, Any] = {}
    counts: dict[Any, int] = {}

    def count(layer: Any, given: Any, _: Any) -> None:
        rows = given[0].detach().double()
        rows = (rows[:, -1:] if layer is last_only else rows).flatten(0, -2)
        sums[layer] = sums.get(layer, 0.0) + rows.square().sum(0).numpy()
        counts[layer] = counts.get(layer, 0) + len(rows)

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        for prompt in prompts:
            follow(TorchModules(split), split, prompt, None, ANSWER)
    finally:
        for hook in hooks:
            hook.remove()
    return sums, counts
