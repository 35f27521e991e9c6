"""A tiny Gemma 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.demo.tiny import Blueprint, Shape
from edgekit.demo.tiny._parts import HALF, STEPS, siglip_fields, text_fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<start_of_turn>' + role + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{ '<end_of_turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
FILES: dict[str, dict[str, Any]] = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor",
        "do_convert_rgb": None, "do_pan_and_scan": None, "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None, "pan_and_scan_min_ratio_to_activate": None, "image_seq_length": 4,
        "resample": 2, "size": {"height": 56, "width": 56},
    },
    "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
}  # fmt: skip


def config(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    """Its configuration."""
    from transformers import Gemma3Config

    # A window shorter than any prompt, and a layer of each kind.
    layers = ["sliding_attention", "full_attention", "sliding_attention"] * shape.repeats
    text = text_fields(
        "gemma3_text",
        shape,
        rows,
        sliding_window=9,
        layer_types=layers,
        query_pre_attn_scalar=shape.head_dim,
    )
    return Gemma3Config(
        text_config=text | {"bos_token_id": 2, "eos_token_id": 1, "tie_word_embeddings": True},
        vision_config=siglip_fields("siglip_vision_model", shape, image_size=56, patch_size=14),
        image_token_index=tokenizer.token_to_id("<image_soft_token>"),
        boi_token_index=tokenizer.token_to_id("<start_of_image>"),
        eoi_token_index=tokenizer.token_to_id("<end_of_image>"),
        mm_tokens_per_image=4,
    )


BLUEPRINT = Blueprint(
    special=SPECIAL,
    template=TEMPLATE,
    config=config,
    files=FILES,
    end="<end_of_turn>",
    begin="<bos>",
    named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
)
