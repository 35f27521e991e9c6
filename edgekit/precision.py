"""Precisions: what each is held to, and how a bundle's is spelt: one for all its parts, or one for each part that is
not fp32.

A `CommonPrecision` is what a name means for every target; a `TargetPrecision` is how one target writes it. Those that
several targets share stand here, with the measurements behind their tolerances; a target's file adds its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from edgekit.errors import EdgekitError, did_you_mean
from edgekit.quantisation import Scheme

WHOLE = "fp32"
PARTS = ("vision", "embedding", "text")
UPPER = frozenset({"logits_max_abs", "mean_kl"})
LOWER = frozenset({"greedy_identical", "top1_agreement"})


@dataclass(frozen=True)
class Tolerances:
    """What a bundle of some precision must hold against PyTorch, declared before anything is measured.

    Attributes:
        trained: Figure -> the most (`UPPER`) or the least (`LOWER`) that it may be.
        random: The same for a model with random weights. They make nearly every token a close call, so there the
            logits' distributions are compared, in nats, instead of best tokens.
        snr_db: The least signal over error of each module, on the reference's own inputs.
        measured: What was seen where they were chosen; "" where they follow those of as many bits.
    """

    trained: Mapping[str, float]
    random: Mapping[str, float]
    snr_db: float
    measured: str = ""

    def __post_init__(self) -> None:
        """Refuse what could judge nothing.

        Raises:
            ValueError: no figure is held, a figure is unknown, or a number is not finite.
        """
        for kind, held in (("trained", self.trained), ("random", self.random)):
            if not held:
                raise ValueError(f"tolerances hold nothing for {kind} weights")
            if unknown := sorted(held.keys() - UPPER - LOWER):
                raise ValueError(f"no figure {unknown[0]!r} to hold; there are: {', '.join(sorted(UPPER | LOWER))}")
        if not all(math.isfinite(number) for number in (*self.trained.values(), *self.random.values(), self.snr_db)):
            raise ValueError("a tolerance is not finite")


@dataclass(frozen=True)
class CommonPrecision:
    """What the name of a precision means, whichever target writes it.

    Attributes:
        name: The same for every target.
        tolerances: What its bundles are held to.
        weight_bytes: Of one weight in its file, at least.
        linear: For linear layers only: as the precision of a whole bundle it leaves the embedding table in fp32.
    """

    name: str
    tolerances: Tolerances
    weight_bytes: float = 0.5
    linear: bool = False

    def named(self, name: str) -> CommonPrecision:
        """One that is held to the same, under another name; nothing was measured of it."""
        return replace(self, name=name, tolerances=replace(self.tolerances, measured=""))


@dataclass(frozen=True)
class TargetPrecision:
    """A precision as one target writes it.

    Attributes:
        common: What its name means.
        native: The target's own words for it.
        calibrated: It must be shown prompts.
        scheme: Its grid of weights, where a student may be trained for it.
        held_to: The target's own tolerances, where its runtime cannot hold the common ones by its own make.
        packages: Import name -> distribution of what it needs besides the target's own packages.
    """

    common: CommonPrecision
    native: str
    calibrated: bool = False
    scheme: Scheme | None = None
    held_to: Tolerances | None = None
    packages: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> str:
        """The common name."""
        return self.common.name

    @property
    def tolerances(self) -> Tolerances:
        """What its bundles are held to: the target's own, else the common ones."""
        return self.held_to or self.common.tolerances


Written = TypeVar("Written", bound=TargetPrecision)


def by_name(*precisions: Written) -> dict[str, Written]:
    """Name -> precision, in this order: `Target.precisions`."""
    return {one.name: one for one in precisions}


