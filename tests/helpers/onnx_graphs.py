"""The graphs of an ONNX bundle run as they are, with any batch and any cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Bundle


class Decoder:
    """The decoder's graph."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        bundle = Bundle.load(folder)
        part = bundle.manifest.components["text_decoder"]
        self._graph = onnxruntime.InferenceSession(bundle.path(part.file), providers=["CPUExecutionProvider"])
        self.inputs = [spec.name for spec in part.inputs]

    def decode(self, embeds: Any, mask: Any, positions: Any, past: list[Any]) -> tuple[Any, list[Any]]:
        """Logits (B, T, V) and the grown cache."""
        feeds = {"inputs_embeds": embeds.astype(np.float32), "attention_mask": mask, "position_ids": positions}
        feeds |= dict(zip((name for name in self.inputs if name.startswith("past_")), past, strict=True))
        logits, *grown = self._graph.run(None, {name: feeds[name] for name in self.inputs})
        return logits, grown
