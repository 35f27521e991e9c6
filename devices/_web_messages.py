"""What the page of a bench may say, and within which bounds; all of it comes from strangers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from edgekit import schema, strict_json
from edgekit.devices._web_site import Refused
from edgekit.visible import one_line

MOST_TEXT = 20_000  # characters of an answer
MOST_WORD = 400  # of anything else
MOST_MS = 86_400_000.0
MOST_PROMPT = 1_000_000  # tokens

T = TypeVar("T")
Phase = Literal["download", "load", "self-test", "questions", "memory"]


@dataclass(frozen=True)
class Join:
    """A browser begins."""

    agent: str
    platform: str = ""
    model: str = ""
    cores: int | None = None
    memory_gib: float | None = None
    touch: int = 0
    screen: str = ""
    secure: bool = False
    isolated: bool = False
    webgpu: bool = False


@dataclass(frozen=True)
class Beat:
    """A sign of life: where it is in a bundle."""

    bundle: int
    phase: Phase
    done: float
    total: float


@dataclass(frozen=True)
class Failed:
    """Why it gives a bundle up."""

    bundle: int
    why: str


@dataclass(frozen=True)
class Check:
    """One check of the self-test."""

    name: str
    count: int
    passed: bool
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One answer, as the library tells it; milliseconds."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    preprocess_ms: float
    image_encode_ms: float
    prefill_ms: float
    first_token_ms: float
    itl_ms: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """All of one bundle."""

    bundle: int
    backend: Literal["wasm", "webgpu"]
    threads: int
    why: str
    storage: Literal["opfs", "memory"]
    load_ms: float
    checks: tuple[Check, ...]
    answers: tuple[Answer, ...]
    memory_bytes: int | None = None
    memory_by: str = ""
    battery_percent: float | None = None
    cpu_pressure: str = ""


@dataclass(frozen=True)
class Wanted:
    """What results must be of.

    Attributes:
        bundles: Names.
        vocabularies: Tokens that each bundle knows.
        questions: How many.
        max_new_tokens: Of an answer.
    """

    bundles: tuple[str, ...]
    vocabularies: tuple[int, ...]
    questions: int
    max_new_tokens: int


class Malformed(Refused):
    """A body that is not what it should be."""

    def __init__(self, why: str) -> None:
        super().__init__(400, "malformed")
        self.args = (why,)


def read(cls: type[T], body: bytes) -> T:
    """A message of a page.

    Raises:
        Malformed: it is none.
    """
    try:
        value = strict_json.loads(body, exact=True)
    except ValueError as error:
        raise Malformed(one_line(str(error)[:MOST_WORD])) from error
    problems: list[str] = []
    found = schema.read(cls, value, problems)
    if found is None or problems:
        raise Malformed(one_line("; ".join(problems[:3])[:MOST_WORD]))
    return found


def problems_of(told: Result, wanted: Wanted) -> Iterator[str]:
    """What no such result can say, a line each."""
    if len(told.answers) != wanted.questions:
        yield f"answers: {len(told.answers)} of {wanted.questions} questions"
    if not told.checks or not any(check.count for check in told.checks):
        yield "checks: none"
    if len(told.checks) > 20 or any(
        len(check.failures) > 20 or check.count < 0 or len(check.name) > MOST_WORD for check in told.checks
    ):
        yield "checks: more than there are"
    for name in ("why", "memory_by", "cpu_pressure"):
        if len(getattr(told, name)) > MOST_WORD:
            yield f"{name}: more than {MOST_WORD} characters"
    yield from _outside("threads", told.threads, 1, 1024)
    yield from _outside("load_ms", told.load_ms, 0, MOST_MS)
    yield from _outside("memory_bytes", told.memory_bytes, 0, 1 << 50)
    yield from _outside("battery_percent", told.battery_percent, 0, 100)
    for number, answer in enumerate(told.answers):
        yield from _of_answer(f"answers[{number}]", answer, wanted, told.bundle)


def problems_of_join(told: Join) -> Iterator[str]:
    """What no device can say of itself, a line each."""
    yield from _outside("cores", told.cores, 1, 4096)
    yield from _outside("memory_gib", told.memory_gib, 0, 1 << 20)
    yield from _outside("touch", told.touch, 0, 4096)


def _of_answer(at: str, told: Answer, wanted: Wanted, bundle: int) -> Iterator[str]:
    count = len(told.token_ids)
    yield from _outside(f"{at}.token_ids", count, 1, wanted.max_new_tokens)
    if told.token_ids and not (min(told.token_ids) >= 0 and max(told.token_ids) < wanted.vocabularies[bundle]):
        yield f"{at}.token_ids: one is outside of the vocabulary"
    if len(told.itl_ms) != max(0, count - 1):
        yield f"{at}.itl_ms: {len(told.itl_ms)} times for {count} tokens"
    if len(told.text) > MOST_TEXT:
        yield f"{at}.text: more than {MOST_TEXT:,} characters"
    yield from _outside(f"{at}.prompt_tokens", told.prompt_tokens, 1, MOST_PROMPT)
    for name in ("preprocess_ms", "image_encode_ms", "prefill_ms", "first_token_ms"):
        yield from _outside(f"{at}.{name}", getattr(told, name), 0, MOST_MS)
    for gap in told.itl_ms:
        yield from _outside(f"{at}.itl_ms", gap, 0, MOST_MS)


def _outside(at: str, value: float | None, low: float, high: float) -> Iterator[str]:
    if value is not None and not (low <= value <= high and math.isfinite(value)):
        yield f"{at}: {value:g} is not from {low:g} to {high:g}" if abs(value) < 1 << 63 else f"{at}: too large"


BROWSERS = {
    "Edge": r"Edg(?:A|iOS)?/(\d+)", "Opera": r"OPR/(\d+)", "Samsung Internet": r"SamsungBrowser/(\d+)",
    "Firefox": r"(?:Firefox|FxiOS)/(\d+)", "Chrome": r"(?:Headless)?(?:Chrome|CriOS)/(\d+)",
    "Safari": r"Version/(\d+[.\d]*) .*Safari/",
}  # fmt: skip
SYSTEMS = {
    "Android": r"Android(?: (\d+))?", "iOS": r"(?:iPhone|iPod)(?:.*? OS (\d+))?", "iPadOS": r"iPad(?:.*? OS (\d+))?",
    "macOS": r"Macintosh", "Windows": r"Windows NT", "ChromeOS": r"CrOS", "Linux": r"Linux",
}  # fmt: skip


def browser_of(agent: str) -> tuple[str, str]:
    """Browser and system as a user agent names them, each with the main version where it is told."""

    def first(patterns: dict[str, str], unknown: str) -> str:
        for name, pattern in patterns.items():
            if found := re.search(pattern, agent[:MOST_WORD]):
                version = found[1] if found.re.groups else None
                return f"{name} {version}" if version else name
        return unknown

    return first(BROWSERS, "unknown browser"), first(SYSTEMS, "unknown system")
