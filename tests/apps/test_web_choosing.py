"""The web library's choice of tokens, streamed text and hashes beside edgekit's own."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from web_library import array_of, ask, base64_of

from edgekit.checkpoint import resolve_checkpoint
from edgekit.generation import Rules, read_generation
from edgekit.runtimes.sampling import Sampling, greedy, shares
from edgekit.runtimes.stream import TextStream

SETTINGS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"encoder_repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"bad_words_ids": [[3], [4, 5], [1]]},
    {"sequence_bias": [[[7], 2.5], [[4, 5], -3.25], [[9, 4, 5], 1.125]]},
    {"min_length": 9},
    {"min_new_tokens": 4},
    {"forced_eos_token_id": 1},
    {"forced_eos_token_id": [1, 2]},
    {"suppress_tokens": [0, 6, 90]},
    {"begin_suppress_tokens": [8]},
    {"exponential_decay_length_penalty": [1, 1.37]},
    {"temperature": 0.3, "top_k": 4},
    {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3, "min_new_tokens": 2, "suppress_tokens": [5]},
]


def test_the_models_own_settings_change_logits_as_there(tmp_path: Path) -> None:
    draw, rng, calls, wanted = random.Random(0), np.random.default_rng(0), [], []
    for settings in SETTINGS:
        for answered in (0, 1, 3, 5):
            logits = rng.normal(size=12).astype(np.float32) * 4
            prompt = [9, 4, 5, 4, 11]
            answer = [draw.choice([4, 5, 9, 1]) for _ in range(answered)]
            calls.append(
                {
                    "call": "rules",
                    "settings": settings,
                    "prompt": prompt,
                    "limit": 6,
                    "ends": [1, 2],
                    "answer": answer,
                    "logits": base64_of(logits),
                }
            )
            wanted.append(Rules(read_generation(settings), prompt, 6, [1, 2])(logits, [*prompt, *answer]))
    changed = 0
    for ours, theirs, call in zip(ask(calls, tmp_path), wanted, calls, strict=True):
        np.testing.assert_array_equal(array_of(ours, np.float32), theirs, str(call))
        changed += base64_of(theirs) != call["logits"]
    assert changed > 35


def test_chances_are_those_of_the_sampler_there(tmp_path: Path) -> None:
    rng, calls, wanted = np.random.default_rng(1), [], []
    for temperature, top_k, top_p in [
        (1, 0, 1),
        (0.7, 5, 1),
        (1.3, 0, 0.8),
        (0.2, 9, 0.5),
        (1, 3, 1e-9),
        (2, 400, 0.99),
    ]:
        logits = np.round(rng.normal(size=300), 1).astype(np.float32) * 3  # rounded, so that some are equal
        sampling = {"temperature": temperature, "topK": top_k, "topP": top_p, "seed": 0}
        calls.append({"call": "shares", "logits": base64_of(logits), "sampling": sampling})
        wanted.append(shares(logits, Sampling(temperature, top_p, top_k)))
    for ours, theirs in zip(ask(calls, tmp_path), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)
        assert [value == 0 for value in ours] == (theirs == 0).tolist()


def test_the_best_token_is_the_lowest_of_equals(tmp_path: Path) -> None:
    given = [np.array(values, np.float32) for values in ([1, 3, 3, 2], [-5, -2, -9], [1, np.nan, 2], [0, 0, 0])]
    found = ask([{"call": "argmax", "logits": base64_of(values)} for values in given], tmp_path)
    assert found == [1, 1, 1, 0]
    assert [greedy(given[0]), greedy(given[1])] == found[:2]


def test_text_comes_piece_by_piece_as_there(tmp_path: Path) -> None:
    file = str(resolve_checkpoint("demo:student") / "tokenizer.json")
    tokenizer, draw, calls, wanted = Tokenizer.from_file(file), random.Random(0), [], []
    texts = [" yes 日本 é😀 no", "red. circle", "\n\n a", "😀😀"]
    encoded = [tokenizer.encode(text).ids for text in texts]
    loose = [[draw.randrange(7, 500) for _ in range(12)] for _ in range(40)]
    for ids in [*encoded, *loose]:
        stops = draw.choice([[], ["no"], [". c", "circle"], ["本"], ["e", "es"]])
        stream = TextStream(lambda given: tokenizer.decode(given).lstrip(), stops)
        pieces = []
        for token in ids:
            pieces.append(stream.push(token))
            if stream.stopped:
                break
        pieces.append(stream.finish())
        calls.append({"call": "stream", "file": file, "ids": ids, "stops": stops})
        wanted.append({"pieces": pieces, "text": stream.text, "stopped": stream.stopped})
    assert ask(calls, tmp_path) == wanted
    assert sum(one["stopped"] for one in wanted) > 3 and any("" in one["pieces"][:-1] for one in wanted)


def test_hashes_of_whole_and_cut_bytes(tmp_path: Path) -> None:
    draw, calls, wanted = random.Random(0), [], []
    for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 70000]:
        data = draw.randbytes(length)
        cuts = sorted(draw.randrange(length + 1) for _ in range(4))
        calls.append({"call": "sha256", "data": base64_of(np.frombuffer(data, np.uint8)), "cuts": cuts})
        wanted.append([hashlib.sha256(data).hexdigest()] * 2)
    assert ask(calls, tmp_path) == wanted
