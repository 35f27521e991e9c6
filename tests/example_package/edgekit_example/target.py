"""A target that keeps a checkpoint's weights in one file, rounded to one of three types."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from edgekit.export import NO_OPTIONS, Options, Target, Written, vision_name
from edgekit.families import Split
from edgekit.inputs.processor import Inputs
from edgekit.manifest import Component, TensorSpec
from edgekit.precision import FP16, FP32, CommonPrecision, TargetPrecision, Tolerances, by_name
from edgekit_example import weights

E5M2 = CommonPrecision(
    "e5m2",
    # Two bits behind the point: an error of 6 % of each weight on average.
    Tolerances({"top1_agreement": 0.8}, {"mean_kl": 2.0}, snr_db=3.0),
    weight_bytes=1.0,
)
PRECISIONS = by_name(
    TargetPrecision(FP32, "float32"),
    TargetPrecision(FP16, "float16, widened when it is loaded"),
    TargetPrecision(E5M2, "float8 of five and two bits, widened when it is loaded"),
)


def write(
    split: Split, precision: str, folder: Path, calibration: Sequence[Inputs] = (), options: Options = NO_OPTIONS
) -> Written:
    """One file for all three modules."""
    weights.write(split.source, precision, folder / weights.FILE)
    width, vocab = split.width, split.vocab_size
    embeds = TensorSpec("inputs_embeds", "float32", (1, "tokens", width))

    def part(given: TensorSpec, made: TensorSpec) -> Component:
        return Component(weights.FILE, (given,), (made,), precision)

    made = {
        vision_name(name): part(
            TensorSpec("pixel_values", "float32", tuple(size or "tiles" for size in one.pixels)),
            TensorSpec("image_features", "float32", ("tiles", one.tokens, width)),
        )
        for name, one in split.vision.items()
    }
    made["token_embedding"] = part(TensorSpec("input_ids", "int64", (1, "tokens")), embeds)
    made["text_decoder"] = part(embeds, TensorSpec("logits", "float32", (1, "tokens", vocab)))
    return made, {"safetensors": version("safetensors")}


TARGET = Target(
    name="example",
    precisions=PRECISIONS,
    extra="",
    packages={"safetensors": "safetensors"},
    hosts=("Linux", "Darwin"),
    runtimes=("example",),
    write=write,
)
