"""Libraries that talk, kept quiet: what they warn of is said in edgekit's own words, or changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' warnings and progress bars while the block runs."""
    from transformers.utils import logging

    level: Any = logging
    before = level.get_verbosity()
    level.set_verbosity_error()
    level.disable_progress_bar()
    try:
        yield
    finally:
        level.set_verbosity(before)
