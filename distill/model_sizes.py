"""What a checkpoint weighs and costs, from its configuration alone: no weights are read.

The model is built on torch's meta device, which gives every parameter its shape and none its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekit.checkpoint.configuration import read_config
from edgekit.checkpoint.skeleton import skeleton
from edgekit.distill.packing import takes_pairs
from edgekit.families import family_of
from edgekit.recipe.model import Lora


@dataclass(frozen=True)
class Tower:
    """A stack of transformer layers.

    Attributes:
        parameters: Of the stack, embeddings and output head excepted.
        layers: How many.
        width: D.
        inner: Width inside its feed-forward part.
        heads: H.
        kv_width: Width of keys, and of values.
        gated: Whether the feed-forward part multiplies two projections.
    """

    parameters: int
    layers: int
    width: int
    inner: int
    heads: int
    kv_width: int
    gated: bool

    def forward_flops(self, tokens: float, context: float) -> float:
        """FLOPs of a forward pass: 2 per parameter and token, and attention's two products over `context` tokens."""
        return tokens * (2 * self.parameters + 4 * self.layers * self.width * context)

    def kept_bytes(self, tokens: float, context: float, *, bf16: bool, eager: bool, checkpointed: bool) -> float:
        """Bytes that a forward pass keeps for the backward pass.

        Counted with torch's saved-tensor hooks on Idefics3 layers: about 9 vectors of the width and 4 of the inner
        width per token and decoder layer in float32, under bfloat16 autocast 16 and 4 of half the size; eager
        attention keeps about 10 bytes more for each pair of tokens and head.
        """
        own = 9 if self.gated else 8
        vectors = (16 if self.gated else 12) if bf16 else own
        layer: float = (2 if bf16 else 4) * (vectors * self.width + (4 if self.gated else 2) * self.inner)
        layer += 10 * self.heads * context if eager else 0
        if checkpointed:
            return tokens * (self.layers * 4 * self.width + layer)
        return tokens * self.layers * layer


@dataclass(frozen=True)
class ModelSizes:
    """A vision-language model's sizes.

    Attributes:
        parameters: All, tied ones once.
        vision, text: Its towers.
        embedding: Parameters of the token embedding.
        head: Parameters of the output head; 0 where it is the embedding.
        vocab: V.
        patch: Edge of a patch in pixels.
        linear: Input and output widths of each linear layer but the output head, by name.
        packs: Whether the decoder runs a prompt once for several responses.
    """

    parameters: int
    vision: Tower
    text: Tower
    embedding: int
    head: int
    vocab: int
    patch: int
    linear: dict[str, tuple[int, int]]
    packs: bool

    def trainable(self, lora: Lora | None) -> int:
        """Parameters that get a gradient."""
        if lora is None:
            return self.parameters
        names = lora.target_modules
        chosen = [
            sum(widths)
            for name, widths in self.linear.items()
            if names == ("all-linear",) or any(name == one or name.endswith(f".{one}") for one in names)
        ]
        return lora.rank * sum(chosen)


def sizes_of(folder: Path) -> ModelSizes:
    """Sizes of the model that a folder's config.json describes.

    Raises:
        CheckpointError: no configuration there, of a family edgekit does not know, or it describes no model.
    """
    from torch import nn

    kind = read_config(folder)["model_type"]
    family, model = family_of(str(kind)), cast(Any, skeleton(folder))
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    parts = dict.fromkeys(("vision", "language"), 0)
    for name, weight in model.named_parameters():
        for part, prefixes in family.prefixes.items():
            if name.startswith(tuple(prefixes)) and weight is not embedding:
                parts[part] += weight.numel()
    text, vision = model.config.get_text_config(), model.config.vision_config
    linear = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return ModelSizes(
        parameters=sum(weight.numel() for weight in model.parameters()),
        vision=_vision(vision, parts["vision"]),
        text=_text(text, parts["language"]),
        embedding=embedding.numel(),
        head=0 if head.weight is embedding else head.weight.numel(),
        vocab=int(text.vocab_size),
        patch=int(vision.patch_size),
        linear=linear,
        packs=takes_pairs(model.config),
    )


def _text(config: Any, parameters: int) -> Tower:
    heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    inner, width = int(config.intermediate_size), int(config.hidden_size)
    return Tower(parameters, int(config.num_hidden_layers), width, inner, heads, kv_heads * head_dim, gated=True)


def _vision(config: Any, parameters: int) -> Tower:
    """Vision configurations name the same things in two ways."""
    width = int(getattr(config, "embed_dim", None) or config.hidden_size)
    layers = int(getattr(config, "num_hidden_layers", None) or config.depth)
    heads = int(getattr(config, "num_attention_heads", None) or config.num_heads)
    inner = getattr(config, "intermediate_size", None) or width * getattr(config, "mlp_ratio", 4)
    return Tower(parameters, layers, width, int(inner), heads, width, gated=False)
