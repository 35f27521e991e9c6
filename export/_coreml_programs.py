"""The functions of a Core ML export: what is traced, and what each takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.export import vision_name
from edgekit.export._coreml_modules import decoder, rewritten
from edgekit.families import Split, VisionPart
from edgekit.families.decoding import State
from edgekit.formats.coreml.programs import DECODE
from edgekit.manifest import TensorSpec


@dataclass(frozen=True)
class Plan:
    """What the options and the precision come to.

    Attributes:
        precisions: Of vision, embedding and text.
        ios: 17 or 18.
        shared: One multifunction package.
        states: The cache is the program's own.
        lengths: Sizes of a prefill; empty for any.
        context: Tokens the cache holds.
    """

    precisions: Mapping[str, str]
    ios: int
    shared: bool
    states: bool
    lengths: tuple[int, ...]
    context: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """One function to convert.

    Attributes:
        name: Of the component.
        module: What is traced.
        example: Inputs of its forward.
        inputs, outputs: Names, types and shapes; a name among the sizes is a free size.
        part: vision, embedding or text.
        about: For the package's description.
        states: Shapes of its states, by name.
        most: Of its free sizes; as many as the cache holds when None.
    """

    name: str
    module: Any
    example: tuple[Any, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    part: str
    about: str
    states: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    most: int | None = None


def programs(split: Split, chosen: Plan) -> Iterator[Program]:
    """The functions, in the order of use.

    Args:
        split: Of the model; it stays as it is.
        chosen: The plan.
    """
    for bucket, part in split.vision.items():
        yield _vision(vision_name(bucket), part, split, _float(chosen, "vision"))
    yield _embedding(split, _float(chosen, "embedding"))
    yield _decoder("text_decoder", split, chosen, single=False)
    if chosen.shared:
        yield _decoder(DECODE, split, chosen, single=True)


def _float(chosen: Plan, part: str) -> str:
    return "float32" if chosen.precisions[part] == "fp32" else "float16"


def _vision(name: str, part: VisionPart, split: Split, dtype: str) -> Program:
    import torch

    # One tile a run: a fixed shape is what the Neural Engine compiles for; views have no such shape.
    tokens: Any = "image_tokens" if part.of_any_view else part.tokens
    shape: tuple[Any, ...] = (tokens, *part.one_run[1:]) if part.of_any_view else part.one_run
    batch = () if part.of_any_view else shape[:-3]
    outputs = [TensorSpec("image_features", dtype, (*batch, tokens, split.width))]
    outputs += [TensorSpec(one.feature, dtype, one.encoded(part.tokens)) for one in split.features]
    return Program(
        name, rewritten(part.module), (torch.randn(part.one_run),), (TensorSpec("pixel_values", dtype, shape),),
        tuple(outputs), "vision", "one image, or one tile of it, to image embeddings",
        most=part.tokens if part.of_any_view else None,
    )  # fmt: skip


def _embedding(split: Split, dtype: str) -> Program:
    import torch
    from torch import nn

    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = split.token_embedding

        def forward(self, input_ids: Any) -> Any:
            return self.embedding(input_ids)

    return Program(
        "token_embedding", Embedding().eval(), (torch.zeros(1, 5, dtype=torch.int32),),
        (TensorSpec("input_ids", "int32", (1, "tokens")),),
        (TensorSpec("inputs_embeds", dtype, (1, "tokens", split.width)),),
        "embedding", "token ids to embeddings",
    )  # fmt: skip


def _decoder(name: str, split: Split, chosen: Plan, *, single: bool) -> Program:
    import torch

    fixed = bool(chosen.lengths)
    tokens, past = (1 if single else 3), 2
    total = chosen.context if fixed else past + tokens
    places = split.extra_inputs[0]
    new: Any = 1 if single else "tokens"
    dtype = _float(chosen, "text")
    example = [
        torch.randn(1, tokens, split.width),
        torch.zeros(1, 1, tokens, total),
        torch.arange(past, past + tokens, dtype=torch.int32).expand(places.sized(1, tokens)).contiguous(),
    ]
    inputs = [
        TensorSpec("inputs_embeds", dtype, (1, new, split.width)),
        TensorSpec("attention_mask", dtype, (1, 1, new, chosen.context if fixed else "total")),
        TensorSpec(places.name, "int32", places.sized(1, new)),
    ]
    if fixed:
        example.append(torch.tensor([past], dtype=torch.int32))
        inputs.append(TensorSpec("start", "int32", (1,)))
    for extra in split.features:
        example.append(torch.randn(extra.sized(1, tokens)))
        inputs.append(TensorSpec(extra.name, dtype, extra.sized(1, new)))
    outputs = [TensorSpec("logits", dtype, (1, 1, split.vocab_size))]
    states: dict[str, tuple[int, ...]] = {}
    if chosen.states:
        states = {f"{one.kind}_{one.layer}": one.sized(chosen.context) for one in split.states}
    else:
        example += [torch.randn(one.sized(past)) for one in split.states]
        inputs += [_handed_on("past", one, dtype, "past") for one in split.states]
        outputs += [_handed_on("present", one, dtype, "total") for one in split.states]
    module = decoder(split, chosen.context, states=chosen.states, fixed=fixed)
    about = "one token" if single else "a prompt, or more of a conversation,"
    return Program(
        name, module, tuple(example), tuple(inputs), tuple(outputs), "text",
        f"{about} and the cache to the logits of the next token", states,
    )  # fmt: skip


def _handed_on(way: str, state: State, dtype: str, length: str) -> TensorSpec:
    """A state as an input or output of the program."""
    shape = (1, *(length if size is None else size for size in state.shape))
    return TensorSpec(f"{way}_{state.kind}_{state.layer}", dtype, shape)
