"""Every family at every precision through one contract: export a tiny checkpoint, run it, compare with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.bundle import Bundle
from edgekit.chat import question
from edgekit.checkpoint import load_model
from edgekit.errors import CheckpointError, DataError, EdgekitError
from edgekit.export import onnx
from edgekit.export.bundling import baked_against_original, export_checkpoint
from edgekit.families import Size, family_of, fit_image, prefer_size, read_size
from edgekit.processor import Processor
from edgekit.runtimes import RUNTIMES
from edgekit.runtimes.generate import answer, follow
from edgekit.stats import kl_divergence, largest_gap

Maker = Callable[..., Path]
FAMILIES = ["smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl"]
BLOCK = {"qwen2_5_vl": 28, "qwen3_vl": 32}
PRECISIONS = ["fp32", "fp16", "int8", "int4"]
TRACED: dict[tuple[str, str], bytes] = {}


def picture(size: Size, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def one_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`one_trace(family)`: trace that family's graphs once for all precisions; tracing takes most of an export."""
    import onnx_ir

    trace = onnx._trace

    def install(family: str) -> None:
        def cached(graph: onnx.Graph) -> Any:
            if (family, graph.name) not in TRACED:
                TRACED[family, graph.name] = onnx_ir.serde.serialize_model(trace(graph)).SerializeToString()
            return onnx_ir.from_proto(_parsed(TRACED[family, graph.name]))

        monkeypatch.setattr(onnx, "_trace", cached)

    return install


def _parsed(data: bytes) -> Any:
    from onnx import ModelProto

    return ModelProto.FromString(data)


def sizes_for(family: str) -> list[Size] | None:
    """Two buckets of odd shapes; their windows at the edge are cut short."""
    block = BLOCK.get(family)
    return None if block is None else [(3 * block, 2 * block), (block, 4 * block)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family: str, precision: str, tiny_of: Maker, tmp_path: Path, one_trace: Any) -> None:
    checkpoint = tiny_of(family)
    one_trace(family)
    bundle = export_checkpoint(checkpoint, "onnx", precision, tmp_path / "b", sizes=sizes_for(family))
    params = bundle.manifest.preprocessing
    theirs = RUNTIMES.load("pytorch").open_session(checkpoint, 1)
    ours = RUNTIMES.load("onnxruntime").open_session(bundle.folder, 1)
    for sizes in ([(100, 60)], [(37, 300), (80, 80)], []):
        messages = question("what is there?", len(sizes))
        images = [picture(size, seed) for seed, size in enumerate(sizes)]
        shown = [fit_image(image, params) for image in images]
        wanted = answer(theirs, messages, shown, max_new_tokens=8).token_ids
        said = answer(ours, messages, images, max_new_tokens=8).token_ids
        pairs = list(zip(follow(theirs, messages, shown, wanted), follow(ours, messages, images, wanted), strict=True))
        gap, kl = max(largest_gap(a, b) for a, b in pairs), max(kl_divergence(a, b) for a, b in pairs)
        print(
            "DATA",
            family,
            precision,
            len(sizes),
            len(wanted),
            len(set(wanted)),
            wanted == said,
            gap,
            kl,
            [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs][:3],
            float(pairs[0][0].std()),
            bundle.manifest.parity["passed"],
            bundle.manifest.parity["mean_kl"],
            bundle.manifest.parity["top1_agreement"],
        )
