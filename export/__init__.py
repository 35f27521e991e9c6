"""Export targets, one file each. A target module holds:

PRECISIONS       common precision name -> the target's own word
EXTRA            extra of pyproject.toml it needs, and PACKAGES, what that extra installs
HOSTS            operating systems it can be exported on
RUNTIMES         names in edgekit.runtimes that run its bundles
SCHEMES          optional: precision -> weight grid (edgekit.quantisation), where a student may be trained for it
PARTS            optional: vision, embedding, text -> the precisions each can have, where a bundle can mix them
CALIBRATED       optional: precisions that need prompts to calibrate with; `write` takes them as a fourth argument
TINY             optional: family -> settings of its tiny checkpoint, where the target cannot take the plain one
appends_in_place(split, precision) -> bool    optional: whether such a decoder appends to one buffer that it takes as
                 past and as present
details(folder) -> dict    optional: what the manifest keeps as `details`
OPTIONS          optional: options of its own, by name: a tuple of words, the default first, or a free text's default;
                 `write` takes those given as `options`
plan(precision, options)         optional: refuses those that do not go together, before anything is loaded
label(folder, components, digest)   optional: writes into the program which export it belongs to
write(split, precision, folder) -> (components, tools)      tokenizer and processor files are there by then
open_components(folder, components) -> parity.Exported
"""

from __future__ import annotations

from edgekit.recipe import EXPORT_HELPERS as HELPERS
from edgekit.recipe import TARGETS

__all__ = ["HELPERS", "TARGETS", "vision_name"]


def vision_name(bucket: str) -> str:
    """A bucket's component in a bundle: vision_encoder, or vision_encoder_448x448."""
    return f"vision_encoder_{bucket}" if bucket else "vision_encoder"
