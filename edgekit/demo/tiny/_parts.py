"""What the tiny checkpoints of several families share."""

from __future__ import annotations

from typing import Any

from edgekit.demo.tiny import Shape

CHATML = (
    "{%% for message in messages %%}%s<|im_start|>{{ message['role'] }}\n"
    "{%% if message['content'] is string %%}{{ message['content'] }}{%% else %%}"
    "{%% for content in message['content'] %%}"
    "{%% if content['type'] == 'image' %%}%s{%% elif 'text' in content %%}{{ content['text'] }}{%% endif %%}"
    "{%% endfor %%}{%% endif %%}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True}


def text_fields(kind: str, shape: Shape, rows: int, **more: Any) -> dict[str, Any]:
    """Fields of a language model's configuration, for a vocabulary of `rows`."""
    return {
        "model_type": kind,
        "vocab_size": rows,
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": 3 * shape.repeats,
        "num_attention_heads": shape.width // shape.head_dim,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **more,
    }


def siglip_fields(kind: str, shape: Shape, **more: Any) -> dict[str, Any]:
    """Fields of a SigLIP tower's configuration."""
    sizes = {**shape.vision, "num_hidden_layers": 2, "num_attention_heads": shape.vision_heads}
    return {"model_type": kind, **sizes, "vision_use_head": False, **more}
