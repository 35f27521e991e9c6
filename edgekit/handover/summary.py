"""One line on what a bundle hands over to apps."""

from __future__ import annotations

from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.handover import PROMPT
from edgekit.handover.golden import read_golden
from edgekit.handover.pieces import Unsupported, read_pieces


def summary(bundle: Bundle) -> str:
    """What of prompt pieces and golden vectors there is, and why what is missing is.

    Args:
        bundle: Loaded.
    """
    if PROMPT not in bundle.manifest.files:
        return f"nothing for an app: a bundle of schema {bundle.manifest.schema_version}"
    try:
        pieces, value = read_pieces(bundle.path(PROMPT)), read_golden(bundle.folder)
    except EdgekitError as error:
        return error.what
    if isinstance(pieces, Unsupported):
        return f"no app can ask it: {pieces.unsupported}"
    counts = ", ".join(f"{len(value[key])} {key}" for key in ("pictures", "strings", "conversations"))
    asked = [len(found) if isinstance(found := value["answers"].get(key), list) else 0 for key in ("single", "chat")]
    refused = "".join(f"; no {name}: {why}" for name, why in pieces.refused.items())
    return (
        f"prompt pieces equal in {pieces.checked.conversations} conversations; golden {counts}, {asked[0]} answers and "
        f"{asked[1]} turns of a chat{refused}"
    )
