"""A tiny LLaVA-OneVision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import CLIP, STEPS, siglip_fields, text_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CANVASES = [[42 * rows, 42 * cols] for rows in range(1, 4) for cols in range(1, 4)]
FILES = {
    "preprocessor_config.json": {
        **STEPS, **CLIP, "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor", "do_pad": True, "size": {"height": 42, "width": 42},
        "image_grid_pinpoints": CANVASES, "resample": 3,
    },
    "processor_config.json": {
        "num_image_tokens": 9, "processor_class": "LlavaOnevisionProcessor", "image_token": "<image>",
        "video_token": "<video>", "vision_aspect_ratio": "anyres_max_2", "vision_feature_select_strategy": "full",
    },
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        text_config=text_fields("qwen2", shape, rows),
        vision_config=siglip_fields("siglip_vision_model", shape, image_size=42, patch_size=14),
        image_token_index=tokenizer.token_to_id("<image>"),
        video_token_index=tokenizer.token_to_id("<video>"),
        image_grid_pinpoints=CANVASES,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=False,
    )


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=TEMPLATE,
    config=config,
    files=FILES,
)
