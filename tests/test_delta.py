"""The gated delta rule, worked by hand, in each form that it is written in."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float32]
Run = Callable[[dict[str, Array]], tuple[Array, Array]]
"""Of query, key (1, T, H, D_k), value (1, T, H, D_v), decay, beta (1, T, H), state (1, H, D_k, D_v), or no state."""


def by_torch(given: dict[str, Array]) -> tuple[Array, Array]:
    import torch

    from edgekit.families._delta import torch_rule

    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    out, state = torch_rule(**{"state": None, **tensors})
    return out.numpy(), state.numpy()


def by_onnxruntime(given: dict[str, Array]) -> tuple[Array, Array]:
    """The node that an export has in place of the rule."""
    heads, widths = given["key"].shape[2], (given["key"].shape[3], given["value"].shape[3])
    whole = {**given, "state": given.get("state", np.zeros((1, heads, *widths), np.float32))}
    out, state = session_of(heads, *widths).run(None, whole)
    return np.asarray(out), np.asarray(state)


@cache
def session_of(heads: int, key: int, value: int) -> Any:
    """For any number of tokens."""
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        pytest.skip("onnxruntime is not installed: pip install 'edgekit[onnx]'")
    import onnxruntime
    import torch

    from edgekit.export._onnx_delta import linear_attention

    class Node(torch.nn.Module):
        def forward(self, query: Any, key: Any, value: Any, decay: Any, beta: Any, state: Any) -> Any:
            return linear_attention(query, key, value, decay, beta, state)

    rows = {"query": (heads, key), "key": (heads, key), "value": (heads, value), "decay": (heads,), "beta": (heads,)}
    free = {1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Node().eval(),
        kwargs={name: torch.zeros(1, 5, *shape) for name, shape in rows.items()}
        | {"state": torch.zeros(1, heads, key, value)},
        dynamic_shapes={**dict.fromkeys(rows, free), "state": {}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString())


def by_executorch(given: dict[str, Array]) -> tuple[Array, Array]:
    """The operator that an ExecuTorch program calls."""
    if find_spec("executorch") is None:
        pytest.skip("executorch is not installed: pip install 'edgekit[executorch]'")
    import torch

    from edgekit.export._executorch_decoder import llama_rule

    heads, widths = given["key"].shape[2], (given["key"].shape[3], given["value"].shape[3])
    whole = {**given, "state": given.get("state", np.zeros((1, heads, *widths), np.float32))}
    out, state = llama_rule(**{name: torch.from_numpy(array) for name, array in whole.items()})
    return out.numpy(), state.numpy()


FORMS = [by_torch, by_onnxruntime, by_executorch]


def rows(*tokens: list[list[float]]) -> Array:
    """(1, T, H, D)."""
    return np.array([tokens], dtype=np.float32)


@pytest.mark.parametrize("run", FORMS)
def test_two_tokens_by_hand(run: Run) -> None:
    """One head, keys of two numbers, values of one.

    S = (1, 0) is halved to (0.5, 0). The first key, (0, 1), finds 0 there and is to give 2: half way, so S = (0.5, 1),
    and the query (1, 0) reads 0.5. The second, (1, 0), finds 0.5 and is to give 3, at once: S = (3, 1), and the query
    (0, 1) reads 1.
    """
    out, state = run(
        {
            "query": rows([[1, 0]], [[0, 1]]),
            "key": rows([[0, 1]], [[1, 0]]),
            "value": rows([[2]], [[3]]),
            "decay": np.array([[[math.log(0.5)], [0]]], dtype=np.float32),
            "beta": np.array([[[0.5], [1]]], dtype=np.float32),
            "state": np.array([[[[1], [0]]]], dtype=np.float32),
        }
    )
    np.testing.assert_allclose(out[0, :, 0, 0] * math.sqrt(2), [0.5, 1], atol=1e-6)
    np.testing.assert_allclose(state[0, 0, :, 0], [3, 1], atol=1e-6)


@pytest.mark.parametrize("run", FORMS)
def test_one_token_of_a_new_text_by_hand(run: Run) -> None:
    """Nothing decays in an empty state: S = beta k v, for each of two heads its own."""
    out, state = run(
        {
            "query": rows([[1, 0], [0, 1]]),
            "key": rows([[1, 0], [0.6, 0.8]]),
            "value": rows([[4, -2, 1], [1, 2, 3]]),
            "decay": np.array([[[-9, -1]]], dtype=np.float32),
            "beta": np.array([[[0.25, 1]]], dtype=np.float32),
        }
    )
    np.testing.assert_allclose(state[0, 0], [[1, -0.5, 0.25], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(state[0, 1], [[0.6, 1.2, 1.8], [0.8, 1.6, 2.4]], atol=1e-6)
    np.testing.assert_allclose(out[0, 0] * math.sqrt(2), [[1, -0.5, 0.25], [0.8, 1.6, 2.4]], atol=1e-6)


def numbers(tokens: int) -> dict[str, Array]:
    """Three heads, keys of 4 and values of 5 numbers; the same key comes often, as an even image's patches have it."""
    rng = np.random.default_rng(tokens)
    key = rng.standard_normal((1, tokens, 3, 4))
    key[:, ::2] = key[:, :1]
    query = rng.standard_normal((1, tokens, 3, 4))
    given = {
        "query": query / np.linalg.norm(query, axis=-1, keepdims=True),
        "key": key / np.linalg.norm(key, axis=-1, keepdims=True),
        "value": rng.standard_normal((1, tokens, 3, 5)),
        "decay": -np.exp(rng.uniform(-7, 1, (1, tokens, 3))),
        "beta": rng.uniform(0, 1, (1, tokens, 3)),
        "state": rng.standard_normal((1, 3, 4, 5)),
    }
    return {name: array.astype(np.float32) for name, array in given.items()}


def step_by_step(given: dict[str, Array]) -> tuple[Array, Array]:
    """The three lines of `edgekit.families._delta`, in float64."""
    query, key, value, decay, beta, state = (array[0].astype(np.float64) for array in given.values())
    out = np.zeros(value.shape)
    for t in range(len(key)):
        for h in range(key.shape[1]):
            state[h] *= np.exp(decay[t, h])
            state[h] += beta[t, h] * np.outer(key[t, h], value[t, h] - key[t, h] @ state[h])
            out[t, h] = query[t, h] @ state[h] / 2
    return out, state


@pytest.mark.parametrize("tokens", [1, 7, 64, 130])
@pytest.mark.parametrize("run", FORMS)
def test_any_number_of_tokens(run: Run, tokens: int) -> None:
    """Chunks of 64 are cut within a prompt, at its end and beyond it."""
    given = numbers(tokens)
    wanted, after = step_by_step(given)
    out, state = run(given)
    np.testing.assert_allclose(out[0], wanted, atol=2e-5)
    np.testing.assert_allclose(state[0], after, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_in_pieces(size: int) -> None:
    given = numbers(21)
    wanted, after = step_by_step(given)
    state, found = given.pop("state"), []
    for start in range(0, 21, size):
        piece = {name: array[:, start : start + size] for name, array in given.items()}
        out, state = by_torch({**piece, "state": state})
        found.append(out[0])
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=2e-5)
    np.testing.assert_allclose(state[0], after, atol=2e-5)
