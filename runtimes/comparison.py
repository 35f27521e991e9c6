"""A bundle as an export's parity run asks for it: opened by its own runtime, whichever that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.families.merging import Encoded
from edgekit.inputs.processor import Inputs
from edgekit.runtimes import RUNTIMES, runtime_for
from edgekit.runtimes.generate import follow_prepared
from edgekit.runtimes.session import Logits, Modules, Prepared, Session, VerifiedBy


class Opened:
    """What `edgekit.export.parity.Exported` asks for, over any session.

    Attributes:
        verified_by: Whether the runtime itself runs, or an evaluator of its programs.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.verified_by: VerifiedBy = session.verified_by

    def follow(self, inputs: Inputs, tokens: Sequence[int]) -> Iterator[Logits]:
        """The logits (V,) before each of the given tokens, feeding them one by one."""
        return follow_prepared(self._session, Prepared.of(inputs), tokens)

    def encode_images(self, inputs: Inputs) -> Encoded | None:
        """Features of a prompt's images; None where the runtime shows none of its modules."""
        return self._session.encode_image(Prepared.of(inputs)) if isinstance(self._session, Modules) else None

    def close(self) -> None:
        """Free what the session holds."""
        self._session.close()


def open_bundle(folder: Path) -> Opened:
    """Open a bundle by its own runtime, with as many threads as PyTorch, its reference, has in this process.

    Args:
        folder: The bundle.

    Raises:
        EdgekitError: no runtime here runs it, or the runtime refuses it.
    """
    import torch

    return Opened(RUNTIMES.load(runtime_for(folder)).open_session(folder, torch.get_num_threads()))
