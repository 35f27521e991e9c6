"""Each operation of the evaluator against coremltools' own value inference, PyTorch or NumPy, on random shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from edgekit.errors import EdgekitError
from edgekit.formats.coreml.mil.ops import CONVERT, operations

ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edgekit[coreml]'")

Array = np.ndarray[Any, Any]
Case = Callable[[np.random.Generator, tuple[int, ...]], dict[str, Any]]
OPERATIONS = operations()


def call(name: str, **given: Any) -> Any:
    """An operation on arrays, as a program would call it."""
    found = OPERATIONS[name]

    def ready(value: Any) -> Any:
        return value if isinstance(value, str | torch.Tensor) else torch.from_numpy(np.array(value))

    inputs = {}
    for key, value in given.items():
        kind = found.kinds[key]
        inputs[key] = [ready(part) for part in value] if kind.startswith("list[") else CONVERT[kind](ready(value))
    return found.call(**inputs)


def words(text: str) -> list[str]:
    return text.split()


def floats(rng: np.random.Generator, shape: tuple[int, ...], low: float = -3.0, high: float = 3.0) -> Array:
    return rng.uniform(low, high, shape).astype(np.float32)


def ints(rng: np.random.Generator, shape: tuple[int, ...], low: int = 0, high: int = 9) -> Array:
    return rng.integers(low, high, shape).astype(np.int32)


def other(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts with `shape`."""
    return tuple(1 if rng.random() < 0.3 else size for size in shape[int(rng.integers(0, len(shape))) :])


def unary(low: float, high: float, **more: Any) -> Case:
    return lambda rng, shape: {"x": floats(rng, shape, low, high), **more}


