"""Responses from any OpenAI-compatible server (`/v1/chat/completions`), images sent inline.

The server says text; it is tokenised with the tokenizer that teacher and student share, behind whatever the chat
template puts in front of an answer (a space, for SmolVLM), and closed with the end token. Servers differ in what they
take beyond OpenAI's own fields, so three manners of asking are tried in this order, once, on the first question:
top_k and repetition_penalty as fields (vLLM, SGLang); everything in a `generation_config` text (transformers serve,
which samples only when told so there); OpenAI's fields alone, if top_k and repetition_penalty are off. Each is tried
with `n` responses a request first, then with one.
"""

from __future__ import annotations

import base64
import io
import json
import math
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.checkpoint.configuration import end_token_ids
from edgekit.data import ImageRef, Sample
from edgekit.distill.chat_server import ChatServer, RefusedError, api_key
from edgekit.distill.generators import PROBE_TOKENS, Generator, Said, Source
from edgekit.errors import DataError, ServerError
from edgekit.inputs.chat import render
from edgekit.inputs.images import as_rgb
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

if TYPE_CHECKING:
    from PIL.Image import Image

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
ORIENTATION = 0x0112
MANNERS = tuple((how, many) for many in (True, False) for how in ("fields", "generation_config", "plain"))


def check(settings: GenData) -> None:
    """The key's environment variable must be set.

    Raises:
        RecipeError: it is not.
    """
    api_key(settings.server.api_key_env)


def open_generator(source: Source) -> OpenAI:
    """A client for the server that answers for a source."""
    check(source.settings)
    return OpenAI(source)


@dataclass(frozen=True)
class Choice:
    """One answer of a server.

    Attributes:
        text: "" for an empty or refused one.
        cut: Whether it was cut off at the token limit.
        logp: Log-probability of its tokens together, nats; None where the server does not tell.
    """

    text: str
    cut: bool
    logp: float | None


