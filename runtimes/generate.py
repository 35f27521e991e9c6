"""The one decoding loop over any session: one answer, a chat of several turns, and following given tokens."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgekit.checkpoint.generation import PLAIN, Generation
from edgekit.checkpoint.rules import Rules
from edgekit.errors import EdgekitError
from edgekit.inputs.chat import Message, question
from edgekit.runtimes.phases import PHASE
from edgekit.runtimes.sampling import Choose, greedy, ruled
from edgekit.runtimes.session import Logits, Prepared, Session, Unattended
from edgekit.runtimes.stream import TextStream

if TYPE_CHECKING:
    from PIL.Image import Image

MEMORY_WORDS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc", "bad allocation", "failed to allocate",
    "memory allocation failed", "memoryallocationfailed",
)  # fmt: skip
"""What PyTorch, ONNX Runtime, ExecuTorch and C++ say when an allocation fails, each in an error of its own."""

Finish = Literal["eos", "stop", "length"]


@dataclass
class Timings:
    """Milliseconds of one answer."""

    preprocess_ms: float = 0.0
    image_encode_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    """Choosing the first token from the prompt's logits."""
    itl_ms: list[float] = field(default_factory=list)
    """Each later token: one decode step and its choice."""
    prompt_tokens: int = 0
    """Tokens that were prefilled."""
    cached_tokens: int = 0
    """Tokens of a conversation that were in the cache before."""

    @property
    def ttft_ms(self) -> float:
        """From the image and the words to the first token."""
        return self.preprocess_ms + self.image_encode_ms + self.prefill_ms + self.first_token_ms

    def as_dict(self) -> dict[str, Any]:
        """For JSON, TTFT included."""
        return {**asdict(self), "ttft_ms": self.ttft_ms}


@dataclass
class Answer:
    """One answer.

    Attributes:
        text: Without special tokens.
        token_ids: The end token included, when it came.
        timings: Of its parts.
        finish: What ended it: an end token, a stop string, or the limit.
    """

    text: str
    token_ids: list[int]
    timings: Timings
    finish: Finish