def binary(make: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> Case:
    return lambda rng, shape: {"x": make(rng, shape), "y": make(rng, other(rng, shape))}


def bools(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.random(shape) > 0.5


def axis_of(rng: np.random.Generator, shape: tuple[int, ...]) -> int:
    return int(rng.integers(-len(shape), len(shape)))


def along(name: str = "x", **more: Any) -> Case:
    return lambda rng, shape: {name: floats(rng, shape), "axis": axis_of(rng, shape), **more}


def axes_case(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    many = int(rng.integers(1, len(shape) + 1))
    axes = sorted(int(axis) for axis in rng.choice(len(shape), many, replace=False))
    return {"x": floats(rng, shape, 0.1, 2.0), "axes": axes, "keep_dims": bool(rng.random() > 0.5)}


def slices(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    begin, end, stride = [], [], []
    for size in shape:
        low, high = sorted(int(at) for at in rng.integers(0, size + 1, 2))
        low, high = (low, high) if low < high else (0, size)
        forward = rng.random() > 0.3 or low == 0
        begin.append(low if forward else high - 1)
        end.append(high if forward else low - 1)
        stride.append(int(rng.integers(1, 3)) * (1 if forward else -1))
    drop = lambda: [bool(rng.random() < 0.2) for _ in shape]  # noqa: E731
    masks = {"begin_mask": drop(), "end_mask": drop(), "squeeze_mask": drop()}
    return {"x": floats(rng, shape), "begin": begin, "end": end, "stride": stride, **masks}


def layer_norm(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = axis_of(rng, shape) % len(shape)
    size = (shape[axis],)
    return {"x": floats(rng, shape), "axes": [axis], "gamma": floats(rng, size), "beta": floats(rng, size)}


def gather(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = axis_of(rng, shape)
    return {"x": floats(rng, shape), "indices": ints(rng, (2, 3), 0, shape[axis]), "axis": axis}


def taken(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = axis_of(rng, shape) % len(shape)
    wanted = tuple(4 if at == axis else size for at, size in enumerate(shape))
    return {"x": floats(rng, shape), "indices": ints(rng, wanted, 0, shape[axis]), "axis": axis}


def joined(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"values": (floats(rng, shape), floats(rng, shape)), "axis": axis_of(rng, shape)}


def permuted(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"x": floats(rng, shape), "perm": [int(axis) for axis in rng.permutation(len(shape))]}


def written(mode: str) -> Case:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
        axis = axis_of(rng, shape) % len(shape)
        # Each place once: coremltools' own inference loses all but one write to a place.
        order = np.argsort(rng.random(shape), axis).astype(np.int32)
        data = {"data": floats(rng, shape, 0.5, 2), "updates": floats(rng, shape, 0.5, 2)}
        return {**data, "indices": order, "axis": axis, "mode": mode}

    return make


def quantized(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, Any]:
    scale = np.float32(0.03)
    return {"input": floats(rng, shape), "scale": scale, "zero_point": np.int8(3), "output_dtype": "int8"}


INFERRED: dict[str, Case] = {
    **{name: unary(-3, 3) for name in words("abs atan ceil cos cosh erf exp exp2 floor relu relu6 round sigmoid")},
    **{name: unary(-3, 3) for name in words("sign sin sinh softsign square tanh softplus identity shape")},
    **{name: unary(-0.95, 0.95) for name in words("acos asin atanh tan")},
    **{name: unary(0.1, 3) for name in words("sqrt rsqrt log inverse")},
    **{name: binary(floats) for name in words("add sub mul real_div maximum minimum floor_div mod")},
    **{name: binary(floats) for name in words("greater greater_equal less less_equal not_equal")},
    **{f"{name} of integers": binary(lambda r, s: ints(r, s, 1, 9)) for name in words("add mul floor_div mod equal")},
    "real_div of integers": binary(lambda rng, shape: ints(rng, shape, 1, 9)),
    **{f"logical_{name}": binary(bools) for name in words("and or xor")},
    "logical_not": lambda rng, shape: {"x": bools(rng, shape)},
    "pow": lambda rng, shape: {"x": floats(rng, shape, 0.1, 2), "y": floats(rng, shape)},
    "select": lambda rng, shape: {"cond": bools(rng, shape), "a": floats(rng, shape), "b": floats(rng, shape)},
    "clip": unary(-3, 3, alpha=np.float32(-0.5), beta=np.float32(0.5)),
    "threshold": unary(-3, 3, alpha=np.float32(0.2)),
    "clamped_relu": unary(-3, 3, alpha=np.float32(0.2), beta=np.float32(0.5)),
    "elu": unary(-3, 3, alpha=np.float32(0.7)),
    "leaky_relu": unary(-3, 3, alpha=np.float32(0.1)),
    "thresholded_relu": unary(-3, 3, alpha=np.float32(0.2)),
    "linear_activation": unary(-3, 3, alpha=np.float32(2), beta=np.float32(0.3)),
    "scaled_tanh": unary(-3, 3, alpha=np.float32(2), beta=np.float32(0.3)),
    "sigmoid_hard": unary(-3, 3, alpha=np.float32(0.2), beta=np.float32(0.5)),
    **{f"gelu {mode}": unary(-3, 3, mode=f"{mode}") for mode in ("EXACT", "TANH_APPROXIMATION")},
    "gelu SIGMOID_APPROXIMATION": unary(-3, 3, mode="SIGMOID_APPROXIMATION"),
    "softmax": along(),
    "cast to int32": unary(-9, 9, dtype="int32"),
    "cast to bool": unary(-9, 9, dtype="bool"),
    "cast to fp16": unary(-9, 9, dtype="fp16"),
    **{f"reduce_{name}": axes_case for name in words("l1_norm l2_norm log_sum log_sum_exp max mean min")},
    **{f"reduce_{name}": axes_case for name in words("prod sum sum_square")},
    "reduce_argmax": along(keep_dims=True),
    "reduce_argmin": along(),
    "layer_norm": layer_norm,
    "transpose": permuted,
    "expand_dims": lambda rng, shape: {"x": floats(rng, shape), "axes": [0, -1]},
    "squeeze": lambda rng, shape: {"x": floats(rng, (1, *shape, 1)), "axes": [0, -1]},
    "flatten2d": lambda rng, shape: {"x": floats(rng, (2, *shape)), "axis": 1},
    "reshape": lambda rng, shape: {"x": floats(rng, shape), "shape": np.array([-1, 1, 0], dtype=np.int32)},
    "concat": joined,
    "stack": joined,
    "split": lambda rng, shape: {"x": floats(rng, (6, *shape)), "split_sizes": [1, 5], "axis": 0},
    "split evenly": lambda rng, shape: {"x": floats(rng, (6, *shape)), "num_splits": 3, "axis": 0},
    "reverse": lambda rng, shape: {"x": floats(rng, shape), "axes": [axis_of(rng, shape)]},
    "slice_by_index": slices,
    "slice_by_size": lambda rng, shape: {"x": floats(rng, (4, 5)), "begin": [1, 2], "size": [2, -1]},
    "tile": lambda rng, shape: {"x": floats(rng, shape), "reps": [int(rng.integers(1, 3)) for _ in shape]},
    **{
        f"pad {mode}": lambda rng, shape, mode=mode: {
            "x": floats(rng, (*shape, 4, 5)),
            "pad": [1, 2, 2, 1],
            "mode": mode,
        }
        for mode in ("constant", "reflect", "replicate")
    },
    "band_part": lambda rng, shape: {"x": floats(rng, (*shape, 4, 5)), "lower": 1, "upper": 0},
    "gather": gather,
    "gather_along_axis": taken,
    "scatter_along_axis update": written("update"),  # coremltools infers this mode alone, whatever is asked for
    "non_zero": lambda rng, shape: {"x": ints(rng, shape, 0, 2)},
    "argsort": along(ascending=True),
    "topk": along(k=1),
    "topk ascending": along(k=1, ascending=True),
    "fill": lambda rng, shape: {"shape": list(shape), "value": np.float32(2)},
    "fill_like": lambda rng, shape: {"ref_tensor": floats(rng, shape), "value": np.float32(2)},
    "range_1d": lambda rng, shape: {"end": np.int32(9), "start": np.int32(1), "step": np.int32(shape[0])},
    "linear": lambda rng, shape: {
        "x": floats(rng, (*shape, 3)),
        "weight": floats(rng, (4, 3)),
        "bias": floats(rng, (4,)),
    },
    "matmul": lambda rng, shape: {
        "x": floats(rng, (*shape, 4, 3)),
        "y": floats(rng, (*shape, 4, 5)),
        "transpose_x": True,
    },
    "einsum": lambda rng, shape: {
        "values": (floats(rng, (2, 3, 4, 5)), floats(rng, (2, 5, 4, 6))),
        "equation": "nchw,nwhu->nchu",
    },
    "quantize": quantized,
}


def inferred(name: str, inputs: dict[str, Any]) -> list[Array | None]:
    """What coremltools makes of an operation on constants; None where it has no inference."""
    from coremltools.converters.mil.mil import Builder, Function

    with Function({}, opset_version=ct.target.iOS18):
        found = getattr(Builder, name)(**copy.deepcopy(inputs))  # some inferences write into their inputs
    return [None if part.val is None else np.asarray(part.val) for part in _many(found)]


def _many(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple | list) else [found]


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("case", INFERRED)
@settings(max_examples=5, derandomize=True)
@given(shape=SHAPES, seed=SEEDS)
def test_coremltools_infers_the_same(case: str, shape: tuple[int, ...], seed: int) -> None:
    name = case.split()[0]
    inputs = INFERRED[case](np.random.default_rng(seed), shape)
    expected = inferred(name, inputs)
    for want, got in zip(expected, _many(call(name, **inputs)), strict=True):
        assert want is not None
        assert got.numpy().dtype == want.dtype and got.numpy().shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", [n for n, op in OPERATIONS.items() if set(op.kinds) in ({"x"}, {"x", "y"})])
@settings(max_examples=5, derandomize=True)
@given(shape=SHAPES, seed=SEEDS)
def test_float16_is_float32_rounded_once(name: str, shape: tuple[int, ...], seed: int) -> None:
    """Also for the operations that are left to PyTorch's float16 kernels."""
    if name.startswith("logical_") or name == "matmul":
        return
    rng = np.random.default_rng(seed)
    wide = {key: torch.from_numpy(floats(rng, shape, 0.1, 0.9)).half() for key in OPERATIONS[name].kinds}
    got = OPERATIONS[name].call(**wide)
    want = OPERATIONS[name].call(**{key: value.float() for key, value in wide.items()})
    assert torch.equal(got, want.to(got.dtype))
    assert got.dtype in (torch.float16, torch.bool, torch.int32)


@settings(max_examples=15, derandomize=True)
@given(
    seed=SEEDS,
    rank=st.integers(1, 3),
    stride=st.integers(1, 3),
    kernel=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
)
def test_conv(seed: int, rank: int, stride: int, kernel: int, dilation: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(floats(rng, (2, 4, *[7] * rank)))
    weight = torch.from_numpy(floats(rng, (8, 4 // groups, *[kernel] * rank)))
    bias = torch.from_numpy(floats(rng, (8,)))
    pads = [(int(a), int(b)) for a, b in rng.integers(0, 3, (rank, 2))]
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    padded = functional.pad(x, [size for pair in reversed(pads) for size in pair])
    want = function(padded, weight, bias, stride, 0, dilation, groups)
    settings_ = {"strides": [stride] * rank, "dilations": [dilation] * rank, "groups": groups}
    flat = [size for pair in pads for size in pair]
    got = call("conv", x=x, weight=weight, bias=bias, pad_type="custom", pad=flat, **settings_)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    same = call("conv", x=x, weight=weight, bias=bias, pad_type="same", **settings_)
    assert same.shape[2:] == tuple([-(-7 // stride)] * rank)
    if stride == 1:
        torch.testing.assert_close(
            same, function(x, weight, bias, 1, "same", dilation, groups), rtol=1e-4, atol=1e-4
        )  # fmt: skip


@settings(max_examples=12, derandomize=True)
@given(
    seed=SEEDS,
    rank=st.integers(1, 2),
    stride=st.integers(1, 3),
    kernel=st.integers(2, 4),
    before=st.integers(0, 1),
    groups=st.sampled_from([1, 2]),
    extra=st.integers(0, 2),
)
def test_conv_transpose(seed: int, rank: int, stride: int, kernel: int, before: int, groups: int, extra: int) -> None:
    extra = min(extra, stride - 1)
    rng = np.random.default_rng(seed)
    x, weight = floats(rng, (1, 4, *[5] * rank)), floats(rng, (4, 6 // groups, *[kernel] * rank))
    x, weight, bias = (torch.from_numpy(part) for part in (x, weight, floats(rng, (6,))))
    function = (functional.conv_transpose1d, functional.conv_transpose2d)[rank - 1]
    want = function(x, weight, bias, stride, before, extra, groups)
    got = call(
        "conv_transpose", x=x, weight=weight, bias=bias, strides=[stride] * rank, pad_type="custom",
        pad=[before] * 2 * rank, groups=groups, output_shape=list(want.shape),
    )  # fmt: skip
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, derandomize=True)
@given(
    seed=SEEDS,
    rank=st.integers(1, 3),
    kernel=st.integers(2, 3),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
    ceil=st.booleans(),
    exclude=st.booleans(),
)
def test_pools(seed: int, rank: int, kernel: int, stride: int, pad: int, ceil: bool, exclude: bool) -> None:
    x = torch.from_numpy(floats(np.random.default_rng(seed), (1, 2, *[7] * rank)))
    given_ = {"kernel_sizes": [kernel] * rank, "strides": [stride] * rank, "pad_type": "custom", "ceil_mode": ceil}
    got = call("max_pool", x=x, pad=[pad] * 2 * rank, **given_)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank - 1]
    torch.testing.assert_close(got, function(x, kernel, stride, pad, ceil_mode=ceil))
    average = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
    got = call("avg_pool", x=x, pad=[pad] * 2 * rank, exclude_padding_from_average=exclude, **given_)
    torch.testing.assert_close(got, average(x, kernel, stride, pad, ceil, not exclude))
    root = call("l2_pool", x=x, kernel_sizes=[kernel] * rank, strides=[stride] * rank, pad_type="valid")
    torch.testing.assert_close(root, average(x * x, kernel, stride).mul(kernel**rank).sqrt())


def test_average_beside_one_sided_padding() -> None:
    x = torch.tensor([[[2.0, 4.0, 6.0]]])
    given_ = {"x": x, "kernel_sizes": [2], "strides": [1], "pad_type": "custom", "pad": [0, 1]}
    assert call("avg_pool", **given_).tolist() == [[[3.0, 5.0, 3.0]]]
    assert call("avg_pool", exclude_padding_from_average=True, **given_).tolist() == [[[3.0, 5.0, 6.0]]]
    assert call("max_pool", **given_).tolist() == [[[4.0, 6.0, 6.0]]]


def test_norms() -> None:
    torch.manual_seed(0)
    x, gamma, beta = torch.randn(2, 4, 5, 6), torch.randn(4), torch.randn(4)
    mean, variance = torch.randn(4), torch.rand(4) + 0.5
    scaled = {"x": x, "gamma": gamma, "beta": beta}
    want = functional.batch_norm(x, mean, variance, gamma, beta)
    torch.testing.assert_close(call("batch_norm", mean=mean, variance=variance, **scaled), want)
    torch.testing.assert_close(call("instance_norm", **scaled), functional.instance_norm(x, weight=gamma, bias=beta))
    want = functional.local_response_norm(x, 3, 0.1, 0.5, 2.0)
    torch.testing.assert_close(call("local_response_norm", x=x, size=3, alpha=0.1, beta=0.5, k=2.0), want)
    norms = call("l2_norm", x=x).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(2))


@settings(max_examples=15, derandomize=True)
@given(seed=SEEDS, tokens=st.integers(1, 4), length=st.integers(1, 5), bool_mask=st.booleans())
def test_attention(seed: int, tokens: int, length: int, bool_mask: bool) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (torch.from_numpy(floats(rng, (2, 3, size, 8))) for size in (tokens, length, length))
    mask = torch.from_numpy(floats(rng, (1, 1, tokens, length)))
    mask = (mask > 0) | (torch.arange(length) == 0) if bool_mask else mask
    got = call("scaled_dot_product_attention", query=q, key=k, value=v, attn_mask=mask)
    torch.testing.assert_close(got, functional.scaled_dot_product_attention(q, k, v, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 70])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_of_float16_sums_in_float32(rows: int, bias: bool) -> None:
    """4,096 products of about 1: a float16 sum would stop at 2,048 and lose every odd one."""
    torch.manual_seed(0)
    x, weight = torch.ones(1, rows, 4096).half(), torch.ones(130, 4096).half()
    weight[:, 0] = torch.arange(130)
    given_ = {"bias": torch.full((130,), 0.5).half()} if bias else {}
    want = (4095 + torch.arange(130).float() + (0.5 if bias else 0)).half().expand(1, rows, 130)
    assert torch.equal(call("linear", x=x, weight=weight, **given_), want)
    x, weight = torch.randn(1, rows, 512).half(), torch.randn(1500, 512).half()  # several blocks of rows
    want = functional.linear(x.double(), weight.double())
    torch.testing.assert_close(call("linear", x=x, weight=weight).double(), want, rtol=6e-4, atol=2e-5)


def test_movement_by_hand() -> None:
    x = torch.arange(8.0).reshape(1, 8, 1, 1)
    assert call("depth_to_space", x=x, block_size=2).tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
    assert call("pixel_shuffle", x=x, upscale_factor=2).tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]
    image = torch.randn(2, 3, 4, 6)
    for there, back, factor in (
        ("space_to_depth", "depth_to_space", "block_size"),
        ("pixel_unshuffle", "pixel_shuffle", "downscale_factor"),
    ):
        small = call(there, x=image, **{factor: 2})
        assert small.shape == (2, 12, 2, 3)
        assert torch.equal(call(back, x=small, **{factor.replace("down", "up"): 2}), image)
    blocks = call("space_to_batch", x=image, block_shape=[2, 3], paddings=[[1, 1], [0, 0]])
    assert blocks.shape == (12, 3, 3, 2)
    assert blocks[0, 0].tolist() == [
        [0, 0],
        [image[0, 0, 1, 0], image[0, 0, 1, 3]],
        [image[0, 0, 3, 0], image[0, 0, 3, 3]],
    ]
    assert torch.equal(call("batch_to_space", x=blocks, block_shape=[2, 3], crops=[[1, 1], [0, 0]]), image)
    row = torch.arange(5.0)[None]
    assert call("sliding_windows", x=row, axis=1, size=3, stride=2).tolist() == [[[0, 1, 2], [2, 3, 4]]]
    backwards = call("reverse_sequence", x=row, lengths=np.array([3]), seq_axis=1)
    assert backwards.tolist() == [[2, 1, 0, 3, 4]]
    both = call("concat", values=[row, row + 10], axis=1, interleave=True)
    assert both.tolist() == [[0, 10, 1, 11, 2, 12, 3, 13, 4, 14]]
    assert call("crop", x=image, crop_height=[1, 0], crop_width=[2, 1]).shape == (2, 3, 3, 3)
    like = call("reshape_like", x=torch.zeros(2, 6), ref_tensors=[torch.zeros(2, 3), torch.zeros(2, 5)],
                begins=[0, 0], ends=[2, 1], end_masks=[False, False])  # fmt: skip
    assert like.shape == (2, 3, 2)
    assert call("prelu", x=-torch.ones(1, 2, 1), alpha=np.array([2.0, 3.0])).flatten().tolist() == [-2, -3]
    softplus = call("softplus_parametric", x=torch.zeros(1, 2, 1), alpha=np.array([1.0, 2.0]), beta=np.ones(2))
    np.testing.assert_allclose(softplus.flatten(), [np.log(2), 2 * np.log(2)], rtol=1e-6)
    sums = call("cumsum", x=row, axis=1, exclusive=True, reverse=True)
    assert sums.tolist() == [[10, 9, 7, 4, 0]]


@settings(max_examples=15, derandomize=True)
@given(seed=SEEDS, mode=st.sampled_from(["add", "sub", "mul", "div", "max", "min", "update"]))
def test_scatter(seed: int, mode: str) -> None:
    """Against NumPy one write at a time, repeated places included (an update's last one is not defined)."""
    rng = np.random.default_rng(seed)
    data, updates = floats(rng, (4, 5), 0.5, 2), floats(rng, (3, 5), 0.5, 2)
    rows = rng.permutation(4)[:3] if mode == "update" else rng.integers(0, 4, 3)
    change = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
    }
    want = data.copy()
    for row, update in zip(rows, updates, strict=True):
        want[row] = update if mode == "update" else change[mode](want[row], update)
    got = call("scatter", data=data, indices=rows.astype(np.int32), updates=updates, axis=0, mode=mode)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    got = call(
        "scatter", data=data.T.copy(), indices=rows.astype(np.int32), updates=updates.T.copy(), axis=1, mode=mode
    )
    np.testing.assert_allclose(got, want.T, rtol=1e-5)
    rows_of = np.repeat(rows[:, None], 5, 1).astype(np.int32)
    got = call("scatter_along_axis", data=data, indices=rows_of, updates=updates, axis=0, mode=mode)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    got = call("scatter_nd", data=data, indices=rows[:, None].astype(np.int32), updates=updates, mode=mode)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_gathering_by_hand() -> None:
    x = torch.arange(24.0).reshape(2, 3, 4)
    pairs = np.array([[1, 2], [0, 0]], dtype=np.int32)
    assert torch.equal(call("gather_nd", x=x, indices=pairs), torch.stack([x[1, 2], x[0, 0]]))
    each = np.array([[[2]], [[0]]], dtype=np.int32)
    assert torch.equal(call("gather_nd", x=x, indices=each, batch_dims=1), torch.stack([x[0, [2]], x[1, [0]]]))
    rows = np.array([[3, 0], [1, 1]], dtype=np.int32)
    want = torch.stack([x[0][:, [3, 0]], x[1][:, [1, 1]]])
    assert torch.equal(call("gather", x=x, indices=rows, axis=2, batch_dims=1), want)
    assert call("gather", x=x, indices=np.array(-1), axis=2).tolist() == x[:, :, -1].tolist()
    with pytest.raises(IndexError, match="axis of size 4"):
        call("gather", x=x, indices=np.array([4]), axis=2)
    hot = call("one_hot", indices=np.array([2, 0, 5]), one_hot_vector_size=3, axis=0)
    assert hot.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]] and hot.dtype == torch.int32


@settings(max_examples=12, derandomize=True)
@given(height=st.integers(1, 9), width=st.integers(1, 9), aligned=st.booleans(), seed=SEEDS)
def test_resizing(height: int, width: int, aligned: bool, seed: int) -> None:
    x = torch.from_numpy(floats(np.random.default_rng(seed), (1, 2, 4, 5)))
    want = functional.interpolate(x, (height, width), mode="bilinear", align_corners=aligned)
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    sizes = {"target_size_height": height, "target_size_width": width}
    torch.testing.assert_close(call("resize_bilinear", x=x, sampling_mode=mode, **sizes), want)
    shape = np.array([1, height, width])
    torch.testing.assert_close(call("resize", x=x, shape=shape, resized_dims=2, sampling_mode=mode), want)
    nearest = functional.interpolate(x, (height, width), mode="nearest")
    assert torch.equal(call("resize_nearest_neighbor", x=x, **sizes), nearest)
    exact = functional.interpolate(x, (height, width), mode="nearest-exact")
    given_ = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "UNALIGN_CORNERS"}
    assert torch.equal(call("resize", x=x, shape=shape, resized_dims=2, **given_), exact)


def test_resizing_as_coremltools_text_has_it() -> None:
    """The grids in the text of `resize_bilinear`, read off a ramp."""
    ramp = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    for mode, want in {
        "UNALIGN_CORNERS": [0, 0.1, 0.5, 0.9, 1],
        "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
        "DEFAULT": [0, 0.4, 0.8, 1, 1],
        "OFFSET_CORNERS": [0.1, 0.3, 0.5, 0.7, 0.9],
    }.items():
        got = call("resize_bilinear", x=ramp, target_size_height=1, target_size_width=5, sampling_mode=mode)
        np.testing.assert_allclose(got.flatten(), want, atol=1e-6)
    x = torch.randn(1, 2, 3, 4)
    want = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(call("upsample_bilinear", x=x, scale_factor_height=2, scale_factor_width=2), want)
    want = functional.interpolate(x, scale_factor=2, mode="nearest")
    assert torch.equal(call("upsample_nearest_neighbor", x=x, scale_factor_height=2, scale_factor_width=2), want)


def test_resampling() -> None:
    torch.manual_seed(0)
    x, grid = torch.randn(2, 3, 4, 5), torch.rand(2, 6, 7, 2) * 2 - 1
    given_ = {
        "x": x,
        "sampling_mode": "bilinear",
        "padding_mode": "border",
        "padding_value": 0.0,
        "align_corners": True,
    }
    want = functional.grid_sample(x, grid, "bilinear", "border", True)
    places = {
        "normalized_minus_one_to_one": grid,
        "normalized_zero_to_one": (grid + 1) / 2,
        "unnormalized": (grid + 1) / 2 * torch.tensor([4.0, 3.0]),
    }
    for mode, coordinates in places.items():
        got = call("resample", coordinates=coordinates, coordinates_mode=mode, **given_)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    matrix = torch.tensor([[1.0, 0, 0, 0, 1.0, 0]])
    torch.testing.assert_close(call("affine", x=x, transform_matrix=matrix, output_height=4, output_width=5), x)


@settings(max_examples=8, derandomize=True)
@given(seed=SEEDS, reverse=st.booleans())
def test_recurrent_layers(seed: int, reverse: bool) -> None:
    torch.manual_seed(seed % 1000)
    x, h, c = torch.randn(5, 2, 3), torch.randn(2, 4), torch.randn(2, 4)
    seen = x.flip(0) if reverse else x
    direction = {"direction": "reverse" if reverse else "forward", "output_sequence": True}
    layer = torch.nn.LSTM(3, 4)
    i, f, z, o = range(4)
    order = [i, f, o, z]  # PyTorch's gates to Core ML's
    picked = lambda part: torch.cat([part.chunk(4)[at] for at in order])  # noqa: E731
    weights = {"weight_ih": picked(layer.weight_ih_l0), "weight_hh": picked(layer.weight_hh_l0)}
    bias = picked(layer.bias_ih_l0 + layer.bias_hh_l0)
    got = call("lstm", x=x, initial_h=h, initial_c=c, bias=bias, **weights, **direction)
    want, (last_h, last_c) = layer(seen, (h[None], c[None]))
    for mine, theirs in zip(got, (want.flip(0) if reverse else want, last_h[0], last_c[0]), strict=True):
        torch.testing.assert_close(mine, theirs)
    plain = torch.nn.RNN(3, 4)
    got = call("rnn", x=x, initial_h=h, weight_ih=plain.weight_ih_l0, weight_hh=plain.weight_hh_l0,
               bias=plain.bias_ih_l0 + plain.bias_hh_l0, **direction)  # fmt: skip
    want, last_h = plain(seen, h[None])
    torch.testing.assert_close(got[0], want.flip(0) if reverse else want)
    torch.testing.assert_close(got[1], last_h[0])
    gated = torch.nn.GRU(3, 4)
    picked = lambda part: torch.cat([part.chunk(3)[at] for at in (0, 2, 1)])  # noqa: E731
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias": "bias_hh_l0", "input_bias": "bias_ih_l0"}
    given_ = {key: picked(getattr(gated, name)) for key, name in names.items()}
    got = call("gru", x=x, initial_h=h, reset_after=True, **given_, **direction)
    want, last_h = gated(seen, h[None])
    torch.testing.assert_close(got[0], want.flip(0) if reverse else want)
    torch.testing.assert_close(got[1], last_h[0])


def test_a_bidirectional_lstm() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(5, 2, 3), torch.nn.LSTM(3, 4, bidirectional=True)
    picked = lambda part: torch.cat([part.chunk(4)[at] for at in (0, 1, 3, 2)])  # noqa: E731
    given_ = {}
    for ending, name in (("", "l0"), ("_back", "l0_reverse")):
        given_[f"weight_ih{ending}"] = picked(getattr(layer, f"weight_ih_{name}"))
        given_[f"weight_hh{ending}"] = picked(getattr(layer, f"weight_hh_{name}"))
        given_[f"bias{ending}"] = picked(getattr(layer, f"bias_ih_{name}") + getattr(layer, f"bias_hh_{name}"))
    zeros = torch.zeros(2, 8)
    got = call("lstm", x=x, initial_h=zeros, initial_c=zeros, direction="bidirectional", output_sequence=True, **given_)
    want, (h, c) = layer(x)
    torch.testing.assert_close(got[0], want)
    torch.testing.assert_close(got[1], torch.cat([h[0], h[1]], -1))
    torch.testing.assert_close(got[2], torch.cat([c[0], c[1]], -1))


def test_non_maximum_suppression() -> None:
    """Two boxes on each other, one apart: the second of the pair goes, unless classes are kept apart."""
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0.1, 0, 2, 2], [9, 9, 2, 2]]]).transpose(1, 2)
    scores = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.1]]]).transpose(1, 2)
    given_ = {"boxes": boxes, "scores": scores, "iou_threshold": 0.5, "max_boxes": 3}
    kept = call("non_maximum_suppression", **given_)
    assert kept[2].tolist() == [[0, 2, -1]] and kept[0][0, :, 1].tolist() == [9, 9, 2, 2]
    assert call("non_maximum_suppression", per_class_suppression=True, **given_)[2].tolist() == [[0, 1, 2]]
    old = {**given_, "boxes": boxes.transpose(1, 2), "scores": scores.transpose(1, 2), "score_threshold": 0.6}
    assert call("non_maximum_suppression", **old)[3].tolist() == [1]