class OpenAI:
    """The generator.

    Args:
        source: Whose responses.
    """

    def __init__(self, source: Source) -> None:
        server = source.settings.server
        self.settings, self.processor = source.settings, source.processor
        url, model = (text.replace("{ratio}", f"{source.ratio:g}") for text in (server.url, server.model))
        url, model = (text.replace("{teacher}", str(source.teacher)) for text in (url, model))
        self.server = ChatServer(url, model, server.api_key_env, server.concurrency, server.retries, server.timeout_s)
        self.ends = end_token_ids(source.folder)
        self.pool = ThreadPoolExecutor(server.concurrency, thread_name_prefix="gen-data")
        self._manner: tuple[str, bool] | None = None

    def sample(self, samples: Sequence[Sample], count: int, seed: int) -> list[list[list[int]]]:
        """See `Generator`. The seed goes with each request; what a server makes of it is its own affair."""
        rows: list[list[Choice]] = []
        done = 0
        if self._manner is None and samples:
            rows.append(self._settle(samples[0], count, _seed(seed, 0)))
            done = 1
        asked = [(sample, count, _seed(seed, k)) for k, sample in enumerate(samples[done:], done)]
        rows += self._each(lambda one: self._draw(*one), asked)
        return [[self._tokens(sample, choice) for choice in row] for sample, row in zip(samples, rows, strict=True)]

    def answers(self, samples: Sequence[Sample]) -> list[Said]:
        """See `Generator`: at temperature 0, with log-probabilities where the server gives them."""

        def ask(sample: Sample) -> Said:
            body = self._body(sample) | {"temperature": 0, "max_tokens": PROBE_TOKENS}
            try:
                (choice, *_) = self._choices(body | {"logprobs": True})
            except RefusedError:
                (choice, *_) = self._choices(body)
            return Said(choice.text.strip(), choice.logp)

        return self._each(ask, samples)

    def close(self) -> None:
        """End the threads; requests under way are let go."""
        self.server.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _each(self, ask: Any, items: Sequence[Any]) -> list[Any]:
        futures = [self.pool.submit(ask, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.server.stop()
            for future in futures:
                future.cancel()
            raise

    def _settle(self, sample: Sample, count: int, seed: int) -> list[Choice]:
        """Ask the first question in each manner until the server takes one."""
        first: RefusedError | None = None
        for how, many in MANNERS:
            if (how == "plain" and not self._extras_off()) or (not many and count == 1):
                continue
            try:
                drawn = self._draw(sample, count, seed, (how, many))
            except RefusedError as error:
                first = first or error
                continue
            return drawn
        assert first is not None
        if not self._extras_off():
            first.fix = "If it does not know top_k and repetition_penalty, go on without them:\n"
            first.fix += "  --set masters.gen_data.top_k=0 --set masters.gen_data.repetition_penalty=1"
        raise ServerError(first.what, why=f"{first.why}\nThe question: {sample.location}", fix=first.fix) from first

    def _extras_off(self) -> bool:
        return self.settings.top_k == 0 and self.settings.repetition_penalty == 1.0

    def _draw(self, sample: Sample, count: int, seed: int, manner: tuple[str, bool] | None = None) -> list[Choice]:
        """`count` responses to one question, in as many requests as it takes."""
        how, many = manner or self._manner or MANNERS[0]
        found: list[Choice] = []
        while len(found) < count:
            wanted = count - len(found)
            body = self._body(sample) | self._sampling(how, seed + len(found))
            if many and wanted > 1:
                body["n"] = wanted
            try:
                got = self._choices(body)
            except RefusedError as error:
                if manner is None and _filtered(error.body):
                    got = [Choice("", False, None)]
                elif manner is None:
                    raise ServerError(error.what, why=f"{error.why}\nThe question: {sample.location}") from error
                else:
                    raise
            many = many and len(got) >= wanted  # else it ignores n
            found += got[:wanted]
        self._manner = (how, many)
        return found

    def _body(self, sample: Sample) -> dict[str, Any]:
        return {"messages": chat_messages(sample), "stream": False}

    def _sampling(self, how: str, seed: int) -> dict[str, Any]:
        s = self.settings
        body: dict[str, Any] = {
            "temperature": s.temperature,
            "top_p": s.top_p,
            "max_tokens": s.max_new_tokens,
            "seed": seed,
        }
        extras = {"top_k": s.top_k, "repetition_penalty": s.repetition_penalty}
        if how == "fields":
            body |= extras
        elif how == "generation_config":
            config: dict[str, Any] = {"do_sample": True, "temperature": s.temperature, "top_p": s.top_p, **extras}
            config |= {"max_new_tokens": s.max_new_tokens}
            if self.ends:
                config |= {"eos_token_id": self.ends, "pad_token_id": self.ends[0]}
            body["generation_config"] = json.dumps(config)
        return body

    def _choices(self, body: dict[str, Any]) -> list[Choice]:
        return [read_choice(choice) for choice in self.server.ask(body)]

    def _tokens(self, sample: Sample, choice: Choice) -> list[int]:
        lead, tail = answer_frame(self.processor, sample)
        end = next((token for token in tail if token in self.ends), self.ends[0] if self.ends else None)
        text = choice.text
        ids: list[int] = []
        if text.strip():
            opened = text if text[0].isspace() else lead + text
            ids = list(self.processor.tokenizer.encode(opened, add_special_tokens=False).ids)
        stop = next((k for k, token in enumerate(ids) if token in self.ends), None)
        if stop is not None:
            return ids[: stop + 1]
        if end is not None and not (choice.cut and ids):
            ids.append(end)
        return ids[: self.settings.max_new_tokens]


def read_choice(choice: dict[str, Any]) -> Choice:
    """One of the `choices` of an answer; content parts are joined, refusals are empty."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    reason = choice.get("finish_reason")
    refused = bool(message.get("refusal")) or reason == "content_filter"
    text = content if isinstance(content, str) and not refused else ""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    logp = None
    if isinstance(tokens, list) and tokens:
        given = [token.get("logprob") for token in tokens if isinstance(token, dict)]
        values = [float(value) for value in given if isinstance(value, (int, float))]
        logp = math.fsum(values) if len(values) == len(tokens) else None
    return Choice(text, reason == "length", logp)


def chat_messages(sample: Sample) -> list[dict[str, Any]]:
    """The messages of a sample as OpenAI's API has them, images as data URLs in their places."""
    images = iter(sample.images)
    messages = []
    for message in sample.messages:
        content = message["content"]
        if isinstance(content, list):
            content = [
                {"type": "image_url", "image_url": {"url": data_url(next(images))}}
                if part.get("type") == "image"
                else {"type": "text", "text": part["text"]}
                for part in content
            ]
        messages.append({"role": message["role"], "content": content})
    return messages


def data_url(image: ImageRef) -> str:
    """An image as a `data:` URL: its own bytes where every reader sees the same in them, else PNG.

    Raises:
        DataError: it cannot be read.
    """
    stored = image.decoded()
    kind = stored.format
    # Servers differ in whether they turn an image by its EXIF tag and in what they lay transparent ones on; the
    # teacher must see what the student is shown.
    plain = stored.mode in ("RGB", "L") and "transparency" not in stored.info and getattr(stored, "n_frames", 1) == 1
    if kind in MIME and plain and not _turns(stored):
        data = image.encoded()
    else:
        buffer = io.BytesIO()
        as_rgb(image.open()).save(buffer, "PNG")
        kind, data = "PNG", buffer.getvalue()
    return f"data:{MIME[kind]};base64,{base64.b64encode(data).decode()}"


def _turns(stored: Image) -> bool:
    """Whether some reader may turn an image: its EXIF tag says so, or its tags are damaged."""
    try:
        return bool(stored.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # like the decoders: SyntaxError, struct.error and more at damaged bytes
        return True


def answer_frame(processor: Processor, sample: Sample) -> tuple[str, list[int]]:
    """What the chat template puts before an answer, and the tokens it puts after it.

    Returns:
        The text between the generation prompt and the answer, and the token ids of what follows the answer.
    """
    mark = "edgekit0answer0mark"
    prompt = render(processor.template, sample.messages, processor.special)
    for content in ([{"type": "text", "text": mark}], mark):
        messages = [*sample.messages, {"role": "assistant", "content": content}]
        try:
            whole = render(processor.template, messages, processor.special)
        except DataError:
            continue
        before, found, after = whole.partition(mark)
        if found and before.startswith(prompt):
            return before[len(prompt) :], list(processor.tokenizer.encode(after, add_special_tokens=False).ids)
    return "", []


def _seed(seed: int, number: int) -> int:
    # Requests of one question count up from it, so those of different questions must lie apart.
    return random.Random(f"{seed}-{number}").randrange(2**31 - 2**16)


def _filtered(body: str) -> bool:
    """Whether a refusal is a content filter's, not a fault of the request."""
    try:
        error = json.loads(body)["error"]
        return "content_filter" in (error.get("code"), error.get("type"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


GENERATOR = Generator(check, open_generator)
