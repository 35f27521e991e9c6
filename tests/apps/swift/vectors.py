"""What the Swift tests compare with, made by the Python code:  python tests/apps/swift/vectors.py FOLDER [BUNDLE...]

FOLDER/core.json          resizing, tokenizers, generation settings, sampling, streaming
FOLDER/tokenizers/        tokenizer.json of each kind that is read
FOLDER/bundles/NAME       a tiny checkpoint of every family, and the demo's student in four precisions, as ONNX
FOLDER/questions/NAME     questions of easy-VQA, and the ids that the bundle answers them by in Python
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgekit.demo.tiny import NAMES
from edgekit.generation import Rules, read_generation
from edgekit.runtimes.sampling import Sampling, shares
from edgekit.runtimes.stream import TextStream

PRECISIONS = ("fp32", "fp16", "int8", "int4")
QUESTIONS = 40
FILTERS = tuple(range(6))
TEXTS = (
    "", " ", "\n", "  two  ", "What is there?", "I'll say they've gone, he'd said it's 'Twas", "I'LL THEY'VE 'S 'ſ",
    "1234567 12,5 % ½ ²", "Grüße aus Köln – naïve café €", "e\u0301 \u00e9 \u212b \u00c5 ﬁ", "日本語の質問",
    "مرحبا بالعالم", "👩‍💻 🇩🇪 ❤️", "\u2003em\u2003 \u00a0hard\u00a0 \u200bzero \ufeffmark \x85next",
    "line\r\nnext\n\n\n  indented\t\ttabs   ", "<s>mark</s> a<s> b", "\x00\x01\x1c control", "a" * 300, "ab " * 200,
    "x\u0300\u0301\u0302 z̷a̷l̷g̷o", "don't!!! ... (really?) [yes] {no}", "snake_case camelCase HTTPServer2",
)  # fmt: skip
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
POSSESSIVE = CL100K.replace(r"\p{L}+|", r"\p{L}++|").replace(r"]?\p{L}", r"]?+\p{L}")


def main(folder: Path, names: list[str]) -> None:
    """Make what is not there yet."""
    if not (folder / "core.json").exists():
        core(folder)
    for name in names or [*NAMES, *(f"demo-{precision}" for precision in PRECISIONS)]:
        if not (folder / "bundles" / name).exists():
            bundle(folder, name)


# ------------------------------------------------------------------------------------------------------------ the core


def core(folder: Path) -> None:
    """Write core.json and the tokenizers."""
    (folder / "tokenizers").mkdir(parents=True, exist_ok=True)
    value = {
        "resize": list(resizes()),
        "tokenizers": [tokenizer(folder, name, made) for name, made in tokenizers()],
        "rules": list(rules()),
        "shares": list(drawn()),
        "streams": list(streams()),
    }
    (folder / "core.json").write_text(json.dumps(value, allow_nan=False))


def resizes() -> Iterator[dict[str, Any]]:
    """Pictures of noise, resized by Pillow; both orders of passes, each pass by itself."""
    draw = random.Random(0)
    noise = np.random.default_rng(0)
    edges = (1, 2, 3, 7, 16, 33, 64, 101, 150)
    for number in range(120):
        (width, height), (wide, high) = ((draw.choice(edges), draw.choice(edges)) for _ in range(2))
        if number % 6 == 0:
            width, height, wide, high = 9, 90, 9 + number % 5, 20  # tall: rows go first by the newer rule
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        kind, order = FILTERS[number % 6 - 1], ("columns_first", "tall_rows_first")[number % 2]
        image = Image.fromarray(pixels)
        rows = order == "tall_rows_first" and height > high and height - high > 2 * (width - wide)
        between = (width, high) if rows else (wide, height)
        filter_ = Image.Resampling(kind)
        once = image.resize((wide, high), filter_) if kind == 0 else image.resize(between, filter_)
        found = once.resize((wide, high), filter_)
        yield {
            "width": width, "height": height, "to": [wide, high], "filter": kind, "order": order,
            "rgb": pixels.tobytes().hex(), "sha256": hashlib.sha256(np.asarray(found).tobytes()).hexdigest(),
        }  # fmt: skip


def tokenizers() -> Iterator[tuple[str, Tokenizer]]:
    """One of each shape that VLMs have."""
    for name, steps in {
        "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "prefix": [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
        "llama3": [split(CL100K), bytes_only()],
        "qwen": [split(QWEN), bytes_only()],
        "possessive": [split(POSSESSIVE), bytes_only()],
    }.items():
        made = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
        made.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
        made.decoder = decoders.ByteLevel()
        if name == "qwen":
            made.normalizer = normalizers.NFC()
        train(made, pre_tokenizers.ByteLevel.alphabet())
        yield name, made
    gemma = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    train(gemma, [], ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])
    yield "gemma", gemma


def split(pattern: str) -> Any:
    """A pre-tokenizer of a pattern."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def bytes_only() -> Any:
    """Bytes as characters, and no splitting."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def train(made: Tokenizer, alphabet: list[str], special: list[str] | None = None) -> None:
    """Learn merges from the texts, and add tokens of each kind."""
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(alphabet), show_progress=False, special_tokens=special or [],
        limit_alphabet=100 if special else 1000,
    )  # fmt: skip
    made.train_from_iterator([text for text in TEXTS for _ in range(3)], trainer)
    made.add_special_tokens(
        [AddedToken("<s>", normalized=False), AddedToken("</s>", normalized=False, lstrip=True, rstrip=True)]
    )
    made.add_tokens([AddedToken("café", normalized=True), AddedToken("yes", normalized=False, single_word=True)])


def tokenizer(folder: Path, name: str, made: Tokenizer) -> dict[str, Any]:
    """A tokenizer's file, and what it makes of texts."""
    made.save(str(folder / "tokenizers" / f"{name}.json"))
    draw = random.Random(name)
    letters = "".join(TEXTS)
    texts = [*TEXTS, *("".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(400))]
    encoded = [made.encode(text, add_special_tokens=False).ids for text in texts]
    return {
        "name": name,
        "strings": [
            {"text": text, "ids": ids, "decoded": made.decode(ids, skip_special_tokens=True)}
            for text, ids in zip(texts, encoded, strict=True)
        ],
    }


