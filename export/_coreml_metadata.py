"""What Xcode shows of a Core ML package, and what says which export it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.formats.coreml.programs import LABEL
from edgekit.manifest import Component

DESCRIPTIONS = {
    "pixel_values": "Normalised pixels of one tile, or flattened patches of one image; manifest.json says how to "
    "prepare them.",
    "image_features": "Image embeddings; they take the places of the image tokens.",
    "deepstack_features": "Features for the first decoder layers; deepstack_embeds takes them.",
    "input_ids": "Token ids.",
    "inputs_embeds": "Embeddings of the new tokens, image embeddings in the places of image tokens.",
    "attention_mask": "Added to the scores: 0 where a new token (row) may look at a place of the cache, else -10000.",
    "position_ids": "Positions of the new tokens.",
    "start": "Place in the cache where the first new token goes.",
    "deepstack_embeds": "deepstack_features at image tokens, else 0.",
    "logits": "Scores of the token that follows.",
    **{f"{time}_{kind}_": f"{kind.capitalize()}s of a layer {when}."
       for time, when in (("past", "before this call; the first place is never looked at"), ("present", "after it"))
       for kind in ("key", "value")},
    "past_conv_": "Last inputs of a layer's convolution before this call, zeros at first.",
    "present_conv_": "Last inputs of a layer's convolution after it.",
}  # fmt: skip


def describe(package: Path, about: Mapping[str, str], settings: Mapping[str, str], author: str, licence: str) -> None:
    """Write description, author, licence, and what each input and output is.

    Args:
        package: A .mlpackage.
        about: Function, or program where it is alone -> what it does.
        settings: Further entries, by key.
        author, licence: As given.
    """
    with edited(package) as model:
        description = model.description
        stored = description.metadata
        stored.shortDescription = "A vision-language model's parts. " + " ".join(
            f"{name}: {what}." for name, what in about.items()
        )
        stored.author, stored.license, stored.versionString = author, licence, __version__
        for key, value in settings.items():
            stored.userDefined[key] = value
        for spec in (description, *description.functions):
            for feature in (*spec.input, *spec.output):
                feature.shortDescription = DESCRIPTIONS[feature.name.rstrip("0123456789")]


@contextmanager
def edited(package: Path) -> Iterator[Any]:
    """The package's model message; what is changed in it is written back."""
    from coremltools import proto

    path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model = proto.Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    yield model
    path.write_bytes(model.SerializeToString())


def label(folder: Path, components: Mapping[str, Component], digest: str) -> None:
    """Write into the packages' metadata which export they belong to.

    Args:
        folder: The bundle's.
        components: Of `write`.
        digest: SHA-256 of the manifest's fields that say what was exported.
    """
    for name in {Path(part.file).parent.as_posix() for part in components.values()}:
        with edited(folder / name) as model:
            model.description.metadata.userDefined[LABEL] = digest
