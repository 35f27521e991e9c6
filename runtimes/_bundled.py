"""What the sessions of bundles share: edgekit's own preprocessing, the merge of image embeddings, the positions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import Bundle
from edgekit.checkpoint.generation import FILE, Generation, read_generation
from edgekit.errors import BundleError, DataError
from edgekit.families import Grid, Pixels, read_optional_json
from edgekit.families.decoding import POSITIONS, Given, Run, filled, inputs_of, manifest_fields, next_positions
from edgekit.families.merging import Encoded, by_bucket, gather, merge_images
from edgekit.inputs.chat import Message
from edgekit.inputs.processor import Processor
from edgekit.manifest import Manifest
from edgekit.runtimes.session import Logits, Prepared, Session
from edgekit.schema import listed

if TYPE_CHECKING:
    from PIL.Image import Image


def last_logits(output: Any, vocab_size: int) -> Logits:
    """(B, T, V), as a bundle's decoder gives them -> those of the last place, (V,).

    Raises:
        BundleError: it has another shape.
    """
    shape: tuple[int, ...] = getattr(output, "shape", ())
    if len(shape) != 3 or shape[-1] != vocab_size or not all(shape):
        raise BundleError(
            f"The decoder gives logits of shape ({', '.join(map(str, shape))}), not (1, T, {vocab_size}).",
            why="The manifest says so: the bundle's parts are not of one model.",
            fix="Export the bundle again.",
        )
    found: Logits = output[0, -1]
    return found


def check_modules(manifest: Manifest, source: str) -> None:
    """Look whether the components that a manifest describes fit each other, and its own numbers.

    A runtime that knows its programs' tensors compares them with those of the manifest (`edgekit.formats.declared`).

    Raises:
        BundleError: they do not; what does not fit is named.
    """
    decoder = manifest.components["text_decoder"]
    inputs = {spec.name: spec.shape for spec in decoder.inputs}
    problems = []
    for name, taken in manifest_fields(decoder.inputs).items():
        if (said := getattr(manifest, name)) != taken:
            problems.append(f"{name}: {said}, the decoder takes {taken}")
    width = _last(inputs.get("inputs_embeds", ()))
    encoders = dict.fromkeys((name, "pixel_values") for name, _ in manifest.encoders().values())
    for name, takes in [("token_embedding", "input_ids"), *encoders]:
        part = manifest.components[name]
        if [spec.name for spec in part.inputs] != [takes]:
            problems.append(f"components.{name}.inputs: {[spec.name for spec in part.inputs]}, and not {takes} alone")
        if not part.outputs or _last(part.outputs[0].shape) != width or not isinstance(width, int):
            problems.append(f"components.{name}.outputs: not as wide as the decoder's inputs_embeds, {width}")
    if not any(spec.name == "logits" and _last(spec.shape) == manifest.vocab_size for spec in decoder.outputs):
        problems.append(f"vocab_size: {manifest.vocab_size}, the decoder has no logits of that size")
    if problems:
        raise BundleError(
            f"The components of {source} do not fit together:", why=listed(problems), fix="Export the bundle again."
        )


def _last(shape: Sequence[int | str]) -> int | str | None:
    return shape[-1] if shape else None


class PreparedSession(Session):
    """A session over a bundle that edgekit's own preprocessing feeds: prompts in, words out.

    Attributes:
        manifest: The bundle's.
        processor: Of its tokenizer, template and image parameters, for its image sizes.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Read what the loop needs.

        Args:
            bundle: Its components are the runtime's own affair.
        """
        manifest = bundle.manifest
        bundle.check_parts()
        self.manifest, self._folder = manifest, bundle.folder
        self.processor = Processor.load(bundle.folder).as_exported(manifest.preprocessing)
        self.eos_token_ids = frozenset(manifest.text.eos_token_ids)
        # A tokenizer may have entries that the model has no row for, and a model rows beyond its tokenizer.
        self.vocab_size = min(self.processor.vocab_size, manifest.vocab_size)
        self.image_token_id = manifest.text.image_token_id

    @cached_property
    def generation(self) -> Generation:
        """The model's own settings: the manifest's, or of an older bundle those of the file that it copied.

        Raises:
            CheckpointError: one is not valid; so it is read where it is asked for.
        """
        given, path = self.manifest.generation, self._folder / FILE
        return read_generation(read_optional_json(path) if given is None else given, str(path))

    def prepare(self, messages: list[Message], images: list[Image]) -> Prepared:
        """By edgekit's own processor."""
        return Prepared.of(self.processor.encode(messages, images))

    def _views(self, pixels: Pixels) -> list[NDArray[np.float32]]:
        """Each view as an encoder of any view takes it.

        Raises:
            DataError: one is larger than any that the encoder takes.
            BundleError: the family has no such encoders.
        """
        family, most = self.processor.family, next(iter(self.manifest.buckets.values())).tokens
        if family.views is None:
            raise BundleError(
                f"buckets: one is for any view, and family {family.name!r} has no such encoders.",
                fix="Copy or export the bundle again.",
            )
        views = family.views(pixels, self.processor.params)
        if (longest := max(map(len, views))) > most:
            raise DataError(
                f"An image is seen as {longest} tokens at once, and this bundle's vision encoder takes {most}.",
                why="It is very long and narrow: such an image is enlarged until its breadth is that of a token.",
                fix="Crop the image.",
            )
        return views

    def decode_text(self, ids: list[int]) -> str:
        """By the bundle's tokenizer."""
        return self.processor.decode(ids, strip_end=False)


