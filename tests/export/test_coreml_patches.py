"""The patch of coremltools: needed, enough, and gone afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgekit.export.coreml_patches import needed, patched

ct = pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'edgekit[coreml]'")


class Sized(nn.Module):
    """A size from a tensor of one element, which traces to `int()` of a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(torch.tensor([2]), -1)  # type: ignore[call-overload, no-any-return]


def convert() -> None:
    traced = torch.jit.trace(Sized().eval(), torch.zeros(1, 8))
    ct.convert(traced, inputs=[ct.TensorType("x", shape=(1, 8))], skip_model_load=True)


def test_it_is_still_needed() -> None:
    """When this fails, the installed coremltools or NumPy converts without the patch: remove it."""
    assert needed()
    with pytest.raises(TypeError, match="0-dimensional arrays"):
        convert()


def test_it_is_enough_and_leaves_no_trace() -> None:
    from coremltools.converters.mil.frontend.torch import ops

    before = ops._cast
    with patched():
        assert ops._cast is not before
        convert()
    assert ops._cast is before


def test_other_versions_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from coremltools.converters.mil.frontend.torch import ops

    before = ops._cast
    monkeypatch.setattr(ct, "__version__", "9.1")
    with patched():
        assert ops._cast is before