@settings(max_examples=15, derandomize=True)
@given(
    seed=SEEDS, bits=st.sampled_from([1, 2, 3, 4, 6, 8]), size=st.sampled_from([1, 2]), groups=st.sampled_from([1, 2])
)
def test_palettes_as_coremltools_reads_them(seed: int, bits: int, size: int, groups: int) -> None:
    from coremltools.optimize import _utils

    rng = np.random.default_rng(seed)
    indices = rng.integers(0, 2**bits, (4, 6)).astype(np.uint8)
    lut = floats(rng, (groups, 3 - groups, 2**bits, size)).astype(np.float16)
    for axis in (0, 1):
        want = _utils.lut_to_dense(indices, lut, axis)
        got = call(
            "constexpr_lut_to_dense", indices=torch.from_numpy(indices), lut=torch.from_numpy(lut), vector_axis=axis
        )
        np.testing.assert_array_equal(got, want)
    mask = (rng.random((4, 6)) > 0.5).astype(np.uint8)
    spread, values = call(
        "constexpr_lut_to_sparse", indices_mask=torch.from_numpy(mask), lut=torch.from_numpy(lut), vector_axis=0,
        indices_nonzero_data=torch.from_numpy(indices[mask != 0]),
    )  # fmt: skip
    want = np.where(np.repeat(mask, size, 0), _utils.lut_to_dense(indices, lut, 0), 0)
    np.testing.assert_array_equal(call("constexpr_sparse_to_dense", nonzero_data=values, mask=spread), want)


