"""The processor settings of a checkpoint: read from where transformers reads them, each checked before it is used.

Two files may hold an image processor: processor_config.json, nested, and preprocessor_config.json. transformers takes
the nested one where there is one (`ImageProcessingMixin.get_image_processor_dict`), and so it is here. A null is not
the same as silence: it takes the place of the class's default (`ImageProcessingMixin.__init__`), so a step is off and a
number is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgekit.console import note_once
from edgekit.errors import CheckpointError
from edgekit.families import read_optional_json

IMAGES, PROCESSOR, CONFIG = "preprocessor_config.json", "processor_config.json", "config.json"
BILINEAR = 2
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # pillow's
LARGEST_EDGE = 1 << 16  # no image processor in use comes near it; beyond it an image is gigabytes
SIZE_KEYS = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width", "min_pixels", "max_pixels")
SUFFIXES = ("Fast", "Pil")  # of one processor's other makes


@dataclass(frozen=True)
class Settings:
    """Some settings and where they stand; every reader raises CheckpointError that names both.

    Attributes:
        values: As the file has them.
        where: The file, and the key they are nested under, for messages.
        null_is_silence: As in config.json, whose classes fill nulls with their defaults.
    """

    values: Mapping[str, Any]
    where: str
    null_is_silence: bool = False

    def refuse(self, name: str, why: str, fix: str = "") -> NoReturn:
        """Raise the error for a value that cannot be used."""
        value = repr(self.values.get(name))
        shown = value if len(value) <= 60 else value[:57] + "..."
        raise CheckpointError(f"{self.where}: {name} is {shown}.", why=why, fix=fix)

    def given(self, name: str, default: Any) -> Any:
        """A value as it is; the default where it is missing."""
        value = self.values.get(name, default)
        return default if value is None and self.null_is_silence else value

    def flag(self, name: str, default: bool) -> bool:
        """True or false; null is false."""
        value = self.given(name, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            self.refuse(name, "It must be true or false.")
        return value

    def whole(self, name: str, default: int, *, least: int = 1, most: int = LARGEST_EDGE) -> int:
        """A whole number within bounds."""
        return self._whole(name, self.given(name, default), least, most)

    def _whole(self, name: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"It must be a whole number from {least:,} to {most:,}.")
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self.given(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.refuse(name, "It must be a number.")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self.given(name, default)
        if not isinstance(value, str):
            self.refuse(name, "It must be a text.")
        return value

    def channels(self, name: str, default: Sequence[float]) -> list[float]:
        """A number for each of red, green and blue; one number stands for all three."""
        value = self.given(name, list(default))
        each = list(value) if isinstance(value, list | tuple) else [value] * 3
        if len(each) != 3 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in each):
            self.refuse(name, "It must be three numbers, of red, green and blue, or one for all of them.")
        if not all(math.isfinite(one) for one in each):
            self.refuse(name, "It must be finite.")
        return [float(one) for one in each]

    def resample(self, default: int) -> int:
        """Number of pillow's filter; where it is null and do_resize off, what other resizing falls back on."""
        value = self.given("resample", default)
        if value is None and not self.flag("do_resize", True):
            return BILINEAR
        if isinstance(value, bool) or value not in FILTERS:
            known = ", ".join(f"{number} ({word})" for number, word in FILTERS.items())
            self.refuse("resample", f"Pillow's filters are {known}.")
        return int(value)

    def pair(self, name: str, default: int | Sequence[int]) -> tuple[int, int]:
        """(height, width) of a whole number, which is both, or of two."""
        value = self.given(name, default)
        each = list(value) if isinstance(value, list | tuple) else [value] * 2
        if len(each) != 2:
            self.refuse(name, "It must be one whole number, or two: height and width.")
        height, width = (self._whole(name, one, 1, LARGEST_EDGE) for one in each)
        return height, width

    def size(self, name: str, default: Mapping[str, int], *, square: bool = True, most: int = LARGEST_EDGE) -> Any:
        """A size as transformers' `get_size_dict` reads it: by keys such as height, or longest_edge.

        Args:
            name: Of the setting.
            default: Where it is silent.
            square: Whether one number means both edges; else the shorter one.
            most: Of each number.
        """
        value = self.given(name, dict(default))
        if isinstance(value, int) and not isinstance(value, bool):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        elif isinstance(value, list | tuple) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        if not isinstance(value, dict) or not value or set(value) - set(SIZE_KEYS):
            self.refuse(name, f"It must be a whole number, or an object of some of: {', '.join(SIZE_KEYS)}.")
        kept = {key: edge for key, edge in value.items() if edge is not None}
        return {key: self._whole(name, edge, 1, most) for key, edge in kept.items()}

    def square(self, name: str, default: int) -> tuple[int, int]:
        """(height, width) of a size that must say both."""
        size = self.size(name, {"height": default, "width": default})
        if set(size) != {"height", "width"}:
            self.refuse(name, "This image processor takes height and width.")
        return size["height"], size["width"]

    def inner(self, name: str) -> Settings:
        """An object nested in this one; empty where it is missing."""
        value = self.given(name, {})
        if not isinstance(value, dict):
            self.refuse(name, "It must be an object.")
        return Settings(value, f"{self.where}: {name}", self.null_is_silence)

    def agree(self, name: str, value: object, model: object, field: str) -> None:
        """Refuse a setting that the model's own configuration contradicts.

        Args:
            name: Of the setting.
            value: What it comes to, its default included.
            model: What the model needs.
            field: Of config.json that says so.
        """
        if value != model:
            silent = "" if name in self.values else ", its default"
            raise CheckpointError(
                f"{self.where}: {name} is {_shown(value)}{silent}; the model's is {_shown(model)}.",
                why=f"config.json says so in {field}. Images or prompts would not fit the model.",
                fix="Make both the same; the model's original folder has them so.",
            )


