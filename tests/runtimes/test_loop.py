"""The decoding loop over a session of a few lines: each call, each time and each token by hand."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.checkpoint.generation import PLAIN, Generation
from edgekit.errors import EdgekitError
from edgekit.inputs.chat import question
from edgekit.runtimes import generate
from edgekit.runtimes.generate import Chat, Timings, _Held, _keep, answer, exhausted, follow
from edgekit.runtimes.sampling import greedy
from edgekit.runtimes.session import Prepared, Session, generation_of

END, SPACE, USER, SELF, IMAGE = 0, 6, 7, 8, 9
LETTERS = {1: "a", 2: "b", 3: "c", 4: "d", 5: "e", SPACE: " "}
NUMBERS = {letter: number for number, letter in LETTERS.items()} | {".": END, "P": IMAGE}


def ids(text: str) -> list[int]:
    return [NUMBERS[letter] for letter in text]


class Clock:
    """Seconds that pass only where something says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


class Toy:
    """Says what it was told to, and notes what it is asked; an image is a number, and has so many entries of pixels.

    Preparing takes 1 ms, encoding 2, a prefill 4, a step 8. The conversation `ab` about an image is USER IMAGE
    IMAGE a b SELF, and an answer ends with END.
    """

    eos_token_ids = frozenset({END})
    vocab_size = 10
    image_token_id = IMAGE

    def __init__(self, says: str, clock: Clock | None = None, *, rewinds: bool = True) -> None:
        self.says, self.clock, self.rewinds = iter(ids(says)), clock or Clock(), rewinds
        self.cache: list[int] = []
        self.calls: list[Any] = []

    def prepare(self, messages: list[dict[str, Any]], images: list[Any]) -> Prepared:
        self.clock.pass_ms(1)
        found: list[int] = []
        for message in messages:
            found.append(USER if message["role"] == "user" else SELF)
            for part in message["content"]:
                found += [IMAGE] * 2 if part["type"] == "image" else ids(part["text"])
            found += [END] if message["role"] == "assistant" else []
        pixels = np.arange(sum(images), dtype=np.float32) if images else None
        grids = [(1, parts) for parts in images]
        return Prepared(np.array([[*found, SELF]]), pixels, grids, None, list(images))

    def encode_image(self, prepared: Prepared) -> Any:
        self.clock.pass_ms(2)
        assert prepared.pixels is not None
        self.calls.append(("encode", prepared.pixels.tolist()))
        return f"features of {prepared.parts}"

    def prefill(self, prepared: Prepared, features: Any) -> Any:
        self.clock.pass_ms(4)
        self.cache += prepared.ids[0].tolist()
        self.calls.append(("prefill", prepared.ids[0].tolist(), features))
        return self._next()

    def decode_step(self, token: int) -> Any:
        self.clock.pass_ms(8)
        self.cache.append(token)
        self.calls.append(("step", token))
        return self._next()

    def _next(self) -> Any:
        return np.eye(10, dtype=np.float32)[next(self.says)]

    def decode_text(self, tokens: list[int]) -> str:
        return "".join(LETTERS.get(token, "") for token in tokens)

    def reset(self) -> None:
        self.cache.clear()
        self.calls.append("reset")

    def rewind(self, length: int) -> int:
        assert length <= len(self.cache)
        self.calls.append(("rewind", length))
        del self.cache[length if self.rewinds else 0 :]
        return length if self.rewinds else 0

    def close(self) -> None:
        pass