def answer(
    session: Session,
    messages: list[Message],
    images: list[Image],
    *,
    max_new_tokens: int,
    choose: Choose = greedy,
    generation: Generation = PLAIN,
    stops: Sequence[str] = (),
    on_token: Callable[[int], None] | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Answer one prompt from an empty cache.

    Args:
        session: Loaded.
        messages: Ends with the user's turn.
        images: In the order of the image parts.
        max_new_tokens: At least 1.
        choose: From logits (V,) and the tokens before to a token.
        generation: Settings that change the logits before, as `session.generation_of` gives a model's own.
        stops: Texts that end the answer and are no part of it.
        on_token: Told each token as it comes.
        on_text: Told each piece of text as soon as it is certain; the pieces joined are the text, but for white space
            at both ends. What it does is not in the timings.
    """
    with exhausted("answer"):
        session.reset()
        start = _Start(session, messages, images, _Held())
        stream = TextStream(session.decode_text, [*stops, *generation.stop_strings])
        choice = _choice(session, start, max_new_tokens, choose, generation)
        return _go_on(session, start, max_new_tokens, choice, stream, on_token, on_text)


def _choice(session: Session, start: _Start, limit: int, choose: Choose, generation: Generation) -> Choose:
    rules = Rules(generation, start.ids, limit, sorted(session.eos_token_ids))
    return ruled(choose, rules) if rules else choose


class Chat:
    """A conversation of several turns over one session; the cache is kept from turn to turn.

    Each turn's prompt is the whole conversation as the model's template writes it. What of it is in the cache already
    stays there, and only the rest is prefilled: the new turn, and the answer before it from the place on where the
    template or the tokenizer writes it otherwise than the model did. Images in the cache are not encoded again.

    Args:
        session: Loaded; the chat has its cache for itself.
        max_new_tokens: Longest answer.
        choose, generation, stops: As for `answer`; the whole conversation is the prompt that the settings see.
    """

    def __init__(
        self,
        session: Session,
        *,
        max_new_tokens: int,
        choose: Choose = greedy,
        generation: Generation = PLAIN,
        stops: Sequence[str] = (),
    ) -> None:
        self._session, self._max, self._choose, self._generation = session, max_new_tokens, choose, generation
        self._stops = [*stops, *generation.stop_strings]
        self.messages: list[Message] = []
        self.images: list[Image] = []
        self._held = _Held()
        session.reset()

    def say(self, text: str, images: Sequence[Image] = (), *, on_text: Callable[[str], None] | None = None) -> Answer:
        """The answer to the user's next turn.

        Args:
            text: What the user says.
            images: New images; they stand before the text.
            on_text: As for `answer`.

        Raises:
            EdgekitError: the turn cannot be answered; the conversation is as it was before.
        """
        messages, shown = [*self.messages, *question(text, len(images))], [*self.images, *images]
        held, self._held = self._held, _Held()  # a turn that breaks off leaves a cache that cannot be trusted
        stream = TextStream(self._session.decode_text, self._stops)
        with exhausted("answer"):
            start = _Start(self._session, messages, shown, held)
            choice = _choice(self._session, start, self._max, self._choose, self._generation)
            said = _go_on(self._session, start, self._max, choice, stream, None, on_text)
        # The last token was chosen, and never fed.
        self._held = _Held([*start.ids, *said.token_ids[:-1]], len(start.ids), len(shown))
        reply = {"role": "assistant", "content": [{"type": "text", "text": said.text}]}
        self.messages, self.images = [*messages, reply], shown
        return said


@dataclass(frozen=True)
class _Held:
    """What is in a cache.

    Attributes:
        ids: Its tokens.
        prompt: So many of them are the last prompt; the answer follows.
        images: Images, all of them in the prompt.
    """

    ids: Sequence[int] = ()
    prompt: int = 0
    images: int = 0


class _Start:
    """A prompt in the cache, and the logits that follow it."""

    def __init__(self, session: Session, messages: list[Message], images: list[Image], held: _Held) -> None:
        """Prepare a prompt and prefill what of it is not in the cache.

        Args:
            session: Loaded.
            messages, images: The whole conversation.
            held: What the session's cache holds.
        """
        PHASE.new_answer()
        self.timings = Timings()
        self.clock = _Lap()
        prepared = session.prepare(messages, images)
        self.ids: list[int] = prepared.ids[0].tolist()
        kept = _keep(session, prepared, held)
        if kept:
            prepared = prepared.tail(kept, held.images)
        self.timings.preprocess_ms = self.clock.lap()
        PHASE.enter("encode")
        features = None if prepared.pixels is None else session.encode_image(prepared)
        self.timings.image_encode_ms = self.clock.lap()
        PHASE.enter("prefill")
        self.logits = session.prefill(prepared, features)
        PHASE.enter("decode")
        self.timings.prefill_ms = self.clock.lap()
        self.timings.prompt_tokens, self.timings.cached_tokens = len(self.ids) - kept, kept


def _keep(session: Session, prepared: Prepared, held: _Held) -> int:
    """Rewind the cache to what it shares with a prompt; how many tokens that are."""
    ids = prepared.ids[0].tolist()
    # At least one token is fed, or there would be no logits.
    pairs = enumerate(zip(held.ids, ids[:-1], strict=False))
    shared = next((place for place, (a, b) in pairs if a != b), min(len(held.ids), len(ids) - 1))
    # Images are kept whole and all, or the conversation is prefilled anew. An image token in an answer is none.
    if held.images and (session.image_token_id in held.ids[shared : held.prompt] or len(prepared.parts) < held.images):
        shared = 0
    if shared and session.rewind(shared) == shared:
        return shared
    session.reset()
    return 0


def _go_on(
    session: Session,
    start: _Start,
    max_new_tokens: int,
    choose: Choose,
    stream: TextStream,
    on_token: Callable[[int], None] | None,
    on_text: Callable[[str], None] | None,
) -> Answer:
    timings = start.timings
    tokens: list[int] = []
    with closing(_tokens(session, start, choose, max_new_tokens)) as coming:
        for token, milliseconds in coming:
            PHASE.enter("decode")
            tokens.append(token)
            if len(tokens) == 1:
                timings.first_token_ms = milliseconds
            else:
                timings.itl_ms.append(milliseconds)
            if on_token is not None:
                on_token(token)
            piece = stream.push(token)
            finish = _finish(session, tokens, stream, max_new_tokens)
            if finish is not None:
                piece += stream.finish()
            if on_text is not None and piece:
                on_text(piece)
            if finish is not None:
                PHASE.enter("answer")
                return Answer(stream.text.strip(), tokens, timings, finish)
    raise AssertionError("a session stopped before the answer's end")


def _tokens(session: Session, start: _Start, choose: Choose, limit: int) -> Generator[tuple[int, float], None, None]:
    """Each token of an answer and its milliseconds, until the iterator is closed."""
    clock = start.clock
    tokens = [choose(_checked(session, start.logits), start.ids)]
    yield tokens[0], clock.lap()
    if choose is greedy and isinstance(session, Unattended):
        yield from session.greedy_steps(tokens[0], limit - 1)
        return
    while True:
        clock.lap()  # showing text is no part of a token's time
        logits = _checked(session, session.decode_step(tokens[-1]))
        tokens.append(choose(logits, start.ids + tokens))
        yield tokens[-1], clock.lap()


def _checked(session: Session, logits: Logits) -> Logits:
    """Logits (V,), as they must be; of another shape, the best of them would be no token.

    Raises:
        EdgekitError: they are not.
    """
    if logits.ndim != 1 or len(logits) < session.vocab_size:
        raise EdgekitError(
            f"The runtime gives logits of shape {logits.shape}, not ({session.vocab_size},) or longer.",
            why="They do not belong to the tokenizer's vocabulary.",
            fix="Export the bundle again; of another package's runtime, tell its author.",
        )
    return logits


@contextmanager
def exhausted(action: str) -> Iterator[None]:
    """Turn a runtime's want of memory, or recursion without an end, into an error that says so.

    Args:
        action: What could not be done.

    Raises:
        EdgekitError: it could not.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:  # ONNX Runtime's and others' have types of their own
        deep = isinstance(error, RecursionError)
        full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        full |= any(words in str(error).lower() for words in MEMORY_WORDS)
        if not deep and not full:
            raise
        raise EdgekitError(
            f"{'The runtime called itself without end' if deep else 'The memory ran out'}: cannot {action}.",
            why=" ".join(f"{type(error).__name__}: {error}".split())[:500],
            fix="" if deep else "Close other programs, or take fewer or smaller images, or a smaller precision.",
        ) from error


def _finish(session: Session, tokens: list[int], stream: TextStream, max_new_tokens: int) -> Finish | None:
    if tokens[-1] in session.eos_token_ids:
        return "eos"
    if stream.stopped:
        return "stop"
    return "length" if len(tokens) == max_new_tokens else None


def follow(session: Session, messages: list[Message], images: list[Image], tokens: Sequence[int]) -> Iterator[Logits]:
    """The logits (V,) before each of the given tokens, feeding them one by one."""
    PHASE.new_answer()
    yield from follow_prepared(session, session.prepare(messages, images), tokens)


def follow_prepared(session: Session, prepared: Prepared, tokens: Sequence[int]) -> Iterator[Logits]:
    """As `follow`, of a prompt that is prepared already."""
    session.reset()
    PHASE.enter("encode")
    features = None if prepared.pixels is None else session.encode_image(prepared)
    PHASE.enter("prefill")
    logits = session.prefill(prepared, features)
    for number, token in enumerate(tokens):
        PHASE.enter("decode")
        yield _checked(session, logits)
        if number < len(tokens) - 1:
            logits = session.decode_step(token)
    PHASE.enter("answer")


class _Lap:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Milliseconds since the lap before."""
        now = time.perf_counter()
        spent, self.last = 1000 * (now - self.last), now
        return spent
