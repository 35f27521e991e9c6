"""The one exception edgekit raises for things a user can put right.

A bug is not an `EdgekitError`: it is left to crash with its traceback.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


LONGEST = 8000
"""Characters of each part of a message: libraries quote what they were given, and that may be a file of 50 MB."""


class EdgekitError(Exception):
    """Something the user can put right: what failed, why, and what to do next.

    Args:
        what: One line that names what failed, with the value.
        why: The cause, where it is not already in `what`.
        fix: The next command or change.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = _shortened(what), _shortened(why), fix
        super().__init__("\n".join(part for part in (self.what, _indent(self.why), _indent(fix)) if part))


class RecipeError(EdgekitError):
    """A recipe, or a setting given on the command line, is not valid."""


class DataError(EdgekitError):
    """Samples could not be read."""


class CheckpointError(EdgekitError):
    """A model folder is missing, damaged, or of a kind that cannot be used here."""


class BundleError(EdgekitError):
    """A bundle is missing, damaged, tampered with, or newer than this edgekit."""


class NotFiniteError(EdgekitError):
    """A model or an exported graph gave NaN or infinite numbers."""


class StorageError(EdgekitError):
    """The disk is full, or a folder cannot be written."""


class DamagedError(EdgekitError):
    """A file or folder is not as edgekit wrote it.

    Args:
        path: Of it.
        why: What is wrong with it.
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is damaged.",
            why=why,
            fix="If it is part of a run, the command that began the run makes it again:  edgekit distill",
        )


class NoSpaceError(StorageError):
    """The disk is full."""


class ServerError(EdgekitError):
    """A model's server could not be reached, failed, or gave no usable answers."""


class MissingExtraError(EdgekitError):
    """A part of edgekit needs a package that is not installed."""

    def __init__(self, action: str, package: str, extra: str, *, ready: str = "", install: str = "") -> None:
        fix = "Install it:  " + (install or f"pip install 'edgekit[{extra}]'")
        if ready:
            fix += f"\nReady now:   {ready}    (edgekit doctor shows why)"
        super().__init__(f"Cannot {action} here: {package} is not installed.", fix=fix)


class UnsupportedError(EdgekitError):
    """A target cannot hold a model of this kind, by its design."""


class NotHereError(EdgekitError):
    """A bundle's runtime is not on this machine, whatever is installed: it was lowered, and is run elsewhere."""


class ContextError(DataError):
    """A prompt and its answer do not fit into a bundle's cache.

    Args:
        tokens: That fit.
        why: So many do.
        fix: What else helps, behind the usual.
    """

    def __init__(self, tokens: int, why: str = "So many the cache of this bundle holds.", fix: str = "") -> None:
        usual = "Ask with fewer or smaller images, or for a shorter answer"
        super().__init__(
            f"The prompt and its answer take more than {tokens} tokens.",
            why=why,
            fix=f"{usual}; {fix}." if fix else f"{usual}.",
        )


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that a mistyped one is most like; None where none is alike enough (0 to 1)."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The question for a message; "" where no known word is alike enough."""
    near = nearest(word, known, cutoff)
    return "" if near is None else f"Did you mean {near!r}?"


def _shortened(text: str) -> str:
    left = len(text) - LONGEST
    return text if left <= 0 else f"{text[:LONGEST]}... ({left:,} more characters)"


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())
