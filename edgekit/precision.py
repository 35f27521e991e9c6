"""Precisions of a bundle: one word for all its parts, or a word for each part that is not fp32."""

from __future__ import annotations

import difflib

from edgekit.errors import EdgekitError

WHOLE = "fp32"
PARTS = ("vision", "embedding", "text")
# Words for linear layers: as the precision of a whole bundle they leave the embedding table in fp32.
LINEAR = frozenset(
    {"int8", "int8-static", "int4", "pal8", "pal6", "pal4", "int4-calibrated", "pal6-calibrated", "pal4-calibrated"}
)


def split_list(text: str) -> list[str]:
    """The precisions of `--precision`: `fp32,int8` are two bundles, `vision=fp16,text=int4` is one.

    Raises:
        EdgekitError: whole precisions and parts stand in one list, or as `by_part`.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    parts = [item for item in items if "=" in item]
    if not parts:
        return items
    if len(parts) < len(items):
        whole = next(item for item in items if "=" not in item)
        raise EdgekitError(
            f"--precision {text!r} mixes {whole!r}, a whole bundle, with {parts[0]!r}, a part of one.",
            fix=f"Export twice:  --precision {whole}  and  --precision {','.join(parts)}",
        )
    return [canonical(text)]


def by_part(precision: str) -> dict[str, str]:
    """The word for each of vision, embedding and text; in a mixture, parts that are not named are fp32.

    Raises:
        EdgekitError: a part is unknown, named twice or has no precision.
    """
    if "=" not in precision:
        return {"vision": precision, "embedding": _embedding_of(precision), "text": precision}
    chosen: dict[str, str] = {}
    for item in precision.split(","):
        part, equals, word = (piece.strip() for piece in item.partition("="))
        if not equals or not word:
            raise EdgekitError(
                f"{item.strip()!r} in precision {precision!r} is not PART=PRECISION.",
                fix="For example:  --precision vision=fp16,text=int4",
            )
        if part not in PARTS:
            near = difflib.get_close_matches(part, PARTS, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise EdgekitError(f"A bundle has no part {part!r}.", fix=f"{hint}There are: {', '.join(PARTS)}.")
        if part in chosen:
            raise EdgekitError(f"Precision {precision!r} names {part} twice.", fix="Name each part once.")
        chosen[part] = word
    return {part: chosen.get(part, WHOLE) for part in PARTS}


def canonical(precision: str) -> str:
    """One spelling for one meaning: parts in order, fp32 left out, and one word where it says the same.

    Raises:
        EdgekitError: as `by_part`.
    """
    chosen = by_part(precision)
    if chosen == by_part(chosen["text"]):
        return chosen["text"]
    return ",".join(f"{part}={word}" for part, word in chosen.items() if word != WHOLE)


def is_mixed(precision: str) -> bool:
    """Whether parts have words of their own."""
    return "=" in precision


def folder_name(precision: str) -> str:
    """For names of folders: `vision-fp16_text-int4`."""
    return precision.replace("=", "-").replace(",", "_")


def _embedding_of(word: str) -> str:
    return WHOLE if word in LINEAR else word
