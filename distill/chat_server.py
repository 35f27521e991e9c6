"""A client for a server that speaks OpenAI's chat completions, as vLLM, SGLang, llama.cpp and others do."""

from __future__ import annotations

import os
import random
import threading
from typing import Any
from urllib.parse import urlsplit

from edgekit.chat import Message
from edgekit.errors import RecipeError, ServerError

BUSY = (408, 409, 425, 429)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before a retry; doubled for each further one
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RESUME = "What was done so far is kept: see to the server, then run the same command again."


class ChatServer:
    """One model of one server. Safe to use from many threads; it holds at most `concurrency` requests open.

    Args:
        url: Base address, for example http://localhost:8000/v1.
        model: Its name on the server.
        api_key_env: Name of the environment variable that holds the key; None sends none.
        concurrency: Requests at a time.
        retries: How often a request that timed out, was refused as too much, or met a fault of the server is sent
            again.
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
        key = _key(api_key_env)
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("an address starts with http:// or https:// and names a host")
            self._client = httpx2.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=timeout_s,
                limits=httpx2.Limits(max_connections=None),  # the slots bound them
                trust_env=parts.hostname not in LOOPBACK,  # a proxy is not meant for a server on this machine
            )
        except (ValueError, httpx2.InvalidURL) as error:
            raise RecipeError(
                f"{url!r} is no http address.", why=str(error), fix="For example:  http://localhost:8000/v1"
            ) from error
        self._slots = threading.BoundedSemaphore(concurrency)
        self._closed = threading.Event()

    def complete(self, messages: list[Message], **sampling: Any) -> list[str]:
        """The texts of the choices the server gives for a conversation.

        Args:
            messages: Roles and contents, as the server takes them.
            sampling: Further keys of the request: temperature, max_tokens, n, seed, ...
        Returns:
            One text for each choice; "" where the server gave none.
        Raises:
            ServerError: it could not be reached, timed out or failed after every retry, or refused the request.
        """
        body = {"model": self.model, "messages": messages, **sampling}
        problem = ""
        with self._slots:
            for attempt in range(self.retries + 1):
                if self._closed.is_set():
                    break
                problem, texts, wait_s = self._post(body)
                if texts is not None:
                    return texts
                if attempt < self.retries:
                    self._closed.wait(min(LONGEST_PAUSE_S, max(wait_s, self._pause(attempt))))
        tried = f" {self.retries + 1} times" if self.retries else ""
        raise ServerError(f"No answer of {self.model!r} at {self.url}{tried}.", why=problem, fix=RESUME)

    def stop(self) -> None:
        """Let no request be sent again: those that wait for their turn fail at once."""
        self._closed.set()

    def _pause(self, attempt: int) -> float:
        # Spread, so that requests refused together do not come back together.
        return float(FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0))

    def _post(self, body: dict[str, Any]) -> tuple[str, list[str] | None, float]:
        """What went wrong, the texts when nothing did, and how many seconds the server asks to wait."""
        import httpx2

        try:
            reply = self._client.post("chat/completions", json=body)
        except httpx2.TimeoutException:
            return f"It was silent for {self.timeout_s:g} s.", None, 0.0
        except httpx2.TransportError as error:
            return f"{type(error).__name__}: {error}", None, 0.0
        said = f"HTTP {reply.status_code}: {' '.join(reply.text[:500].split())}"
        if reply.status_code in BUSY or reply.status_code >= 500:
            return said, None, _seconds(reply.headers.get("retry-after"))
        if reply.status_code != 200:
            raise ServerError(f"The server at {self.url} refused a request for {self.model!r}.", why=said, fix=RESUME)
        try:
            choices = reply.json()["choices"]
            return "", [str(choice["message"].get("content") or "") for choice in choices], 0.0
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"Its reply is no chat completion: {said}", None, 0.0


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii():
        raise RecipeError(f"The environment variable {name} holds no key.", fix=f"Set it:  export {name}=...")
    return key


def _seconds(header: str | None) -> float:
    """Seconds of a Retry-After; 0 for none, or for one that is a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
