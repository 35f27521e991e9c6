"""What the public calls take, brought into one form: paths, images, lists, recipe overrides and plain values.

A caller may hand over what is at hand: a path as text or Path, a bundle as `export` gave it, an image as a file, as
bytes, as a Pillow image or an array, one of a thing where several may stand. What none of that is gets an EdgekitError
that names the argument.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Union, cast

from edgekit.errors import DataError, EdgekitError
from edgekit.schema import field_docs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from edgekit.bundle import Bundle

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

PathLike = str | os.PathLike[str]
Folder = Union[PathLike, "Bundle"]
"""A folder, or a bundle as `export` returns it."""
Folders = Folder | Iterable[Folder]
Texts = str | Iterable[str]
ImageInput = Union[PathLike, bytes, "Image", "NDArray[np.uint8]"]
"""A file, an image file's bytes, a Pillow image, or uint8 (H, W), (H, W, 3) or (H, W, 4)."""
ImageInputs = ImageInput | Iterable[ImageInput] | None
"""One image, several in order, or none."""
Setting = str | bool | int | float | None | Sequence[Any] | Mapping[str, Any]
"""The value of a recipe's setting; text is read as YAML."""
Overrides = Mapping[str, Setting]
"""Dotted key -> value."""


def checked(call: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a public call that are annotated as plain values: int, float, bool, str, or None.

    NumPy's numbers become Python's; what has another type is an EdgekitError that names it. Other annotations are the
    call's own affair: it brings them into form with what else is here.
    """
    signature = inspect.signature(call)
    kinds = {name: kind for name, one in signature.parameters.items() if (kind := _kinds(one.annotation))}

    @functools.wraps(call)
    def outer(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in kinds:
                bound.arguments[name] = _plain(value, kinds[name], f"{call.__name__}({name}=...)")
        return call(*bound.args, **bound.kwargs)

    return outer


def told(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """A verb whose one argument is a settings object, called with that object's fields.

    So each option of the verb is declared once, with its default and its documentation: in the object.

    Args:
        settings: A frozen dataclass that checks its fields (`check_fields`).
    """

    def outer(does: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(does)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return does(settings(*args, **kwargs))

        given = inspect.signature(settings)
        gives = inspect.signature(does).return_annotation
        call.__signature__ = given.replace(return_annotation=gives)  # type: ignore[attr-defined]
        what, headed, rest = (inspect.getdoc(does) or "").partition("Returns:\n")
        call.__doc__ = f"{what}Args:\n{_fields_told(settings, given.parameters)}\n\n{headed}{rest}\n"
        return call

    return outer


def _fields_told(settings: Any, names: Iterable[str]) -> str:
    """The fields' documentation, as a docstring's Args; a base's where the class has none of its own."""
    found: dict[str, str] = {}
    for one in reversed(settings.__mro__):
        if dataclasses.is_dataclass(one):
            found |= field_docs(cast(Any, one))  # mypy does not take a type for hashable
    return "\n".join(f"    {name}: {' '.join(found[name].split())}" for name in names)


def check_fields(settings: Any) -> None:
    """The same for the fields of a frozen settings object, as it is made."""
    for one in dataclasses.fields(settings):
        if kinds := _kinds(one.type):
            name = f"{type(settings).__name__}({one.name}=...)"
            object.__setattr__(settings, one.name, _plain(getattr(settings, one.name), kinds, name))


def path(value: PathLike, name: str) -> Path:
    """A file or folder; an empty text is none, and not the current folder."""
    if isinstance(value, str) and not value.strip():
        raise wrong(name, value, "a path")
    if isinstance(value, (str, os.PathLike)) and isinstance(os.fspath(value), str):
        return Path(value)
    raise wrong(name, value, "a path as text or Path")


def folder(value: Folder, name: str) -> Path:
    """A folder, or that of a bundle."""
    from edgekit.bundle import Bundle

    return value.folder if isinstance(value, Bundle) else path(value, name)


def model(value: Folder, name: str) -> str:
    """What `resolve_checkpoint` reads: a folder, or a name such as `demo:student` or one of the hub."""
    return value if isinstance(value, str) else str(folder(value, name))


def folders(value: Folders, name: str) -> list[Path]:
    """One or several."""
    return [folder(item, place) for place, item in _each(value, name, "a folder, or several")]


def models(value: Folders, name: str) -> list[str]:
    """One or several of what `model` takes."""
    return [model(item, place) for place, item in _each(value, name, "a folder, or several")]


def paths(value: PathLike | Iterable[PathLike], name: str) -> list[Path]:
    """One or several."""
    return [path(item, place) for place, item in _each(value, name, "a path, or several")]


def texts(value: Texts, name: str) -> list[str]:
    """One or several."""
    found = []
    for place, item in _each(value, name, "a text, or several"):
        if not isinstance(item, str):
            raise wrong(place, item, "a text")
        found.append(item)
    return found


def counts(value: int | Iterable[int], name: str) -> list[int]:
    """One whole number or several."""
    return [_plain(item, frozenset({"int"}), place) for place, item in _each(value, name, "a number, or several")]


def reals(value: float | Iterable[float], name: str) -> list[float]:
    """One number or several."""
    return [_plain(item, frozenset({"float"}), place) for place, item in _each(value, name, "a number, or several")]


def opened_images(value: ImageInputs, name: str = "images") -> list[Image]:
    """ImageInputs, decoded and upright.

    Args:
        value: One, several or none; see `ImageInput`. An image is turned by its EXIF tag if it still has one, so that a
            file and the same file opened with Pillow give the same answer.
        name: Of the argument.

    Raises:
        DataError: a file is missing or no image.
        EdgekitError: it is no image.
    """
    return [_image(item, place) for place, item in _images(value, name)]


@contextmanager
def image_files(value: ImageInputs, name: str = "images") -> Iterator[list[Path]]:
    """ImageInputs as files, for other processes; what is no file yet lies in a temporary folder while the block runs.

    Raises:
        DataError: a file is missing or no image.
        EdgekitError: it is no image.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgekit-pictures-") as place:
        found = []
        for number, (where, item) in enumerate(_images(value, name)):
            image = _image(item, where)
            if isinstance(item, (str, os.PathLike)):
                found.append(path(item, where))
            else:
                found.append(_written(image, Path(place) / str(number)))
        yield found


def overrides(value: Overrides | None, name: str = "overrides") -> dict[str, str]:
    """Settings of a recipe as YAML texts.

    Args:
        value: Dotted key -> text, which is read as YAML, or the value itself: a number, a boolean, None, a list or a
            mapping.
        name: Of the argument.

    Raises:
        EdgekitError: it is no mapping, or holds something that a recipe cannot.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(name, value, 'a mapping of settings, such as {"trainer.steps": 400}')
    found = {}
    for key, setting in value.items():
        if not isinstance(key, str):
            raise wrong(f"a key of {name}", key, "a text such as trainer.steps")
        found[key] = setting if isinstance(setting, str) else _as_yaml(setting, f"{name}[{key!r}]")
    return found


def wrong(name: str, value: Any, wanted: str) -> EdgekitError:
    """The error for an argument of the wrong type."""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return EdgekitError(f"The argument {name} is {shown}, of type {type(value).__name__}.", fix=f"Give {wanted}.")


# ------------------------------------------------------------------------------------------------------- plain values

_PLAIN = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text", "None": "None"}


def _kinds(annotation: Any) -> frozenset[str]:
    """Of an annotation of plain types only; empty for others."""
    parts = {part.strip() for part in annotation.split("|")} if isinstance(annotation, str) else set()
    return frozenset(parts) if parts <= _PLAIN.keys() else frozenset()


def _plain(value: Any, kinds: frozenset[str], name: str) -> Any:
    if value is None and "None" in kinds:
        return None
    if isinstance(value, str) and "str" in kinds:
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool":  # NumPy's has that name too
        if "bool" in kinds:
            return bool(value)
    elif isinstance(value, numbers.Integral) and kinds & {"int", "float"}:
        return int(value) if "int" in kinds else float(value)
    elif isinstance(value, numbers.Real) and "float" in kinds:
        return float(value)
    wanted = [words for kind, words in _PLAIN.items() if kind in kinds]
    raise wrong(name, value, " or ".join(wanted))


def _each(value: Any, name: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """(name, item) of each item; a thing that is none of several stands for itself."""
    from edgekit.bundle import Bundle

    if value is None:
        raise wrong(name, value, wanted)
    if isinstance(value, (str, bytes, bytearray, memoryview, os.PathLike, Bundle)) or not isinstance(value, Iterable):
        yield name, value
        return
    if isinstance(value, Mapping):
        raise wrong(name, value, wanted)
    for place, item in enumerate(value):
        yield f"{name}[{place}]", item


def _as_yaml(value: Any, name: str) -> str:
    """A value in YAML's flow style, which is JSON."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        value = value.tolist()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong(name, value, "a text, a number, a boolean, None, or a list or mapping of these") from error


# ----------------------------------------------------------------------------------------------------------- images

IMAGE = "a file's path, an image file's bytes, a Pillow image, or a uint8 array (H, W, 3)"


def _images(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    if _is_image(value) or hasattr(value, "__array_interface__"):
        if getattr(value, "ndim", 0) == 4:
            yield from ((f"{name}[{place}]", item) for place, item in enumerate(value))
        else:
            yield name, value
        return
    yield from _each(value, name, IMAGE)


def _is_image(value: Any) -> bool:
    from PIL.Image import Image

    return isinstance(value, Image)


def _image(value: Any, name: str) -> Image:
    from edgekit.data import ImageRef
    from edgekit.inputs.images import upright

    if isinstance(value, (bytes, bytearray, memoryview)):
        return upright(ImageRef(data=bytes(value), origin=f"the argument {name}").open())
    if isinstance(value, (str, os.PathLike)):
        return upright(ImageRef(path=path(value, name)).open())
    if _is_image(value):
        try:
            value.load()
        except Exception as error:  # as ImageRef.open
            raise DataError(f"Cannot read the image {name}.", why=str(error) or type(error).__name__) from error
        loaded: Image = upright(value)
        return loaded
    return _from_array(value, name)


def _from_array(value: Any, name: str) -> Image:
    import numpy as np
    from PIL import Image

    if not hasattr(value, "__array_interface__") and not hasattr(value, "__array__"):
        raise wrong(name, value, IMAGE)
    array = np.asarray(value)
    whole = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not whole or not array.size:
        shape = " x ".join(map(str, array.shape))
        raise EdgekitError(
            f"The argument {name} is an array {shape} of {array.dtype}.",
            why="An image is uint8, (H, W), (H, W, 3) or (H, W, 4), of values from 0 to 255.",
            fix="Convert it, for example:  (255 * array).round().astype(numpy.uint8)",
        )
    return Image.fromarray(np.ascontiguousarray(array))


_PLAINER = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA"}  # modes that no file has


def _written(image: Image, place: Path) -> Path:
    """An image as a file without loss: PNG, and TIFF for modes that PNG has not."""
    if image.mode in _PLAINER:
        image = image.convert(_PLAINER[image.mode])
    kept = place.with_suffix(".png" if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else ".tiff")
    image.save(kept)
    return kept