def _shown(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def read_image_processor(folder: Path) -> dict[str, Any]:
    """The image processor's settings as transformers finds them; a note on stderr where two files disagree.

    Raises:
        CheckpointError: neither file has them.
    """
    return dict(_image_processor(folder).values)


def _image_processor(folder: Path) -> Settings:
    nested = read_optional_json(folder / PROCESSOR).get("image_processor")
    there = (folder / IMAGES).exists()
    own = read_optional_json(folder / IMAGES)
    if nested is None:
        if not own:
            raise CheckpointError(
                f"{folder} has no image processor settings.",
                why=f"Neither {IMAGES} nor {PROCESSOR} holds them.",
                fix="Copy them from the model's original folder.",
            )
        return Settings(own, str(folder / IMAGES))
    if not isinstance(nested, dict):
        raise CheckpointError(f"{folder / PROCESSOR}: image_processor is no object.")
    if there and (differing := _differing(nested, own)):
        note_once(
            f"{folder}: {PROCESSOR} and {IMAGES} disagree on {', '.join(differing)}; "
            f"{PROCESSOR} counts, as in transformers"
        )
    return Settings(nested, f"{folder / PROCESSOR}: image_processor")


def _differing(nested: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """Settings that both name with another value, classes aside: they are told apart where they matter."""
    names = (nested.keys() & own.keys()) - {"processor_class", "image_processor_type"}
    return sorted(name for name in names if nested[name] != own[name])


def read_image_settings(folder: Path, classes: Sequence[str]) -> Settings:
    """The image processor's settings of a family.

    Args:
        folder: Hugging Face folder or bundle.
        classes: Image processors that the family's own preprocessing is equal to.

    Raises:
        CheckpointError: none, of another class, or one that leaves images in their mode.
    """
    settings = _image_processor(folder)
    kind = settings.text("image_processor_type", classes[0])
    for suffix in SUFFIXES:
        kind = kind.removesuffix(suffix)
    if kind not in classes:
        settings.refuse("image_processor_type", f"This family's images are prepared by {' or '.join(classes)}.")
    return settings


def read_processor_settings(folder: Path) -> Settings:
    """processor_config.json: what the processor says beside its image half; empty where there is none."""
    return Settings(read_optional_json(folder / PROCESSOR), str(folder / PROCESSOR))


def read_model_settings(folder: Path) -> Settings | None:
    """config.json; None where there is none, and nothing can contradict it."""
    if not (folder / CONFIG).exists():
        return None
    return Settings(read_optional_json(folder / CONFIG), str(folder / CONFIG), null_is_silence=True)


def read_normalisation(settings: Settings, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """rescale_factor, mean and std of an image processor's settings; a step that is switched off changes nothing.

    Args:
        settings: From `read_image_settings`.
        mean, std: What the processor's class takes where the settings are silent.

    Raises:
        CheckpointError: a factor or a standard deviation of 0, or no numbers.
    """
    factor = settings.number("rescale_factor", 1 / 255) if settings.flag("do_rescale", True) else 1.0
    if not factor:
        settings.refuse("rescale_factor", "Every pixel would become 0.")
    if not settings.flag("do_normalize", True):
        return {"rescale_factor": factor, "mean": [0.0] * 3, "std": [1.0] * 3}
    spread = settings.channels("image_std", std)
    if not all(spread):
        settings.refuse("image_std", "Pixels are divided by it.")
    return {"rescale_factor": factor, "mean": settings.channels("image_mean", mean), "std": spread}


def refuse_other_modes(settings: Settings) -> None:
    """Refuse an image processor that does not bring every image to RGB.

    Raises:
        CheckpointError: do_convert_rgb is false, or null.
    """
    if not settings.flag("do_convert_rgb", True):
        settings.refuse(
            "do_convert_rgb",
            "A grey or transparent image would then reach the model with one channel or four.",
            "Set it to true; images in RGB are prepared the same.",
        )
