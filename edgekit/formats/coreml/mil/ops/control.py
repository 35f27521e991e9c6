"""States, branches, loops, lists and class labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.formats.coreml.mil.ops import Bools, Ints, operation
from edgekit.formats.coreml.mil.ops.movement import region
from edgekit.formats.coreml.mil.values import dtype_named

if TYPE_CHECKING:
    from edgekit.formats.coreml.mil.program import Block, Frame


@operation(exact=True)
def read_state(frame: Frame, input: str) -> Tensor:
    """The state's value; another tensor object each time, so that `slice_update` can see who shares it."""
    return frame.states[input].detach()


@operation(exact=True)
def write_state(frame: Frame, input: str, data: Tensor) -> tuple[()]:
    """Replace the state's value.

    Raises:
        ValueError: another shape or type than the state's.
    """
    old = frame.states[input]
    if data.shape != old.shape or data.dtype != old.dtype:
        raise ValueError(f"state {input!r} is {old.dtype} {tuple(old.shape)}, not {data.dtype} {tuple(data.shape)}")
    frame.states[input] = data.detach()
    return ()


@operation(exact=True)
def coreml_update_state(frame: Frame, state: str, value: Tensor) -> Tensor:
    """`write_state`, then `read_state`: how coremltools spells it before a program is saved."""
    write_state(frame, state, value)
    return read_state(frame, state)


@operation(exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Bools | None = None,
    end_mask: Bools | None = None,
    squeeze_mask: Bools | None = None,
    in_place: bool = False,
) -> Tensor:
    """x with a region replaced.

    Args:
        x: Left as it is, unless `in_place`.
        update: The region's new values.
        in_place: Set by the evaluator, never by a program: x is a state that this result is written to next, and may
            be written into if nothing but the state and x share its memory.
    """
    index = region(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    target = x if in_place and _owners(x) == 2 else x.clone()
    if any(isinstance(part, slice) and (part.step or 1) < 0 for part in index):
        target.numpy()[index] = update.numpy()
    else:
        target[index] = update
    return target


def _owners(x: Tensor) -> int:
    """How many tensors share x's memory; a PyTorch that does not tell counts as too many."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    if count is None:
        return -1
    storage = x.untyped_storage()
    return int(count(storage._cdata)) - 1  # less `storage` itself


@operation(exact=True)
def cond(frame: Frame, blocks: list[Block], pred: bool) -> tuple[Any, ...]:
    """The first block if true, else the second."""
    return frame.run(blocks[0] if pred else blocks[1], [])


@operation(exact=True)
def while_loop(frame: Frame, blocks: list[Block], loop_vars: list[Any]) -> tuple[Any, ...]:
    """The second block on the loop's values for as long as the first one says so."""
    condition, body = blocks
    values = loop_vars
    while bool(frame.run(condition, values)[0]):
        values = list(frame.run(body, values))
    return tuple(values)


@operation(exact=True)
def make_list(
    elem_shape: list[Any], init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> list[Tensor]:
    """Zeros; elements whose shape is not known yet are empty."""
    known = all(isinstance(part, Tensor) for part in elem_shape)
    shape = [int(size) for part in elem_shape for size in part.reshape(-1)] if known else [0]
    return [torch.zeros(shape, dtype=dtype_named(dtype).torch)] * init_length


@operation(exact=True)
def list_length(ls: Any) -> Tensor:
    """How many elements, int32."""
    return torch.tensor(len(ls), dtype=torch.int32)


@operation(exact=True)
def list_read(ls: Any, index: int) -> Tensor:
    """One element."""
    found: Tensor = ls[index]
    return found


@operation(exact=True)
def list_write(ls: Any, index: int, value: Tensor) -> list[Tensor]:
    """A list with one element replaced; it grows as needed."""
    longer = list(ls) + [torch.zeros_like(value)] * (index + 1 - len(ls))
    longer[index] = value
    return longer


@operation(exact=True)
def list_gather(ls: Any, indices: Ints) -> Tensor:
    """Elements along a new first axis."""
    return torch.stack([ls[at] for at in indices])


@operation(exact=True)
def list_scatter(ls: Any, indices: Ints, value: Tensor) -> list[Tensor]:
    """A list with elements replaced by the rows of a tensor."""
    for at, row in zip(indices, value, strict=True):
        ls = list_write(ls, at, row)
    return list(ls)


@operation(exact=True)
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The likeliest class, and every class with its probability."""
    values = probabilities.reshape(-1).tolist()
    return classes[max(range(len(values)), key=values.__getitem__)], dict(zip(classes, values, strict=True))
