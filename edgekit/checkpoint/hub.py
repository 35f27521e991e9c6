"""Models of the hub: fetched, or taken from its cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import CheckpointError

if TYPE_CHECKING:
    pass


def from_hub(name: str, weights: bool) -> Path:
    """The folder of a hub's model, fetched where it can be.

    Args:
        name: `org/model`.
        weights: Those too, not configuration and tokenizer alone.

    Raises:
        CheckpointError: no name of a hub, or the hub did not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["bundles/*"]))
    except HFValidationError as error:
        raise CheckpointError(f"No model at {name!r}.", why="It is no folder and no hub name.") from error
    except Exception as error:  # offline, unknown and refused all come as different types from several layers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"No model at {name!r}.", why=f"It is no folder here, and the hub did not give it: {reason}"
        ) from error
