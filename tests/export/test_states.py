"""States that are no keys and values, on each target that holds them: short convolutions, and the gated delta rule."""

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

from edgekit.bundle import Bundle
from edgekit.checkpoint.folder import load_model
from edgekit.errors import EdgekitError
from edgekit.export import TARGETS
from edgekit.families.decoding import inputs_of
from edgekit.formats.inspecting import inspect
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Chat, answer
from edgekit.runtimes.session import Modules

Maker = Callable[..., Path]
HOLDING = [
    ("lfm2_vl", "onnx"),
    ("qwen3_5", "onnx"),
    *(pytest.param(("qwen3_5", target), marks=pytest.mark.slow) for target in ("executorch", "gguf")),
    *(
        pytest.param(("lfm2_vl", target), marks=pytest.mark.slow)
        for target in ("executorch", "coreml", "coreml-states", "gguf")
    ),
]
# Of a layer each: LFM2-VL has two of convolutions, Qwen3.5 two of the rule behind one, and both have one of attention.
STATES = {"lfm2_vl": {"conv": 2, "recurrent": 0}, "qwen3_5": {"conv": 2, "recurrent": 2}}


@pytest.fixture(scope="module", params=HOLDING, ids="-".join)
def bundle(request: pytest.FixtureRequest, tiny_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, (target, _, states) = request.param[0], request.param[1].partition("-")
    if any(find_spec(package) is None for package in TARGETS.load(target).packages):
        pytest.skip(f"{target} is not installed: pip install 'edgekit[{TARGETS.load(target).extra}]'")
    precision = "fp16" if states else "fp32"  # Core ML's states are float16
    out = tmp_path_factory.mktemp(target) / "b"
    return export_checkpoint(tiny_of(family), target, precision, out, sizes=[(96, 64)], prompts=2).folder


def tolerance(bundle: Path) -> float:
    """Of a logit: llama.cpp sums in float16 here and there, and Core ML's states are float16."""
    manifest = Bundle.load(bundle).manifest
    return 0.05 if manifest.precision.common == "fp16" else 0.02 if manifest.target == "gguf" else 2e-5


def family_of_bundle(bundle: Path) -> str:
    return Bundle.load(bundle).manifest.family


def places(bundle: Path, start: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    """Positions of text, the same on every axis."""
    positions = inputs_of(Bundle.load(bundle).manifest)[0]
    return {positions.name: np.broadcast_to(np.arange(start, start + tokens), positions.sized(1, tokens))}


def in_chunks(bundle: Path, session: Any, ids: NDArray[np.int64], sizes: list[int]) -> NDArray[np.float32]:
    """The logits (V,) that follow a text given in pieces."""
    session.reset()
    start, logits = 0, None
    for size in sizes:
        logits = session.decode(session.embed(ids[:, start : start + size]), places(bundle, start, size))
        start += size
    assert logits is not None and start == ids.shape[1]
    return np.array(logits)


def test_a_text_in_pieces_is_the_text(bundle: Path, tiny_of: Maker) -> None:
    """Whole, in pieces shorter and longer than a kernel, and token by token; as PyTorch's own model has it."""
    import torch

    session = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    ids = np.random.default_rng(0).integers(5, 60, (1, 11))
    model: Any = load_model(tiny_of(family_of_bundle(bundle)))
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids)).logits[0, -1].numpy()
    for sizes in ([11], [5, 6], [3, 3, 3, 2], [1, 2, 1, 7], [10, 1], [1] * 11):
        found = in_chunks(bundle, session, ids, sizes)
        np.testing.assert_allclose(found, wanted, atol=tolerance(bundle), rtol=0, err_msg=str(sizes))
    session.close()


def test_nothing_is_left_of_the_text_before(bundle: Path) -> None:
    session = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    assert isinstance(session, Modules)
    ids = np.random.default_rng(1).integers(5, 60, (1, 6))
    fresh = in_chunks(bundle, session, ids, [6])
    lost = np.full((1, 4, session.embed(ids).shape[-1]), np.nan, np.float32)
    assert np.isnan(session.decode(lost, places(bundle, 6, 4))).all()
    in_chunks(bundle, session, ids[:, ::-1], [2, 4])
    np.testing.assert_array_equal(in_chunks(bundle, session, ids, [6]), fresh)
    session.close()


def test_a_conversation_is_prefilled_anew(bundle: Path) -> None:
    """Such states cannot go back: a second turn keeps nothing, and answers as if asked at once."""
    session = RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1)
    chat = Chat(session, max_new_tokens=4)
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    first = chat.say("what?", [image])
    second = chat.say("and then?")
    assert second.timings.cached_tokens == 0
    messages = [*question("what?"), {"role": "assistant", "content": first.text.strip()}, *question("and then?", 0)]
    assert second.token_ids == answer(session, messages, [image], max_new_tokens=4).token_ids
    assert session.rewind(2) == 0
    session.close()


def test_states_are_inspected(bundle: Path) -> None:
    """Where the program keeps them, beside a key and a value."""
    found = inspect(bundle, tokens=10).components["text_decoder"].states
    names = [name for group in found for name in group.names]
    kinds = STATES[family_of_bundle(bundle)]
    assert {kind: sum(kind in name for name in names) for kind in kinds} == kinds
    assert len(names) == 2 + sum(kinds.values())


def test_pieces_that_end_in_padding_are_refused(tiny_of: Maker, tmp_path: Path) -> None:
    if find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed: pip install 'edgekit[coreml]'")
    with pytest.raises(EdgekitError, match="this model's states could not forget it"):
        export_checkpoint(tiny_of("lfm2_vl"), "coreml", "fp16", tmp_path / "b", options={"lengths": "buckets"})
    assert list(tmp_path.iterdir()) == []
