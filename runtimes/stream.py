"""Tokens to text as they come: no broken characters, and stop strings that end an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a tokenizer writes for bytes that are no whole character yet


class TextStream:
    """Turns tokens into text piece by piece.

    A piece is held back while it ends in an unfinished character or in what may become a stop string, so that the
    pieces joined are the answer's text and nothing ever has to be taken back.

    Args:
        decode: Tokens to text, trailing white space kept.
        stops: Texts that end the answer and are no part of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._shown = 0
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token.

        Returns:
            The text that is certain now and was not before; often empty.
        """
        self._ids.append(token)
        self.text = self._decode(self._ids)
        found = [place for stop in self._stops if (place := self.text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self.text = self.text[: min(found)]
            return self._upto(len(self.text))
        certain = self.text.rstrip(UNFINISHED)
        return self._upto(len(certain) - self._maybe_stop(certain))

    def finish(self) -> str:
        """What was held back, now that no token follows."""
        return self._upto(len(self.text))

    def _upto(self, end: int) -> str:
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _maybe_stop(self, text: str) -> int:
        """Length of the longest end of `text` that a stop string begins with."""
        longest = max((len(stop) for stop in self._stops), default=0) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
