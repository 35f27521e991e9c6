"""Core ML packages that lie: their own manifest, the program's protobuf, the weight file."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manifests import reseal

from hostile.changes import Change, both, deep, field, file

PACKAGE = "model.mlpackage"
OWN = f"{PACKAGE}/Manifest.json"
MODEL = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = f"{PACKAGE}/Data/com.apple.CoreML/weights/weight.bin"
HUGE, FAR = 1 << 40, (1 << 64) - 1
Edit = Callable[[Any], None]


def cases() -> Iterator[tuple[str, Change]]:
    """Name and change of each."""
    yield from _manifests()
    yield from _documents()
    yield from _weights()
    yield from _programs()
    yield from _values()
    yield from _metadata()


def _manifests() -> Iterator[tuple[str, Change]]:
    """The package's own manifest, and a package that is none."""
    for text in ("", "[]", "null", "{", "{}", '{"rootModelIdentifier": 7, "itemInfoEntries": []}'):
        yield f"own manifest {text}", file(OWN, text)
    yield "own manifest deep", file(OWN, '{"a": ' + deep(100_000) + "}")
    yield "own manifest of 100 MB", file(OWN, '{"a": "' + "x" * 100_000_000 + '"}')
    yield "own manifest not UTF-8", file(OWN, b"\xff\xfe")
    for path in ("../../../../secret", "/etc/passwd", "", ".", "a\0b", "x" * 5000, 7, None, ["x"], "com.apple.CoreML"):
        yield f"model at {path!r:.30}", file(OWN, _pointing(path))
    yield "a zip bomb for a package", _zipped
    yield "a component in a file", field("components.text_decoder.file", "config.json")


def _pointing(path: Any) -> str:
    import json

    return json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": path}}})


def _zipped(folder: Path) -> None:
    """A file of 10 kB that would be 10 MB, at the place where the package's manifest should be."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Data/com.apple.CoreML/model.mlmodel", b"\0" * 10_000_000)
    (folder / OWN).write_bytes(packed.getvalue())
    reseal(folder)


def _documents() -> Iterator[tuple[str, Change]]:
    """Bytes that are no program, or too much of one."""
    yield "model garbage", file(MODEL, b"\xff" * 5000)
    yield "model empty", file(MODEL, b"")
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        yield f"model cut at {share}", file(MODEL, lambda data, share=share: data[: int(share * len(data))])
    yield "model zeros at its end", file(MODEL, lambda data: data[:-1000] + b"\0" * 1000)
    yield "a field of two gigabytes", file(MODEL, b"\x12\xff\xff\xff\xff\x07" + b"\0" * 100)
    yield "a field of more bytes than numbers have", file(MODEL, b"\x12" + b"\xff" * 10)
    for key, name in ((0x12, "descriptions"), (0x0A, "fields of a type that is a number")):
        yield f"30 MB of empty {name}", file(MODEL, bytes([key, 0]) * 15_000_000)
    yield "30 MB of inputs", file(MODEL, _nested(b"\x0a\x00" * 15_000_000, 0x12))
    yield "300 MB", file(MODEL, lambda data: data + bytes([0xFA, 0x3F]) + _length(300_000_000) + b"\0" * 300_000_000)
    for levels in (50, 99, 101, 10_000):
        yield f"pipelines {levels} deep", file(MODEL, _pipelines(levels))
    yield "blocks 60 deep", _program(lambda model: _deepen(_decoder(model), 12))


def _length(size: int) -> bytes:
    """A protobuf varint."""
    found = bytearray()
    while size > 0x7F:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*found, size])


def _nested(inner: bytes, *keys: int) -> bytes:
    for key in keys:
        inner = bytes([key]) + _length(len(inner)) + inner
    return inner


def _pipelines(levels: int) -> bytes:
    """Models in pipelines in models: field 202 of Model.proto, field 1 of its Pipeline."""
    inner = b""
    for _ in range(levels):
        inner = _nested(inner, 0x0A)
        inner = b"\xd2\x0c" + _length(len(inner)) + inner
        if len(inner) > 20_000_000:
            break
    return inner


def _weights() -> Iterator[tuple[str, Change]]:
    yield "weights empty", file(WEIGHTS, b"")
    yield "weights garbage", file(WEIGHTS, lambda data: b"\xff" * len(data))
    for size in (10, 64, 128, 200):
        yield f"weights cut at {size}", file(WEIGHTS, lambda data, size=size: data[:size])
    yield "weights cut in half", file(WEIGHTS, lambda data: data[: len(data) // 2])
    for name, at in (("sentinel", 64), ("type", 68)):
        yield f"an entry's {name} wrong", file(WEIGHTS, lambda data, at=at: _at(data, at, "<I", 99))
    for size in (0, 1, HUGE, 1 << 63, FAR):
        yield f"an entry of {size} bytes", file(WEIGHTS, lambda data, size=size: _at(data, 72, "<Q", size))
        yield f"an entry at {size}", file(WEIGHTS, lambda data, size=size: _at(data, 80, "<Q", size))


def _at(data: bytes, place: int, code: str, value: int) -> bytes:
    packed = struct.pack(code, value)
    return data[:place] + packed + data[place + len(packed) :]


def _program(edit: Edit) -> Change:
    """The program's message changed."""

    def change(data: bytes) -> bytes:
        from edgekit.formats.coreml.mil.proto import model_module

        model = model_module().Model()
        model.ParseFromString(data)
        edit(model)
        made: bytes = model.SerializeToString()
        return made

    return file(MODEL, change)


