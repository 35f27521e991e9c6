"""Whole checkpoints of every family with random weights, a few hundred kilobytes each: for tests and dry runs.

Shapes are tiny, or `MID`: heads as wide as real ones, several of them, more layers. Everything else is as the hub's
folders have it: special tokens, chat templates (their image and text parts), processor files, the layout of the
configuration. A family's own parts stand in the file of its name, which holds a `BLUEPRINT`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.registry import Registry

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """How large a model is.

    Attributes:
        width: Of the language model, a multiple of `head_dim`.
        head_dim, kv_heads: Of its attention.
        repeats: How many times its three layers (of two kinds, where a family has two) come.
        vision_width, vision_heads: Of the vision tower.
    """

    width: int = 32
    head_dim: int = 16
    kv_heads: int = 1
    repeats: int = 1
    vision_width: int = 32
    vision_heads: int = 2

    @property
    def vision(self) -> dict[str, int]:
        """Sizes of the tower, as most configurations name them."""
        return {"hidden_size": self.vision_width, "intermediate_size": 3 * self.vision_width // 2}

    def rotary(self, *sections: int) -> list[int]:
        """Sections of M-RoPE that are for heads of 16, for these heads."""
        return [section * self.head_dim // 16 for section in sections]


TINY = Shape()
MID = Shape(width=256, head_dim=64, kv_heads=2, repeats=2, vision_width=192, vision_heads=3)


@dataclass(frozen=True)
class Blueprint:
    """What is a family's own in its tiny checkpoint.

    Attributes:
        special: Special tokens, the one for padding first.
        template: Chat template.
        config: (tokenizer, shape, rows of the vocabulary) -> its configuration.
        files: Content of its processor's files by name.
        end: Token that ends a turn.
        begin: Token that begins a text; "" for none.
        named: Special tokens that its processor asks the tokenizer for, by name.
        corpus: Texts that its tokenizer must learn merges from.
        windowed: Whether its tower has windows.
        sizes: Two odd image sizes for an export, (width, height), where the family bakes them.
        settle: Sets what is no random matrix in its model, without gradients.
    """

    special: tuple[str, ...]
    template: str
    config: Callable[[Tokenizer, Shape, int], Any]
    files: Mapping[str, Mapping[str, Any]]
    end: str = "<|im_end|>"
    begin: str = ""
    named: Mapping[str, str] = field(default_factory=dict)
    corpus: tuple[str, ...] = ()
    windowed: bool = False
    sizes: tuple[tuple[int, int], ...] = ()
    settle: Callable[[Any], None] | None = None


BLUEPRINTS: Registry[Blueprint] = Registry("edgekit.demo.tiny", "tiny checkpoint", "Blueprint", "BLUEPRINT")
NAMES = tuple(BLUEPRINTS.names())


def write_checkpoint(
    family: str,
    folder: Path,
    *,
    seed: int,
    width: int | None = None,
    shape: Shape = TINY,
    vocab_padding: int = 0,
    corpus: Iterable[str] = (),
    window: int = 56,
) -> Path:
    """Write a random checkpoint of a family.

    Args:
        family: One of NAMES.
        folder: Where to; made if it is not there.
        seed: Of the weights.
        width: Of the language model, a multiple of the width of a head; the shape's when None.
        shape: TINY or MID, or another.
        vocab_padding: Rows of embedding and output head beyond the tokenizer's entries.
        corpus: Texts the tokenizer learns merges from; models of one family with the same corpus share a tokenizer.
        window: Edge of the windows of qwen2_5_vl's tower, pixels; other families have none.

    Returns:
        The folder.
    """
    import torch

    blueprint = BLUEPRINTS.load(family)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(blueprint.special, [*corpus, *blueprint.corpus])
    torch.manual_seed(seed)
    shape = shape if width is None else replace(shape, width=width)
    config = blueprint.config(tokenizer, shape, tokenizer.get_vocab_size() + vocab_padding)
    if blueprint.windowed:
        config.vision_config.window_size = window
    model = make_model(config, shape.width)
    if blueprint.settle is not None:
        with torch.no_grad():
            blueprint.settle(model)
    ends = [tokenizer.token_to_id(token) for token in (blueprint.end, blueprint.special[0])]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends, 0
    model.save_pretrained(folder)
    _write_tokenizer(tokenizer, blueprint, folder)
    for name, content in blueprint.files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return folder


def make_model(config: Any, width: int) -> PreTrainedModel:
    """An untrained model whose tiny vision tower matters as much to its answers as a trained one's."""
    import torch
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # at the usual scale of 0.02 all prompts look the same to so narrow a model
                parameter.normal_(0, 0.2 if width < 64 else 0.8 / width**0.5)  # a gain above 1 makes layers chaotic
    loaded: PreTrainedModel = model
    return loaded


def make_tokenizer(special: Iterable[str], corpus: Iterable[str]) -> Tokenizer:
    """Bytes, merges that the corpus teaches, and special tokens, of which the first is 0."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what is there? yes no circle rectangle red blue\n", *corpus], trainer)
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, blueprint: Blueprint, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=blueprint.end,
        pad_token=blueprint.special[0],
        extra_special_tokens=dict(blueprint.named),
        model_max_length=4096,
    )
    if blueprint.begin:
        wrapped.bos_token = blueprint.begin
    wrapped.chat_template = blueprint.template
    wrapped.save_pretrained(folder)
