"""Parity at export: a bundle, opened by its own runtime, against the PyTorch modules it was made from.

The reference is decoded greedily; the bundle is fed the same tokens step by step. If its best token is the reference's
at every step, greedy decoding gives the same tokens, so one pass yields both figures: identical greedy tokens, and the
logits' difference on the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import NotFiniteError
from edgekit.families import Pixels, Split
from edgekit.families.decoding import Given, Run, filled, next_positions
from edgekit.families.merging import Encoded, gather, merge_images, runs_of
from edgekit.inputs.processor import Inputs
from edgekit.report.tally import Tally
from edgekit.report.tolerances import judge, settling, tolerances_of
from edgekit.stats import finite_or_none, largest_gap

Array = NDArray[Any]


class Exported(Protocol):
    """A bundle, opened by its own runtime."""

    @property
    def verified_by(self) -> str:
        """Whether the runtime itself runs, or an evaluator of its programs."""

    def follow(self, inputs: Inputs, tokens: Sequence[int]) -> Iterable[Array]:
        """The logits (V,) before each of the given tokens, feeding them one by one."""

    def encode_images(self, inputs: Inputs) -> Encoded | None:
        """Features of a prompt's images; None where the runtime shows none of its modules."""

    def close(self) -> None:
        """Free what it holds."""


Opens = Callable[[Path], Exported]
"""From a sealed bundle's folder to the bundle, opened."""


@dataclass
class TorchModules:
    """The split's own modules, on NumPy arrays."""

    split: Split

    def encode_image(self, pixel_values: Array, bucket: str = "") -> list[Array]:
        """What the bucket's encoder gives: tiles (M, 3, H, W) -> [(M, N, D)], patches or one view -> [(N, D)].

        Its further outputs follow.
        """
        return self._run(self.split.vision[bucket].module, pixel_values)

    def embed(self, ids: Array) -> Array:
        """(1, T) -> (1, T, D)."""
        return self._run(self.split.token_embedding, ids)[0]

    def decode(self, embeds: Array, mask: Array, given: Given, past: list[Array]) -> tuple[Array, list[Array]]:
        """-> logits (1, T, V) and the grown states; `given` are the decoder's extra inputs by name."""
        extra = [given[one.name] for one in self.split.extra_inputs]
        logits, *grown = self._run(self.split.text_decoder, embeds, mask, *extra, *past)
        return logits, grown

    @staticmethod
    def _run(module: Any, *arrays: Array) -> list[Array]:
        import torch

        with torch.no_grad():
            out = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]


def empty_cache(split: Split) -> list[Array]:
    """No past: keys and values (1, H, 0, D_head), states as they begin."""
    return [state.empty() for state in split.states]


def encode_images(parts: TorchModules, split: Split, pixels: Pixels) -> Encoded:
    """All images of a prompt, each by its bucket's encoder."""
    pack = None if split.pack is None else partial(split.pack, pixels.grids)
    runs = [parts.encode_image(values, name) for name, values in runs_of(split, pixels)]
    return gather(runs, split.extra_inputs, pack)


def follow(
    parts: TorchModules, split: Split, inputs: Inputs, tokens: Sequence[int] | None, steps: int
) -> tuple[list[Array], list[int]]:
    """Logits at each answer position, feeding `tokens`, or one's own best token when None.

    Returns:
        (V,) logits per step, and the best token of each; -1 where a logit is not finite.
    """
    ids, embeds = inputs.ids, parts.embed(inputs.ids)
    encoded = None if inputs.pixels is None else encode_images(parts, split, inputs.pixels)
    if encoded is not None:
        embeds = merge_images(embeds, ids, encoded.embeds, split.image_token_id)
    given = _given(split, ids, inputs.positions, encoded)
    past, length = empty_cache(split), ids.shape[1]
    ahead = int(inputs.positions.max()) + 1 - length  # M-RoPE counts fewer positions than tokens
    logits, best = [], []
    for step in range(steps if tokens is None else len(tokens)):
        out, past = parts.decode(embeds, np.ones((1, length), dtype=np.int64), given, past)
        logits.append(out[0, -1].astype(np.float32))
        best.append(int(out[0, -1].argmax()) if np.isfinite(out[0, -1]).all() else -1)
        chosen = best[-1] if tokens is None else tokens[step]
        if tokens is None and (chosen < 0 or chosen in split.eos_token_ids):
            break
        length += 1
        ids = np.array([[chosen]], dtype=np.int64)
        embeds = parts.embed(ids)
        given = _given(split, ids, next_positions(split.extra_inputs, length - 1 + ahead), None)
    return logits, best


def _given(split: Split, ids: Array, positions: Array, encoded: Encoded | None) -> Given:
    extra = {} if encoded is None else encoded.extra
    return filled(split.extra_inputs, Run(ids, positions, split.image_token_id, extra))


def _vision_gap(a: Encoded, b: Encoded) -> float:
    extra = (largest_gap(values, b.extra.get(name, ())) for name, values in a.extra.items())
    return max(largest_gap(a.embeds, b.embeds), *extra, 0.0)


def measure(
    split: Split,
    exported: Exported,
    inputs: Sequence[Inputs],
    precision: str,
    steps: int = 16,
    target: str = "",
    *,
    count: int | None = None,
) -> dict[str, Any]:
    """Compare an exported bundle with the PyTorch modules.

    Args:
        split: The modules it was exported from.
        exported: The bundle, opened.
        inputs: Prompts.
        precision: Common name; chooses the tolerances.
        steps: Tokens per answer at most.
        target: Whose own tolerances go before, where it has some.
        count: So many of the prompts; as many as the tolerances need (`edgekit.report.tolerances.settling`) when None.

    Returns:
        The figures (None where the bundle gave NaN or infinity), each tolerance with its figure, and whether all held.

    Raises:
        NotFiniteError: the PyTorch modules themselves gave NaN or infinity.
    """
    tolerances = tolerances_of(precision, target)
    reference, tally = TorchModules(split), Tally()
    vision = [0.0]  # prompts without an image have none
    for item in settling(inputs, tally.best, f"comparing {precision} with PyTorch", count=count):
        wanted, tokens = follow(reference, split, item, None, steps)
        if -1 in tokens:
            raise NotFiniteError(
                "The checkpoint's own logits are not finite.",
                why="In PyTorch and float32, so no export of it can be right.",
                fix="Look at its weights for NaN, and at how it was trained.",
            )
        tally.add(wanted, exported.follow(item, tokens))
        if item.pixels is not None and (found := exported.encode_images(item)) is not None:
            vision.append(_vision_gap(encode_images(reference, split, item.pixels), found))
    figures = {
        "samples": tally.samples,
        "tokens": tally.tokens,
        "greedy_identical": tally.greedy_identical,
        "top1_agreement": tally.top1_agreement,
        "logits_max_abs": tally.logits_max_abs,
        "vision_max_abs": finite_or_none(max(vision)),
        "mean_kl": tally.mean_kl,
    }
    checks = judge(figures, tolerances)
    return {**figures, "checks": checks, "passed": all(check["held"] for check in checks.values())}
