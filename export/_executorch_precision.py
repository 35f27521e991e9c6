"""ExecuTorch's weight grids: torchao's configurations for linear layers, PT2E for the vision encoder, int8 rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.export._xnnpack import traceable
from edgekit.families import Split

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUP = 32


def quantise(module: nn.Module, precision: str, rows: int = 1) -> None:
    """Put the weights of linear layers on their grid, in place; the inputs' grid is chosen as the program runs.

    Args:
        module: Holds the layers.
        precision: int8, int4, or fp32, which changes nothing.
        rows: A layer has four bits only where its outputs are a multiple of so many; else it keeps eight.
    """
    import torch
    from torch import nn

    if precision == "fp32":
        return
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

    def in_groups(part: nn.Module, _: str) -> bool:
        if precision != "int4" or not isinstance(part, nn.Linear):
            return False
        return part.in_features % GROUP == 0 and part.out_features % rows == 0

    def per_channel(part: nn.Module, _: str) -> bool:
        return isinstance(part, nn.Linear) and not in_groups(part, _)

    # Widths that are no multiple of the group keep 8 bits.
    for wanted, dtype, granularity in (
        (per_channel, torch.int8, PerAxis(0)),
        (in_groups, getattr(torch, "int4"), PerGroup(GROUP)),  # noqa: B009  (torch's type stubs lack it)
    ):
        config = Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=granularity)
        quantize_(module, config, filter_fn=wanted)


def in_weights_alone(module: nn.Module, precision: str) -> None:
    """Put the weights of linear layers on their grid, in place, and leave the inputs as they are.

    int8 and int4 in groups of 32; a layer whose width is no multiple of 32 keeps float32.
    """
    import torch
    from torch import nn

    if precision == "fp32":
        return
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quant_api import IntxWeightOnlyConfig

    def in_groups(part: nn.Module, _: str) -> bool:
        return isinstance(part, nn.Linear) and part.in_features % GROUP == 0

    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, precision), granularity=PerGroup(GROUP))
    quantize_(module, config, filter_fn=in_groups)


def static(
    name: str, module: nn.Module, example: tuple[Any, ...], images: Sequence[Any], most: int | None = None
) -> nn.Module:
    """A vision encoder with int8 inputs and weights of its linear layers and convolutions, by PT2E.

    Args:
        name: Of the method, for an error.
        module: Rewritten.
        example: Inputs to trace with.
        images: Inputs to calibrate with.
        most: Largest size of its first axis, where that is free.

    Raises:
        EdgekitError: there are none.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    if not images:
        raise EdgekitError(
            f"{name}: int8-static needs images to calibrate with, and there are none.",
            why="It takes images of this very size; of none it can tell how large the inputs of a layer become.",
            fix="Name questions with such images:  edgekit export ... --calibration-data SPEC --calibrate 64",
        )

    def is_layer(node: Any) -> bool:
        # The means of the norms are linear layers here too, with one output; rounded, they would spoil the norm.
        return len(node.args) > 1 and node.args[1].meta["val"].shape[0] > 1

    quantiser, config = XNNPACKQuantizer(), get_symmetric_quantization_config(is_per_channel=True)
    for operator in (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default):
        quantiser.set_operator_type(operator, config)
    quantiser.set_filter_function(is_layer)
    with torch.no_grad(), traceable(module):
        free = None if most is None else ({0: torch.export.Dim("tokens", min=1, max=most)},)
        traced = torch.export.export(module, example, dynamic_shapes=free, strict=False)
        observed = prepare_pt2e(traced.module(), quantiser)
        for image in images:
            observed(image)
        made: nn.Module = convert_pt2e(observed)
    return made


def int8_rows(split: Split) -> nn.Module:
    """The embedding as an int8 table, symmetric, with a float32 scale for each row.

    Written with operators that every runtime of ExecuTorch has, `embedding`, a cast and a product; its own
    `quantized_decomposed::embedding_byte` would ask an app to link one more library.
    """
    import torch
    from torch import nn
    from torch.nn.functional import embedding

    (held,) = (part for part in split.token_embedding.modules() if isinstance(part, nn.Embedding))
    with torch.no_grad():
        table = split.token_embedding(torch.arange(held.num_embeddings)[None])[0].float()
    scales = table.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127

    class Rows(nn.Module):
        table: torch.Tensor
        scales: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", (table / scales).round().to(torch.int8))
            self.register_buffer("scales", scales)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return embedding(input_ids, self.table).float() * embedding(input_ids, self.scales)

    return Rows().eval()
