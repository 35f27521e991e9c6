"""Inside a Hugging Face folder: its parameters, and what PyTorch's own formulas count in its modules.

The modules are those that every target exports. They run on shapes alone, without numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.folder import check_checkpoint, load_model
from edgekit.checkpoint.weights import stored_tensors, weight_files
from edgekit.errors import EdgekitError
from edgekit.files import tree_files
from edgekit.formats import Held, Part, Role, State
from edgekit.formats.counting import QUESTION_TOKENS, Heads, Inspection, heads_from, size_of, summarise

if TYPE_CHECKING:
    from edgekit.families import Split

APART = "no operation: PyTorch runs them all"
NOTES = ("operations and their count are PyTorch's, of attention written out", "activations and the cache are float32")
BATCHED = ("bmm", "baddbmm")
FUSED = "_scaled_dot_product"
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def inspect(folder: Path, tokens: int | None) -> Inspection:
    """As `edgekit.formats.inspecting.inspect`, of a checkpoint.

    Args:
        folder: Hugging Face folder of a known family.
        tokens: In the cache.

    Raises:
        CheckpointError: not there, damaged, or of a family edgekit does not know.
    """
    from edgekit.families import family_of
    from edgekit.families.sizes import with_view_tokens
    from edgekit.inputs.processor import Processor

    config = check_checkpoint(folder)
    family = family_of(config["model_type"])
    model: Any = load_model(folder, attn="eager")
    params = Processor.load(folder).for_sizes(None).params
    split = with_view_tokens(family.split(model, params.get("sizes")), params)
    tokens = tokens or next(iter(split.vision.values())).tokens + QUESTION_TOKENS
    kind, bytes_each = _stored(folder)
    holding = _holding(model, family.prefixes["vision"], kind, bytes_each)
    layers = sum(1 for tensor in split.states if tensor.kind == "key")
    heads = heads_from(config, layers, split.kv_heads, split.head_dim)
    parts = _parts(split, holding, tokens, heads)
    whole = sum((folder / name).stat().st_size for name in tree_files(folder))
    edges = {name: _edges(split, bucket) for bucket, name in _encoders(split).items()}
    return summarise(
        parts,
        heads=heads,
        tokens=tokens,
        images=edges,
        copied=False,
        component_bytes=sum(path.stat().st_size for path in weight_files(folder)),
        about={
            "name": folder.name, "target": "checkpoint", "precision": kind, "hash": None,
            "size_bytes": whole, "apart_means": APART, "notes": NOTES,
        },
    )  # fmt: skip


def _encoders(split: Split) -> dict[str, str]:
    return {bucket: f"vision_encoder_{bucket}" if bucket else "vision_encoder" for bucket in split.vision}


def _stored(folder: Path) -> tuple[str, float]:
    """The type most numbers are stored in, and bytes for each."""
    counted: Counter[str] = Counter()
    for stored in stored_tensors(folder):
        counted[TYPES.get(stored.dtype, stored.dtype.lower())] += math.prod(stored.shape)
    kinds = counted.most_common()
    if not kinds:
        raise EdgekitError(f"{folder} holds no weights.", fix="Fetch the checkpoint again.")
    sizes = sum(count * size_of(kind, (1,)) for kind, count in kinds)
    return kinds[0][0], sizes / counted.total()


def _holding(model: Any, vision: tuple[str, ...], kind: str, bytes_each: float) -> dict[str, list[Held]]:
    """Parameters of vision, embedding and text; a head that is tied to the embedding is the embedding."""
    table = model.get_input_embeddings().weight
    found: dict[str, list[Held]] = {"vision": [], "embedding": [], "text": []}
    for name, parameter in model.named_parameters():
        numbers = int(parameter.numel())
        size = round(numbers * bytes_each)
        if parameter is table:
            found["embedding"].append(Held(name, numbers, size, kind, "table", int(parameter.shape[0])))
            if model.get_output_embeddings().weight is table:
                found["text"].append(Held(name, numbers, size, kind, "product"))
            continue
        role: Role = "product" if parameter.dim() > 1 else "other"
        found["vision" if name.startswith(vision) else "text"].append(Held(name, numbers, size, kind, role))
    return found


def _parts(split: Split, holding: dict[str, list[Held]], tokens: int, heads: Heads) -> dict[str, Part]:
    import torch

    parts = {}
    for bucket, name in _encoders(split).items():
        part = split.vision[bucket]
        pixels = torch.zeros(part.one_run)
        parts[name] = _counted(part.module, (pixels,), holding["vision"])
    parts["token_embedding"] = _counted(
        split.token_embedding, (torch.zeros(1, 1, dtype=torch.int64),), holding["embedding"]
    )
    past = tokens - 1
    given = [torch.zeros(1, 1, split.width), torch.ones(1, tokens, dtype=torch.int64)]
    given.append(torch.full(split.extra_inputs[0].sized(1, 1), past, dtype=torch.int64))
    given += [torch.zeros(one.sized(1, 1)) for one in split.features]
    given += [torch.zeros(one.sized(past)) for one in split.states]
    shape = (1, heads.keys, "past", heads.width)
    states = tuple(
        State(f"{one.kind} of layer {one.layer}", "float32", shape if one.grows else one.sized(0))
        for one in split.states
    )
    parts["text_decoder"] = _counted(split.text_decoder, tuple(given), holding["text"], states)
    return parts


def _counted(module: Any, given: tuple[Any, ...], weights: list[Held], states: tuple[State, ...] = ()) -> Part:
    """A module's part: what PyTorch calls when it runs once, and the multiply-adds by PyTorch's own formulas."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    mode: Any = TorchDispatchMode

    class Counting(mode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: Counter[str] = Counter()
            self.weighted = self.between = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            name = function._overloadpacket.__name__
            if "aten" in str(function):
                self.calls[name] += 1
            formula = flop_registry.get(function._overloadpacket)
            if name.startswith(FUSED):
                self.between += fused_attention(*(tuple(one.shape) for one in args[:3]))
            elif formula is not None:
                adds = formula(*args, **(kwargs or {}), out_val=out) // 2
                self.weighted, self.between = (
                    (self.weighted, self.between + adds) if name in BATCHED else (self.weighted + adds, self.between)
                )
            return out

    counting = Counting()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), counting:
        module(*given)
    return Part(
        dict(counting.calls), tuple(weights), counting.weighted, 0 if states else counting.between, states=states
    )


def fused_attention(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]) -> int:
    """Multiply-adds of attention as one operation, of which PyTorch has no formula for every kernel."""
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _edges(split: Split, bucket: str) -> int:
    part = split.vision[bucket]
    pixels = size_of("float32", part.one_run)
    features = [(part.tokens, split.width), *(one.encoded(part.tokens) for one in split.features)]
    return pixels + sum(size_of("float32", shape) for shape in features)
