"""MLX: the GPU of a Mac. Lowered here, and not run.

ExecuTorch's wheel for Linux lacks four files that its own generate.py makes of its schema, with the flatbuffer compiler
that is in the wheel. They are made in a temporary folder, and nothing that is installed is changed.
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.export._executorch_backend import HEADS, PLACES, WIDTH, Backend, CacheWay, as_it_is, attention_known
from edgekit.export._executorch_precision import in_weights_alone
from edgekit.system.temporary import room

if TYPE_CHECKING:
    from torch import Tensor, nn

SCHEMA = "executorch.backends.mlx.serialization"
MADE = ("mlx_graph_schema.py", "_generated_serializers.py", "_generated")
LIMIT_S = 300
LASTING = Path(tempfile.gettempdir())  # read here: while an export writes, temporary files go with its own folder


def _write(buffer: Tensor, new: Tensor, start: Any) -> None:
    import torch

    torch.ops.mlx.kv_cache_update(buffer, new, start)


def _attend(query: Tensor, keys: Tensor, values: Tensor, start: Any, _: Any, scaling: float | None) -> Tensor:
    import torch

    found: Tensor = torch.ops.mlx.custom_sdpa(query, keys, values, start, None, 0.0, True, scaling)
    return found.transpose(1, 2)


MLX = CacheWay((1, HEADS, PLACES, WIDTH), _write, _attend)
"""MLX's own operators: its patterns know these, and not ExecuTorch's."""


_HELD = ExitStack()
atexit.register(_HELD.close)


@cache
def make_importable() -> None:
    """Have MLX's generated files at hand, for as long as this process lives: it imports some of them late.

    Raises:
        EdgekitError: they are not made.
    """
    backends = find_spec("executorch.backends")
    assert backends is not None and backends.submodule_search_locations
    own = Path(next(iter(backends.submodule_search_locations))) / "mlx" / "serialization"
    if (own / MADE[0]).is_file():
        return
    folder = _HELD.enter_context(room("mlx", LASTING)) / "mlx" / "serialization"
    shutil.copytree(own, folder)
    compiler = own.parents[2] / "data" / "bin" / "flatc"
    ran = subprocess.run(  # it ends with an error where it looks for templates of C++, behind what is wanted here
        [sys.executable, "generate.py", "--flatc", str(compiler)],
        cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    if missing := [name for name in MADE if not (folder / name).exists()]:
        raise EdgekitError(
            f"ExecuTorch's MLX back-end does not make its file {missing[0]}.",
            why=(ran.stderr or ran.stdout)[-500:],
            fix="Choose another:  --option backend=xnnpack",
        )
    sys.meta_path.insert(0, _Finder(folder))


class _Finder(MetaPathFinder):
    """The package of MLX's schema, from another folder than the one it is installed in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Of that package; what is inside it is found there by its `__path__`."""
        if fullname != SCHEMA:
            return None
        first = self.folder / "__init__.py"
        return spec_from_file_location(fullname, first, submodule_search_locations=[str(self.folder)])


def lower(traced: Mapping[str, Any], delegated: Iterable[str], constant_methods: Mapping[str, Any]) -> Any:
    """Hand to MLX what it takes; arguments as of XNNPACK's `lower`. Its partitioner wants just this way."""
    from executorch.backends.mlx.partitioner import MLXPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    return to_edge_transform_and_lower(
        dict(traced),
        partitioner={name: [MLXPartitioner()] for name in delegated},
        constant_methods=dict(constant_methods),
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )


@contextmanager
def traced(_: nn.Module) -> Iterator[None]:
    """While a module of it is traced."""
    make_importable()
    import executorch.backends.mlx  # noqa: F401  (its operators)

    with attention_known(MLX):
        yield


BACKEND = Backend(
    name="mlx",
    precisions=("fp32", "int8", "int4"),
    cache=MLX,
    written=as_it_is,
    quantise=in_weights_alone,
    lower=lower,
    traced=traced,
    modules={"flatbuffers": "flatbuffers", "executorch.backends": "executorch"},
    refused={"int8-static": "The static grid here is XNNPACK's own quantiser's."},
)
