"""Functions of an ML Program as lists of steps over numbered slots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from edgekit.errors import BundleError, EdgekitError
from edgekit.formats.coreml.mil.ops import CONVERT, Operation, operations
from edgekit.formats.coreml.mil.stored import Stored, stored
from edgekit.formats.coreml.mil.values import Blob, dtype_numbered, shape_of, value_of

FAILURES = (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, MemoryError, AttributeError)
"""What an operation meets in inputs that a damaged program gives it."""
_STATE_OPERATIONS = ("read_state", "write_state", "coreml_update_state")


@dataclass(frozen=True)
class Constant:
    """A value known before the program runs."""

    value: Any


@dataclass
class Step:
    """One operation, bound.

    Attributes:
        name: Of its first output, or its own.
        kind: The operation's name.
        call: The operation.
        fixed: Inputs known beforehand, as the operation takes them.
        loads: (input, slots, whether it takes a list, how to convert it).
        blocks: Nested blocks.
        outputs: Slots of the results.
        frees: Slots that nobody reads afterwards.
    """

    name: str
    kind: str
    call: Callable[..., Any]
    fixed: dict[str, Any]
    loads: list[tuple[str, list[int | Constant], bool, Callable[[Any], Any]]]
    blocks: list[Block]
    outputs: list[int]
    needs_frame: bool
    frees: list[int] = field(default_factory=list)

    def given(self, slots: Sequence[Any]) -> dict[str, Any]:
        """Its inputs, as the operation takes them."""
        given = dict(self.fixed)
        for name, sources, many, convert in self.loads:
            found = [slots[source] if isinstance(source, int) else source.value for source in sources]
            given[name] = convert(found if many else found[0])
        return given

    def is_constant(self) -> bool:
        """Whether all of its inputs are known beforehand."""
        return all(isinstance(source, Constant) for _, sources, _, _ in self.loads for source in sources)

    def reads(self) -> set[int]:
        """Slots it reads, nested blocks included."""
        own = {slot for _, slots, _, _ in self.loads for slot in slots if isinstance(slot, int)}
        return own.union(*(block.reads() for block in self.blocks))


@dataclass
class Block:
    """Steps with inputs and outputs of their own."""

    inputs: list[int]
    steps: list[Step]
    outputs: list[int | Constant]

    def reads(self) -> set[int]:
        """Slots it reads, those of its own steps too."""
        found = {slot for slot in self.outputs if isinstance(slot, int)}
        return found.union(*(step.reads() for step in self.steps))


class Frame:
    """One run of a function: its slots and its states."""

    def __init__(self, size: int, states: dict[str, Tensor]) -> None:
        self.states = states
        self._slots: list[Any] = [None] * size

    def run(self, block: Block, values: Sequence[Any]) -> tuple[Any, ...]:
        """Run a block on its inputs; its outputs.

        Raises:
            EdgekitError: an operation does not take its inputs.
        """
        slots = self._slots
        for slot, value in zip(block.inputs, values, strict=True):
            slots[slot] = value
        for step in block.steps:
            given: dict[str, Any] = {}
            try:
                given = step.given(slots)
                if step.needs_frame:
                    given["frame"] = self
                result = step.call(**given)
            except FAILURES as error:
                raise _failed(step, given, error) from error
            if isinstance(result, tuple):
                for slot, value in zip(step.outputs, result, strict=True):
                    slots[slot] = value
            else:
                slots[step.outputs[0]] = result
            for slot in step.frees:
                slots[slot] = None
        return tuple(slots[out] if isinstance(out, int) else out.value for out in block.outputs)


def _failed(step: Step, given: Mapping[str, Any], error: Exception) -> EdgekitError:
    shapes = ", ".join(
        f"{name} {str(part.dtype).removeprefix('torch.')} {list(part.shape)}"
        for name, value in given.items()
        for part in (value if isinstance(value, list) else [value])
        if isinstance(part, Tensor)
    )
    return EdgekitError(
        f"Operation {step.kind} {step.name!r} does not take its inputs.",
        why=f"{str(error)[:400]}\nInputs: {shapes[:2000]}",
    )


class Kept:
    """Decompressed weights that are held, shared between the functions of a package.

    Attributes:
        made: Results by what they are made of.
        room: Bytes that are left for more.
    """

    def __init__(self, room: float) -> None:
        self.made: dict[Any, tuple[Any, ...]] = {}
        self.room = room

    def takes(self, size: int) -> bool:
        """Whether so many bytes still fit; if so, they are taken."""
        fits = size <= self.room
        self.room -= size if fits else 0
        return fits


class Compiler:
    """Turns the blocks of one function into steps.

    Args:
        blob: Reads a value from a weight file.
        kept: Decompressed weights; those that do not fit are made whenever they are used.
    """

    def __init__(self, blob: Blob, kept: Kept) -> None:
        self.size = 0
        self._blob = blob
        self._kept = kept
        self._made_of: dict[int, Any] = {}  # by the identity of each constant that is alive

    def slot(self) -> int:
        """A new slot."""
        self.size += 1
        return self.size - 1

    def block(self, message: Any, scope: dict[str, int | Constant]) -> Block:
        """A block of MIL.proto; `scope` names the values seen from it.

        Raises:
            EdgekitError: an operation that is not known here, or with inputs it does not have.
            BundleError: a name that nothing defines.
        """
        scope = dict(scope)
        inputs = [self.slot() for _ in message.inputs]
        scope.update(zip((part.name for part in message.inputs), inputs, strict=True))
        steps = [step for part in message.operations if (step := self._operation(part, scope)) is not None]
        block = Block(inputs, steps, [_whole(_named(name, scope)) for name in message.outputs])
        _free(block)
        _update_in_place(block)
        return block

    def _operation(self, message: Any, scope: dict[str, int | Constant]) -> Step | None:
        """A step, or None where the result is known already and put into `scope`."""
        kind = message.type
        if kind == "const":
            value = value_of(message.attributes["val"], self._blob)
            self._made_of[id(value)] = message.attributes["val"].SerializeToString(deterministic=True)
            scope[message.outputs[0].name] = Constant(value)
            return None
        step = self._step(message, scope)
        if kind.startswith("constexpr_") and step.is_constant():
            results = self._decompressed(message, step, scope)
            for part, value in zip(message.outputs, results, strict=bool(results)):
                scope[part.name] = Constant(value)
            if results:
                return None
        for part, slot in zip(message.outputs, step.outputs, strict=True):
            scope[part.name] = slot
        return step

    def _step(self, message: Any, scope: dict[str, int | Constant]) -> Step:
        name = message.outputs[0].name if message.outputs else _own_name(message)
        known = _known(message.type, name)
        fixed: dict[str, Any] = {}
        loads: list[tuple[str, list[int | Constant], bool, Callable[[Any], Any]]] = []
        for key, sources in self._sources(message, scope).items():
            if key not in known.kinds:
                raise EdgekitError(
                    f"Operation {known.name} {name!r} has an input {key!r} that is not known here.",
                    fix=f"Known: {', '.join(known.kinds)}. Add it to the function {known.name} in "
                    "edgekit/formats/coreml/mil/ops/.",
                )
            expected = known.kinds[key]
            many = expected.startswith("list[") or len(sources) != 1
            lazy = expected != "Weight" and any(_is_stored(source) for source in sources)
            if lazy:
                loads.append((key, sources, many, partial(_dense, CONVERT[expected])))
            elif all(isinstance(source, Constant) for source in sources):
                values = [source.value for source in sources if isinstance(source, Constant)]
                fixed[key] = CONVERT[expected](values if many else values[0])
            else:
                loads.append((key, sources, many, CONVERT[expected]))
        missing = known.required - fixed.keys() - {key for key, *_ in loads} - {"frame", "blocks"}
        if missing:
            raise BundleError(f"Operation {known.name} {name!r} lacks its input {', '.join(sorted(missing))}.")
        blocks = [self.block(part, scope) for part in message.blocks]
        if "blocks" in known.kinds:
            fixed["blocks"] = blocks
        outputs = [self.slot() for _ in message.outputs]
        return Step(name, known.name, known.call, fixed, loads, blocks, outputs, "frame" in known.kinds)

    def _sources(self, message: Any, scope: dict[str, int | Constant]) -> dict[str, list[int | Constant]]:
        """Where each input comes from; iOS 16's constexpr operations keep theirs in the attributes."""
        found: dict[str, list[int | Constant]] = {
            key: [Constant(value_of(value, self._blob))]
            for key, value in message.attributes.items()
            if key != "name" and message.type.startswith("constexpr_")
        }
        for key, argument in message.inputs.items():
            found[key] = [
                _named(part.name, scope)
                if part.WhichOneof("binding") == "name"
                else Constant(value_of(part.value, self._blob))
                for part in argument.arguments
            ]
        return found

    def _decompressed(self, message: Any, step: Step, scope: dict[str, int | Constant]) -> tuple[Any, ...]:
        """Results of a compressed weight: whole where they fit, else by rows; none where it can be neither."""
        key = (message.type, tuple(sorted(self._origins(message, scope))))
        results = self._kept.made.get(key, ())
        if not results and self._kept.takes(sum(_size(part.type.tensorType) for part in message.outputs)):
            result = step.call(**step.given(()))
            results = self._kept.made[key] = result if isinstance(result, tuple) else (result,)
        if not results:
            as_stored = {name: sources[0].value for name, sources, *_ in step.loads if isinstance(sources[0], Constant)}
            weight = stored(message.type, step.fixed | as_stored)
            results = () if weight is None else (weight,)
        for value in results:
            self._made_of[id(value)] = key
        return results

    def _origins(self, message: Any, scope: dict[str, int | Constant]) -> list[tuple[str, Any]]:
        """What a compressed weight is made of, equal in every function that shares it."""
        found: list[tuple[str, Any]] = [
            (key, value.SerializeToString(deterministic=True))
            for key, value in message.attributes.items()
            if key != "name"
        ]
        for key, argument in message.inputs.items():
            for part in argument.arguments:
                if part.WhichOneof("binding") == "value":
                    found.append((key, part.value.SerializeToString(deterministic=True)))
                else:
                    source = _named(part.name, scope)
                    assert isinstance(source, Constant)
                    found.append((key, repr(self._made_of[id(source.value)]).encode()))
        return found


