"""edgekit: from a big vision-language model to one on a phone, with proof."""

from __future__ import annotations

__version__ = "0.1.0"
