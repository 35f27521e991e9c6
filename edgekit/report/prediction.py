"""What can honestly be said of a device that is not at hand: predictions, kept apart from every measured row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fit = Literal["fits", "tight", "does not fit", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A predicted figure and the range it is expected in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """What a bundle is expected to do on a device that nobody ran it on."""

    bundle: str
    """SHA-256 of the bundle."""
    name: str
    device: str
    chip: str
    memory_fit: Fit
    memory_bytes: Estimate
    """That the bundle is expected to need."""
    verified_by: Literal["prediction"] = "prediction"
    memory_limit_bytes: int | None = None
    """Published, for an app without entitlements."""
    memory_limit_entitled_bytes: int | None = None
    """Published, for an app with com.apple.developer.kernel.increased-memory-limit."""
    image_encode_ms: Estimate | None = None
    """Of one image; None where a peak of the device is not known, or the bundle does not tell its parts apart."""
    prefill_tokens_per_s: Estimate | None = None
    ttft_ms: Estimate | None = None
    decode_tokens_per_s: Estimate | None = None
    prompt_tokens: int = 0
    """Of the prompt that TTFT is for."""
    notes: tuple[str, ...] = ()
    """What is missing, and where the device's figures come from."""


COLUMNS = ("bundle", "device", "memory", "app limit", "fit", "image ms", "prefill tok/s", "TTFT ms", "decode tok/s")
ORDER = ("fit", "TTFT ms", "decode tok/s", "prefill tok/s", "memory", "app limit", "device", "image ms")
"""By importance, for a narrow terminal."""

FOOTNOTES = (
    "* predicted, not measured: from the bundle's own bytes and operations and published peaks of the device. In "
    "brackets the range that the shares of those peaks which others reached give; nothing was run on that device.",
    "Memory: weights, cache and working memory, against what an app was seen to get there; the second limit is with "
    "the increased-memory-limit entitlement. iOS grants no fixed amount, and has changed it between releases.",
)


def table(predictions: Sequence[Prediction]) -> list[list[str]]:
    """Cells in the order of COLUMNS; every predicted figure carries its `*` and its range."""
    return [_cells(one) for one in predictions]


def footnotes(predictions: Sequence[Prediction]) -> list[str]:
    """How to read that table, what is missing in it, and where its figures come from."""
    return [*FOOTNOTES, *sorted({text for one in predictions for text in one.notes})]


def _cells(one: Prediction) -> list[str]:
    limits = [one.memory_limit_bytes, one.memory_limit_entitled_bytes]
    return [
        one.name,
        f"{one.device} ({one.chip})",
        _range(one.memory_bytes, 1e-6) + " MB",
        " / ".join(f"{limit / 1e9:.1f} GB" for limit in limits if limit is not None) or "not published",
        one.memory_fit,
        _range(one.image_encode_ms),
        _range(one.prefill_tokens_per_s),
        _range(one.ttft_ms),
        _range(one.decode_tokens_per_s),
    ]


def _range(one: Estimate | None, scale: float = 1.0) -> str:
    if one is None:
        return ""
    value, low, high = (
        f"{part * scale:{'.1f' if part * scale < 10 else ',.0f'}}" for part in (one.value, one.low, one.high)
    )
    return f"{value}* [{low}, {high}]"
