"""What a report's numbers and names may be, before anything is computed from them: it may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.schema import listed

if TYPE_CHECKING:
    from edgekit.report.model import Report, Row

MOST = 1e18
"""Milliseconds, bytes, tokens per second: of any figure."""
MOST_ROWS = 4096
MOST_NAME = 1024
"""Characters of what a row is called by."""
NAMES = ("bundle", "name", "runtime", "target", "precision", "device")
SHARES = ("accuracy", "accuracy_ci95", "accuracy_p", "accuracy_p_holm", "token_agreement", "top1_agreement")
FIGURES = (
    "n", "load_ms", "load_warm_ms", "prompt_tokens", "image_tokens", "ttft_ms", "ttft_ms_ci95", "ttft_ratio",
    "ttft_ratio_ci95", "image_encode_ms", "image_encode_ms_ci95", "prefill_ms", "prefill_tokens_per_s",
    "decode_tokens_per_s", "decode_tokens_per_s_ci95", "decode_ratio", "decode_ratio_ci95", "itl_ms_p50", "itl_ms_p95",
    "itl_ms_p99", "peak_memory_bytes", "size_bytes",
)  # fmt: skip


def check(report: Report, source: str) -> None:
    """Look whether a report says what one can say.

    Raises:
        EdgekitError: it does not; every problem is listed by its field, the first few where there are many.
    """
    problems = list(_problems(report))
    if problems:
        raise EdgekitError(
            f"{source} is not a valid report:", why=listed(problems), fix="Make it again:  edgekit bench"
        )


def _problems(report: Report) -> Iterator[str]:
    if not 0 <= report.threads <= MOST:
        yield "threads: it is from 0 on"
    if len(report.rows) > MOST_ROWS:
        yield f"rows: {len(report.rows):,} of them; {MOST_ROWS:,} are read at most"
        return
    for place, row in enumerate(report.rows):
        yield from row_problems(row, f"rows[{place}]")


def row_problems(row: Row, at: str) -> Iterator[str]:
    """What no row can say, a line each.

    Args:
        row: Of a report.
        at: Where it stands, for messages.
    """
    for name in NAMES:
        if len(getattr(row, name)) > MOST_NAME:
            yield f"{at}.{name}: {len(getattr(row, name)):,} characters; it has {MOST_NAME:,} at most"
    for names, most in ((SHARES, 1.0), (FIGURES, MOST)):
        for name in names:
            yield from _within(f"{at}.{name}", getattr(row, name), most)


def _within(at: str, value: Any, most: float) -> Iterator[str]:
    ends = value if isinstance(value, tuple) else () if value is None else (value,)
    if not all(0 <= end <= most for end in ends):
        yield f"{at}: {_shown(value)} is not from 0 to {most:g}"
    elif len(ends) == 2 and ends[0] > ends[1]:
        yield f"{at}: {_shown(value)} ends before it begins"


def _shown(value: Any) -> str:
    ends = value if isinstance(value, tuple) else (value,)
    text = ", ".join(f"{end:g}" if abs(end) < 1 << 63 else "a number of more than 64 bits" for end in ends)
    return f"[{text}]" if isinstance(value, tuple) else text
