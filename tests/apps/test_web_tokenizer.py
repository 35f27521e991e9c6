"""The web library's tokenizer beside the tokenizers library."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from web_library import ask

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
TEXTS = [
    "",
    " ",
    "what is there?",
    "  What's  THAT'S it'Ll 'ſ ok",
    "12345 678",
    "a\u00a0b\u2003c\u0085d\ufeffe\u180ef",
    "tab\tnew\r\n\r\n  x",
    "naïve café e\u0301 ﬁ Å Å",
    "日本語のテキスト、です。",
    "한국어 각",
    "😀👩‍👩‍👧 🇩🇪",
    "½ ² Ⅷ ٣",
    "<image><image> <end>x<end>",
    "<|im_start|>user\n",
    "<|im_start|> x",
    "word<word> <word> a<word>b",
    "  <left>  <right>  z",
    "\x00\x01\x1c\x1f",
    "a" * 300,
    "\U0001f600" * 40,
    "\n\n\n",
    "…—“”",
    "it's 'S 'RE 're",
]
ALPHABET = "ab cdE'st1239.,!? \t\n\r\u00a0\u0085\u2028é\u0301日本😀ſ<>|imagend_"


def random_texts(count: int) -> list[str]:
    draw = random.Random(0)
    pieces = ["<image>", "<end>", "<left>", "<right>", "<word>", "'ll", "  ", "the", *ALPHABET]
    return ["".join(draw.choices(pieces, k=draw.randrange(1, 40))) for _ in range(count)]


def train(tokenizer: Tokenizer, size: int = 420) -> Tokenizer:
    special = [
        AddedToken("<image>", special=True, normalized=False),
        AddedToken("<end>", special=True, normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "what is that there? the cat, the hat, 12 12 34 " * 5] * 3, trainer)
    tokenizer.add_tokens(
        [
            AddedToken("<left>", lstrip=True, normalized=False),
            AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<word>", single_word=True, normalized=False),
            AddedToken("CAFÉ", normalized=True),
            AddedToken("<end>x", normalized=False),
        ]
    )
    return tokenizer


def byte_level(pattern: str | None, **more: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**more))
    first = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def qwen() -> Tokenizer:
    tokenizer = byte_level(QWEN)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def smolvlm() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def gemma() -> Tokenizer:
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


def prefixed() -> Tokenizer:
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def ignoring() -> Tokenizer:
    return byte_level(LLAMA3, ignore_merges=True)


def splits() -> Tokenizer:
    """Every way of splitting, one after the other."""
    tokenizer = byte_level(None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("e", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\d"), "merged_with_previous"),
            pre_tokenizers.Split(Regex("[.,!?]"), "contiguous"),
            pre_tokenizers.Split("|", "removed"),
            pre_tokenizers.Split(Regex(r"\w+"), "isolated", invert=True),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


@pytest.mark.parametrize("make", [smolvlm, qwen, gemma, prefixed, ignoring, splits])
def test_ids_and_texts_are_those_of_the_tokenizers_library(make: Any, tmp_path: Path) -> None:
    theirs = make() if make is gemma else train(make())
    file = tmp_path / "tokenizer.json"
    theirs.save(str(file))
    texts = [*TEXTS, *random_texts(400)]
    ids = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    draw = random.Random(1)
    loose = [[draw.randrange(theirs.get_vocab_size() + 3) for _ in range(draw.randrange(1, 12))] for _ in range(300)]
    encoded, decoded = ask(
        [
            {"call": "encode", "file": str(file), "texts": texts},
            {"call": "decode", "file": str(file), "ids": [*ids, *loose]},
        ],
        tmp_path,
    )
    for text, ours, wanted in zip(texts, encoded, ids, strict=True):
        assert ours == wanted, repr(text)
    for given, ours in zip([*ids, *loose], decoded, strict=True):
        assert ours == theirs.decode(given, skip_special_tokens=True), given
    assert len({len(one) for one in ids}) > 20


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    wordpiece = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    suffix = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    metaspace = Tokenizer(models.BPE())
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    bert = Tokenizer(models.BPE())
    bert.normalizer = normalizers.BertNormalizer()
    spaced = Tokenizer(models.BPE())
    spaced.decoder = decoders.Metaspace()
    script = byte_level(r"\p{Han}+")
    anchored = byte_level(r"^a")
    possessive = byte_level(r"a++")
    named = {
        "WordPiece": wordpiece,
        "end_of_word_suffix": suffix,
        "Metaspace": metaspace,
        "BertNormalizer": bert,
        "a decoder of type Metaspace": spaced,
        "\\p{Han}": script,
        "^ outside of a class": anchored,
        "possessive": possessive,
    }
    calls = []
    for number, tokenizer in enumerate(named.values()):
        file = tmp_path / f"{number}.json"
        tokenizer.save(str(file))
        calls.append({"call": "encode", "file": str(file), "texts": ["x"]})
    for name, answer in zip(named, ask(calls, tmp_path), strict=True):
        assert answer["error"] == "EdgekitError" and name in answer["message"], (name, answer)


def test_white_space_is_pythons(tmp_path: Path) -> None:
    texts = [f"{chr(code)}x{chr(code)}" for code in range(0x3100) if not 0xD800 <= code < 0xE000]
    (ours,) = ask([{"call": "strip", "texts": texts}], tmp_path)
    assert ours == [text.strip() for text in texts]
