"""What edgekit in Python makes of many cases, as files that a library in another language is tested by."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgekit.checkpoint.generation import read_generation
from edgekit.checkpoint.rules import Rules
from edgekit.inputs.resizing import ORDERS, rows_first
from edgekit.runtimes.sampling import Sampling, shares

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
POSSESSIVE = LLAMA3.replace(r"\p{L}+|", r"\p{L}++|").replace(r"]?\p{L}", r"]?+\p{L}")
TEXTS = (
    "", " ", "what is there?", "  What's  THAT'S it'Ll 'ſ ok", "12345 678", "a\u00a0b\u2003c\u0085d\ufeffe\u180ef",
    "tab\tnew\r\n\r\n  x", "naïve café e\u0301 ﬁ Å", "日本語のテキスト、です。",
    "한국어 각", "😀👩‍👩‍👧 🇩🇪", "½ ² Ⅷ ٣", "<image><image> <end>x<end>",
    "<|im_start|>user\n", "word<word> <word> a<word>b", "  <left>  <right>  z", "\x00\x01\x1c\x1f", "a" * 300,
    "\U0001f600" * 40, "\n\n\n", "…—“”", "it's 'S 'RE 're", "the cat\n\nis   there",
)  # fmt: skip
PIECES = [
    "<image>",
    "<end>",
    "<left>",
    "<right>",
    "<word>",
    "'ll",
    "  ",
    "the",
    *"ab cdE'st1239.,!? \t\n\r\u00a0\u0085\u2028é\u0301日本😀ſ<>|_",
]
SIZES = [((40, 30), (64, 64)), ((233, 40), (17, 90)), ((40, 233), (90, 17)), ((3, 200), (56, 56)), ((1, 1), (5, 7))]
SIZES += [
    ((97, 301), (96, 28)),
    ((64, 64), (64, 31)),
    ((120, 400), (110, 20)),
    ((50, 50), (49, 51)),
    ((2, 203), (9, 40)),
]
SIZES += [
    ((100, 200), (50, 80)),
    ((100, 200), (60, 120)),
    ((3, 300), (7, 90)),
]  # at the edges of what decides the order


def write_vectors(folder: Path) -> Path:
    """All of them in a new folder: resize.json, rules.json, shares.json, tokenizers/NAME, refused/WORD.json."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "resize.json", {"cases": list(_resizes(folder))})
    _write(folder / "rules.json", {"cases": list(_rules())})
    _write(folder / "shares.json", {"cases": list(_shares())})
    for name, make in TOKENIZERS.items():
        _tokenizer(make(), folder / "tokenizers" / name)
    _refused(folder / "refused")
    return folder


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _resizes(folder: Path) -> Iterable[dict[str, Any]]:
    noise = np.random.default_rng(0)
    for number, (size, wanted) in enumerate(SIZES):
        pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        pixels[: size[1] // 2] = pixels[: size[1] // 2] // 128 * 255  # edges as hard as they come
        (folder / f"{number}.rgb").write_bytes(pixels.tobytes())
        for resample in range(6):
            for order in ORDERS:
                data = _resized(Image.fromarray(pixels), wanted, resample, order).tobytes()
                yield {
                    "width": size[0], "height": size[1], "to": list(wanted), "file": f"{number}.rgb", "order": order,
                    "resample": resample, "sha256": hashlib.sha256(data).hexdigest(),
                }  # fmt: skip


def _resized(image: Image.Image, size: tuple[int, int], resample: int, order: str) -> Image.Image:
    """By two resizes of one axis each, so that the installed Pillow's own order does not matter."""
    chosen = Image.Resampling(resample)
    if chosen == Image.Resampling.NEAREST:
        return image.resize(size, chosen)
    between = (image.width, size[1]) if rows_first(image.size, size, order) else (size[0], image.height)
    return image.resize(between, chosen).resize(size, chosen)


GENERATIONS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3}, {"encoder_repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 2}, {"sequence_bias": [[[3], 2.5], [[1, 4], -1.25]]},
    {"bad_words_ids": [[2], [1, 5], [7]]}, {"min_length": 9}, {"min_new_tokens": 3}, {"forced_bos_token_id": 4},
    {"forced_eos_token_id": 7}, {"exponential_decay_length_penalty": [1, 1.5]}, {"suppress_tokens": [0, 6, 999]},
    {"begin_suppress_tokens": [1]},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 2, "suppress_tokens": [5]},
]  # fmt: skip