class ByItself(Toy):
    """Goes on alone, a step in 50 ms."""

    def decode_steps(self, tokens: Sequence[int]) -> Any:
        raise AssertionError("not asked for")

    def greedy_steps(self, token: int, limit: int) -> Iterator[tuple[int, float]]:
        self.calls.append(("alone", token, limit))
        try:
            for number, following in enumerate(self.says):
                yield following, 50.0 + number
        finally:
            self.calls.append("closed")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(generate, "time", made)
    return made


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the loop says it is doing."""
    told: list[str] = []
    beats = SimpleNamespace(enter=told.append, new_answer=lambda: told.append("new"))
    monkeypatch.setattr(generate, "PHASE", beats)
    return told


# ---------------------------------------------------------------------------------------------------------- one answer


def test_an_answer_its_calls_and_its_times(clock: Clock, phases: list[str]) -> None:
    """Choosing takes 16 ms; what `on_text` and `on_token` do, 100 ms each, is in no time."""
    toy, before, tokens, pieces = Toy("cd.", clock), list[list[int]](), list[int](), list[str]()

    def choose(logits: Any, given: Sequence[int]) -> int:
        clock.pass_ms(16)
        before.append(list(given))
        return int(logits.argmax())

    def shown(into: list[Any]) -> Any:
        return lambda value: (clock.pass_ms(100), into.append(value))

    said = answer(
        toy, question("ab"), [3], max_new_tokens=9, choose=choose, on_token=shown(tokens), on_text=shown(pieces)
    )
    prompt = [USER, IMAGE, IMAGE, 1, 2, SELF]
    assert (said.text, said.token_ids, said.finish) == ("cd", [3, 4, END], "eos")
    assert before == [prompt, [*prompt, 3], [*prompt, 3, 4]] and tokens == [3, 4, END] and pieces == ["c", "d"]
    steps = [("step", 3), ("step", 4)]
    assert toy.calls == ["reset", "reset", ("encode", [0, 1, 2]), ("prefill", prompt, "features of [3]"), *steps]
    assert said.timings.as_dict() == {
        "preprocess_ms": pytest.approx(1), "image_encode_ms": pytest.approx(2), "prefill_ms": pytest.approx(4),
        "first_token_ms": pytest.approx(16), "itl_ms": pytest.approx([24, 24]), "prompt_tokens": 6, "cached_tokens": 0,
        "ttft_ms": pytest.approx(23),
    }  # fmt: skip
    assert phases == ["new", "encode", "prefill", "decode", "decode", "decode", "decode", "answer"]


def test_without_images_nothing_is_encoded(clock: Clock) -> None:
    toy = Toy("a.", clock)
    said = answer(toy, question("b", 0), [], max_new_tokens=2)
    assert toy.calls[2:] == [("prefill", [USER, 2, SELF], None), ("step", 1)]
    assert said.timings.image_encode_ms == 0 and said.timings.ttft_ms == pytest.approx(5) and said.text == "a"


def test_nothing_is_measured_before_it_is() -> None:
    empty = Timings()
    assert empty.as_dict() == {
        "preprocess_ms": 0.0, "image_encode_ms": 0.0, "prefill_ms": 0.0, "first_token_ms": 0.0, "itl_ms": [],
        "prompt_tokens": 0, "cached_tokens": 0, "ttft_ms": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("says", "limit", "settings", "text", "tokens", "finish", "shown"),
    [
        ("abc.", 9, {}, "abc", "abc.", "eos", ["a", "b", "c"]),
        ("abc.", 3, {}, "abc", "abc", "length", ["a", "b", "c"]),
        ("abc.", 1, {}, "a", "a", "length", ["a"]),
        ("ab.", 3, {}, "ab", "ab.", "eos", ["a", "b"]),  # an end at the limit is an end
        (".", 3, {}, "", ".", "eos", []),
        ("abc.", 9, {"stops": ["b"]}, "a", "ab", "stop", ["a"]),
        ("abc.", 2, {"stops": ["b"]}, "a", "ab", "stop", ["a"]),  # a stop at the limit is a stop
        ("abc.", 9, {"generation": Generation(stop_strings=("bc",))}, "a", "abc", "stop", ["a"]),
        ("abc.", 9, {"stops": ["x"], "generation": Generation(stop_strings=("c",))}, "ab", "abc", "stop", ["a", "b"]),
        ("abc.", 9, {"stops": ["b"], "generation": Generation(stop_strings=("c",))}, "a", "ab", "stop", ["a"]),
        ("abc.", 9, {"stops": ["cd"]}, "abc", "abc.", "eos", ["a", "b", "c"]),  # c is held back until nothing follows
        (" a .", 9, {}, "a", " a .", "eos", [" ", "a", " "]),  # white space is shown as it comes
        ("...", 3, {"generation": Generation(min_new_tokens=2)}, "aa", "aa.", "eos", ["a", "a"]),
        ("aaa", 3, {"generation": Generation(forced_eos_token_id=(2,))}, "aab", "aab", "length", ["a", "a", "b"]),
        ("abc.", 9, {"generation": Generation(suppress_tokens=(2,))}, "a", "a.", "eos", ["a"]),
    ],
)  # fmt: skip
def test_what_ends_an_answer(
    says: str, limit: int, settings: dict[str, Any], text: str, tokens: str, finish: str, shown: list[str]
) -> None:
    pieces: list[str] = []
    said = answer(Toy(says), question("d"), [1], max_new_tokens=limit, on_text=pieces.append, **settings)
    assert (said.text, said.token_ids, said.finish, pieces) == (text, ids(tokens), finish, shown)


def test_steps_that_a_session_takes_alone(phases: list[str]) -> None:
    toy = ByItself("abc.")
    said = answer(toy, question("d"), [1], max_new_tokens=3)
    assert said.token_ids == [1, 2, 3] and said.finish == "length" and said.timings.itl_ms == [50.0, 51.0]
    assert toy.calls[-2:] == [("alone", 1, 2), "closed"]
    assert phases[3:] == ["decode", "decode", "decode", "decode", "answer"]
    # Not where each token is chosen by something else than the best logit.
    toy = ByItself("ab.")
    answer(toy, question("d"), [1], max_new_tokens=9, choose=lambda logits, given: greedy(logits))
    assert toy.calls[-2:] == [("step", 1), ("step", 2)]
    toy = ByItself("ab.")
    answer(toy, question("d"), [1], max_new_tokens=9, generation=Generation(min_new_tokens=1))
    assert toy.calls[-2:] == [("step", 1), ("step", 2)]


def test_a_session_that_stops_too_soon_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="before the answer's end"):
        answer(ByItself("a"), question("d"), [1], max_new_tokens=3)


@pytest.mark.parametrize("shape", [(), (9,), (1, 10), (10, 1)])
def test_logits_are_one_row_of_the_vocabulary_or_longer(shape: tuple[int, ...]) -> None:
    toy = Toy("a.")
    toy._next = lambda: np.zeros(shape, np.float32)
    with pytest.raises(EdgekitError, match=r"not \(10,\) or longer"):
        answer(toy, question("d"), [1], max_new_tokens=3)
    for size in (10, 11):
        toy._next = lambda size=size: np.zeros(size, np.float32)
        assert answer(toy, question("d"), [1], max_new_tokens=3).token_ids == [END]


# --------------------------------------------------------------------------------------------------------------- chats


def test_a_chat_feeds_what_is_new(clock: Clock) -> None:
    toy = Toy("ab.c.d.", clock)
    chat, shown = Chat(toy, max_new_tokens=9), list[str]()
    assert toy.calls == ["reset"]
    first = chat.say("e", [2], on_text=shown.append)
    assert (first.text, shown) == ("ab", ["a", "b"])
    assert toy.cache == [USER, IMAGE, IMAGE, 5, SELF, 1, 2]  # the end is chosen, and never fed
    toy.calls.clear()
    second = chat.say("d")
    assert toy.calls == [("rewind", 7), ("prefill", [END, USER, 4, SELF], None), ("step", 3)]
    assert (second.timings.prompt_tokens, second.timings.cached_tokens) == (4, 7)
    assert second.timings.image_encode_ms == 0 and second.timings.preprocess_ms == pytest.approx(1)
    toy.calls.clear()
    third = chat.say("", [1, 3])
    # Of six entries of pixels the first two are in the cache.
    assert toy.calls[:2] == [("rewind", 12), ("encode", [2, 3, 4, 5])]
    assert toy.calls[2] == ("prefill", [END, USER, *[IMAGE] * 4, SELF], "features of [1, 3]")
    assert third.timings.cached_tokens == 12 and third.timings.prompt_tokens == 7
    assert chat.images == [2, 1, 3] and [one["role"] for one in chat.messages] == ["user", "assistant"] * 3
    assert chat.messages[1]["content"] == [{"type": "text", "text": "ab"}]


def test_a_turn_that_the_template_writes_otherwise_is_fed_anew() -> None:
    """The model began with a space, which the answer's text has not."""
    toy = Toy(" ab.c.")
    chat = Chat(toy, max_new_tokens=9)
    chat.say("e", [2])
    toy.calls.clear()
    assert chat.say("d").timings.cached_tokens == 5
    assert toy.calls[:2] == [("rewind", 5), ("prefill", [1, 2, END, USER, 4, SELF], None)]


