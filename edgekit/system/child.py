"""Processes of edgekit's own that end with the one that started them, however that one ends.

The starter keeps the writing end of a pipe, and nobody ever writes. When the starter ends, by SIGKILL too, the kernel
closes it, and a thread of the child that waits for this end of file kills the child; so it is for grandchildren, and on
macOS as on Linux. A child whose starter ended before it came up finds the pipe closed. On Linux the kernel is asked
besides for a signal at the starter's end (PR_SET_PDEATHSIG): that also ends native code that never gives the thread a
turn. It is asked for only where the main thread starts a child, because it comes when the starting *thread* ends.

    python -m edgekit.system.child PIPE PARENT MODULE ARGUMENTS...

runs MODULE as python -m would; PARENT 0 asks no signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(module: str, *arguments: str, pass_fds: Sequence[int] = (), **popen: Any) -> subprocess.Popen[Any]:
    """Start a module in a Python process that ends with this one.

    Args:
        module, arguments: As for `python -m`.
        pass_fds: Descriptors that the child gets.
        popen: The rest of `subprocess.Popen`.
    """
    pipe, held = os.pipe()
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
    command = [sys.executable, "-m", "edgekit.system.child", str(pipe), str(parent), module, *arguments]
    try:
        process = subprocess.Popen(command, pass_fds=(pipe, *pass_fds), **popen)
    except BaseException:
        os.close(held)
        raise
    finally:
        os.close(pipe)
    weakref.finalize(process, os.close, held)  # at this interpreter's end too
    return process


def end_with_parent(pipe: int, parent: int) -> None:
    """Have this process killed when the one that holds the other end of a pipe ends.

    Args:
        pipe: The reading end; taken over.
        parent: The starter's process id, for the kernel's signal; 0 to leave that out.
    """
    os.set_inheritable(pipe, False)  # a grandchild must not be asked to read it
    threading.Thread(target=_wait_for_end, args=(pipe,), daemon=True, name="edgekit-parent").start()
    if parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            _die()


def _wait_for_end(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(pipe, 1):
            continue
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module of the command line."""
    pipe, parent, module, *arguments = sys.argv[1:]
    end_with_parent(int(pipe), int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
