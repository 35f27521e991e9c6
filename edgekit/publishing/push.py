"""A student, its bundles and its card to a repository of the hub, by huggingface_hub; never without being asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import EdgekitError, ServerError
from edgekit.files import inside, tree_files
from edgekit.publishing.card import HUB_NAME, Card

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEPT_BACK = (".lock",)
"""Ends of names that stay here."""


@dataclass(frozen=True)
class Upload:
    """What would go up.

    Attributes:
        repository: `org/name`.
        files: Name there -> file here, or the bytes of what is written for it.
    """

    repository: str
    files: Mapping[str, Path | bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {
            name: len(one) if isinstance(one, bytes) else one.stat().st_size for name, one in sorted(self.files.items())
        }


def gather(repository: str, student: Path, card: Card) -> Upload:
    """The student's folder at the top, where transformers looks for it, bundles below, and the card.

    Args:
        repository: `org/name`.
        student: Its folder.
        card: Of the run.

    Raises:
        EdgekitError: no such name, or a file of the folders lies elsewhere.
    """
    if not HUB_NAME.fullmatch(repository):
        raise EdgekitError(f"{repository!r} is no repository of the hub.", fix="Write  ORG/NAME")
    files: dict[str, Path | bytes] = {}
    for prefix, folder in {"": student, **{f"{name}/": folder for name, folder in card.bundles.items()}}.items():
        for name in tree_files(folder):
            if not name.endswith(KEPT_BACK):
                files[prefix + name] = inside(folder, name)
    files["README.md"] = card.text.encode()
    files |= {f".eval_results/{name}": text.encode() for name, text in card.results.items()}
    return Upload(repository, files)


def push(upload: Upload, *, private: bool, message: str) -> str:
    """Send it in one commit, so that nobody sees half of it.

    Args:
        upload: What.
        private: Of a repository that is made for it; one that is there keeps what it is.
        message: Of the commit.

    Returns:
        Address of the commit.

    Raises:
        ServerError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    hub: HfApi = HfApi(library_name="edgekit")
    operations = [
        CommitOperationAdd(name, one if isinstance(one, bytes) else str(one)) for name, one in upload.files.items()
    ]
    try:
        hub.create_repo(upload.repository, private=private, exist_ok=True)
        return str(hub.create_commit(upload.repository, operations, commit_message=message).commit_url)
    except OfflineModeIsEnabled as error:
        raise ServerError(
            "The hub is switched off here.", why="HF_HUB_OFFLINE is set.", fix="Unset it, and push again."
        ) from error
    except LocalTokenNotFoundError as error:
        raise _not_let_in(upload.repository, "There is no token here.") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise _not_let_in(upload.repository, f"It answered {status}.") from error
        raise ServerError(
            f"The hub refuses {upload.repository}.", why=str(error).strip().splitlines()[0][:300]
        ) from error
    except Exception as error:  # of the connection, from whatever client the library has today
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ServerError(
            "The hub cannot be reached.", why=reason[:300], fix="Nothing was published; push again."
        ) from error


def _not_let_in(repository: str, why: str) -> ServerError:
    return ServerError(
        f"The hub does not let you write to {repository}.", why=why, fix="Log in with a token that may:  hf auth login"
    )
