"""Gemma 3, on each target that holds it: the tokens of an image see each other, inside the windows of most layers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export_checkpoint
from numpy.typing import NDArray
from PIL import Image

from edgekit.checkpoint.folder import load_model
from edgekit.errors import EdgekitError
from edgekit.export import TARGETS, coreml
from edgekit.families import family_of
from edgekit.formats.inspecting import inspect
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Chat, answer

Maker = Callable[..., Path]
HOLDING = ["onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in ("executorch", "coreml", "coreai"))]
BLOCKS = np.array([0, 1, 1, 1, *range(4, 15), 15, 15, 15, *range(18, 23)])
"""Two images of three tokens, behind one word and eleven."""


@pytest.fixture(scope="module", params=HOLDING)
def bundle(request: pytest.FixtureRequest, tiny_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = request.param
    if any(find_spec(package) is None for package in TARGETS.load(target).packages):
        pytest.skip(f"{target} is not installed: pip install 'edgekit[{TARGETS.load(target).extra}]'")
    out = tmp_path_factory.mktemp(target) / "b"
    return export_checkpoint(tiny_of("gemma3"), target, "fp32", out, prompts=2).folder


def in_pieces(session: Any, embeds: NDArray[np.float32], sizes: list[int], blocks: Any = BLOCKS) -> NDArray[np.float32]:
    """The logits (V,) that follow a text given in pieces."""
    session.reset()
    places, start, logits = np.stack([np.arange(len(blocks)), blocks])[:, None], 0, None
    for size in sizes:
        logits = session.decode(embeds[:, start : start + size], {"position_ids": places[..., start : start + size]})
        start += size
    assert logits is not None and start == embeds.shape[1]
    return np.array(logits)


def test_a_text_in_pieces_is_the_text(bundle: Path, tiny_of: Maker) -> None:
    """Whole, and in pieces that part no image, words token by token; as PyTorch has it."""
    import torch

    session = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    embeds = np.random.default_rng(0).standard_normal((1, 23, 32), dtype=np.float32)
    split = family_of("gemma3").split(load_model(tiny_of("gemma3")))
    places = torch.from_numpy(np.stack([np.arange(23), BLOCKS])[:, None])
    with torch.no_grad():
        whole, *_ = split.text_decoder(torch.from_numpy(embeds), torch.ones(1, 23, dtype=torch.int64), places)
    wanted = whole[0, -1].numpy()
    for sizes in ([23], [4, 19], [1, 3, 11, 3, 5], [14, 4, 5], [18, *[1] * 5], [1, 3, *[1] * 11, 3, *[1] * 5]):
        np.testing.assert_allclose(in_pieces(session, embeds, sizes), wanted, atol=2e-5, err_msg=str(sizes))
    assert np.abs(in_pieces(session, embeds, [23], np.arange(23)) - wanted).max() > 1e-3  # causal is something else
    session.close()


def test_a_conversation_goes_on(bundle: Path) -> None:
    """The second turn keeps the first in the cache, and answers as if asked at once."""
    session = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    chat = Chat(session, max_new_tokens=4)
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    first = chat.say("what?", [image])
    second = chat.say("and then?")
    assert second.timings.cached_tokens > 0
    messages = [*question("what?"), {"role": "assistant", "content": first.text.strip()}, *question("and then?", 0)]
    assert second.token_ids == answer(session, messages, [image], max_new_tokens=4).token_ids
    session.close()


def test_the_decoder_is_inspected(bundle: Path, tiny_of: Maker) -> None:
    """As many operations as PyTorch's own count, and a cache of three layers."""
    ours, theirs = inspect(bundle, tokens=50), inspect(tiny_of("gemma3"), tokens=50)
    assert ours.per_token.flops == pytest.approx(theirs.per_token.flops, rel=5e-3)
    assert ours.components["token_embedding"].parameters == theirs.components["token_embedding"].parameters


def test_core_ml_parts_no_image(tiny_of: Maker) -> None:
    split = family_of("gemma3").split(load_model(tiny_of("gemma3")))
    with pytest.raises(EdgekitError, match="lengths=buckets does not go with") as caught:
        coreml._within(coreml.plan("fp16", {"lengths": "buckets"}), split)
    assert "a prompt in pieces could part them" in str(caught.value)


def test_what_a_norm_multiplies_by() -> None:
    """Gemma's RMSNorm adds 1 to its weight, and others do not; no module is asked for its name."""
    import torch
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    from edgekit.families._modules import rms_weight

    for made, shift in ((Gemma3RMSNorm(8), 1.0), (Qwen3RMSNorm(8), 0.0)):
        with torch.no_grad():
            made.weight.copy_(torch.linspace(-0.7, 1.8, 8))
        torch.testing.assert_close(rms_weight(made), torch.linspace(-0.7, 1.8, 8) + shift)


def test_core_ai_looks_scaled_rows_up() -> None:
    import torch
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

    from edgekit.export._coreai_modules import plain_embedding

    own = Gemma3TextScaledWordEmbedding(6, 4, 0, embed_scale=3.0)
    ids = torch.tensor([[1, 5, 0]], dtype=torch.int32)
    torch.testing.assert_close(plain_embedding(own, torch.float32)(ids), own(ids))
    assert not torch.equal(plain_embedding(own, torch.float32)(ids), own.weight[ids])