def _decoder(model: Any) -> Any:
    return model.mlProgram.functions["prefill"]


def _block(model: Any) -> Any:
    function = _decoder(model)
    return function.block_specializations[function.opset]


def _step(model: Any, kind: str) -> Any:
    return next(step for step in _block(model).operations if step.type == kind)


def _stored(model: Any) -> Any:
    """A constant in the weight file."""
    return next(
        step.attributes["val"]
        for step in _block(model).operations
        if step.type == "const" and step.attributes["val"].WhichOneof("value") == "blobFileValue"
    )


def _shape(tensor: Any, sizes: list[int]) -> None:
    del tensor.dimensions[:]
    for size in sizes:
        dimension = tensor.dimensions.add()
        if size < 0:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size


def _programs() -> Iterator[tuple[str, Change]]:
    yield "another specification", _program(lambda model: setattr(model, "specificationVersion", 99))
    yield "no program", _program(lambda model: model.ClearField("mlProgram"))
    yield "no functions", _program(lambda model: model.mlProgram.functions.clear())
    yield "no decoder", _program(lambda model: model.mlProgram.functions.pop("prefill"))
    yield "a function of no block", _program(lambda model: _decoder(model).block_specializations.clear())
    yield "an unknown operation", _program(lambda model: setattr(_step(model, "linear"), "type", "run_code"))
    yield "an operation without inputs", _program(lambda model: _step(model, "linear").inputs.clear())
    yield "an operation without outputs", _program(lambda model: _cleared(_step(model, "linear").outputs))
    yield "a constant without outputs", _program(lambda model: _cleared(_step(model, "const").outputs))
    yield "a constant without a value", _program(lambda model: _step(model, "const").attributes.clear())
    yield "an input of no name", _program(lambda model: _rename(_step(model, "linear"), "nothing"))
    yield "an operation that is its own input", _program(lambda model: _circle(_step(model, "linear")))
    yield "an output that nothing makes", _program(lambda model: _replaced(_block(model).outputs, "nothing"))
    yield "no outputs at all", _program(lambda model: _cleared(_block(model).outputs))
    yield "no operations", _program(lambda model: _cleared(_block(model).operations))
    yield "the first half of its operations", _program(lambda model: _half(_block(model).operations))
    yield "operations the other way round", _program(lambda model: _reversed(_block(model).operations))
    yield (
        "an operation of a list for a number",
        _program(lambda model: _step(model, "linear").inputs["x"].arguments.add()),
    )
    for size in (0, 1, HUGE, FAR >> 1):
        yield f"states {size} long", _program(lambda model, size=size: _stretch(model, size))
        yield f"an input {size} wide", _program(lambda model, size=size: _widen(model, size))


def _cleared(values: Any) -> None:
    del values[:]


