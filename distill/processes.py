"""Several processes on one run: who is the main one, what it decides for all, and where they wait for each other.

`accelerate launch` or `torchrun` start the processes; accelerate's PartialState joins them (NCCL on GPUs, gloo on
CPUs). With one process everything here is a plain call. All processes must see the run's folder at the same path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from edgekit.console import note

S = TypeVar("S")
T = TypeVar("T")
# A process that dies is noticed by the launcher, which ends the others; waiting for a slow one is no fault.
PATIENCE = timedelta(days=7)


def state() -> Any:
    """accelerate's PartialState, which joins the other processes at the first call."""
    from accelerate import PartialState

    # With one process accelerate passes keywords to nobody; with several, to init_process_group.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def join() -> None:
    """Meet the other processes, before anything is read or written."""
    launched = os.environ.get("MASTER_ADDR") and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if launched and "WORLD_SIZE" not in os.environ:
        # accelerate 1.15 sets MASTER_ADDR for several processes, and then starts one: its CPU launcher needs mpirun.
        note("accelerate launch --cpu started one process. For several on CPUs:  accelerate launch --multi_gpu ...")
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if str(state().distributed_type).endswith("MULTI_CPU") and sharded:
        note("accelerate shards on accelerators only: on these CPUs each process holds the whole student.")


def count() -> int:
    """Processes on this run."""
    return int(state().num_processes)


def index() -> int:
    """This one's place, from 0."""
    return int(state().process_index)


def is_main() -> bool:
    """Whether this one writes the run's files."""
    return index() == 0


def device() -> torch.device:
    """Where this process computes."""
    place: torch.device = state().device
    return place


def wait() -> None:
    """Until every process is here."""
    state().wait_for_everyone()


def from_main(make: Callable[[], T]) -> T:
    """What `make` gives in the main process, for all; the others wait and do not call it.

    Args:
        make: Its value is pickled on the way to the others. What it raises ends the main process, and with it,
            by the launcher, all.
    """
    if count() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [make() if is_main() else None]
    return broadcast_object_list(box)[0]  # type: ignore[no-any-return]


def gathered(rows: list[T]) -> list[T]:
    """The lists of all processes, one after the other, in every process."""
    if count() == 1:
        return rows
    from accelerate.utils import gather_object

    return gather_object(rows)  # type: ignore[no-any-return]


def any_of(mine: bool) -> bool:
    """Whether it is so in any of the processes; to be asked by all of them."""
    if count() == 1:
        return mine
    from torch import distributed

    flag = torch.tensor(int(mine), device=device())
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


@contextmanager
def main_first() -> Iterator[None]:
    """The block in the main process, then in the others: what it checks fails once, what it caches is there."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def as_forward(wrapped: Any, inner: nn.Module, call: Callable[[Any, S], T], argument: S) -> T:
    """`call(inner, argument)` run as the forward pass of the wrapper around `inner`.

    DDP, FSDP and DeepSpeed gather weights and synchronise gradients around the wrapped model's forward, while the
    loss calls parts of the model one by one.

    Source: `_ForwardRedirection` of Lightning Fabric, as TRL uses it too.

    Args:
        wrapped: What Trainer prepared; `inner` itself where nothing wraps it.
        inner: The model.
        call: What it returns must hold the tensors that the loss is made of.
        argument: Not empty and no tensor: DDP moves tensors, and asks for at least one argument.
    """
    own = vars(inner).get("forward")  # accelerate puts its autocast there
    restored = False

    def restore() -> None:
        nonlocal restored
        if not restored:
            restored = True
            del inner.forward
            if own is not None:
                inner.forward = own

    def forward(given: S) -> T:
        restore()  # `call` may itself use the model's forward
        return call(inner, given)

    inner.forward = forward
    try:
        result: T = wrapped(argument)
    finally:
        restore()
    return result
