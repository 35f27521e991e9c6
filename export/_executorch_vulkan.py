"""Vulkan: the GPU of an Android phone. Lowered here, and not run: no wheel of ExecuTorch holds its runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from edgekit.export._executorch_backend import Backend
from edgekit.export._executorch_precision import quantise
from edgekit.export._executorch_xnnpack import decomposed_once
from edgekit.export._xnnpack import LLAMA, rewritten, traceable


def lower(traced: Mapping[str, Any], delegated: Iterable[str], constant_methods: Mapping[str, Any]) -> Any:
    """Hand to Vulkan what it takes; arguments as of XNNPACK's `lower`.

    Decomposed once, as for XNNPACK. `to_edge_transform_and_lower` decomposes three times, each a trace with a free size
    of every layer's quantisation.
    """
    root = logging.getLogger()
    level = root.level
    try:
        from executorch.backends.vulkan.partitioner.vulkan_partitioner import VulkanPartitioner

        return decomposed_once(traced, {name: VulkanPartitioner() for name in delegated}, constant_methods)
    finally:
        root.setLevel(level)  # importing it makes the whole program talkative


BACKEND = Backend(
    name="vulkan",
    precisions=("fp32", "int8", "int4"),
    cache=LLAMA,
    written=rewritten,
    quantise=partial(quantise, rows=8),  # of other layers it stores rows that its own shapes then do not know
    lower=lower,
    traced=traceable,
    refused={"int8-static": "The static grid here is XNNPACK's own quantiser's."},
)