def _half(values: Any) -> None:
    del values[len(values) // 2 :]


def _replaced(values: Any, new: str) -> None:
    values[0] = new


def _reversed(values: Any) -> None:
    kept = list(values)[::-1]
    del values[:]
    values.extend(kept)


def _rename(step: Any, name: str) -> None:
    step.inputs["x"].arguments[0].name = name


def _circle(step: Any) -> None:
    _rename(step, step.outputs[0].name)


def _deepen(function: Any, levels: int) -> None:
    block = function.block_specializations[function.opset]
    inner = type(block)()
    inner.CopyFrom(block)
    for _ in range(levels):
        outer = type(block)()
        step = outer.operations.add(type="cond")
        step.blocks.add().CopyFrom(inner)
        step.blocks.add().CopyFrom(inner) if inner.ByteSize() < 1_000_000 else None
        inner = outer
    block.CopyFrom(inner)


def _stretch(model: Any, size: int) -> None:
    """States as long as that, and the context that is said of them."""
    for part in _decoder(model).inputs:
        if part.type.WhichOneof("type") == "stateType":
            tensor = part.type.stateType.wrappedType.tensorType
            tensor.dimensions[2].constant.size = size
    model.description.metadata.userDefined["edgekit.context"] = str(size)


def _widen(model: Any, size: int) -> None:
    for part in _decoder(model).inputs:
        if part.name == "inputs_embeds":
            part.type.tensorType.dimensions[2].constant.size = size


def _values() -> Iterator[tuple[str, Change]]:
    """Constants that lie elsewhere, or are of another size."""
    for offset in (1, 63, HUGE, 1 << 63, FAR):
        yield f"a weight at {offset}", _program(lambda model, at=offset: _moved(model, at))
    for name in ("/etc/passwd", "../../../../secret", "@model_path/../../../../../secret", "@model_path/", "", "a\0b"):
        yield f"a weight in {name!r}", _program(lambda model, name=name: _elsewhere(model, name))
    for sizes in (
        [],
        [0],
        [1],
        [-1],
        [-1, -1],
        [1 << 20, 1 << 20],
        [1 << 40],
        [1 << 62, 4],
        [FAR],
        [1] * 64,
        [3, 5, 7],
    ):
        yield f"a weight of {sizes!r:.40}", _program(lambda model, sizes=sizes: _sized(model, sizes))
        yield f"a number of {sizes!r:.40}", _program(lambda model, sizes=sizes: _inline(model, sizes))
    for kind in (0, 2, 1, 21, 25, 35, 38, 99):
        yield f"a weight of type {kind}", _program(lambda model, kind=kind: _typed(model, kind))
    yield "numbers of bytes that do not fit", _program(_bytes)


def _moved(model: Any, at: int) -> None:
    _stored(model).blobFileValue.offset = at


def _elsewhere(model: Any, name: str) -> None:
    _stored(model).blobFileValue.fileName = name


def _sized(model: Any, sizes: list[int]) -> None:
    _shape(_stored(model).type.tensorType, sizes)


def _typed(model: Any, kind: int) -> None:
    _stored(model).type.tensorType.dataType = kind


def _inlined(model: Any) -> Any:
    return next(
        step.attributes["val"]
        for step in _block(model).operations
        if step.type == "const" and step.attributes["val"].immediateValue.tensor.WhichOneof("value") == "ints"
    )


def _inline(model: Any, sizes: list[int]) -> None:
    _shape(_inlined(model).type.tensorType, sizes)


def _bytes(model: Any) -> None:
    _inlined(model).immediateValue.tensor.bytes.values = b"abc"


def _metadata() -> Iterator[tuple[str, Change]]:
    for value in ("", "0", "-1", "x", "1e9", "1" + "0" * 4000, str(HUGE), "4096", "\u0661"):
        yield f"context {value:.20}", _program(lambda model, value=value: _said(model, "edgekit.context", value))
    for value in ("0", "-1", "x", "1," * 1_000_000, str(HUGE), "1" * 5000):
        yield f"lengths {value:.20}", _program(lambda model, value=value: _said(model, "edgekit.prompt_lengths", value))
    yield "no metadata", _program(lambda model: model.description.ClearField("metadata"))
    yield (
        "context and states of the manifest's choice",
        both(_program(lambda model: _stretch(model, HUGE)), field("cache.head_dim", 65536)),
    )


def _said(model: Any, key: str, value: str) -> None:
    model.description.metadata.userDefined[key] = value
