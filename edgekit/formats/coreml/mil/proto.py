"""Core ML's protobuf messages, without the three seconds that importing coremltools takes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekit.errors import BundleError, MissingExtraError
from edgekit.strict_json import read_bytes

_ALIAS = "_edgekit_coreml_proto"
MOST_BYTES = 24 << 20
"""Of a program without its weights; as messages it can take some forty times as much memory."""


@cache
def model_module() -> Any:
    """The module `Model_pb2`.

    Its generated files need protobuf alone, so they are imported as a package of their own unless coremltools is
    loaded already; protobuf gives both the same classes.

    Raises:
        MissingExtraError: coremltools is not installed.
    """
    if "coremltools.proto" in sys.modules:
        return importlib.import_module("coremltools.proto.Model_pb2")
    spec = importlib.util.find_spec("coremltools")
    if spec is None or spec.origin is None:
        raise MissingExtraError("read Core ML packages", "coremltools", "coreml")
    package = ModuleType(_ALIAS)
    package.__path__ = [str(Path(spec.origin).parent / "proto")]
    sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.Model_pb2")


def read_model(path: Path) -> Any:
    """The `Model` message of a file.

    Raises:
        BundleError: not one.
    """
    from google.protobuf.message import DecodeError

    message = model_module().Model()
    try:
        message.ParseFromString(read_bytes(path, MOST_BYTES))
    except (DecodeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} is no Core ML model, or cut short.", why=str(error)[:300], fix="Copy or export the package again."
        ) from error
    return message
