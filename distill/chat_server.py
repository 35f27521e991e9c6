"""A client for a server that speaks OpenAI's chat completions, as vLLM, SGLang, llama.cpp and others do."""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from edgekit.errors import RecipeError, ServerError
from edgekit.inputs.chat import Message
from edgekit.visible import one_line

BUSY = frozenset({408, 409, 425, 429})
"""Statuses worth another attempt, beside all from 500 on."""
MALFORMED = frozenset({400, 422})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0  # before a retry; doubled for each further one
LONGEST_RETRY_AFTER_S = 3600.0
RESUME = "What was done so far is kept: see to the server, then run the same command again."
FIXES = {
    401: "Name the environment variable that holds the key in the recipe.",
    403: "The key has no right to this model.",
    404: "Check the address in the recipe (it ends in /v1) and the model's name.",
}


class RefusedError(ServerError):
    """A server does not take a request as it is (400 or 422).

    Args:
        body: What it said.
    """

    def __init__(self, what: str, why: str, body: str) -> None:
        super().__init__(what, why=why, fix=RESUME)
        self.body = body


class ChatServer:
    """One model of one server. Safe to use from many threads; it holds at most `concurrency` requests open.

    A redirect is an error: it would turn the POST into a GET, and could carry the question elsewhere.

    Args:
        url: Base address, for example http://localhost:8000/v1.
        model: Its name on the server.
        api_key_env: Name of the environment variable that holds the key; none is sent without.
        concurrency: Requests at a time.
        retries: How often a request that timed out, was refused as too much, met a fault of the server or brought
            something that is no completion is sent again.
        timeout_s: Longest silence of the server, seconds.

    Raises:
        RecipeError: no http address, or no such environment variable.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str | None = None,
        concurrency: int = 8,
        retries: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        import httpx2

        self.url, self.model, self.retries, self.timeout_s = url, model, retries, timeout_s
        key = api_key(api_key_env)
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address starts with http:// or https:// and names a host")
            here = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
            self._client = httpx2.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=timeout_s,
                limits=httpx2.Limits(max_connections=None),  # the slots bound them
                trust_env=not here,  # a proxy is not meant for a server on this machine
                follow_redirects=False,
            )
        except (ValueError, httpx2.InvalidURL) as error:
            raise RecipeError(
                f"{url!r} is no http address.", why=str(error), fix="For example:  http://localhost:8000/v1"
            ) from error
        self._slots = threading.BoundedSemaphore(concurrency)
        self._closed = threading.Event()

    def complete(self, messages: list[Message], **sampling: Any) -> list[str]:
        """The texts of the choices the server gives for a conversation; "" where it gave none.

        Args:
            messages: Roles and contents, as the server takes them.
            sampling: Further keys of the request: temperature, max_tokens, n, seed, ...

        Raises:
            ServerError: see `ask`.
        """
        choices = self.ask({"messages": messages, **sampling})
        messages_said = [choice.get("message") for choice in choices]
        return [str(said.get("content") or "") if isinstance(said, dict) else "" for said in messages_said]

    def ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices, at least one, that a request is answered with.

        Args:
            body: Of the request, without the model.

        Raises:
            RefusedError: the server does not take the request as it is.
            ServerError: it could not be reached, timed out or failed after every retry, or refused altogether.
        """
        body = {"model": self.model, **body}
        reason = "It was not asked any more."
        with self._slots:
            for attempt in range(self.retries + 1):
                if self._closed.is_set():
                    break
                reason, choices, after_s = self._post(body)
                if choices is not None:
                    return choices
                if attempt < self.retries:
                    wait(self._closed, backoff_s(attempt) if after_s is None else after_s)
        tried = f" after {self.retries + 1} attempts" if self.retries else ""
        raise ServerError(
            f"No usable answer of {self.model!r} at {self.url}{tried}.", why=f"The last time: {reason}", fix=RESUME
        )

    def stop(self) -> None:
        """Let no request be sent again: those that wait for their turn fail at once."""
        self._closed.set()

    def _post(self, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]] | None, float | None]:
        """What went wrong, the choices when nothing did, and how many seconds the server asks to wait."""
        import httpx2

        try:
            reply = self._client.post("chat/completions", json=body)
        except httpx2.TimeoutException:
            return f"it was silent for {self.timeout_s:g} s", None, None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            return f"{type(error).__name__}: {one_line(str(error))}", None, None
        if reply.status_code != 200:
            return (
                self._failure(reply),
                None,
                retry_after_s(reply.headers.get("Retry-After"), reply.headers.get("Date")),
            )
        try:
            value = reply.json()
        except ValueError:
            return f"it is no JSON: {_shown(reply)}", None, None
        choices = value.get("choices") if isinstance(value, dict) else None
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
            return f"it holds no choices: {_shown(reply)}", None, None
        return "", choices, None

    def _failure(self, reply: Any) -> str:
        """What a reply that is no answer says, where asking again may help.

        Raises:
            ServerError: where it will not.
        """
        reason = f"HTTP {reply.status_code} {one_line(reply.reason_phrase)}: {_shown(reply)}"
        if reply.status_code in BUSY or reply.status_code >= 500:
            return reason
        if reply.status_code in MALFORMED:
            raise RefusedError(f"{self.url} does not take a request for {self.model!r}.", reason, reply.text[:4096])
        raise ServerError(
            f"{self.url} refused a request for {self.model!r}.", why=reason, fix=FIXES.get(reply.status_code, RESUME)
        )


def api_key(name: str | None) -> str | None:
    """The key in an environment variable; None where none is named.

    Raises:
        RecipeError: it holds none.
    """
    if not name:
        return None
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii():
        raise RecipeError(f"The environment variable {name} holds no key.", fix=f"Set it:  export {name}=...")
    return key


def wait(closed: threading.Event, seconds: float) -> None:
    """Wait until the next attempt, or until the client is stopped."""
    closed.wait(seconds)


def backoff_s(attempt: int) -> float:
    """Seconds to wait after attempt 0, 1, ...: twice as long each time, shortened at random by up to a half.

    Requests that were refused together so do not come back together.
    """
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * (1 - 0.5 * random.random()))


def retry_after_s(value: str | None, now: str | None = None) -> float | None:
    """Seconds a Retry-After header asks for, as a number or a date; None for none or one that says nothing.

    Args:
        value: Of the header.
        now: The server's own Date header; a date is counted from that, as the clock here may be another.

    Raises:
        ServerError: more than an hour.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(value).timestamp()
        except (TypeError, ValueError):
            return None
        begun = time.time()
        with suppress(TypeError, ValueError):
            begun = email.utils.parsedate_to_datetime(now or "").timestamp()
        seconds = until - begun
    if not seconds <= LONGEST_RETRY_AFTER_S:
        raise ServerError(f"The server asks to come back in {seconds:.0f} s.", fix="Run the same command again then.")
    return max(0.0, seconds)


def _shown(reply: Any) -> str:
    text = one_line(reply.content[:300].decode("utf-8", "replace"))
    return text if text.strip() else "(empty)"
