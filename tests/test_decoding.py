"""What decoders take and keep, worked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.families.decoding import (
    Run,
    convolution,
    filled,
    inputs_of,
    keys_and_values,
    layer_features,
    manifest_fields,
    next_positions,
    positions,
)
from edgekit.families.merging import gather

IMAGE = 9
ROWS = np.arange(8, dtype=np.float32).reshape(2, 2, 2)  # two layers, two image tokens, width 2


def test_features_go_to_the_image_tokens_of_each_layer() -> None:
    inputs = (positions(), *layer_features(2, 2))
    ids = np.array([[1, IMAGE, 3, IMAGE]])
    given = filled(inputs, Run(ids, np.arange(4)[None], IMAGE, {"deepstack_features": ROWS}))
    assert list(given) == ["position_ids", "deepstack_embeds"]
    assert given["deepstack_embeds"].tolist() == [
        [[[0, 0], [0, 1], [0, 0], [2, 3]]],
        [[[0, 0], [4, 5], [0, 0], [6, 7]]],
    ]
    alone = filled(inputs, Run(np.array([[IMAGE]]), np.array([[4]]), IMAGE))
    assert not alone["deepstack_embeds"].any()  # an image token in an answer has no image
    assert alone["deepstack_embeds"].shape == inputs[1].sized(1, 1) == (2, 1, 1, 2)
    assert inputs[1].encoded(5) == (2, 5, 2) and inputs[1].depth == 2
    assert layer_features(0, 2) == ()


@pytest.mark.parametrize(
    ("axes", "kind", "shape"), [(1, "positions", (1, 1)), (2, "blocks", (2, 1, 1)), (3, "axes", (3, 1, 1))]
)
def test_positions(axes: int, kind: str, shape: tuple[int, ...]) -> None:
    one = positions(axes)
    assert one.kind == kind and bool(one.about) is (kind == "blocks")
    following = next_positions([one], 7)
    assert following.shape == shape and (following == 7).all() and following.dtype == np.int64


def manifest(axes: int, layers: int, width: Any = 4) -> Any:
    spec = SimpleNamespace(name="inputs_embeds", shape=(1, "tokens", width))
    part = SimpleNamespace(inputs=(spec,))
    return SimpleNamespace(components={"text_decoder": part}, position_axes=axes, deepstack=layers)


@pytest.mark.parametrize(("axes", "layers"), [(1, 0), (3, 0), (3, 2), (2, 0)])
def test_a_manifests_fields_are_read_as_they_are_written(axes: int, layers: int) -> None:
    inputs = (positions(axes), *layer_features(layers, 4))
    assert manifest_fields(inputs) == {"position_axes": axes, "deepstack": layers}
    assert inputs_of(manifest(axes, layers)) == inputs


def test_states() -> None:
    key, value = keys_and_values(1, 2, 8)
    assert (key.kind, value.kind) == ("key", "value") and key.grows and key.rewinds
    assert key.sized(3) == (1, 2, 3, 8) and key.empty().shape == (1, 2, 0, 8)
    conv = convolution(4, (16, 3))
    assert not conv.grows and not conv.rewinds and conv.about
    assert conv.empty().shape == conv.sized(3) == (1, 16, 3) and not conv.empty().any()


def test_further_outputs_of_several_images_stand_one_behind_the_other() -> None:
    parts = [[np.zeros((2, 2), np.float32), ROWS], [np.ones((1, 2), np.float32), ROWS[:, :1]]]
    found = gather(parts, (positions(), *layer_features(2, 2)))
    assert found.embeds.shape == (3, 2)
    assert found.extra["deepstack_features"].tolist() == [[[0, 1], [2, 3], [0, 1]], [[4, 5], [6, 7], [4, 5]]]
    assert gather(parts, (positions(),)).extra == {}
    with pytest.raises(CheckpointError, match="gives 1 outputs, and the decoder is filled from 2"):
        gather([[parts[0][0]]], layer_features(2, 2))
