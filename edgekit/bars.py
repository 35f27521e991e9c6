"""Bars of parity, by precision; declared before anything is measured (Olive's habit, and the Core AI zoo's)."""

from __future__ import annotations

BARS: dict[str, dict[str, float]] = {
    "fp32": {"greedy_identical": 1.0, "logits_max_abs": 1e-4},
    "fp16": {"top1_agreement": 0.99},
    "int8": {"top1_agreement": 0.99},
    "int4": {"top1_agreement": 0.95},
}
# Whatever the precision: the runtime must see the picture and the words that PyTorch sees.
ALWAYS = {"pixel_max_abs": 1e-5, "prompt_ids_equal": 1.0}
UPPER = frozenset({"logits_max_abs", "pixel_max_abs"})


def judge(figures: dict[str, float], bars: dict[str, float]) -> dict[str, dict[str, float | bool]]:
    """Each bar with the figure it is for, and whether it holds."""
    return {
        name: {
            "value": figures[name],
            "bar": bar,
            "held": figures[name] <= bar if name in UPPER else figures[name] >= bar,
        }
        for name, bar in bars.items()
    }