@settings(max_examples=15, derandomize=True)
@given(seed=SEEDS, bits=st.sampled_from([1, 2, 3, 4, 6, 8]), count=st.integers(1, 40), signed=st.booleans())
def test_packed_bits_as_coremltools_packs_them(seed: int, bits: int, count: int, signed: bool) -> None:
    from coremltools.optimize import _utils

    from edgekit.formats.coreml.mil.values import unpacked

    signed = signed and bits in (4, 8)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    values = np.random.default_rng(seed).integers(low, high, count).astype(np.int8 if signed else np.uint8)
    packed = _utils.pack_elements_into_bits(values, bits)
    np.testing.assert_array_equal(unpacked(packed, bits, count, signed), values)


def test_shifted_and_scaled_by_hand() -> None:
    data = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]], dtype=torch.int8)
    scale = torch.tensor([[1.0, 10.0], [2.0, 20.0]]).half()
    offset = torch.tensor([[0, 1], [0, -1]], dtype=torch.int8)
    got = call("constexpr_blockwise_shift_scale", data=data, scale=scale, offset=offset)
    assert got.tolist() == [[0, 1, 10, 20], [8, 10, 140, 160]] and got.dtype == torch.float16
    got = call(
        "constexpr_affine_dequantize", quantized_data=data, zero_point=np.int8(1), scale=scale[0, :1].repeat(2), axis=0
    )
    assert got.tolist() == [[-1, 0, 1, 2], [3, 4, 5, 6]]
    got = call(
        "constexpr_affine_dequantize",
        quantized_data=data,
        zero_point=np.zeros(4, np.int8),
        scale=torch.arange(4.0),
        axis=-1,
    )
    assert got.tolist() == [[0, 1, 4, 9], [0, 5, 12, 21]]
    assert call("constexpr_cast", source_val=scale, output_dtype="fp32").dtype == torch.float32
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.uint8)
    found = call("constexpr_sparse_blockwise_shift_scale", data_mask=mask, nonzero_data=data[mask != 0], scale=scale)
    assert found[1].tolist() == [0, 20, 140]
    back = call("dequantize", input=data, scale=np.float32(0.5), zero_point=np.int8(1))
    assert back.tolist() == [[-0.5, 0, 0.5, 1], [1.5, 2, 2.5, 3]]


