"""Manifests whose numbers are possible, and not those of the programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests import reseal

from hostile.changes import Change, field
from hostile.manifest import HUGE


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield "three position axes", field("position_axes", 3)
    yield "two position axes", field("position_axes", 2)
    yield "deepstack that the decoder does not take", field("deepstack", 1)
    yield "deepstack of three", field("deepstack", 3)
    yield "heads that are not its own", field("cache.kv_heads", 7)
    yield "heads as wide as can be", field("cache.head_dim", 65536)
    yield "heads and inputs as wide as can be", _wide(65536)
    yield "heads and inputs wider by one", _wide(17)
    yield "layers as many as can be", field("cache.layers", 4096)
    yield "one layer less", _fewer_layers
    yield "logits of another size", field("components.text_decoder.outputs.0.shape.2", 1 << 30)
    yield "logits without a size", field("components.text_decoder.outputs.0.shape", [])
    yield "no logits", field("components.text_decoder.outputs.0.name", "logit")
    yield "no outputs", field("components.text_decoder.outputs", [])
    yield "no inputs", field("components.text_decoder.inputs", [])
    yield "another name of an input", field("components.text_decoder.inputs.0.name", "embeds")
    yield "an input of no type", field("components.text_decoder.inputs.0.dtype", "object")
    yield "an input of another type", field("components.text_decoder.inputs.0.dtype", "int8")
    yield "an input of many axes", field("components.text_decoder.inputs.0.shape", [1] * 1000)
    yield "a negative size", field("components.text_decoder.inputs.0.shape.2", -5)
    yield "a huge size", field("components.text_decoder.inputs.2.shape.0", 1 << 31)
    yield "an image of another size", field("components.vision_encoder.inputs.0.shape", [1, 1, 3, 9999, 9999])
    yield "two components are one", _exchange("token_embedding", "text_decoder", copy=True)
    yield "two components are exchanged", _exchange("token_embedding", "text_decoder")
    yield "encoder and decoder are exchanged", _exchange("vision_encoder", "text_decoder")
    yield "encoder and embedding are exchanged", _exchange("vision_encoder", "token_embedding")
    yield "no decoder", lambda folder: _without(folder, "text_decoder")
    yield "no embedding", lambda folder: _without(folder, "token_embedding")
    yield "no encoder", lambda folder: _without(folder, "vision_encoder")
    yield (
        "a component that nobody asks for",
        field("components.extra", {"file": "config.json", "inputs": [], "outputs": []}),
    )
    yield "a bucket of another component", field("buckets.*.component", "token_embedding")
    yield "a grid that no image has", field("buckets.*.grid", [1, 9999, 9999])
    yield "a grid of huge numbers", field("buckets.*.grid", [HUGE, HUGE])
    yield "a grid of nothing", field("buckets.*.grid", [0, 0])
    yield "sizes huge", field("preprocessing.sizes", [[1 << 30, 1 << 30]])
    yield "sizes as large as can be", field("preprocessing.sizes", [[16384, 16384]])
    yield "sizes of nothing", field("preprocessing.sizes", [[0, 0]])
    yield "sizes negative", field("preprocessing.sizes", [[-64, 64]])
    yield "sizes of text", field("preprocessing.sizes", "64x64")
    yield "sizes a mapping", field("preprocessing.sizes", {"a": 1})
    yield "sizes of one number", field("preprocessing.sizes", [64])
    yield "another target", field("target", "executorch")
    yield "gguf without its details", field("target", "gguf")
    yield "coreml in name", field("target", "coreml")
    yield "coreai in name", field("target", "coreai")
    yield "an unknown target", field("target", "../../evil")
    yield "an unknown family", field("family", "os")


def of(target: str) -> Iterator[tuple[str, Change]]:
    """Those of another target than ONNX; what names it would change nothing, and each decoder has inputs of its own."""
    own = {"executorch": ("another target", "a huge size"), "gguf": ("a huge size",)}.get(target, ())
    yield from ((name, change) for name, change in cases() if target not in name and name not in own)


def _wide(width: int) -> Change:
    def change(folder: Path) -> None:
        def edit(manifest: dict[str, Any]) -> None:
            manifest["cache"]["head_dim"] = width
            decoder = manifest["components"]["text_decoder"]
            for spec in (*decoder["inputs"], *decoder["outputs"]):
                if spec["name"].startswith(("past_", "present")) and len(spec["shape"]) == 4:
                    spec["shape"][3] = width

        reseal(folder, edit)

    return change


def _fewer_layers(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["cache"]["layers"] -= 1
        decoder = manifest["components"]["text_decoder"]
        decoder["inputs"], decoder["outputs"] = decoder["inputs"][:-2], decoder["outputs"][:-2]

    reseal(folder, edit)


def _exchange(one: str, other: str, *, copy: bool = False) -> Change:
    def change(folder: Path) -> None:
        def edit(manifest: dict[str, Any]) -> None:
            parts = manifest["components"]
            first, second = parts[one]["file"], parts[other]["file"]
            parts[one]["file"], parts[other]["file"] = second, second if copy else first

        reseal(folder, edit)

    return change


def _without(folder: Path, name: str) -> None:
    reseal(folder, lambda manifest: manifest["components"].pop(name))
