"""The cache of a decoder graph, beside a graph that is played by a few lines: rows kept, grown, cut and forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.manifest import Cache, Component, TensorSpec
from edgekit.runtimes import _onnx_cache
from edgekit.runtimes._onnx_cache import KeyValueCache

pytest.importorskip("onnxruntime")
WIDTH, VOCABULARY = 3, 5


def manifest(in_place: bool, state: bool = False) -> Any:
    past = [TensorSpec("past_key_values.0.key", "float32", ("batch", 2, "past", WIDTH))]
    present = [TensorSpec("present.0.key", "float32", ("batch", 2, "all", WIDTH))]
    if state:
        past.append(TensorSpec("past_conv.0", "float32", ("batch", 4)))
        present.append(TensorSpec("present_conv.0", "float32", ("batch", 4)))
    inputs = (
        TensorSpec("inputs_embeds", "float32", (1, "tokens", WIDTH)),
        TensorSpec("attention_mask", "int64", (1, "a")),
    )
    logits = TensorSpec("logits", "float32", (1, "tokens", VOCABULARY))
    decoder = Component("d.onnx", (*inputs, *past), (logits, *present))
    return SimpleNamespace(cache=Cache(1, 2, WIDTH, in_place), components={"text_decoder": decoder})


class Graph:
    """Appends what it is given to the key, adds one to a state, and answers with what it saw.

    The logits of a token: tokens seen in all, the sum over the cache, the state's first number, tokens given, 7.
    """

    def __init__(self) -> None:
        self.rooms: list[int] = []

    def run(self, names: Any, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        assert "position_ids" not in feeds  # which this graph does not take
        rows = feeds["inputs_embeds"]
        key = np.concatenate([feeds["past_key_values.0.key"], np.stack([rows, 10 * rows], 1)], axis=2)
        assert key.shape[2] == feeds["attention_mask"].shape[1]
        state = feeds.get("past_conv.0")
        out = self._logits(feeds, key, state)
        return [out, key] if state is None else [out, key, state + 1]

    def _logits(self, feeds: dict[str, NDArray[Any]], key: NDArray[Any], state: Any) -> NDArray[Any]:
        tokens = feeds["inputs_embeds"].shape[1]
        seen = [feeds["attention_mask"].sum(), key.sum(), -1.0 if state is None else state[0, 0], tokens, 7]
        return np.tile(np.array(seen, dtype=np.float32), (1, tokens, 1))

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, bound: Binding) -> None:
        rows, mask = bound.inputs["inputs_embeds"], bound.inputs["attention_mask"]
        length, tokens = mask.shape[1], rows.shape[1]
        buffer = bound.values["past_key_values.0.key"]
        assert buffer is bound.outputs["present.0.key"], "past and present are one buffer"
        whole = buffer.numpy().copy()
        self.rooms.append(whole.shape[2])
        whole[:, :, length - tokens : length] = np.stack([rows, 10 * rows], 1)
        buffer.update_inplace(whole)
        state = bound.values["past_conv.0"].numpy() if "past_conv.0" in bound.values else None
        out = self._logits(bound.inputs, whole[:, :, :length], state)
        bound.made = [buffer]
        if state is not None:
            assert bound.outputs["present_conv.0"] == "cpu"  # else ONNX Runtime makes no such output
            bound.made.append(KeyValueCache._bound(state + 1))
        if bound.outputs["logits"] == "cpu":
            bound.made.append(KeyValueCache._bound(out))
        else:
            bound.outputs["logits"].update_inplace(out)


class Binding:
    """What is bound by name."""

    def __init__(self) -> None:
        self.inputs: dict[str, NDArray[Any]] = {}
        self.values: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.made: list[Any] = []

    def bind_cpu_input(self, name: str, value: NDArray[Any]) -> None:
        assert value.flags.c_contiguous
        self.inputs[name] = value

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.values[name] = value

    def bind_output(self, name: str, device: str) -> None:
        self.outputs[name] = device

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.outputs[name] = value

    def get_outputs(self) -> list[Any]:
        return self.made


def feed(*rows: float) -> dict[str, NDArray[Any]]:
    values = np.repeat(np.array(rows, dtype=np.float32)[None, :, None], WIDTH, axis=2)
    return {"inputs_embeds": values, "position_ids": np.zeros((1, len(rows)), dtype=np.int64)}


def total(*rows: float) -> float:
    """Sum over a cache of these rows: once as they are, once ten times, WIDTH numbers each."""
    return 11 * WIDTH * sum(rows)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("state", [False, True])
def test_rows_are_kept_through_growth(in_place: bool, state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx_cache, "FIRST", 4)
    graph = Graph()
    cache = KeyValueCache(graph, manifest(in_place, state))
    given: list[float] = []
    for number, rows in enumerate([(1, 2, 3), (4,), (5,), (6, 7, 8, 9), (10,), *[(n,) for n in range(11, 30)]]):
        given += rows
        logits = cache.run(feed(*rows))
        assert logits.shape == (1, len(rows), VOCABULARY)
        wanted = [len(given), total(*given), number if state else -1, len(rows), 7]
        assert logits[0, -1].tolist() == wanted and logits[0, 0].tolist() == wanted
        assert cache.length == len(given)
    if in_place:  # 4, doubled when the fifth row comes, 16 at the tenth, 32 at the seventeenth
        assert graph.rooms[:5] == [4, 4, 8, 16, 16] and sorted(set(graph.rooms)) == [4, 8, 16, 32]


@pytest.mark.parametrize("in_place", [False, True])
def test_cut_forgets_what_is_behind_it(in_place: bool) -> None:
    cache = KeyValueCache(Graph(), manifest(in_place))
    cache.run(feed(1, 2, 3, 4))
    assert cache.cut(2) == 2 and cache.length == 2
    assert cache.run(feed(9))[0, -1].tolist() == [3, total(1, 2, 9), -1, 1, 7]
    cache.clear()
    assert cache.length == 0
    assert cache.run(feed(5))[0, -1].tolist() == [1, total(5), -1, 1, 7]


@pytest.mark.parametrize("in_place", [False, True])
def test_states_start_from_zero_and_cannot_go_back(in_place: bool) -> None:
    cache = KeyValueCache(Graph(), manifest(in_place, state=True))
    cache.run(feed(1, 2))
    cache.run(feed(3))
    assert cache.cut(1) == 0 and cache.length == 3
    assert cache.run(feed(4))[0, -1].tolist() == [4, total(1, 2, 3, 4), 2, 1, 7]
    cache.clear()
    assert cache.run(feed(6))[0, -1].tolist() == [1, total(6), 0, 1, 7]


def test_logits_are_the_callers_own() -> None:
    cache = KeyValueCache(Graph(), manifest(in_place=True))
    first = cache.run(feed(1))
    second = cache.run(feed(2))
    assert first[0, 0, 0] == 1 and second[0, 0, 0] == 2
    two = cache.run(feed(3, 4))
    assert two.shape == (1, 2, VOCABULARY) and two[0, :, 0].tolist() == [4, 4] and second[0, 0, 0] == 2
    assert _onnx_cache.FIRST == 256 and cache._values[0].shape() == [1, 2, 256, WIDTH]


def test_a_first_prompt_that_is_long_has_room() -> None:
    graph = Graph()
    cache = KeyValueCache(graph, manifest(in_place=True))
    cache.run(feed(*range(300)))
    cache.run(feed(1))
    assert graph.rooms == [300, 600]
