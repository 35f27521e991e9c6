"""The web library's prompts, cache, choice of tokens, streamed text and hashes beside edgekit's own."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from web_library import array_of, ask, base64_of

from edgekit.checkpoint.folder import resolve_checkpoint
from edgekit.checkpoint.generation import read_generation
from edgekit.checkpoint.rules import Rules
from edgekit.errors import DataError
from edgekit.handover.pieces import Pieces, read_pieces
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


def test_a_cache_forgets_its_last_tokens(tmp_path: Path) -> None:
    keys = np.arange(2 * 5 * 3, dtype=np.float32).reshape(1, 2, 5, 3)
    given = {"call": "cut", "shape": ["b", 2, "past", 3], "dims": list(keys.shape), "data": base64_of(keys)}
    state = {"call": "cut", "shape": ["b", 2, 5, 3], "dims": list(keys.shape), "data": base64_of(keys), "length": 2}
    cut, whole, fixed = ask([{**given, "length": 2}, {**given, "length": 5}, state], tmp_path)
    assert (cut["kept"], cut["length"], cut["dims"]) == (2, 2, [1, 2, 2, 3])
    np.testing.assert_array_equal(array_of(cut["data"], np.float32).reshape(1, 2, 2, 3), keys[:, :, :2])
    assert whole["kept"] == 5 and whole["data"] == base64_of(keys)
    assert fixed["kept"] == 0 and fixed["data"] == base64_of(keys)  # a state cannot go back


PIECES: dict[str, Any] = {
    "format": 1,
    "begin": {"text": "<s>U: ", "image": "<s>U:"},
    "system": {"before": "S[", "after": {"text": "]U: ", "image": "]U:"}, "trim": True, "as_parts": True},
    "user": {
        "before": {"text": "U: ", "image": "U:"},
        "text": {"before": "(", "after": ")", "trim": False},
        "after": "|",
    },
    "image": {"piece": "<image>", "first": False},
    "assistant": {"before": "A:", "after": ";", "trim": False, "drop": None},
    "generation": "A:",
    "tokens": {"before": [], "after": [], "unless_begins": None, "limit": None},
    "checked": {"conversations": 1, "by": "nobody"},
    "refused": {},
    "blanks": "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u2003",
}


def turn(role: str, *parts: str) -> dict[str, Any]:
    """A message; "*" is an image."""
    content = [{"type": "image"} if part == "*" else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


def test_prompts_are_written_from_pieces_as_there(tmp_path: Path) -> None:
    talks = [
        [turn("user", "*", " what ")],
        [turn("user", "a", "*", "b", "*")],
        [
            turn("system", "\u2003be brief\x1c"),
            turn("user", "*", "x"),
            turn("assistant", "no </t> \n\n yes "),
            turn("user", "why?"),
        ],
        [
            turn("user", "x"),
            turn("assistant", "</t></t>\n\nq "),
            turn("user", "*"),
            turn("assistant", "plain "),
            turn("user", "$&"),
        ],
    ]
    files = [PIECES]
    files.append({**PIECES, "image": {"piece": "<image>", "first": True}})
    files.append({**PIECES, "user": {**PIECES["user"], "text": {"before": "", "after": "\n", "trim": True}}})
    for how in ("none", "newlines", "both"):
        files.append(
            {**PIECES, "assistant": {**PIECES["assistant"], "drop": {"to": "</t>", "trim": how}, "trim": how == "none"}}
        )
    files.append({**PIECES, "system": None, "assistant": None, "refused": {"system": "none", "assistant": "one turn"}})
    calls: list[dict[str, Any]] = []
    theirs: list[str | None] = []
    for number, file in enumerate(files):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(file))
        pieces = read_pieces(path)
        assert isinstance(pieces, Pieces)
        for talk in talks:
            calls.append({"call": "render", "prompt": file, "messages": talk})
            try:
                theirs.append(pieces.render(talk))
            except DataError:
                theirs.append(None)
    ours = [None if isinstance(one, dict) else one for one in ask(calls, tmp_path)]
    assert ours == theirs and theirs.count(None) == 2