def test_a_chat_has_its_settings_in_every_turn() -> None:
    def first(logits: Any, given: Sequence[int]) -> int:
        return int(logits.argmax())

    settings = Generation(stop_strings=("b",), suppress_tokens=(3,))
    chat = Chat(Toy("abcdea"), max_new_tokens=2, choose=first, generation=settings, stops=["d"])
    said = [chat.say("e") for _ in range(4)]
    # The second turn says c, which is suppressed: of equal ones the first, which ends.
    assert [(one.text, one.finish) for one in said] == [("a", "stop"), ("", "eos"), ("", "stop"), ("ea", "length")]


def test_a_turn_that_fails_leaves_the_conversation_and_no_cache() -> None:
    toy = Toy("a.b.c.")
    chat = Chat(toy, max_new_tokens=9)
    chat.say("e", [2])
    before = list(chat.messages), list(chat.images)
    healthy = toy.prefill

    def broken(prepared: Prepared, features: Any) -> Any:
        healthy(prepared, features)
        raise MemoryError

    toy.prefill = broken
    with pytest.raises(EdgekitError, match="The memory ran out: cannot answer"):
        chat.say("d", [1])
    assert (chat.messages, chat.images) == before
    toy.prefill = healthy
    assert chat.say("d").timings.cached_tokens == 0


