"""The demo models' shapes and tokenizer: Idefics3 classes, as SmolVLM-256M ships them, made small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

IMAGE_SIZE = 64
VOCAB_SIZE = 512
FAKE, IMAGE, GLOBAL = "<fake_token_around_image>", "<image>", "<global-img>"
END = "<end_of_utterance>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", FAKE, IMAGE, GLOBAL, END)
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Widths and depths of one demo model; heads are `width / head_dim`, one key-value head.

    `tower_layers` is the vision tower's depth where it is not the text model's.
    """

    width: int
    layers: int
    head_dim: int
    text_mlp: int
    patch: int = 8
    scale_factor: int = 2
    image_size: int = IMAGE_SIZE
    tower_layers: int | None = None


TEACHER = Shape(width=192, layers=4, head_dim=64, text_mlp=512)
MID = Shape(width=128, layers=3, head_dim=64, text_mlp=384)
STUDENT = Shape(width=96, layers=3, head_dim=32, text_mlp=256)
# For `scenes`: 32 px, and as many image tokens as the image has cells.
SCENES_TEACHER = Shape(128, 4, head_dim=32, text_mlp=256, patch=4, image_size=32, tower_layers=2)
SCENES_MID = Shape(96, 3, head_dim=32, text_mlp=192, patch=4, image_size=32, tower_layers=2)
SCENES_STUDENT = Shape(64, 2, head_dim=32, text_mlp=128, patch=4, image_size=32, tower_layers=2)


def build_tokenizer(corpus: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Byte-level BPE with SmolVLM's special tokens and pre-tokenizer (single digits, then the GPT-2 pattern).

    Args:
        corpus: Texts to learn merges from.
        vocab_size: Entries, special tokens and the 256 bytes included.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rows = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *rows],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # "\n\n" must be one piece: llama.cpp's clip asks for it where an image is split into rows.
    tokenizer.train_from_iterator([*corpus, *["\n\n"] * 1000], trainer)
    return tokenizer


def write_processor(tokenizer: Tokenizer, folder: Path, shape: Shape = TEACHER) -> None:
    """Write tokenizer, chat template, image processor and processor files as a Hugging Face folder has them."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token=END,
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=[FAKE, IMAGE, GLOBAL],
        model_max_length=2048,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    image_processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": shape.image_size},
        "resample": 1,
        "do_image_splitting": False,
        "max_image_size": {"longest_edge": shape.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": True,
    }
    seq_len = (shape.image_size // shape.patch // shape.scale_factor) ** 2
    _write(folder / "preprocessor_config.json", image_processor)
    _write(folder / "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": seq_len})


def build_model(shape: Shape, tokenizer: Tokenizer) -> PreTrainedModel:
    """An untrained Idefics3 model of that shape, for the tokenizer's vocabulary; seed torch before the call."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    heads = shape.width // shape.head_dim
    ids = {
        name: tokenizer.token_to_id(token)
        for name, token in (("bos", "<|im_start|>"), ("eos", END), ("pad", "<|im_end|>"))
    }
    config = Idefics3Config(
        text_config={
            "model_type": "llama",
            "hidden_size": shape.width,
            "intermediate_size": shape.text_mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 1,
            "head_dim": shape.head_dim,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": ids["bos"],
            "eos_token_id": ids["eos"],
            "pad_token_id": ids["pad"],
        },
        vision_config={
            "hidden_size": shape.width,
            "intermediate_size": shape.width * 4,
            "num_hidden_layers": shape.tower_layers or shape.layers,
            "num_attention_heads": heads,
            "image_size": shape.image_size,
            "patch_size": shape.patch,
        },
        scale_factor=shape.scale_factor,
        image_token_id=tokenizer.token_to_id(IMAGE),
        tie_word_embeddings=False,
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        pad_token_id=ids["pad"],
    )
    model = Idefics3ForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.generation_config.bos_token_id = ids["bos"]
    model.generation_config.eos_token_id = ids["eos"]
    model.generation_config.pad_token_id = ids["pad"]
    return model


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