def numbers(values: Any) -> list[float | None]:
    """For JSON, which knows no infinity."""
    return [float(value) if np.isfinite(value) else None for value in values]


def rules() -> Iterator[dict[str, Any]]:
    """Each generation setting alone, and all together."""
    alone: list[dict[str, Any]] = [
        {"repetition_penalty": 1.3}, {"encoder_repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 3}, {"sequence_bias": [[[3], 2.5], [[1, 2, 4], -3.0]]},
        {"bad_words_ids": [[5], [1, 6], [9]]}, {"min_length": 9}, {"min_new_tokens": 3}, {"forced_bos_token_id": 7},
        {"forced_eos_token_id": 9}, {"exponential_decay_length_penalty": [1, 1.5]}, {"suppress_tokens": [0, 3]},
        {"begin_suppress_tokens": [2]},
    ]  # fmt: skip
    together: dict[str, Any] = {}
    for one in alone:
        together |= {name: value for name, value in one.items() if not name.startswith("forced")}
    draw, noise = random.Random(1), np.random.default_rng(1)
    for settings in [*alone, together]:
        for size in (1, 4, 6):
            prompt = [draw.randrange(12) for _ in range(size)]
            made = Rules(read_generation(settings), prompt, 4, (9,))
            for count in range(4):
                ids = [*prompt, *(draw.randrange(12) for _ in range(count))]
                logits = noise.normal(0, 3, 11).astype(np.float32)
                yield {
                    "settings": settings, "prompt": prompt, "limit": 4, "ends": [9], "ids": ids,
                    "logits": numbers(logits), "changed": numbers(made(logits, ids)),
                }  # fmt: skip


def drawn() -> Iterator[dict[str, Any]]:
    """Chances of tokens."""
    noise = np.random.default_rng(2)
    for temperature, top_p, top_k in ((1.0, 1.0, 0), (0.7, 0.8, 0), (1.5, 0.3, 5), (0.2, 0.95, 3), (1.0, 1e-9, 0)):
        logits = noise.normal(0, 2, 20).astype(np.float32)
        logits[3] = logits[7]
        found = shares(logits, Sampling(temperature, top_p, top_k))
        yield {
            "temperature": temperature, "top_p": top_p, "top_k": top_k, "logits": numbers(logits),
            "shares": numbers(found),
        }  # fmt: skip


def streams() -> Iterator[dict[str, Any]]:
    """Texts in pieces of bytes, as tokens may cut them, and what is shown when."""
    draw = random.Random(3)
    for text, stops in (
        ("plain words", []), ("  Grüße 👩‍💻 日本", []), ("one stop here STOP not this", ["STOP"]),
        ("almost STO and ST", ["STOP", "STEM"]), ("end\n\nUser:", ["\nUser:"]), ("é e\u0301", ["e\u0301"]),
        ("bad \udcff byte", ["x"]),
    ):  # fmt: skip
        for _ in range(6):
            data, parts = text.encode("utf-8", "surrogateescape"), list[bytes]()
            while data:
                size = draw.randint(1, 4)
                parts, data = [*parts, data[:size]], data[size:]

            def decode(ids: list[int], parts: list[bytes] = parts) -> str:
                return b"".join(parts[place] for place in ids).decode("utf-8", "replace").lstrip()

            stream = TextStream(decode, stops)
            shown = []
            for place in range(len(parts)):
                shown.append(stream.push(place))
                if stream.stopped:
                    break
            yield {
                "parts": [list(part) for part in parts], "stops": stops, "shown": shown, "rest": stream.finish(),
                "text": stream.text, "stopped": stream.stopped,
            }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the bundles


def bundle(folder: Path, name: str) -> None:
    """A tiny checkpoint of a family in fp32, or the demo's student in a precision, and its answers to questions."""
    from edgekit.checkpoint import resolve_checkpoint
    from edgekit.demo.tiny import write_checkpoint
    from edgekit.export.bundling import export_checkpoint
    from edgekit.runtimes.golden import golden_answers

    precision = name.removeprefix("demo-") if name.startswith("demo-") else "fp32"
    if name in NAMES:
        given = write_checkpoint(name, folder / "checkpoints" / name, seed=0)
    else:
        given = resolve_checkpoint("demo:student")
    export_checkpoint(given, "onnx", precision, folder / "bundles" / name, prompts=2, answers=golden_answers)
    if name not in NAMES:
        questions(folder, name)


def questions(folder: Path, name: str) -> None:
    """Ids that a bundle answers questions of easy-VQA by, and chances to be near a tie."""
    from edgekit.data import samples
    from edgekit.runtimes.generate import answer
    from edgekit.runtimes.onnxruntime import open_session

    session = open_session(folder / "bundles" / name, 1)
    found = []
    for sample in samples("easy-vqa:test", limit=QUESTIONS):
        image = sample.images[0].open().convert("RGB")
        said = answer(session, sample.messages, [image], max_new_tokens=8)
        found.append(
            {"messages": sample.messages, "width": image.width, "height": image.height,
             "rgb": np.asarray(image).tobytes().hex(), "ids": said.token_ids, "text": said.text}
        )  # fmt: skip
    session.close()
    (folder / "questions").mkdir(exist_ok=True)
    (folder / "questions" / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