def test_random_numbers() -> None:
    wide = call("random_normal", shape=np.array([20000]), mean=np.float32(3), stddev=2.0, seed=1)
    assert abs(float(wide.mean()) - 3) < 0.1 and abs(float(wide.std()) - 2) < 0.1
    flat = call("random_uniform", shape=np.array([20000]), low=np.float32(-1), high=3.0, seed=1)
    assert -1 <= float(flat.min()) < -0.9 and 2.9 < float(flat.max()) < 3
    assert torch.equal(flat, call("random_uniform", shape=np.array([20000]), low=np.float32(-1), high=3.0, seed=1))
    coins = call("random_bernoulli", shape=np.array([20000]), prob=np.float32(0.2), seed=1)
    assert abs(float(coins.mean()) - 0.2) < 0.02
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert call("random_categorical", x=rows, mode="probs", size=3, seed=1).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_lists() -> None:
    items = call("make_list", elem_shape=[np.array(2)], init_length=1)
    row = torch.tensor([1.0, 2.0])
    items = OPERATIONS["list_write"].call(ls=items, index=2, value=row)
    assert OPERATIONS["list_length"].call(ls=items).item() == 3
    items = OPERATIONS["list_scatter"].call(ls=items, indices=(0,), value=row[None] + 1)
    assert OPERATIONS["list_gather"].call(ls=items, indices=(0, 2)).tolist() == [[2, 3], [1, 2]]
    assert OPERATIONS["list_read"].call(ls=items, index=1).tolist() == [0, 0]