def test_a_runtime_that_keeps_nothing_begins_anew() -> None:
    toy = Toy("a.b.", rewinds=False)
    chat = Chat(toy, max_new_tokens=9)
    chat.say("e", [2])
    toy.calls.clear()
    assert chat.say("d").timings.cached_tokens == 0
    assert toy.calls[:3] == [("rewind", 6), "reset", ("encode", [0, 1])]


P = IMAGE


@pytest.mark.parametrize(
    ("held", "prompt", "images", "given", "parts", "kept"),
    [
        ([], 0, 0, [7, 1, 8], 0, 0),
        ([7, 1, 8, 2], 3, 0, [7, 1, 8, 2, 0, 7], 0, 4),
        ([7, 1, 8, 2], 3, 0, [7, 1, 8, 3, 0, 7], 0, 3),
        ([7, 1, 8, 2], 3, 0, [7, 1, 8, 2], 0, 3),  # one token at least is fed
        ([7, 1, 8, 2], 3, 0, [7, 1, 8], 0, 2),
        ([7, 1, 8, 2], 3, 0, [7], 0, 0),
        ([7, 1, 8], 3, 0, [7, 1, 3, 5], 0, 2),  # the last but one is another
        ([7, 1, 8, 2], 3, 0, [6, 1, 8, 2, 0], 0, 0),
        ([7, P, P, 1, 8, 2], 5, 1, [7, P, P, 1, 8, 2, 0], 1, 6),
        ([7, P, P, 1, 8, 2], 5, 1, [7, P, P, 3, 8, 2, 0], 1, 3),  # behind the image
        ([7, P, P, 1, 8, 2], 5, 1, [7, P, 3, 8, 2, 0], 1, 0),  # within it
        ([7, P, P, 1, 8, 2], 5, 1, [7, 3, P, P, 8, 2, 0], 1, 0),  # before it
        ([7, P, P, 1, 8, 2], 5, 1, [7, P, P, 1, 8, 2, 0], 0, 0),  # an image of the cache is gone
        ([7, P, P, 1, 8, 2], 5, 1, [7, P, P, 1, 8, 2, 0, P], 2, 6),  # one came
        ([7, P, P, 1, 8, P], 5, 1, [7, P, P, 1, 8, 2, 0], 1, 5),  # the answer's own is no image
        ([7, 1, 8, P], 3, 0, [7, 1, 8, 2, 0], 0, 3),
        ([7, P, 8, 2], 3, 0, [7, 1, 8], 0, 1),  # without images the token is one like others
    ],
)
def test_what_of_a_cache_is_kept(
    held: list[int], prompt: int, images: int, given: list[int], parts: int, kept: int
) -> None:
    toy = Toy("")
    toy.cache = list(held)
    prepared = Prepared(np.array([given]), None, parts=[1] * parts)
    assert _keep(toy, prepared, _Held(held, prompt, images)) == kept
    assert toy.cache == held[:kept] and toy.calls == ([("rewind", kept)] if kept else ["reset"])


