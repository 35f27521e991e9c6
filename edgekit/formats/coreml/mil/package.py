"""Core ML packages (`.mlpackage`) with an ML Program: their files, functions, states and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit import strict_json
from edgekit.errors import BundleError, EdgekitError
from edgekit.files import inside
from edgekit.formats.coreml.mil.program import Block, Compiler, Constant, Frame, Kept
from edgekit.formats.coreml.mil.proto import read_model
from edgekit.formats.coreml.mil.values import DType, dtype_numbered, shape_of
from edgekit.formats.coreml.mil.weights import Weights

SPEC_VERSIONS = range(6, 11)  # iOS 15, the first with ML Programs, to iOS 26
KEEP = {"auto": 16 << 20, "dense": float("inf"), "stored": 0}
"""Bytes of decompressed weights to hold, by what a package may be told."""
UNREADABLE = (
    RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, AttributeError, AssertionError,
)  # fmt: skip
_AGAIN = "Copy or export the package again."


@dataclass(frozen=True)
class Shapes:
    """The shapes an input may have.

    Attributes:
        listed: Enumerated shapes; empty where ranges say it.
        ranges: (least, greatest) of each axis; a greatest of -1 has no bound.
    """

    listed: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[int, int], ...]

    def allow(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is one of them."""
        if self.listed:
            return shape in self.listed
        return len(shape) == len(self.ranges) and all(
            low <= size and (high < 0 or size <= high) for size, (low, high) in zip(shape, self.ranges, strict=True)
        )

    def __str__(self) -> str:
        if self.listed:
            return " or ".join(str(list(shape)) for shape in self.listed)
        spans = [str(low) if low == high else f"{low}..{high if high >= 0 else ''}" for low, high in self.ranges]
        return f"[{', '.join(spans)}]"


@dataclass(frozen=True)
class Input:
    """An input or a state of a function."""

    name: str
    dtype: DType
    shapes: Shapes
    default: float | None = None


