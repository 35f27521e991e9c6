"""Text of others, shown and not obeyed: an escape for every character that a terminal, a page or a reader would follow.

Answers of models, names, what a process or a board printed last, fields of manifests, rows of data: any of it may hold
sequences that clear a screen, name its window or turn the direction of writing, so that one thing reads as another. All
that prints goes through here; tests/test_visible.py looks that nothing prints past it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from edgekit.errors import EdgekitError

# Controls but for tab and line feed, with Unicode's own (C1); line and paragraph separators; marks that turn the
# direction of writing; annotation and tag characters, which hide text; halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_BREAKS = re.compile("[\t\n]")


def visible(text: str) -> str:
    """Text with backslash escapes in the place of what would be obeyed; tabs and line feeds stay."""
    return _UNSEEN.sub(_escape, text)


def one_line(text: str) -> str:
    """As `visible`, tabs and line feeds escaped too: for names, and for cells of a table."""
    return _BREAKS.sub(_escape, visible(text))


def message(error: EdgekitError) -> str:
    """An error as it is printed: what failed on one line, why and what to do below it."""
    rest = str(error).removeprefix(error.what)
    return one_line(error.what) + visible(rest)


def json_text(value: Any, *, indent: int | None = None, **settings: Any) -> str:
    """A JSON document that shows letters of all languages, and as JSON escapes what `visible` escapes."""
    return _UNSEEN.sub(_json_escape, json.dumps(value, indent=indent, ensure_ascii=False, **settings))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]