def _rules() -> Iterable[dict[str, Any]]:
    draw = np.random.default_rng(1)
    prompts = {"long": [1, 4, 1, 5, 2, 1], "one": [1]}
    for given in GENERATIONS:
        for name, prompt in prompts.items():
            for answer in ([], [1], [1, 4, 1], [2, 1, 4, 1]):
                logits = draw.normal(size=8).astype(np.float32)
                ids = [*prompt, *answer]
                changed = Rules(read_generation(given), prompt, 5, [7])(logits, ids)
                yield {
                    "name": f"{name} {answer}", "generation": given, "prompt": prompt, "ids": ids, "limit": 5,
                    "ends": [7], "logits": logits.tolist(),
                    "changed": [float(value) if math.isfinite(value) else None for value in changed],
                }  # fmt: skip


def _shares() -> Iterable[dict[str, Any]]:
    logits = np.random.default_rng(2).normal(size=40).astype(np.float32)
    logits[7] = logits[3]
    for temperature, top_p, top_k in [(1.0, 1.0, 0), (0.7, 0.9, 0), (1.3, 1.0, 5), (0.2, 0.5, 10), (2.0, 0.01, 3)]:
        found = shares(logits, Sampling(temperature, top_p, top_k))
        yield {
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "logits": logits.tolist(),
            "shares": found.tolist(),
        }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- tokenizers


def _random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(PIECES, k=draw.randrange(1, 40))) for _ in range(count)]


def _tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    strings = []
    for text in [*TEXTS, *_random_texts(400)]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        strings.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    _write(folder / "strings.json", {"strings": strings})


def trained(tokenizer: Tokenizer) -> Tokenizer:
    """Merges learned from the texts, and added tokens of each kind."""
    special = [AddedToken(text, special=True, normalized=False) for text in ("<image>", "<end>", "<|im_start|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "what is that there? the cat, the hat, 12 12 34 " * 5] * 3, trainer)
    more = [AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False)]
    more += [AddedToken("<word>", single_word=True, normalized=False), AddedToken("CAFÉ", normalized=True)]
    tokenizer.add_tokens([*more, AddedToken("<end>x", normalized=False)])
    return tokenizer


def byte_level(pattern: str | None, **more: Any) -> Tokenizer:
    """Without merges yet; cut by a pattern, or by GPT-2's when None."""
    tokenizer = Tokenizer(models.BPE(**more))
    first = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _smollm2() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return trained(tokenizer)


def _qwen2() -> Tokenizer:
    tokenizer = byte_level(QWEN)
    tokenizer.normalizer = normalizers.NFC()
    return trained(tokenizer)


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<unk>", "<image>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False, limit_alphabet=60, max_token_length=8
    )
    tokenizer.train_from_iterator(["the cat\n\nis   there, the hat", "naïve日本"] * 9, trainer)
    return tokenizer


def _splits() -> Tokenizer:
    """Every way of splitting, one after the other."""
    tokenizer = byte_level(None)
    split = pre_tokenizers.Split
    steps = [split("e", "merged_with_next"), split(Regex(r"\d"), "merged_with_previous")]
    steps += [
        split(Regex("[.,!?]"), "contiguous"),
        split("|", "removed"),
        split(Regex(r"\w+"), "isolated", invert=True),
    ]
    last = [pre_tokenizers.Digits(individual_digits=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, *last, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    return trained(tokenizer)


def _prefix() -> Tokenizer:
    """One that puts a space before each text."""
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained(tokenizer)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: trained(byte_level(None)),
    "smollm2": _smollm2,
    "qwen2": _qwen2,
    "llama3": lambda: trained(byte_level(LLAMA3, ignore_merges=True)),
    "gemma": _gemma,
    "splits": _splits,
    "prefix": _prefix,
    "possessive": lambda: trained(byte_level(POSSESSIVE)),
}


def _refused(folder: Path) -> None:
    """tokenizer.json of other kinds, each under the word that its refusal must hold."""
    model: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    for word, file in {
        "Unigram": {"model": {"type": "Unigram", "vocab": []}},
        "WordPiece": {"model": {"type": "WordPiece", "vocab": {}}},
        "dropout": {"model": {**model, "dropout": 0.5}},
        "Lowercase": {"model": model, "normalizer": {"type": "Lowercase"}},
        "Metaspace": {"model": model, "pre_tokenizer": {"type": "Metaspace"}},
        "WordPieces": {"model": model, "decoder": {"type": "WordPieces"}},
        "damaged": {"model": {**model, "merges": ["a b"]}},
    }.items():
        _write(folder / f"{word}.json", file)