class State:
    """What a function remembers from one prediction to the next: its state tensors by name."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def read(self, name: str) -> NDArray[Any]:
        """A copy of one tensor."""
        found: NDArray[Any] = self.tensors[name].numpy().copy()
        return found

    def write(self, name: str, value: NDArray[Any]) -> None:
        """Replace one tensor.

        Raises:
            EdgekitError: another shape.
        """
        old = self.tensors[name]
        new = torch.tensor(value, dtype=old.dtype)
        if new.shape != old.shape:
            raise EdgekitError(f"State {name!r} has the shape {list(old.shape)}, not {list(new.shape)}.")
        self.tensors[name] = new


class Function:
    """One function of a package, ready to run."""

    def __init__(
        self, name: str, inputs: list[Input], states: list[Input], block: Block, size: int, outputs: list[str]
    ):
        self.name, self.inputs, self.states, self.outputs = name, inputs, states, outputs
        self.block = block
        self._size = size

    def make_state(self) -> State:
        """A new state, all zeros."""
        return State({part.name: _zeros(part) for part in self.states})

    def predict(self, inputs: Mapping[str, Any], state: State | None = None) -> dict[str, Any]:
        """Run the function once.

        Args:
            inputs: An array for each input; integers and floats are converted where no value changes its kind.
            state: From `make_state`, this function's or another one's with the same states; written to. A function
                with states and none given starts from zeros.

        Returns:
            An array for each output; a classifier's label and dictionary as they are.

        Raises:
            EdgekitError: an input is missing, unknown, or of the wrong shape or type, or an operation fails.
        """
        if not isinstance(inputs, Mapping):
            raise EdgekitError(
                f"Function {self.name!r} takes its inputs by name, not as {type(inputs).__name__}.",
                fix=f"Give predict a dictionary of {', '.join(part.name for part in self.inputs)}.",
            )
        unknown = inputs.keys() - {part.name for part in self.inputs}
        if unknown:
            raise EdgekitError(
                f"Function {self.name!r} has no input {', '.join(sorted(map(str, unknown)))}.",
                fix=f"It has: {', '.join(part.name for part in self.inputs)}.",
            )
        values = [_given(self.name, part, inputs) for part in self.inputs]
        state = state if state is not None else self.make_state()
        self._check(state)
        with torch.no_grad():
            results = Frame(self._size, state.tensors).run(self.block, values)
        return {name: _array(value) for name, value in zip(self.outputs, results, strict=True)}

    def _check(self, state: State) -> None:
        for part in self.states:
            found = state.tensors.get(part.name) if isinstance(state, State) else None
            if found is None or not part.shapes.allow(tuple(found.shape)) or found.dtype != part.dtype.torch:
                raise EdgekitError(
                    f"This state does not fit function {self.name!r}.",
                    why=f"It wants {part.name!r} as {part.dtype.name} {part.shapes}.",
                    fix="Make one with make_state().",
                )


def _zeros(part: Input) -> Tensor:
    """By NumPy, not PyTorch: so a cache takes memory only where it was written to."""
    like = torch.empty(0, dtype=part.dtype.torch).numpy()
    return torch.from_numpy(np.zeros([low for low, _ in part.shapes.ranges], like.dtype))


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _given(function: str, part: Input, inputs: Mapping[str, Any]) -> Tensor:
    """An input as a tensor of its own."""
    if part.name not in inputs:
        if part.default is None:
            raise EdgekitError(f"Function {function!r} needs the input {part.name!r}, {part.dtype.name} {part.shapes}.")
        return torch.full([low for low, _ in part.shapes.ranges], part.default, dtype=part.dtype.torch)
    try:
        value = inputs[part.name]
        value = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise EdgekitError(f"Input {part.name!r} is no array of numbers.", why=str(error)) from error
    shape = tuple(value.shape)
    if not part.shapes.allow(shape):
        raise EdgekitError(
            f"Input {part.name!r} of function {function!r} has the shape {list(shape)}.",
            why=f"The package takes {part.shapes}.",
        )
    whole = not part.dtype.torch.is_floating_point
    if value.is_complex() or (whole and value.is_floating_point()):
        raise EdgekitError(
            f"Input {part.name!r} of function {function!r} is {str(value.dtype).removeprefix('torch.')}.",
            why=f"The package takes {part.dtype.name}.",
        )
    made = value.to(part.dtype.torch)
    if whole and not torch.equal(made.to(value.dtype), value):
        raise EdgekitError(
            f"Input {part.name!r} of function {function!r} has numbers that {part.dtype.name} cannot hold.",
            why=f"They are {int(value.min())} to {int(value.max())}.",
        )
    return made


class Package:
    """A package on disk.

    Attributes:
        path: The folder.
        model: Its `Model` message of protobuf.
        functions: Names of its functions.
        default: The function run when none is named.
    """

    def __init__(self, path: Path | str, *, keep: str = "auto") -> None:
        """Open a package; weights are mapped, not read.

        Args:
            path: The `.mlpackage` folder.
            keep: What becomes of compressed weights, a word of KEEP: "dense" decompresses each once, when its function
                is loaded; "stored" whenever it is used, most of them a few rows at a time; "auto" the first 16 MiB
                once and the others whenever they are used. The results are the same.

        Raises:
            MissingExtraError: coremltools is not installed.
            BundleError: not a whole package with an ML Program of a known version.
        """
        if keep not in KEEP:
            raise EdgekitError(f"Weights cannot be kept {keep!r}.", fix=f"Choose {', '.join(KEEP)}.")
        self.path = path = Path(path)
        file = _model_file(path)
        self.model = read_model(file)
        if self.model.specificationVersion not in SPEC_VERSIONS:
            raise BundleError(
                f"{path} has the specification version {self.model.specificationVersion}.",
                why=f"Known here: {SPEC_VERSIONS[0]} to {SPEC_VERSIONS[-1]}.",
                fix="Export it for another minimum deployment target, or update edgekit.",
            )
        if self.model.WhichOneof("Type") != "mlProgram":
            raise BundleError(
                f"{path} holds no ML Program, but {self.model.WhichOneof('Type')}.",
                fix="Convert the model with convert_to='mlprogram'.",
            )
        self.weights = Weights(file.parent)
        self.functions = sorted(self.model.mlProgram.functions)
        self.default = self.model.description.defaultFunctionName or _first(self.functions, path)
        self._kept = Kept(KEEP[keep])
        self._loaded: dict[str, Function] = {}

    def function(self, name: str | None = None) -> Function:
        """A function, by name or the default one; loaded once.

        Raises:
            EdgekitError: no such function, or an operation in it is not known.
            BundleError: a weight is missing.
        """
        name = name or self.default
        if name not in self.functions:
            raise EdgekitError(f"{self.path} has no function {name!r}.", fix=f"It has: {', '.join(self.functions)}.")
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def block(self, name: str) -> Any:
        """The block of a function as protobuf has it."""
        message = self.model.mlProgram.functions[name]
        blocks = message.block_specializations
        if message.opset not in blocks and len(blocks) != 1:
            raise BundleError(f"Function {name!r} of {self.path} has no block for {message.opset!r}.", fix=_AGAIN)
        return blocks[message.opset] if message.opset in blocks else next(iter(blocks.values()))

    def signature(self, name: str) -> tuple[list[Input], list[Input]]:
        """Inputs and states of a function; none of its operations is read."""
        message = self.model.mlProgram.functions[name]
        described = {part.name: part.type for part in self._described(name)}
        inputs, states = [], []
        for part in message.inputs:
            if part.type.WhichOneof("type") == "stateType":
                states.append(_input(part.name, part.type.stateType.wrappedType.tensorType, None))
            else:
                inputs.append(_input(part.name, part.type.tensorType, described.get(part.name)))
        return inputs, states

    def _load(self, name: str) -> Function:
        block = self.block(name)
        inputs, states = self.signature(name)
        compiler = Compiler(self.weights.read, self._kept)
        scope: dict[str, int | Constant] = {part.name: Constant(part.name) for part in states}
        slots = [compiler.slot() for _ in inputs]
        scope.update(zip((part.name for part in inputs), slots, strict=True))
        with damaged(f"Function {name!r} of {self.path}"):
            compiled = compiler.block(block, scope)
        compiled.inputs = slots
        return Function(name, inputs, states, compiled, compiler.size, list(block.outputs))

    def _described(self, name: str) -> Iterator[Any]:
        description = self.model.description
        yield from next((part.input for part in description.functions if part.name == name), description.input)


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turn what a program that cannot be meets while it is read into a BundleError."""
    try:
        yield
    except UNREADABLE as error:
        raise BundleError(
            f"{what} is damaged.", why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300], fix=_AGAIN
        ) from error


