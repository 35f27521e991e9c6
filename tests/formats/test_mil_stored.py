"""Compressed weights by rows: the same numbers, bit by bit, as their operation makes whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("coremltools")

import coreml_models as models
import coremltools as ct

from edgekit.formats.coreml.mil import Package, stored
from edgekit.formats.coreml.mil import package as packages
from edgekit.formats.coreml.mil.ops import linear, operations
from edgekit.formats.coreml.mil.stored import Packed, Rows, Stored
from edgekit.formats.coreml.mil.values import DTYPES

ROWS, WIDTH = 24, 64


def packed(values: torch.Tensor, name: str) -> Packed:
    """Whole numbers as a weight file holds them: the first in the lowest bits."""
    kind = next(kind for kind in DTYPES.values() if kind.name == name)
    bits = np.unpackbits(values.numpy().astype(np.uint8).reshape(-1, 1), axis=1, bitorder="little")[:, : kind.bits]
    return Packed(np.packbits(bits, bitorder="little"), kind, tuple(values.shape))


def scaled(name: str, groups: int, *, offset: bool = False, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    low, high = {"int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8), "uint4": (0, 16)}[name]
    data: Any = torch.randint(low, high, (ROWS, WIDTH))
    shift: Any = torch.randint(low, high, (ROWS, groups))
    if name.endswith("4"):
        data, shift = packed(data, name), packed(shift, name)
    else:
        data, shift = (part.to(getattr(torch, name)) for part in (data, shift))
    scale = (torch.rand(ROWS, groups) / 7).to(dtype)
    return {"data": data, "scale": scale} | ({"offset": shift} if offset else {})


def palettes(bits: int, groups: int, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    indices = torch.randint(0, 1 << bits, (ROWS, WIDTH))
    held = indices.to(torch.uint8) if bits == 8 else packed(indices, f"uint{bits}")
    return {"indices": held, "lut": torch.randn(groups, 1, 1 << bits, 1).to(dtype)}


def of_ios16(bits: int) -> dict[str, Any]:
    indices = packed(torch.randint(0, 1 << bits, (ROWS, WIDTH)), f"uint{bits}")
    return {"indices": torch.from_numpy(indices.data), "lut": torch.randn(1 << bits).half(), "shape": (ROWS, WIDTH)}


def affine() -> dict[str, Any]:
    data = torch.randint(0, 256, (ROWS, WIDTH)).to(torch.uint8)
    zero = torch.randint(0, 256, (ROWS,)).to(torch.uint8)
    return {"quantized_data": data, "zero_point": zero, "scale": torch.rand(ROWS).half(), "axis": 0}


BLOCKS, TABLE = "constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"
KINDS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "int8": (BLOCKS, lambda: scaled("int8", 1)),
    "uint8 with offsets": (BLOCKS, lambda: scaled("uint8", 1, offset=True)),
    "int8 in float32": (BLOCKS, lambda: scaled("int8", 1, dtype=torch.float32)),
    "int4 blocks": (BLOCKS, lambda: scaled("int4", 2)),
    "int4 blocks in float32": (BLOCKS, lambda: scaled("int4", 2, dtype=torch.float32)),
    "uint4 blocks with offsets": (BLOCKS, lambda: scaled("uint4", 4, offset=True)),
    "one 4-bit palette": (TABLE, lambda: palettes(4, 1)),
    "4-bit palettes": (TABLE, lambda: palettes(4, 6)),
    "6-bit palettes": (TABLE, lambda: palettes(6, 6)),
    "6-bit palettes in float32": (TABLE, lambda: palettes(6, 3, torch.float32)),
    "8-bit palettes": (TABLE, lambda: palettes(8, 6)),
    "4-bit palette of iOS 16": (TABLE, lambda: of_ios16(4)),
    "6-bit palette of iOS 16": (TABLE, lambda: of_ios16(6)),
    "8 bits of iOS 16": ("constexpr_affine_dequantize", affine),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_the_operation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, single ones, in tiles that cut groups, and through a layer; bit by bit."""
    kind, make = KINDS[name]
    torch.manual_seed(1)
    given = make()
    plain = {key: value.dense() if isinstance(value, Stored) else value for key, value in given.items()}
    want = operations()[kind].call(**plain)
    weight = stored.stored(kind, given)
    assert isinstance(weight, Rows) and weight.shape == (ROWS, WIDTH) and weight.dtype is want.dtype
    for tile in (1 << 17, 5 * WIDTH):  # all rows at once, and five of them, where palettes are for four or eight
        monkeypatch.setattr(stored, "TILE", tile)
        monkeypatch.setattr(linear, "_TILE", tile)
        assert torch.equal(weight.dense(), want)
        for many in (1, 3):
            x, bias = torch.randn(many, WIDTH).to(want.dtype), torch.randn(ROWS).to(want.dtype)
            for more in ({}, {"bias": bias}):
                assert torch.equal(linear.linear(x, weight, **more), linear.linear(x, want, **more)) or (
                    want.dtype is torch.float32  # PyTorch sums a whole matrix in another order than its tiles
                    and torch.allclose(linear.linear(x, weight, **more), linear.linear(x, want, **more), atol=1e-5)
                )
    places = torch.tensor([3, 0, 23, 3])
    assert torch.equal(weight.take(places), want[places])
    gathered = operations()["gather"].call(x=weight, indices=torch.tensor([[3, -1]]))
    assert torch.equal(gathered, want[torch.tensor([[3, 23]])])


def test_what_no_rows_are_made_of() -> None:
    """Its operation makes it whole."""
    three, two = packed(torch.zeros(4, 8, dtype=torch.int64), "uint3"), torch.ones(2, 2).half()
    lut = torch.zeros(1, 1, 8, 1).half()
    assert stored.stored(TABLE, {"indices": three, "lut": lut}) is None
    assert (
        stored.stored(TABLE, {"indices": packed(torch.zeros(4, 5), "uint4"), "lut": torch.zeros(1, 1, 16, 1)}) is None
    )
    assert stored.stored(BLOCKS, {"data": torch.zeros(4, 4, dtype=torch.int8), "scale": two}) is None
    assert stored.stored(BLOCKS, {"data": torch.zeros(2, 2, 3, 3, dtype=torch.int8), "scale": two}) is None
    assert stored.stored("constexpr_sparse_to_dense", {}) is None


def test_which_weights_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones that fit the room are made once, the others stay as they are stored."""
    from coremltools.optimize import coreml as co

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64)).eval()
    example = (torch.randn(1, 64),)
    config = co.OptimizationConfig(co.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0))
    converted = models.convert(model, example, tmp_path / "plain.mlpackage", target=ct.target.iOS18)
    co.linear_quantize_weights(converted, config).save(str(tmp_path / "small.mlpackage"))

    def held(keep: str) -> tuple[list[bool], Any]:
        function = Package(tmp_path / "small.mlpackage", keep=keep).function()
        steps = [step for step in function.block.steps if step.kind == "linear"]
        (answer,) = function.predict({function.inputs[0].name: example[0]}).values()
        return [isinstance(step.fixed["weight"], torch.Tensor) for step in steps], answer

    whole, want = held("dense")
    assert whole == [True, True]
    assert held("auto")[0] == [True, True]  # far below 16 MiB
    monkeypatch.setitem(packages.KEEP, "auto", 2 * 64 * 32 + 100)
    for keep, expected in (("auto", [True, False]), ("stored", [False, False])):
        found, got = held(keep)
        assert found == expected
        np.testing.assert_array_equal(got, want)