class BundleSession(PreparedSession):
    """A session over a bundle's components, as `session.Session` and `session.Modules`.

    A runtime adds how each component is run (`encode_part`, `embed`, `run_decoder`) and what its cache does (`reset`,
    `rewind`, and `check_room` where it has an end); transformers is never loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        check_modules(bundle.manifest, str(bundle.folder))
        self._position = 0
        self._extra = inputs_of(bundle.manifest)

    @abstractmethod
    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> Sequence[Sequence[NDArray[np.float32]]]:
        """Run one vision encoder.

        Args:
            component: Its name in the bundle.
            grid: Of the one image it takes, ANY_GRID for one view, or None for tiles.
            values: Tiles (M, 3, H, W), the patches (P, patch) of one image, or one view (N, ...).

        Returns:
            The encoder's outputs, of one run or of several in the tiles' order.
        """

    @abstractmethod
    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""

    @abstractmethod
    def run_decoder(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """Append embeddings (1, T, D) to the cache; the logits (V,) that follow them.

        Args:
            embeds: Of new tokens.
            given: The decoder's extra inputs for them by name, positions among them.
        """

    def check_room(self, tokens: int) -> None:
        """Refuse what the cache cannot take any more.

        Args:
            tokens: To be appended.

        Raises:
            DataError: they do not fit.
        """

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Each image by the encoder of its bucket."""
        assert prepared.pixels is not None
        encoders = self.manifest.encoders()
        grids = {name: grid for name, (_, grid) in encoders.items()}
        family, params = self.processor.family, self.processor.params
        parts = by_bucket(grids, Pixels(prepared.pixels, prepared.grids), self._views)
        encoded = [outputs for name, values in parts for outputs in self.encode_part(*encoders[name], values)]
        pack = family.pack
        by_grid = None if pack is None else lambda features: pack(features, prepared.grids, params)
        return gather(encoded, self._extra, by_grid)

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """All tokens at once, image embeddings merged in."""
        assert prepared.positions is not None
        self.check_room(prepared.ids.shape[1])  # before the work of embedding them
        embeds = self.embed(prepared.ids)
        if features is not None:
            embeds = merge_images(embeds, prepared.ids, features.embeds, self.image_token_id)
        return self.decode(embeds, self._given(prepared.ids, prepared.positions, features))

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        ids = np.array([[token]], dtype=np.int64)
        return self.decode(self.embed(ids), self._given(ids, next_positions(self._extra, self._position), None))

    def decode(self, embeds: NDArray[np.float32], given: Given) -> Logits:
        """As `session.Modules`."""
        self.check_room(embeds.shape[1])
        self._position = int(given[POSITIONS].max()) + 1
        return self.run_decoder(embeds, given)

    def reset(self) -> None:
        """Empty the cache."""
        self._position = 0

    def _given(self, ids: NDArray[np.int64], positions: NDArray[np.int64], features: Encoded | None) -> Given:
        extra = {} if features is None else features.extra
        return filled(self._extra, Run(ids, positions, self.image_token_id, extra))