FP32 = CommonPrecision(
    "fp32",
    Tolerances(
        {"greedy_identical": 1.0, "logits_max_abs": 1e-4},
        {"greedy_identical": 1.0, "logits_max_abs": 1e-4},
        snr_db=80.0,
        measured="119 to 124 dB of vision and decoder in ONNX Runtime, on random weights of four families",
    ),
    weight_bytes=4.0,
)
FP16 = CommonPrecision(
    "fp16",
    Tolerances(
        {"top1_agreement": 0.99},
        {"mean_kl": 1e-4},
        snr_db=40.0,
        measured="mean KL at most 2.8e-6 on tiny random models of four families; vision and decoder in ONNX Runtime "
        "73 and 85 dB on the demo's student, 67 and 53 on a random SmolVLM",
    ),
    weight_bytes=2.0,
)
BF16 = CommonPrecision("bf16", Tolerances({"top1_agreement": 0.99}, {"mean_kl": 1e-3}, snr_db=30.0), weight_bytes=2.0)
INT8 = CommonPrecision(
    "int8",
    Tolerances(
        {"top1_agreement": 0.99},
        {"mean_kl": 2e-2},
        snr_db=15.0,
        measured="mean KL at most 1.3e-3 on tiny random models of four families; vision and decoder in ONNX Runtime "
        "45 and 54 dB on the demo's student, 41 and 28 on a random SmolVLM",
    ),
    weight_bytes=1.0,
    linear=True,
)
INT8_STATIC = CommonPrecision(
    "int8-static",
    # One scale for all inputs, outliers included, where int8 has one for each run.
    Tolerances({"top1_agreement": 0.99}, {"mean_kl": 5e-2}, snr_db=15.0),
    weight_bytes=1.0,
    linear=True,
)
INT4 = CommonPrecision(
    "int4",
    Tolerances(
        {"top1_agreement": 0.95},
        {"mean_kl": 0.4},
        snr_db=8.0,
        # Steps are sixteen times int8's, so close calls turn round.
        measured="all 606 tokens of 300 questions agree on the demo's student, 0.84 to 0.86 of them on random weights; "
        "mean KL at most 0.22 on tiny random models of four families; vision and decoder in ONNX Runtime 28 and 39 dB "
        "on the demo's student",
    ),
    linear=True,
)
# Palettes of 256, 64 and 16 values for the weights of linear layers.
_PALETTES = "all 300 tokens of 150 questions agree in Core AI, on a student of the demo's recipe"
PAL8 = CommonPrecision(
    "pal8", Tolerances({"top1_agreement": 0.99}, {"mean_kl": 2e-2}, 15.0, _PALETTES), weight_bytes=1.0, linear=True
)
PAL6 = CommonPrecision("pal6", Tolerances({"top1_agreement": 0.99}, {"mean_kl": 0.1}, 12.0, _PALETTES), linear=True)
PAL4 = CommonPrecision("pal4", Tolerances({"top1_agreement": 0.95}, {"mean_kl": 0.4}, 8.0, _PALETTES), linear=True)
# The same grids, fitted to what calibration prompts send through the layers.
INT4_CALIBRATED, PAL6_CALIBRATED, PAL4_CALIBRATED = (one.named(f"{one.name}-calibrated") for one in (INT4, PAL6, PAL4))
COMMON: Mapping[str, CommonPrecision] = MappingProxyType(
    {
        one.name: one
        for one in (
            FP32, FP16, BF16, INT8, INT8_STATIC, INT4, PAL8, PAL6, PAL4,
            INT4_CALIBRATED, PAL6_CALIBRATED, PAL4_CALIBRATED,
        )
    }
)  # fmt: skip
"""Those that stand here, by name."""


def split_list(text: str) -> list[str]:
    """The precisions of `--precision`: `fp32,int8` are two bundles, `vision=fp16,text=int4` is one.

    Raises:
        EdgekitError: whole precisions and parts stand in one list, or as `by_part`.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    parts = [item for item in items if "=" in item]
    if not parts:
        return items
    if len(parts) < len(items):
        whole = next(item for item in items if "=" not in item)
        raise EdgekitError(
            f"--precision {text!r} mixes {whole!r}, a whole bundle, with {parts[0]!r}, a part of one.",
            fix=f"Export twice:  --precision {whole}  and  --precision {','.join(parts)}",
        )
    return [canonical(text)]


def by_part(precision: str, known: Mapping[str, CommonPrecision] = COMMON) -> dict[str, str]:
    """The precision of each of vision, embedding and text; in a mixture, parts that are not named are fp32.

    Args:
        precision: Common name, or a mixture.
        known: Precisions by name; a name that is not among them means all three parts.

    Raises:
        EdgekitError: a part is unknown, named twice or has no precision.
    """
    if "=" not in precision:
        return {"vision": precision, "embedding": _embedding_of(precision, known), "text": precision}
    chosen: dict[str, str] = {}
    for item in precision.split(","):
        part, equals, own = (piece.strip() for piece in item.partition("="))
        if not equals or not own:
            raise EdgekitError(
                f"{item.strip()!r} in precision {precision!r} is not PART=PRECISION.",
                fix="For example:  --precision vision=fp16,text=int4",
            )
        if part not in PARTS:
            hint = f"{did_you_mean(part, PARTS)} There are: {', '.join(PARTS)}."
            raise EdgekitError(f"A bundle has no part {part!r}.", fix=hint.lstrip())
        if part in chosen:
            raise EdgekitError(f"Precision {precision!r} names {part} twice.", fix="Name each part once.")
        chosen[part] = own
    return {part: chosen.get(part, WHOLE) for part in PARTS}


def canonical(precision: str) -> str:
    """One spelling for one meaning: parts in order, fp32 left out, and one name where it says the same.

    Raises:
        EdgekitError: as `by_part`.
    """
    chosen = by_part(precision)
    if chosen == by_part(chosen["text"]):
        return chosen["text"]
    return ",".join(f"{part}={own}" for part, own in chosen.items() if own != WHOLE)


def is_mixed(precision: str) -> bool:
    """Whether parts have precisions of their own."""
    return "=" in precision


def folder_name(precision: str) -> str:
    """For names of folders: `vision-fp16_text-int4`."""
    return precision.replace("=", "-").replace(",", "_")


def _embedding_of(precision: str, known: Mapping[str, CommonPrecision]) -> str:
    return WHOLE if precision in known and known[precision].linear else precision
