"""The split's modules as Core AI takes them: a decoder over states, outputs in float16, weights compressed."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgekit.families import Split

BLOCK = 32  # weights with one scale, for 4 bits
ROWS = 16  # of a weight with one palette, for 4 and 6 bits
BITS = {"pal4": 4, "pal6": 6, "pal8": 8}


def decoder(split: Split, dtype: Any) -> nn.Module:
    """The text decoder over states that are its last two arguments, changed in place.

    forward(inputs_embeds (1, T, D), position_ids (1, P+T), k_cache, v_cache (layers, 1, H, S, D_head)) -> logits
    (1, T, V), with rotary_ids (A, 1, T) and `Split.features` after position_ids where the model has them.

    Args:
        split: Of the model; it stays as it is.
        dtype: Of weights, embeddings, states and logits.
    """
    import torch
    from torch import nn
    from transformers import Cache

    class States(Cache):
        """Keys and values of each layer: those in the states, and the new ones at their places.

        The states themselves are written once, at the end, by `scatter_`: Core AI 1.0.0b3 has no index_copy_ for a free
        number of tokens, and an assignment by index ends its process.
        """

        def __init__(self, keys: Tensor, values: Tensor, places: Tensor, length: Any) -> None:
            super().__init__(layers=[])
            self.states, self.places, self.length = (keys, values), places, length
            self.new: tuple[list[Tensor], list[Tensor]] = ([], [])

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
            whole = []
            for state, new, given in zip(self.states, self.new, (key_states, value_states), strict=True):
                new.append(given)
                places = self.places[None, None, :, None].expand_as(given)
                whole.append(state[layer_idx].scatter(2, places, given)[:, :, : self.length])
            return tuple(whole)

        def write(self) -> None:
            """Put all layers' new keys and values into the states."""
            for state, new in zip(self.states, self.new, strict=True):
                stacked = torch.stack(new)
                state.scatter_(3, self.places[None, None, None, :, None].expand_as(stacked), stacked)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            """Tokens before the new ones, for a model that makes its masks of it; others are given theirs."""
            return self.length - self.places.shape[0] if split.blocks else 0

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return (self.length if split.blocks else query_length), 0

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text: Any = copy.deepcopy(split.text).eval()
            for parameter in self.text.parameters():  # not buffers: rotary frequencies stay exact
                parameter.data = parameter.data.to(dtype)

        def forward(self, inputs_embeds: Tensor, position_ids: Tensor, *rest: Tensor) -> Tensor:
            *given, keys, values = rest
            tokens, length = inputs_embeds.shape[1], position_ids.shape[1]
            new = torch.arange(tokens) + (length - tokens)
            places = position_ids[0].index_select(0, new)
            if split.blocks:
                mask = torch.ones(1, length, dtype=dtype)
            else:
                unseen = torch.arange(length)[None] > places[:, None]
                mask = torch.zeros(1, 1, tokens, length, dtype=dtype)
                mask = mask.masked_fill(unseen, torch.finfo(dtype).min)
            rotary = given.pop(0) if split.position_axes > 1 else places[None]
            cache = States(keys, values, places.to(torch.int64), length)
            logits: Tensor = self.text(inputs_embeds, mask, rotary, cache, *given)
            cache.write()
            return logits

    return Decoder().eval()


def plain_embedding(embedding: nn.Module, dtype: Any) -> nn.Module:
    """A lookup by int32 ids: Core AI's own for nn.Embedding wants int64, which its runtime is not given."""
    import torch
    from torch import nn

    table: Any = embedding.weight
    if type(embedding) is not nn.Embedding:  # Gemma's scales its rows
        with torch.no_grad():
            table = embedding(torch.arange(table.shape[0]))

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(table.detach().to(dtype), requires_grad=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.weight[input_ids]

    return Lookup().eval()


def half_outputs(module: nn.Module) -> nn.Module:
    """A module around another one whose outputs are float16; what is inside stays float32.

    Weights stored in float16 and widened as the module runs come out as float32 constants: the converter folds them.
    """
    from torch import nn

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Tensor) -> Any:
            out = self.module(*tensors)
            return tuple(part.half() for part in out) if isinstance(out, tuple) else out.half()

    return Narrow().eval()


def compressed(module: nn.Module, example: tuple[Any, ...], precision: str, *, final: bool = True) -> nn.Module:
    """A copy with the weights of its linear layers compressed by coreai-opt; the module itself for fp32 and fp16.

    Args:
        module: To compress; it stays as it is.
        example: Inputs of its forward.
        precision: One of export.coreai.PRECISIONS.
        final: With Core AI's own operators, to export; else a module with the same values for PyTorch to run.
    """
    import torch
    from torch import nn

    if precision in ("fp32", "fp16"):
        return module
    twin = copy.deepcopy(module).eval()
    linear = {name: part for name, part in twin.named_modules() if isinstance(part, nn.Linear)}
    maker = _palettiser(twin, linear, BITS[precision]) if precision in BITS else _quantiser(twin, linear, precision)
    with torch.no_grad():
        prepared = maker.prepare(example)
        made: nn.Module = maker.finalize(prepared) if final else prepared
    return made.eval()


def _quantiser(twin: nn.Module, linear: dict[str, Any], precision: str) -> Any:
    from coreai_opt.quantization import ExecutionMode, ModuleQuantizerConfig, Quantizer, QuantizerConfig

    config = QuantizerConfig.presets.w8(execution_mode=ExecutionMode.EAGER).only_for(*linear)
    if precision == "int4":
        in_blocks = ModuleQuantizerConfig.presets.w4_per_block(block_size=BLOCK)
        for name, part in linear.items():
            if part.in_features % BLOCK == 0:
                config.set_module_name(name, in_blocks)
    return Quantizer(twin, config)


def _palettiser(twin: nn.Module, linear: dict[str, Any], bits: int) -> Any:
    from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig, ModuleKMeansPalettizerConfig
    from coreai_opt.palettization.spec import PalettizationSpec, PerTensorGranularity

    check_compiler()
    presets = KMeansPalettizerConfig.presets
    config = {4: presets.w4, 6: presets.w6, 8: presets.w8}[bits]().only_for(*linear)
    if bits < 8:
        spec = PalettizationSpec(n_bits=bits, granularity=PerTensorGranularity())
        whole = ModuleKMeansPalettizerConfig(op_state_spec={"weight": spec})
        for name, part in linear.items():
            if part.out_features % ROWS:
                config.set_module_name(name, whole)
    return KMeansPalettizer(twin, config)


def check_compiler() -> None:
    """coreai-opt compiles its k-means when it is first used, and waits for ever for a lock left by a killed process.

    Raises:
        EdgekitError: there is no compiler, or such a lock.
    """
    from torch.utils.cpp_extension import _get_build_directory

    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise EdgekitError(
            f"Cannot palettise here: there is no C++ compiler ({compiler}).",
            why="coreai-opt compiles its k-means when it is first used.",
            fix="Install one (g++ or clang), or choose int8 or int4.",
        )
    lock = Path(_get_build_directory("_core", False)) / "lock"
    if lock.exists() and not _held(lock):
        raise EdgekitError(
            f"Cannot palettise here: {lock} is locked.",
            why="A process that compiled coreai-opt's k-means was killed, and every later one would wait for it.",
            fix=f"Remove that file:  rm {lock}",
        )


def _held(lock: Path) -> bool:
    """Whether a process has PyTorch's lock open, which it does for as long as it compiles."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(Path(entry.path) == lock.resolve() for entry in process.open_files()):
                return True
    return not lock.exists()  # done while we looked
