"""Whole checkpoints of every family with random weights, a few hundred kilobytes each: for tests and dry runs.

Shapes are tiny, or `MID`: heads as wide as real ones, several of them, more layers. Everything else is as the hub's
folders have it: special tokens, chat templates (their image and text parts), processor files, the layout of the
configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.demo.architecture import END as IDEFICS3_END
from edgekit.demo.architecture import SPECIAL as IDEFICS3_SPECIAL

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
INTERNVL_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
CHATML = (
    "{%% for message in messages %%}%s<|im_start|>{{ message['role'] }}\n"
    "{%% if message['content'] is string %%}{{ message['content'] }}{%% else %%}"
    "{%% for content in message['content'] %%}"
    "{%% if content['type'] == 'image' %%}%s{%% elif 'text' in content %%}{{ content['text'] }}{%% endif %%}"
    "{%% endfor %%}{%% endif %%}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
LLAVA_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA3_SPECIAL = (
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
    "<image_soft_token>",
)  # fmt: skip
GEMMA3_TEMPLATE = (
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
LFM2_SPECIAL = (
    "<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|image_start|>",
    "<|image_end|>", "<|img_thumbnail|>",
    *(f"<|img_row_{row}_col_{col}|>" for row in range(1, 11) for col in range(1, 11)),
)  # fmt: skip
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True}


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

    special, template, config_of, files = _FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    # llama.cpp's clip looks "\n\n" up as one piece, as SmolVLM's own tokenizer has it.
    tokenizer = _tokenizer(special, [*corpus, *(["\n\n"] * 100 if family == "smolvlm" else [])])
    torch.manual_seed(seed)
    shape = shape if width is None else replace(shape, width=width)
    config = config_of(tokenizer, shape, tokenizer.get_vocab_size() + vocab_padding)
    if family == "qwen2_5_vl":
        config.vision_config.window_size = window
    model = _model(config, shape.width)
    ends = [tokenizer.token_to_id(_ENDS.get(family, "<|im_end|>")), tokenizer.token_to_id(special[0])]
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends, 0
    model.save_pretrained(folder)
    _write_tokenizer(tokenizer, family, template, folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return folder


def _model(config: Any, width: int) -> PreTrainedModel:
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


def _tokenizer(special: Iterable[str], corpus: Iterable[str]) -> Tokenizer:
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


def _write_tokenizer(tokenizer: Tokenizer, family: str, template: str, folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_ENDS.get(family, "<|im_end|>"),
        pad_token=_FAMILIES[family][0][0],
        extra_special_tokens=_NAMED.get(family, {}),
        model_max_length=4096,
    )
    if family in _BEGINS:
        wrapped.bos_token = _BEGINS[family]
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)


def _text(kind: str, tokenizer: Tokenizer, shape: Shape, rows: int, **more: Any) -> dict[str, Any]:
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


def _tokens(tokenizer: Tokenizer) -> dict[str, int | None]:
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: tokenizer.token_to_id(f"<|{name}|>") for key, name in names.items()}


def _qwen2_5_vl(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": shape.rotary(2, 3, 3)}
    vision: dict[str, Any] = {
        "depth": 3,
        **shape.vision,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
    }
    vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    text = _text("qwen2_5_vl_text", tokenizer, shape, rows, rope_parameters=rope)
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_tokens(tokenizer))


def _qwen3_vl(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import Qwen3VLConfig

    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": shape.rotary(4, 2, 2),
        "mrope_interleaved": True,
    }
    vision: dict[str, Any] = {
        "depth": 3,
        **shape.vision,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.width,
    }
    vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = _text("qwen3_vl_text", tokenizer, shape, rows, rope_parameters=rope)
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_tokens(tokenizer))


def _internvl(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import InternVLConfig

    vision: dict[str, Any] = {
        **shape.vision,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.vision_heads,
    }
    vision |= {"image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True}
    text = _text("qwen3", tokenizer, shape, rows)
    image = tokenizer.token_to_id("<IMG_CONTEXT>")
    return InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=image, image_seq_length=4, tie_word_embeddings=False
    )


def _smolvlm(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import SmolVLMConfig

    vision: dict[str, Any] = {
        **shape.vision,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.vision_heads,
    }
    vision |= {"image_size": 64, "patch_size": 16}
    return SmolVLMConfig(
        text_config=_text("llama", tokenizer, shape, rows),
        vision_config=vision,
        scale_factor=2,
        image_token_id=tokenizer.token_to_id("<image>"),
        tie_word_embeddings=False,
    )


def _siglip(kind: str, shape: Shape, **more: Any) -> dict[str, Any]:
    sizes = {**shape.vision, "num_hidden_layers": 2, "num_attention_heads": shape.vision_heads}
    return {"model_type": kind, **sizes, "vision_use_head": False, **more}


def _llava_onevision(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        text_config=_text("qwen2", tokenizer, shape, rows),
        vision_config=_siglip("siglip_vision_model", shape, image_size=42, patch_size=14),
        image_token_index=tokenizer.token_to_id("<image>"),
        video_token_index=tokenizer.token_to_id("<video>"),
        image_grid_pinpoints=LLAVA_CANVASES,
        vision_aspect_ratio="anyres_max_2",
        tie_word_embeddings=False,
    )


def _gemma3(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import Gemma3Config

    # A window shorter than any prompt, and a layer of each kind.
    layers = ["sliding_attention", "full_attention", "sliding_attention"] * shape.repeats
    text = _text(
        "gemma3_text",
        tokenizer,
        shape,
        rows,
        sliding_window=9,
        layer_types=layers,
        query_pre_attn_scalar=shape.head_dim,
    )
    return Gemma3Config(
        text_config=text | {"bos_token_id": 2, "eos_token_id": 1, "tie_word_embeddings": True},
        vision_config=_siglip("siglip_vision_model", shape, image_size=56, patch_size=14),
        image_token_index=tokenizer.token_to_id("<image_soft_token>"),
        boi_token_index=tokenizer.token_to_id("<start_of_image>"),
        eoi_token_index=tokenizer.token_to_id("<end_of_image>"),
        mm_tokens_per_image=4,
    )


def _lfm2_vl(tokenizer: Tokenizer, shape: Shape, rows: int) -> Any:
    from transformers import Lfm2VlConfig

    layers = ["conv", "full_attention", "conv"] * shape.repeats
    text = _text("lfm2", tokenizer, shape, rows, layer_types=layers, block_auto_adjust_ff_dim=False)
    return Lfm2VlConfig(
        text_config=text | {"bos_token_id": 1, "tie_word_embeddings": True},
        vision_config=_siglip("siglip2_vision_model", shape, num_patches=16, patch_size=16),
        image_token_id=tokenizer.token_to_id("<image>"),
        projector_hidden_size=48,
        downsample_factor=2,
    )


_QWEN2_5_FILES = {
    "preprocessor_config.json": {
        **STEPS, **CLIP, "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 28 * 28, "max_pixels": 28 * 28 * 16, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "resample": 3,
    }
}  # fmt: skip
_QWEN3_FILES = {
    "preprocessor_config.json": {
        **HALF, "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 16}, "patch_size": 16, "temporal_patch_size": 2,
        "merge_size": 2,
    }
}  # fmt: skip
_INTERNVL_FILES = {
    "preprocessor_config.json": {
        **STEPS, **IMAGENET,
        "image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor",
        "crop_to_patches": False, "min_patches": 1, "max_patches": 6, "resample": 3,
        "size": {"height": 56, "width": 56},
    },
    "processor_config.json": {"image_seq_length": 4, "processor_class": "InternVLProcessor"},
}  # fmt: skip
_SMOLVLM_FILES = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor",
        "do_image_splitting": True, "size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64},
        "resample": 1,
    },
    "processor_config.json": {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"},
}  # fmt: skip
LLAVA_CANVASES = [[42 * rows, 42 * cols] for rows in range(1, 4) for cols in range(1, 4)]
_LLAVA_FILES = {
    "preprocessor_config.json": {
        **STEPS, **CLIP, "image_processor_type": "LlavaOnevisionImageProcessor",
        "processor_class": "LlavaOnevisionProcessor", "do_pad": True, "size": {"height": 42, "width": 42},
        "image_grid_pinpoints": LLAVA_CANVASES, "resample": 3,
    },
    "processor_config.json": {
        "num_image_tokens": 9, "processor_class": "LlavaOnevisionProcessor", "image_token": "<image>",
        "video_token": "<video>", "vision_aspect_ratio": "anyres_max_2", "vision_feature_select_strategy": "full",
    },
}  # fmt: skip
_GEMMA3_FILES: dict[str, dict[str, Any]] = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "Gemma3ImageProcessor", "processor_class": "Gemma3Processor",
        "do_convert_rgb": None, "do_pan_and_scan": None, "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None, "pan_and_scan_min_ratio_to_activate": None, "image_seq_length": 4,
        "resample": 2, "size": {"height": 56, "width": 56},
    },
    "processor_config.json": {"image_seq_length": 4, "processor_class": "Gemma3Processor"},
}  # fmt: skip
_LFM2_FILES = {
    "preprocessor_config.json": {
        **STEPS, **HALF, "image_processor_type": "Lfm2VlImageProcessor", "processor_class": "Lfm2VlProcessor",
        "do_image_splitting": True, "do_pad": True, "downsample_factor": 2, "encoder_patch_size": 16,
        "max_image_tokens": 16, "max_pixels_tolerance": 2.0, "max_tiles": 4, "min_image_tokens": 4, "min_tiles": 2,
        "resample": 2, "size": {"height": 64, "width": 64}, "tile_size": 64, "use_thumbnail": True,
    }
}  # fmt: skip
_ROWS = tuple(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7))
_Maker = tuple[tuple[str, ...], str, Callable[..., Any], dict[str, dict[str, Any]]]
# Special tokens, chat template, configuration, processor files.
_FAMILIES: dict[str, _Maker] = {
    "qwen2_5_vl": (QWEN_SPECIAL, CHATML % (QWEN_SYSTEM, QWEN_IMAGE), _qwen2_5_vl, _QWEN2_5_FILES),
    "qwen3_vl": (QWEN_SPECIAL, CHATML % ("", QWEN_IMAGE), _qwen3_vl, _QWEN3_FILES),
    "internvl": (INTERNVL_SPECIAL, CHATML % ("", "<IMG_CONTEXT>\n"), _internvl, _INTERNVL_FILES),
    "smolvlm": ((*IDEFICS3_SPECIAL, *_ROWS), SMOLVLM_TEMPLATE, _smolvlm, _SMOLVLM_FILES),
    "llava_onevision": (LLAVA_SPECIAL, LLAVA_TEMPLATE, _llava_onevision, _LLAVA_FILES),
    "gemma3": (GEMMA3_SPECIAL, GEMMA3_TEMPLATE, _gemma3, _GEMMA3_FILES),
    "lfm2_vl": (LFM2_SPECIAL, "{{bos_token}}" + CHATML % ("", "<image>"), _lfm2_vl, _LFM2_FILES),
}
_ENDS = {"smolvlm": IDEFICS3_END, "gemma3": "<end_of_turn>"}  # of a turn
_BEGINS = {"gemma3": "<bos>", "lfm2_vl": "<|startoftext|>"}
_NAMED = {
    "internvl": {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    | {"video_token": "<video>"},
    "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    "lfm2_vl": {"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    | {"image_thumbnail_token": "<|img_thumbnail|>"},
}
NAMES = tuple(_FAMILIES)
