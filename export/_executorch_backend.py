"""What a back-end of ExecuTorch is to an export: how modules are written for it, and how a program is handed to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingExtraError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgekit.families import Split

CACHED, PLAIN = "edgekit_cached", "edgekit_plain"
"""Names of a decoder's and a vision encoder's attention while they are traced."""
PLACES, HEADS, WIDTH = -1, -2, -3
"""Axes of a buffer: tokens it holds, key heads, width of a head."""


@dataclass(frozen=True)
class CacheWay:
    """How a decoder's cache is written and looked at.

    Attributes:
        buffer: Axes of a layer's buffer: PLACES, HEADS, WIDTH or 1.
        write: (buffer, new (1, H, T, D_head), start) writes in place.
        attend: (query (1, H, T, D_head), keys, values, start, mask, scaling) -> (1, T, H, D_head); causal without mask.
        by_tensor: `start` is the places (T,) of the new tokens, a tensor; else a number.
    """

    buffer: tuple[int, ...]
    write: Callable[[Tensor, Tensor, Any], None]
    attend: Callable[[Tensor, Tensor, Tensor, Any, Any, float | None], Tensor]
    by_tensor: bool = False

    def empty(self, places: int, heads: int, width: int) -> Tensor:
        """A buffer of a layer's keys, or values."""
        import torch

        sizes = {PLACES: places, HEADS: heads, WIDTH: width, 1: 1}
        return torch.zeros([sizes[axis] for axis in self.buffer])


@dataclass(frozen=True)
class Backend:
    """A back-end.

    Attributes:
        name: The word of `--option backend=`.
        precisions: That it can be lowered in.
        cache: Of its decoders.
        written: A module -> a copy as it takes it, with attention of a name.
        quantise: (module, precision): puts the weights of linear layers on their grid, in place.
        lower: (traced programs by method, those to delegate, constant methods) -> an EdgeProgramManager.
        traced: Held while a module of it is traced.
        refused: Why it is in none of the other precisions.
        modules: That lowering imports: import name -> distribution.
        knows: Kinds of states that it holds beside keys and values, as `Split.needs` names them.
    """

    name: str
    precisions: tuple[str, ...]
    cache: CacheWay
    written: Callable[[nn.Module, str], nn.Module]
    quantise: Callable[[nn.Module, str], None]
    lower: Callable[[Mapping[str, Any], Iterable[str], Mapping[str, Any]], Any]
    traced: Callable[[nn.Module], AbstractContextManager[None]]
    refused: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    knows: frozenset[str] = frozenset()

    def check_needs(self, split: Split) -> None:
        """Refuse states, or encoders of any view, that it was not seen to hold.

        Raises:
            UnsupportedError: there are some.
        """
        if missing := split.needs().keys() & {"blocks", "conv", "recurrent", "views"} - self.knows:
            raise UnsupportedError(
                f"ExecuTorch's back-end {self.name!r} cannot hold this model.",
                why="\n".join(f"It is not lowered there: {split.needs()[name]}." for name in sorted(missing)),
                fix="Leave --option backend out for XNNPACK.",
            )

    def check(self, precision: str) -> None:
        """Refuse what cannot be lowered, before anything is loaded.

        Raises:
            UnsupportedError: the precision is none of its own.
            MissingExtraError: a package that lowers is not installed.
        """
        if precision not in self.precisions:
            raise UnsupportedError(
                f"ExecuTorch's back-end {self.name!r} is not lowered in {precision} here.",
                why=self.refused.get(precision, "Nothing here writes such weights for it."),
                fix=f"It is in: {', '.join(self.precisions)}.  Or leave --option backend={self.name} out for XNNPACK.",
            )
        for name, package in self.modules.items():
            if not _found(name):
                raise MissingExtraError(
                    f"lower for ExecuTorch's back-end {self.name!r}",
                    package,
                    "executorch",
                    install="pip install 'edgekit[executorch]'",
                )


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


@contextmanager
def attention_known(way: CacheWay, plain: Any = None) -> Iterator[None]:
    """While a module is traced: CACHED and PLAIN are known to transformers.

    Args:
        way: What CACHED is.
        plain: What PLAIN is; torch's own attention when None.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def cached(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **_: Any
    ) -> tuple[Any, None]:
        """Causal attention (B, H, T, D) over the cache: key and value are its whole buffers."""
        return way.attend(query, key, value, module.edgekit_start, attention_mask, scaling), None

    ALL_ATTENTION_FUNCTIONS.register(PLAIN, plain or sdpa_attention_forward)
    ALL_ATTENTION_FUNCTIONS.register(CACHED, cached)
    for name in (PLAIN, CACHED):
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, lambda *_, **__: None)
    try:
        yield
    finally:
        for functions in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
            for name in (PLAIN, CACHED):
                functions._global_mapping.pop(name, None)


def as_it_is(module: nn.Module, attention: str) -> nn.Module:
    """A copy of a module with nothing replaced but its attention."""
    import copy

    twin = copy.deepcopy(module).eval()
    for part in twin.modules():
        config: Any = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = attention
    return twin
