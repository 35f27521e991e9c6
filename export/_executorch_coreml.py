"""Core ML inside an ExecuTorch program: an Apple device chooses its Neural Engine, GPU or CPU.

Not the target `coreml`, which writes packages of their own. The cache is a Core ML state of the delegate's program. Of
the weights' grids those are written that Core ML decompresses by itself, in groups of 32; inputs stay float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.export._executorch_backend import HEADS, PLACES, WIDTH, Backend, CacheWay, attention_known
from edgekit.export._executorch_precision import in_weights_alone
from edgekit.export._xnnpack import gelu_written_out

if TYPE_CHECKING:
    from torch import Tensor, nn


def _write(buffer: Tensor, new: Tensor, places: Any) -> None:
    # By its first axis: of others coremltools 9 takes an index of one place alone.
    buffer.index_copy_(0, places, new[0].transpose(0, 1))


def _attend(query: Tensor, keys: Tensor, values: Tensor, places: Any, _: Any, scaling: float | None) -> Tensor:
    """Attention to the whole buffer; a token sees the places up to its own. No number is read from a tensor."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    keys, values = (part.transpose(0, 1)[None] for part in (keys, values))
    repeats = query.shape[1] // keys.shape[1]
    if repeats > 1:
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
    seen = torch.arange(keys.shape[2])[None] <= places[:, None]
    hidden = torch.where(seen, 0.0, HIDDEN)[None, None]
    return scaled_dot_product_attention(query, keys, values, hidden, scale=scaling).transpose(1, 2)


HIDDEN = -1e4
"""Added to the score of a token that is not seen; float16 holds it."""
BY_PLACES = CacheWay((PLACES, HEADS, WIDTH), _write, _attend, by_tensor=True)


def lower(traced: Mapping[str, Any], delegated: Iterable[str], constant_methods: Mapping[str, Any]) -> Any:
    """Hand to Core ML what it takes; arguments as of XNNPACK's `lower`."""
    import coremltools
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from edgekit.export.coreml_patches import patched

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=coremltools.target.iOS18,  # the first with states
        compute_precision=coremltools.precision.FLOAT32,
    )
    takers = {name: [CoreMLPartitioner(compile_specs=specs)] for name in delegated}
    with patched(), _down_to_one():
        return to_edge_transform_and_lower(
            dict(traced),
            partitioner=takers,
            constant_methods=dict(constant_methods),
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )


@contextmanager
def _down_to_one() -> Iterator[None]:
    """Let a free size be 1: torch.export notes 2 as the least, and Core ML would refuse a single token."""
    from coremltools import RangeDim
    from coremltools.converters.mil.frontend.torch import exir_utils

    name = "_construct_ct_range_dim_from_torch_value_ranges"
    original = getattr(exir_utils, name)

    def from_one(ranges: Any) -> Any:
        found = original(ranges)
        return RangeDim(lower_bound=1, upper_bound=found.upper_bound) if found.lower_bound == 2 else found

    setattr(exir_utils, name, from_one)
    try:
        yield
    finally:
        setattr(exir_utils, name, original)


def traced(_: nn.Module) -> AbstractContextManager[None]:
    """While a module of it is traced."""
    return attention_known(BY_PLACES)


BACKEND = Backend(
    name="coreml",
    precisions=("fp32", "int8", "int4"),
    cache=BY_PLACES,
    written=gelu_written_out,
    quantise=in_weights_alone,
    lower=lower,
    traced=traced,
    modules={"coremltools": "coremltools", "executorch.backends.apple.coreml": "executorch"},
    refused={"int8-static": "The static grid here is XNNPACK's own quantiser's."},
)