def test_how_many_there_are() -> None:
    assert len(OPERATIONS) >= 160


def build(tmp_path: Path, inputs: dict[str, Array], body: Callable[..., Any]) -> Any:
    """A package whose only function is `body`, not optimised; loaded."""
    from coremltools.converters.mil.mil import Builder, types

    from edgekit.formats.coreml.mil import Package

    kinds = {"f": types.fp32, "i": types.int32, "b": types.bool}
    specs = [Builder.TensorSpec(shape=value.shape, dtype=kinds[value.dtype.kind]) for value in inputs.values()]
    program = Builder.program(input_specs=specs, opset_version=ct.target.iOS18)(body)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "built.mlpackage"))
    return Package(tmp_path / "built.mlpackage")


def test_every_inferred_operation_from_a_saved_package(tmp_path: Path) -> None:
    """One program with all of them: the inputs are read from the package as coremltools writes them."""
    from coremltools.converters.mil.mil import Builder as mb

    rng = np.random.default_rng(0)
    cases = {
        case: make(rng, (2, 3)) for case, make in INFERRED.items() if not case.startswith(("non_zero", "range_1d"))
    }
    shared = np.zeros((1,), dtype=np.float32)

    def body(a: Any) -> Any:
        results = []
        for case, inputs in cases.items():
            for out in _many(getattr(mb, case.split()[0])(**inputs)):
                results.append(mb.cast(x=out, dtype="fp32") if out.dtype is not a.dtype else mb.identity(x=out))
        return tuple(results)

    function = build(tmp_path, {"a": shared}, body).function()
    found = list(function.predict({function.inputs[0].name: shared}).values())
    wanted = [part for case, inputs in cases.items() for part in inferred(case.split()[0], inputs)]
    for want, got in zip(wanted, found, strict=True):
        np.testing.assert_allclose(got, np.asarray(want, dtype=np.float32), rtol=2e-5, atol=2e-5)