def _first(names: list[str], path: Path) -> str:
    if not names:
        raise BundleError(f"{path} has no functions.", fix=_AGAIN)
    return "main" if "main" in names else names[0]


def _model_file(path: Path) -> Path:
    """The model file that the package's manifest names."""
    manifest = path / "Manifest.json"
    if not manifest.is_file():
        raise BundleError(f"{path} is no Core ML package: it has no Manifest.json.", fix="Name an .mlpackage folder.")
    try:
        stored = strict_json.read(manifest)
        item = stored["itemInfoEntries"][stored["rootModelIdentifier"]]["path"]
    except (ValueError, LookupError, TypeError) as error:
        raise BundleError(f"{manifest} is damaged.", why=f"{type(error).__name__} {error}"[:200], fix=_AGAIN) from error
    file = inside(path / "Data", str(item))
    if not file.is_file():
        raise BundleError(f"{path} is not whole: {file.relative_to(path)} is missing.", fix=_AGAIN)
    return file


def _input(name: str, tensor: Any, described: Any) -> Input:
    """An input, its shapes by the package's description where it has them, else by the program."""
    fixed = shape_of(tensor)
    ranges = tuple((0, -1) if size < 0 else (size, size) for size in fixed)
    dtype = dtype_numbered(tensor.dataType)
    kind = described.WhichOneof("Type") if described is not None else None
    if kind == "imageType":
        return Input(name, dtype, Shapes(*_image_shapes(described.imageType, fixed, ranges)))
    if kind != "multiArrayType":
        return Input(name, dtype, Shapes((), ranges))
    array = described.multiArrayType
    flexible = array.WhichOneof("ShapeFlexibility")
    listed: tuple[tuple[int, ...], ...] = ()
    if flexible == "enumeratedShapes":
        listed = tuple(tuple(shape.shape) for shape in array.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        ranges = tuple((size.lowerBound, size.upperBound) for size in array.shapeRange.sizeRanges)
    stored = array.WhichOneof("defaultOptionalValue")
    default = float(getattr(array, stored)) if described.isOptional and stored else None
    return Input(name, dtype, Shapes(listed, ranges), default)


def _image_shapes(
    image: Any, fixed: tuple[int, ...], ranges: tuple[tuple[int, int], ...]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int], ...]]:
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        return tuple((*fixed[:2], size.height, size.width) for size in image.enumeratedSizes.sizes), ranges
    if flexible == "imageSizeRange":
        spans = (image.imageSizeRange.heightRange, image.imageSizeRange.widthRange)
        return (), (*ranges[:2], *((span.lowerBound, span.upperBound) for span in spans))
    return (), ranges
