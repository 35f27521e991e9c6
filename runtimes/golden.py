"""The golden answers of a bundle, by its own runtime, and the proof that what it hands over is still what it gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import MANIFEST, Bundle
from edgekit.errors import BundleError, EdgekitError
from edgekit.handover import PROMPT, golden
from edgekit.handover.pieces import Pieces, read_pieces
from edgekit.inputs.chat import question
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import Answer, Chat, answer
from edgekit.runtimes.sampling import greedy
from edgekit.runtimes.session import Logits, Session

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_SECONDS = 60.0
"""After so many no further answer is begun."""
DIGITS = 4


def golden_answers(folder: Path, threads: int = 1) -> golden.Entry:
    """`answers` of golden.json, as this very bundle gives them through its runtime here.

    Args:
        folder: The bundle, with golden/ in it.
        threads: CPU threads.

    Returns:
        Fewer answers than there are conversations where the runtime is slow, and none where it does not run here; `why`
        says so.
    """
    begun = time.monotonic()
    try:
        name = runtime_for(folder)
        session = RUNTIMES.load(name).open(folder, threads)
    except EdgekitError as error:
        return golden.no_answers(error.what)
    found = {**golden.no_answers(""), "runtime": name, "verified_by": session.verified_by, "threads": threads}
    try:
        _answer_all(session, folder, found, begun + MOST_SECONDS)
    except EdgekitError as error:
        found["why"] = error.what
    finally:
        session.close()
    return found


def _answer_all(session: Session, folder: Path, found: golden.Entry, ends: float) -> None:
    """Fill `single` and `chat`.

    Args:
        session: Loaded.
        folder: The bundle's.
        found: What is filled, as far as it comes.
        ends: When no further answer is begun.
    """
    pieces = read_pieces(folder / PROMPT)
    if not isinstance(pieces, Pieces):
        found["why"] = pieces.unsupported
        return
    value = golden.read_golden(folder)
    files = {entry["name"]: entry["file"] for entry in value["pictures"]}
    for place in golden.ANSWERED:
        given = value["conversations"][place]
        if "refused" in given:
            continue
        if time.monotonic() > ends:
            found["why"] = f"no answer was begun after {MOST_SECONDS:g} s"
            return
        images = [golden.opened(folder, files[name]) for name in given["pictures"]]
        said, gap = _answered(session, given["messages"], images)
        found["single"].append({"conversation": place, **_entry(said, gap)})
    if pieces.assistant is not None and time.monotonic() <= ends:
        found["chat"] = list(_chat(session, folder, files))


def _answered(session: Session, messages: list[Any], images: list[Image]) -> tuple[Answer, _Gap]:
    gap = _Gap()
    return answer(session, messages, images, max_new_tokens=golden.MAX_NEW_TOKENS, choose=gap), gap


def _chat(session: Session, folder: Path, files: dict[str, str]) -> list[golden.Entry]:
    gap = _Gap()
    talk = Chat(session, max_new_tokens=golden.MAX_NEW_TOKENS, choose=gap)
    turns = []
    for text, names in golden.CHAT:
        images = [golden.opened(folder, files[name]) for name in names]
        messages = [*talk.messages, *question(text, len(images))]
        ids = session.prepare(messages, [*talk.images, *images]).ids[0].tolist()
        gap.least = None
        said = talk.say(text, images)
        turns.append(
            {
                "text": text,
                "pictures": list(names),
                "ids": golden.folded(ids),
                "cached": said.timings.cached_tokens,
                "answer": _entry(said, gap),
            }
        )
    return turns


def _entry(said: Answer, gap: _Gap) -> golden.Entry:
    return {"ids": said.token_ids, "text": said.text, "finish": said.finish, "gap": gap.least}


class _Gap:
    """The best token, and how near another one came."""

    def __init__(self) -> None:
        self.least: float | None = None

    def __call__(self, logits: Logits, ids: Sequence[int] = ()) -> int:
        """As `greedy`."""
        token = greedy(logits)
        second, best = np.partition(logits.astype(np.float64), -2)[-2:] if len(logits) > 1 else (-np.inf, 0.0)
        gap = float(best - second)
        if np.isfinite(gap) and (self.least is None or gap < self.least):
            self.least = float(f"{gap:.{DIGITS}g}")
        return token


def check_handover(bundle: Bundle, threads: int = 1) -> tuple[dict[str, float], str]:
    """Make again what a bundle hands over, and compare.

    Args:
        bundle: Whole.
        threads: CPU threads.

    Returns:
        Share that is the same, by name: prompt pieces, pixels, strings, conversations, answers; and what was not
        looked at, and why.

    Raises:
        BundleError: golden.json or app/model.json is no such document.
    """
    if PROMPT not in bundle.manifest.files:
        return {}, f"nothing for an app: a bundle of schema {bundle.manifest.schema_version}; export it again"
    try:
        return _check(bundle, threads)
    except (LookupError, TypeError, AttributeError, ValueError) as error:  # a stranger's document
        raise BundleError(
            f"What {bundle.folder} holds for apps is not what an export writes.",
            why=f"{type(error).__name__}: {str(error)[:300]}",
            fix="Export the bundle again.",
        ) from error


def _check(bundle: Bundle, threads: int) -> tuple[dict[str, float], str]:
    from edgekit import schema
    from edgekit.handover.prompt import find_pieces
    from edgekit.inputs.processor import Processor

    folder = bundle.folder
    processor = Processor.load(folder).as_exported(bundle.manifest.preprocessing)
    pieces, value = find_pieces(processor), golden.read_golden(folder)
    written, made = (_without_version(schema.to_json(one)) for one in (read_pieces(folder / PROMPT), pieces))
    again = golden.vectors(folder, value, processor)
    shares = {"app_prompt": float(written == made)}
    for key, name in (("pictures", "app_pixels"), ("strings", "app_strings"), ("conversations", "app_conversations")):
        shares[name] = _same(value[key], again[key])
    shares["app_model"] = float(_model_fits(bundle))
    known = value["answers"]
    if not known.get("single") and not known.get("chat"):
        return shares, f"no golden answers: {known.get('why')}"
    now = golden_answers(folder, threads)
    if not now["single"]:
        return shares, f"golden answers not asked again: {now['why']}"
    if now["verified_by"] != known.get("verified_by"):
        return shares, f"golden answers of the {known.get('verified_by')}, not compared with the {now['verified_by']}'s"
    both = [(_said(known, key), _said(now, key)) for key in ("single", "chat")]
    shares["app_answers"] = _same([one for ours, _ in both for one in ours], [one for _, ours in both for one in ours])
    return shares, ""


def _said(answers: golden.Entry, key: str) -> list[Any]:
    """Without the gaps, whose last digits may differ."""
    rows = answers[key]
    if key == "single":
        return [{**row, "gap": None} for row in rows]
    return [{**row, "answer": {**row["answer"], "gap": None}} for row in rows]


def _same(known: list[Any], made: list[Any]) -> float:
    if len(known) != len(made) or not known:
        return float(known == made)
    return sum(bool(a == b) for a, b in zip(known, made, strict=True)) / len(known)


def _without_version(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "checked"}


def _model_fits(bundle: Bundle) -> bool:
    """Whether app/model.json says of its files, and of the model, what the manifest says.

    Both as they stand there: an older edgekit's have fewer fields, and the same ones.
    """
    from edgekit import strict_json
    from edgekit.handover import MODEL
    from edgekit.handover.model import KEPT
    from edgekit.schema import to_json

    value, written = strict_json.read(bundle.path(MODEL)), strict_json.read(bundle.path(MANIFEST))
    entries = to_json(bundle.manifest.files)
    manifest = {key: written.get(key) for key in KEPT}
    listed = {row["path"]: {"bytes": row["bytes"], "sha256": row["sha256"]} for row in value["files"]}
    owned = {part.file for part in bundle.manifest.components.values()}
    return (
        {key: value.get(key) for key in KEPT} == manifest
        and all(entries.get(path) == entry for path, entry in listed.items())
        and owned <= listed.keys()
    )