# ------------------------------------------------------------------------------------------------------ given tokens


def test_following_given_tokens(phases: list[str]) -> None:
    toy = Toy("abcd")
    found = [int(logits.argmax()) for logits in follow(toy, question("e"), [2], [5, 4, 3])]
    assert found == [1, 2, 3]  # before each of the three
    prompt = [USER, IMAGE, IMAGE, 5, SELF]
    assert toy.calls == ["reset", ("encode", [0, 1]), ("prefill", prompt, "features of [2]"), ("step", 5), ("step", 4)]
    assert phases == ["new", "encode", "prefill", "decode", "decode", "decode", "answer"]
    bare = Toy("a")
    assert len(list(follow(bare, question("e", 0), [], [5]))) == 1
    assert bare.calls == ["reset", ("prefill", [USER, 5, SELF], None)]
    short = Toy("a")
    short.vocab_size = 11
    with pytest.raises(EdgekitError, match="logits of shape"):
        list(follow(short, question("e"), [1], [5]))


# -------------------------------------------------------------------------------------------------------------- trouble


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("9 bytes"), "The memory ran out: cannot dance."), (OSError(errno.ENOMEM, "x"), "memory ran out"),
        (RuntimeError("CUDA Out Of Memory"), "memory ran out"), (ValueError("std::bad_alloc"), "memory ran out"),
        (RecursionError("deep"), "The runtime called itself without end: cannot dance."),
        (RecursionError("out of memory"), "The runtime called itself without end"),
    ],
)  # fmt: skip
def test_want_of_memory_and_recursion_are_told(error: Exception, said: str) -> None:
    with pytest.raises(EdgekitError, match=said) as caught, exhausted("dance"):
        raise error
    assert caught.value.__cause__ is error and type(error).__name__ in str(caught.value)
    assert ("Close other programs" in str(caught.value)) != isinstance(error, RecursionError)


@pytest.mark.parametrize(
    "error", [ValueError("a memory"), OSError(errno.ENOENT, "x"), EdgekitError("out of memory"), KeyError("alloc")]
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, exhausted("dance"):
        raise error
    assert caught.value is error


# --------------------------------------------------------------------------------------------------------- the session


def test_the_two_ends_of_a_prompt() -> None:
    """Three images of 1, 2 and 3 entries; positions of three axes."""
    positions = np.arange(18).reshape(3, 1, 6)
    whole = Prepared(np.arange(6)[None], np.arange(6, dtype=np.float32), [(1, 1), (1, 2), (1, 3)], positions, [1, 2, 3])
    left = whole.tail(4, 1)
    assert left.ids.tolist() == [[4, 5]] and left.pixels is not None and left.pixels.tolist() == [1, 2, 3, 4, 5]
    assert left.grids == [(1, 2), (1, 3)] and left.parts == [2, 3]
    assert left.positions is not None and left.positions[:, 0].tolist() == [[4, 5], [10, 11], [16, 17]]
    last = whole.tail(5, 2)
    assert last.pixels is not None and last.pixels.tolist() == [3, 4, 5] and last.parts == [3]
    none = whole.tail(5, 3)
    assert none.pixels is None and none.parts == [] == none.grids
    bare = Prepared(np.arange(6)[None], None)
    assert bare.grids == [] == bare.parts and bare.positions is None
    assert bare.tail(2, 0).ids.tolist() == [[2, 3, 4, 5]] and bare.tail(2, 0).positions is None
    assert bare.head(2).ids.tolist() == [[0, 1]] and bare.head(2).positions is None
    head = Prepared(np.arange(6)[None], None, positions=positions).head(2)
    assert head.positions is not None and head.positions[:, 0].tolist() == [[0, 1], [6, 7], [12, 13]]


def test_what_a_session_says_of_itself() -> None:
    class Plain(Toy, Session):
        pass

    class Knowing(Plain):
        generation = Generation(min_new_tokens=3)

    plain, knowing = Plain([]), Knowing([])
    assert (plain.verified_by, tuple(plain.notes), plain.helper_memory_bytes()) == ("runtime", (), 0)
    assert generation_of(knowing) is Knowing.generation is generation_of(knowing, "model")
    assert generation_of(knowing, "greedy") is PLAIN is generation_of(plain)
