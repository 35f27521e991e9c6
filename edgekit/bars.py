"""Bars of parity, by precision; declared before anything is measured (Olive's habit, and the Core AI zoo's)."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.errors import EdgekitError
from edgekit.precision import by_part, is_mixed

BARS: dict[str, dict[str, float]] = {
    "fp32": {"greedy_identical": 1.0, "logits_max_abs": 1e-4},
    "fp16": {"top1_agreement": 0.99},
    "int8": {"top1_agreement": 0.99},
    "int8-static": {"top1_agreement": 0.99},
    # Steps are sixteen times int8's, so close calls turn round. Measured: all 606 tokens of 300 questions agree on the
    # demo's student, 0.84 to 0.86 on random weights, whose tokens are nearly all close calls.
    "int4": {"top1_agreement": 0.95},
    "pal6": {"top1_agreement": 0.99},
    "pal4": {"top1_agreement": 0.95},
}
# Random weights make nearly every token a close call, so there the logits' distributions are compared instead of best
# tokens. Measured on tiny models of four families, mean over the prompts, in nats, the highest: fp16 2.8e-6, int8
# 1.3e-3, int4 0.22.
RANDOM_BARS: dict[str, dict[str, float]] = {
    "fp32": BARS["fp32"],
    "fp16": {"mean_kl": 1e-4},
    "int8": {"mean_kl": 2e-2},
    "int8-static": {"mean_kl": 5e-2},  # one scale for all inputs, outliers included, where int8 has one for each run
    "int4": {"mean_kl": 0.4},
    "pal6": {"mean_kl": 2e-2},
    "pal4": {"mean_kl": 0.4},
}
# Signal over error of each module, dB, on the reference's own inputs. Measured for vision and decoder in ONNX Runtime:
# fp32 119 to 124 on random weights of four families; fp16 73 and 85 on the demo's student, 67 and 53 on a random
# SmolVLM; int8 45 and 54, 41 and 28; int4 28 and 39 on the demo's student.
COMPONENT_SNR_DB = {
    "fp32": 80.0,
    "fp16": 40.0,
    "int8": 15.0,
    "int8-static": 15.0,
    "int4": 8.0,
    "pal6": 15.0,
    "pal4": 8.0,
}
COMPONENTS = ("vision", "embedding", "decoder")
# Whatever the precision: the runtime must see the picture and the words that PyTorch sees.
ALWAYS = {"pixel_max_abs": 1e-5, "prompt_ids_equal": 1.0, "parameters_equal": 1.0}
UPPER = frozenset({"logits_max_abs", "pixel_max_abs", "mean_kl"})


def bars_of(precision: str) -> dict[str, float]:
    """The bars of a precision, by its common name; of a mixture the loosest of its parts'.

    Raises:
        EdgekitError: none are declared, so nothing could be judged.
    """
    words = sorted(set(by_part(precision).values())) if is_mixed(precision) else [precision]
    for word in words:
        if word not in BARS:
            raise EdgekitError(
                f"No bars of parity are declared for precision {word!r}.", fix=f"There are: {', '.join(BARS)}."
            )
    # Without a bar on single tokens every answer must be the same: nothing is stricter.
    return BARS[min(words, key=lambda word: BARS[word].get("top1_agreement", 1.0))]


def random_bars_of(precision: str) -> dict[str, float]:
    """The bars of a precision for a model with random weights.

    Raises:
        EdgekitError: none are declared.
    """
    if precision not in RANDOM_BARS:
        raise EdgekitError(
            f"No bars for random weights are declared for precision {precision!r}.",
            fix=f"There are: {', '.join(RANDOM_BARS)}.",
        )
    return RANDOM_BARS[precision]


def component_bars(precision: str, words: Mapping[str, str] | None = None) -> dict[str, float]:
    """The bars of each module: its output's signal over error, dB.

    Args:
        precision: Common name; of a mixture each module is held to its own part's.
        words: Precision of vision, embedding or decoder, where a module says its own.
    """
    parts = by_part(precision)
    named = {name: parts["text" if name == "decoder" else name] for name in COMPONENTS} | dict(words or {})
    own = {name: COMPONENT_SNR_DB.get(word) for name, word in named.items()}
    return {f"{name}_snr_db": bar for name, bar in own.items() if bar is not None}


def judge(figures: Mapping[str, float | None], bars: Mapping[str, float]) -> dict[str, dict[str, float | bool | None]]:
    """Each bar with the figure it is for, and whether it holds; None, a figure that is not finite, holds no bar."""
    return {
        name: {"value": figures[name], "bar": bar, "held": _held(name, figures[name], bar)}
        for name, bar in bars.items()
    }


def _held(name: str, value: float | None, bar: float) -> bool:
    if value is None:
        return False
    return value <= bar if name in UPPER else value >= bar
