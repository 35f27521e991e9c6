"""Time to the first token of a chat's later turns: the cache kept, beside the whole conversation prefilled anew.

One process, repetitions interleaved, one thread:  python benchmarks/chat.py BUNDLE [--turns 4] [--repetitions 15]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgekit.demo.shapes import draw
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Chat, answer

WORDS = "what else is there to see, and what is it like?"


def measure(bundle: Path, turns: int, repetitions: int) -> list[dict[str, Any]]:
    """A row per turn: tokens prefilled and kept, and the shortest time of all repetitions each way, in ms.

    The shortest, since on a shared machine the others tell of its other users.
    """
    # A session each: what one is asked must not move the other's cache.
    ours, other = (RUNTIMES.load(runtime_for(bundle)).open_session(bundle, 1) for _ in range(2))
    image = draw(0)[0]
    rows: list[dict[str, Any]] = [{"turn": turn + 1, "kept_ms": 1e9, "anew_ms": 1e9} for turn in range(turns)]
    for _ in range(repetitions):
        chat = Chat(ours, max_new_tokens=8)
        for turn, row in enumerate(rows):
            kept = chat.say(WORDS, [image] if turn == 0 else []).timings
            anew = answer(other, chat.messages[:-1], [image], max_new_tokens=8).timings
            row |= {"prefilled": kept.prompt_tokens, "kept": kept.cached_tokens, "anew": anew.prompt_tokens}
            row["kept_ms"] = min(row["kept_ms"], kept.ttft_ms)
            row["anew_ms"] = min(row["anew_ms"], anew.ttft_ms)
    return rows


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=15)
    given = parser.parse_args()
    print("turn  tokens prefilled  kept  TTFT kept ms  TTFT anew ms  ratio")
    for row in measure(given.bundle, given.turns, given.repetitions):
        times = f"{row['kept_ms']:12.2f}  {row['anew_ms']:12.2f}  {row['anew_ms'] / row['kept_ms']:5.2f}"
        print(f"{row['turn']:4}  {row['prefilled']:16}  {row['kept']:4}  {times}")


if __name__ == "__main__":
    main()