def test_branches_and_loops(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    def body(a: Any, b: Any) -> Any:
        total = mb.reduce_sum(x=a, axes=[0], keep_dims=False)
        chosen = mb.cond(
            pred=mb.greater(x=total, y=0.0), _true_fn=lambda: mb.mul(x=a, y=2.0), _false_fn=lambda: mb.sub(x=a, y=b)
        )
        steps, value = mb.while_loop(
            _cond=lambda i, x: mb.less(x=i, y=3),
            _body=lambda i, x: (mb.add(x=i, y=1), mb.add(x=x, y=b)),
            loop_vars=(0, chosen),
        )
        return steps, value

    a, b = np.array([1.0, 2.0], dtype=np.float32), np.array([0.5, 0.25], dtype=np.float32)
    function = build(tmp_path, {"a": a, "b": b}, body).function()
    for sign, start in ((1, a * 2), (-1, -a - b)):
        steps, value = function.predict({"a": a * sign, "b": b}).values()
        assert steps == 3
        np.testing.assert_allclose(value, start + 3 * b)


def test_an_unknown_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    package = build(tmp_path, {"a": np.zeros(2, dtype=np.float32)}, lambda a: mb.sinh(x=a))
    known = {name: operation for name, operation in OPERATIONS.items() if name != "sinh"}
    monkeypatch.setattr("edgekit.formats.coreml.mil.program.operations", lambda: known)
    with pytest.raises(EdgekitError, match=r"does not know the operation 'sinh'.*\n.*one function `sinh`"):
        package.function()
