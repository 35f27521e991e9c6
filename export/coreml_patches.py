"""What coremltools needs changed to convert PyTorch models here; each patch names the versions it is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

COREMLTOOLS = "9.0"  # the version whose `_cast` calls int() on arrays with one dimension, which NumPy 2.4 refuses


def needed() -> bool:
    """Whether the installed coremltools and NumPy need the patch.

    Raises:
        ModuleNotFoundError: coremltools is not installed.
    """
    import coremltools
    import numpy

    return coremltools.__version__ == COREMLTOOLS and tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 4)


@contextmanager
def patched() -> Iterator[None]:
    """Convert inside this block; nothing is changed where no patch is needed, and nothing afterwards.

    Raises:
        ModuleNotFoundError: coremltools is not installed.
    """
    if not needed():
        yield
        return
    from coremltools.converters.mil.frontend.torch import ops

    original = ops._cast

    def cast(context: Any, node: Any, dtype: Any, dtype_name: str) -> None:
        """coremltools' `_cast` with a constant of one element taken out of its array first."""
        (x,) = ops._get_inputs(context, node, expected=1)
        if x.can_be_folded_to_const() and getattr(x.val, "size", 0) == 1 and not isinstance(x.val, dtype):
            context.add(ops.mb.const(val=dtype(x.val.item()), name=node.name), node.name)
        else:
            original(context, node, dtype, dtype_name)

    ops._cast = cast
    try:
        yield
    finally:
        ops._cast = original
