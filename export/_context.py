"""How long a text a student knows positions for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.families import Split


def context_of(split: Split, most: int) -> int:
    """Tokens of a bundle's cache: `most`, or as many as the model has positions for, where those are fewer."""
    configs: list[Any] = [getattr(part, "config", None) for part in split.text.modules()]
    known = [int(config.max_position_embeddings) for config in configs if hasattr(config, "max_position_embeddings")]
    return min([most, *known])
