"""Locks on open files and folders; the system frees them when their process ends, however it ends."""

from __future__ import annotations

POLL_S = 0.005


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder until its descriptor is closed.

    Args:
        descriptor: It stays the caller's.
        wait: Until whoever has it lets it go.

    Returns:
        Whether; False where another has it.

    Raises:
        OSError: its file system knows no locks.
    """
    import filelock  # 45 ms, which `edgekit --help` would pay for

    return filelock.lock_descriptor(descriptor, blocking=wait, poll_interval=POLL_S)
