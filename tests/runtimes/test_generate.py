"""Choosing tokens, text as it streams, stop strings, and chats that keep their cache."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit import api
from edgekit.demo.shapes import draw
from edgekit.errors import DataError, EdgekitError
from edgekit.inputs.chat import question
from edgekit.inputs.images import upright
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Chat, answer
from edgekit.runtimes.sampling import Sampling, chooser, greedy, shares
from edgekit.runtimes.session import Session
from edgekit.runtimes.stream import TextStream

# ---------------------------------------------------------------------------------------------------- choosing a token


def test_shares_by_hand() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32))
    np.testing.assert_allclose(shares(logits, Sampling(1.0)), [0.1, 0.2, 0.3, 0.4], atol=1e-7)
    np.testing.assert_allclose(shares(logits, Sampling(1.0, top_k=2)), [0, 0, 3 / 7, 4 / 7], atol=1e-7)
    np.testing.assert_allclose(shares(logits, Sampling(1.0, top_p=0.39)), [0, 0, 0, 1])
    np.testing.assert_allclose(shares(logits, Sampling(1.0, top_p=0.41)), [0, 0, 3 / 7, 4 / 7], atol=1e-7)
    # Temperature 1/2 squares: 1 : 4 : 9 : 16. The first two hold 25/30 of it.
    np.testing.assert_allclose(shares(logits, Sampling(0.5)), np.array([1, 4, 9, 16]) / 30, atol=1e-7)
    np.testing.assert_allclose(shares(logits, Sampling(0.5, top_p=0.8)), [0, 0, 0.36, 0.64], atol=1e-7)
    # top_p counts in what top_k left: 4/7 = 0.571.
    np.testing.assert_allclose(shares(logits, Sampling(1.0, top_p=0.57, top_k=2)), [0, 0, 0, 1])


@pytest.mark.parametrize("seed", range(6))
def test_shares_equal_the_distillation_samplers(seed: int) -> None:
    """The same warpers in the same order as distill/generators/transformers.py; with top-k, ties included."""
    import torch
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    rng = np.random.default_rng(seed)
    plain = rng.normal(0, 3, 200).astype(np.float32)
    for sampling in (Sampling(0.7, 0.9, 50), Sampling(1.3, 0.5), Sampling(1.0, 1.0, 7), Sampling(0.2, 0.99)):
        logits = plain.copy()
        if sampling.top_p == 1:
            logits[:40] = logits[40:80]  # pairs of equals; which of two falls below top_p is nobody's rule
        warp: Any = LogitsProcessorList(
            [
                TemperatureLogitsWarper(sampling.temperature),
                *([TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []),
                *([TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []),
            ]
        )
        expected = warp(torch.zeros(1, 3, dtype=torch.long), torch.tensor(logits)[None]).softmax(-1)[0].numpy()
        np.testing.assert_allclose(shares(logits, sampling), expected, atol=2e-6)


def test_draws_follow_the_shares_and_the_seed() -> None:
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4, 1e6], dtype=np.float32))  # a row beyond the tokenizer's tokens
    choose = chooser(Sampling(1.0, seed=0), vocab_size=4)
    drawn = [choose(logits, []) for _ in range(20_000)]
    assert np.abs(np.bincount(drawn, minlength=4) / 20_000 - [0.1, 0.2, 0.3, 0.4]).max() < 0.015
    again = chooser(Sampling(1.0, seed=0), vocab_size=4)
    assert [again(logits, []) for _ in range(50)] == drawn[:50]
    other = chooser(Sampling(1.0, seed=1), vocab_size=4)
    assert [other(logits, []) for _ in range(50)] != drawn[:50]


@pytest.mark.parametrize(
    "wrong", [(-0.1,), (float("nan"),), (1.0, 0.0), (1.0, 1.1), (1.0, 1.0, -1), (float("inf"),), (1.0, float("nan"))]
)
def test_settings_out_of_range(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(EdgekitError, match="Sampling needs"):
        Sampling(*wrong)


# ----------------------------------------------------------------------------------------------------- text as it comes


def by_bytes(ids: list[int]) -> str:
    """A tokenizer of bytes, which cuts every character of more than one."""
    return bytes(ids).decode("utf-8", "replace").lstrip()


def test_pieces_never_hold_half_a_character() -> None:
    said = "  née ✓ 𝄞: 日本 \n"
    stream = TextStream(by_bytes)
    pieces = [stream.push(byte) for byte in said.encode()]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.finish() == said.lstrip() == stream.text
    assert [piece for piece in pieces if piece][:4] == ["n", "é", "e", " "]


def test_bytes_that_stay_broken_are_shown_at_the_end() -> None:
    stream = TextStream(by_bytes)
    assert [stream.push(byte) for byte in b"a\xf0\x9d"] == ["a", "", ""]
    assert stream.finish() == "\ufffd" and stream.finish() == ""


@pytest.mark.parametrize(
    ("stops", "shown", "tokens"),
    [
        (["\n\n"], "one\ntwo", 9),
        (["two", "three"], "one\n", 7),
        (["e", "on"], "", 2),
        (["threes"], "one\ntwo\n\nthree", 14),
        (["", "zzz"], "one\ntwo\n\nthree", 14),
    ],
)
def test_stop_strings(stops: list[str], shown: str, tokens: int) -> None:
    stream, pieces, used = TextStream(by_bytes, stops), [], 0
    for byte in b"one\ntwo\n\nthree":
        pieces.append(stream.push(byte))
        used += 1
        if stream.stopped:
            break
    assert "".join([*pieces, stream.finish()]) == shown == stream.text and used == tokens
    # Nothing of a stop string was ever shown.
    assert not stream.stopped or not any(stop and stop in "".join(pieces) for stop in stops)


# ------------------------------------------------------------------------------------------------------- conversations


def opened(folder: Path) -> Session:
    session: Session = RUNTIMES.load(runtime_for(folder)).open_session(folder, 1)
    return session


def speaking(session: Session, text: str) -> Callable[[Any, Sequence[int]], int]:
    """A chooser that writes a text and its end, over and over, whatever the logits say."""
    tokenizer = session.processor.tokenizer  # type: ignore[attr-defined]
    ids = [*tokenizer.encode(text, add_special_tokens=False).ids, min(session.eos_token_ids - {0})]
    turn = iter(ids * 9)
    return lambda logits, before: next(turn)


def some_images() -> list[Image.Image]:
    return [draw(0)[0], draw(5)[0].resize((96, 48)), draw(9)[0]]


def test_a_later_turn_prefills_only_what_is_new(tiny_bundle: Path) -> None:
    session = opened(tiny_bundle)
    chat = Chat(session, max_new_tokens=8, choose=speaking(session, " yes"))
    first = chat.say("is there a circle?", some_images()[:1])
    assert first.text == "yes" and first.finish == "eos" and first.timings.cached_tokens == 0
    second = chat.say("what color is it?")
    whole = session.prepare(chat.messages[:-1], chat.images).ids.shape[1]
    assert second.timings.cached_tokens == first.timings.prompt_tokens + len(first.token_ids) - 1
    assert second.timings.prompt_tokens == whole - second.timings.cached_tokens < first.timings.prompt_tokens
    assert second.timings.image_encode_ms < 1  # no image was encoded
    third = chat.say("and in this one?", some_images()[1:2])
    assert third.timings.cached_tokens > second.timings.cached_tokens and third.timings.image_encode_ms > 0


@pytest.mark.parametrize("reply", [None, " yes", "  no\n "])
def test_a_chat_answers_as_pytorch_does_from_a_fresh_prefill(
    tiny_checkpoint: Path, tiny_bundle: Path, reply: str | None
) -> None:
    """Greedy turns, turns the template writes as they were said, and turns it writes otherwise."""
    ours, theirs = opened(tiny_bundle), opened(tiny_checkpoint)
    logits: list[Any] = []

    def choose(values: Any, ids: Sequence[int]) -> int:
        logits.append((values, list(ids)))
        return said(values, ids)

    said = greedy if reply is None else speaking(ours, reply)
    chat = Chat(ours, max_new_tokens=5, choose=choose)
    shown = some_images()
    for text, images in (("is there a circle?", shown[:1]), ("sure?", []), ("and in these?", shown[1:]), ("why?", [])):
        logits.clear()
        got = chat.say(text, images)
        asked, prompt = chat.messages[:-1], theirs.prepare(chat.messages[:-1], chat.images)
        assert logits[0][1] == prompt.ids[0].tolist()
        theirs.reset()
        fresh = theirs.prefill(prompt, theirs.encode_image(prompt))
        np.testing.assert_allclose(logits[0][0], fresh, atol=2e-5)
        if reply is None:
            assert got.token_ids == answer(theirs, asked, chat.images, max_new_tokens=5).token_ids


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm"])
def test_the_reference_chats_and_answers_as_generate(tiny_of: Callable[..., Path], family: str) -> None:
    """Every family in transformers without torchvision: `generate`'s tokens, and a chat's as from a fresh prefill."""
    session: Any = opened(tiny_of(family))
    shown, messages = some_images(), question("what is there?", 3)
    text = session.processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = session.processor(text=[text], images=shown, return_tensors="pt", add_special_tokens=False)
    out = session.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    expected = out[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer(session, messages, shown, max_new_tokens=5).token_ids == expected
    chat, kept = Chat(session, max_new_tokens=4), 0
    turns = []
    for words, images in (("hello?", shown[:1]), ("and this?", shown[1:]), ("more?", [])):
        turns.append((chat.say(words, images), chat.messages[:-1], list(chat.images)))
        kept += turns[-1][0].timings.cached_tokens
    assert kept > 0
    for got, asked, images in turns:
        assert got.token_ids == answer(session, asked, images, max_new_tokens=4).token_ids


def test_a_turn_that_fails_leaves_the_conversation(tiny_bundle: Path) -> None:
    session = opened(tiny_bundle)
    chat = Chat(session, max_new_tokens=3)
    before = chat.say("is there a circle?", some_images()[:1])
    with pytest.raises(DataError):
        chat.say("what is <image>?")
    assert len(chat.messages) == 2 and len(chat.images) == 1
    after = chat.say("sure?")
    assert after.timings.cached_tokens == 0 and before.token_ids
    fresh = answer(session, chat.messages[:-1], chat.images, max_new_tokens=3)
    assert after.token_ids == fresh.token_ids


def test_an_image_token_in_an_answer_is_no_image(tiny_bundle: Path) -> None:
    """A weak model may write one; the images in the cache stay."""
    session = opened(tiny_bundle)
    written = iter([session.image_token_id, min(session.eos_token_ids - {0})] * 2)
    chat = Chat(session, max_new_tokens=4, choose=lambda logits, ids: next(written))
    first = chat.say("is there a circle?", some_images()[:1])
    second = chat.say("sure?")
    assert first.token_ids[0] == session.image_token_id
    assert second.timings.cached_tokens == first.timings.prompt_tokens and second.timings.image_encode_ms < 1


def test_stop_and_length(tiny_bundle: Path) -> None:
    session = opened(tiny_bundle)
    asked = question("q"), some_images()[:1]
    pieces: list[str] = []
    said = answer(
        session, *asked, max_new_tokens=9, choose=speaking(session, " yes red blue"), stops=[" bl"],
        on_text=pieces.append,
    )  # fmt: skip
    assert said.text == "yes red" == "".join(pieces) and said.finish == "stop"
    said = answer(session, *asked, max_new_tokens=1, choose=speaking(session, " yes red"))
    assert said.finish == "length" and len(said.token_ids) == 1
    said = answer(session, *asked, max_new_tokens=9, choose=speaking(session, " yes red"))
    assert said.finish == "eos" and said.text == "yes red" and said.token_ids[-1] in session.eos_token_ids


# -------------------------------------------------------------------------------------------------------- edgekit run


class ByItself:
    """A session that takes greedy steps itself, over one that does not; what was taken and forgotten is noted."""

    def __init__(self, session: Any) -> None:
        self.session, self.asked, self.closed_after = session, list[tuple[int, int]](), list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def decode_steps(self, tokens: Sequence[int]) -> Any:
        return [self.session.decode_step(token) for token in tokens][-1]

    def greedy_steps(self, token: int, limit: int) -> Iterator[tuple[int, float]]:
        self.asked.append((token, limit))
        taken = 0
        try:
            while taken < limit:
                token, taken = int(self.session.decode_step(token).argmax()), taken + 1
                yield token, 7.0 + taken
        finally:
            self.closed_after.append(taken)


def test_a_session_that_goes_on_by_itself(tiny_bundle: Path) -> None:
    """Greedy answers are its own steps with its own times, ended where the answer ends; sampled ones are not."""
    plain = opened(tiny_bundle)
    plain.eos_token_ids = frozenset()
    own = ByItself(plain)
    wanted = answer(plain, question("what is there?", 1), some_images()[:1], max_new_tokens=6)
    said = answer(own, question("what is there?", 1), some_images()[:1], max_new_tokens=6)
    assert said.token_ids == wanted.token_ids and said.finish == "length"
    assert said.timings.itl_ms == [8.0, 9.0, 10.0, 11.0, 12.0]
    assert own.asked == [(wanted.token_ids[0], 5)] and own.closed_after == [5]
    plain.eos_token_ids = frozenset(wanted.token_ids[2:3])
    ended = answer(own, question("what is there?", 1), some_images()[:1], max_new_tokens=6)
    place = wanted.token_ids.index(wanted.token_ids[2])
    assert ended.token_ids == wanted.token_ids[: place + 1] and ended.finish == "eos"
    assert own.closed_after[1:] == ([place] if place else [])
    sampled = chooser(Sampling(1.0, seed=0))
    answer(own, question("what is there?", 1), some_images()[:1], max_new_tokens=6, choose=sampled)
    assert len(own.asked) == (2 if place else 1)


def test_run_turns_a_photo_upright(tmp_path: Path, tiny_bundle: Path) -> None:
    """As transformers' load_image does with a file; 16-bit grey keeps its shades, which it does not do."""
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    draw(3)[0].resize((64, 32)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    seen = upright(Image.open(tmp_path / "turned.jpg"))
    assert seen.size == (32, 64)
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(load_image(str(tmp_path / "turned.jpg"))))
    seen.save(tmp_path / "upright.png")
    runs = [api.run(tiny_bundle, "q", [tmp_path / name], max_new_tokens=4) for name in ("turned.jpg", "upright.png")]
    assert runs[0].token_ids == runs[1].token_ids
    Image.fromarray(np.array([[0, 256, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    deep = Image.open(tmp_path / "deep.png")
    assert deep.mode == "I;16" and np.asarray(upright(deep)).tolist() == [[0, 1, 128, 255]]


def test_run_streams_and_chats_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    draw(0)[0].save(tmp_path / "a b.png")
    base = [sys.executable, "-m", "edgekit", "run", str(tiny_bundle), "--max-new-tokens", "4"]
    one = [*base, "--image", str(tmp_path / "a b.png"), "--prompt", "is there a circle?"]
    plain, streamed = (
        subprocess.run([*one, way], capture_output=True, text=True, check=True).stdout
        for way in ("--no-stream", "--stream")
    )
    assert plain.strip() == streamed.strip() and plain.strip()
    talk = f"/image '{tmp_path / 'a b.png'}'\nis there a circle?\nsure?\n"
    told = subprocess.run([*base, "--chat", "--json"], input=talk, capture_output=True, text=True, check=True).stdout
    first, second = (json.loads(line) for line in told.splitlines())
    assert first["text"] == plain.strip() and first["timings"]["cached_tokens"] == 0
    assert second["timings"]["cached_tokens"] >= first["timings"]["prompt_tokens"]
    missing = subprocess.run([*base, "--chat"], input="/image no.png\nhello\n", capture_output=True, text=True)
    assert missing.returncode == 1 and "No image at no.png" in missing.stderr
    bare = subprocess.run(base, capture_output=True, text=True)
    assert bare.returncode == 2 and "--prompt" in bare.stderr


def test_pieces_survive_a_poor_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.console import print_piece

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    print_piece("é")
    assert out.buffer.getvalue() == b"\\xe9"  # type: ignore[attr-defined]
