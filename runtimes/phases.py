"""What this process is doing, for the beats that its worker sends; one model answers at a time in a process."""

from __future__ import annotations

from typing import Any


class Phase:
    """Where the work stands; written by the loops over a session, read by another thread."""

    def __init__(self) -> None:
        self._now = ("answer", 0, 1)
        self._answer = 0

    def enter(self, name: str, steps: int = 1) -> None:
        """Begin a step: load, encode, prefill, decode or answer.

        Args:
            name: Of the phase.
            steps: How many of them are done in one go.
        """
        self._now = (name, self._now[1] + 1, steps)

    def new_answer(self) -> None:
        """Begin another answer."""
        self._answer += 1
        self.enter("answer")

    def told(self) -> dict[str, Any]:
        """For a beat."""
        name, step, steps = self._now
        return {"phase": name, "step": step, "steps": steps, "answer": self._answer}


PHASE = Phase()