def _size(tensor: Any) -> int:
    """Bytes of a value of a `TensorType` as it is held here."""
    return math.prod(shape_of(tensor)) * dtype_numbered(tensor.dataType).torch.itemsize


def _is_stored(source: int | Constant) -> bool:
    return isinstance(source, Constant) and isinstance(source.value, Stored)


def _whole(source: int | Constant) -> int | Constant:
    return Constant(source.value.dense()) if isinstance(source, Constant) and _is_stored(source) else source


def _dense(convert: Callable[[Any], Any], value: Any) -> Any:
    """An input that no operation takes as it is stored."""
    many = [
        part.dense() if isinstance(part, Stored) else part for part in (value if isinstance(value, list) else [value])
    ]
    return convert(many if isinstance(value, list) else many[0])


def _own_name(message: Any) -> str:
    stored = message.attributes["name"].immediateValue.tensor.strings.values if "name" in message.attributes else []
    return str(stored[0]) if stored else message.type


def _known(kind: str, name: str) -> Operation:
    found = operations().get(kind)
    if found is None:
        raise EdgekitError(
            f"The evaluator does not know the operation {kind!r} (at {name!r}).",
            fix=f"Add it: one function `{kind}` with the operation's input names in a file of "
            "edgekit/formats/coreml/mil/ops/; the text at the top of its __init__.py shows how.",
        )
    return found


