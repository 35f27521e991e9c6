"""A tiny SmolVLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.architecture import END
from edgekit.demo.architecture import SPECIAL as IDEFICS3_SPECIAL
from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import HALF, STEPS, text_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
ROWS = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
FILES = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor",
        "do_image_splitting": True, "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64},
        "resample": 1,
    },
    "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import SmolVLMConfig

    vision: dict[str, Any] = {
        **shape.vision,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.vision_heads,
    }
    vision |= {"image_size": 64, "patch_size": 16}
    return SmolVLMConfig(
        text_config=text_fields("llama", shape, rows),
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.token_to_id("<image>"),
        tie_word_embeddings=False,
    )


BLUEPRINT = Blueprint(
    special=(*IDEFICS3_SPECIAL, *ROWS),
    template=TEMPLATE,
    config=config,
    files=FILES,
    end=END,
    corpus=("\n\n",) * 100,  # llama.cpp's clip looks it up as one piece, as SmolVLM's own tokenizer has it
)