def _named(name: str, scope: Mapping[str, int | Constant]) -> int | Constant:
    if name not in scope:
        raise BundleError(f"The program reads {name!r}, which nothing in it defines.", fix="Export it again.")
    return scope[name]


def _free(block: Block) -> None:
    """Note after which step each of the block's own values is no longer needed."""
    own = {slot for step in block.steps for slot in step.outputs} | set(block.inputs)
    needed = {slot for slot in block.outputs if isinstance(slot, int)}
    for step in reversed(block.steps):
        touched = (step.reads() | set(step.outputs)) & own
        step.frees = sorted(touched - needed)
        needed |= touched


def _update_in_place(block: Block) -> None:
    """Let `slice_update` write into a state that its result replaces anyway.

    That is so where its x was read from a state and goes nowhere else, and the next operation that touches the state
    writes the result to it. Whether anybody else still looks at the memory is seen when it runs.
    """
    steps = block.steps
    reads = {step.outputs[0]: step.fixed["input"] for step in steps if step.kind == "read_state"}
    users = {slot: 1 for slot in block.outputs if isinstance(slot, int)}
    for step in steps:
        for slot in step.reads():
            users[slot] = users.get(slot, 0) + 1
    for at, step in enumerate(steps):
        source = next((sources[0] for key, sources, *_ in step.loads if key == "x"), None)
        if step.kind != "slice_update" or not isinstance(source, int) or source not in reads or users[source] != 1:
            continue
        state = reads[source]
        following = next((later for later in steps[at + 1 :] if later.blocks or _state_of(later) == state), None)
        if following is not None and following.kind in ("write_state", "coreml_update_state"):
            data = {sources[0] for key, sources, *_ in following.loads if key in ("data", "value")}
            step.fixed["in_place"] = data == {step.outputs[0]}


def _state_of(step: Step) -> str | None:
    if step.kind not in _STATE_OPERATIONS:
        return None
    found: str | None = step.fixed.get("input", step.fixed.get("state"))
    return found
