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
from edgekit.errors import BundleError
from edgekit.families import Grid, Pixels, read_optional_json
from edgekit.families.merging import Encoded, by_bucket, gather, merge_images, spread_deepstack
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
    axes = next((inputs[name][0] for name in ("rotary_ids", "position_ids") if len(inputs.get(name, ())) == 3), 1)
    if axes != manifest.position_axes:
        problems.append(f"position_axes: {manifest.position_axes}, the decoder takes {axes}")
    layers = inputs["deepstack_embeds"][0] if inputs.get("deepstack_embeds") else 0
    if layers != manifest.deepstack:
        problems.append(f"deepstack: {manifest.deepstack}, the decoder takes {layers}")
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
        processor: Of its tokenizer, template and image parameters, for its picture sizes.
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

    @abstractmethod
    def encode_part(
        self, component: str, grid: Grid | None, values: NDArray[np.float32]
    ) -> Sequence[Sequence[NDArray[np.float32]]]:
        """Run one vision encoder.

        Args:
            component: Its name in the bundle.
            grid: Of the one picture it takes, or None for tiles.
            values: Tiles (M, 3, H, W), or the patches (P, patch) of one picture.
        Returns:
            The encoder's outputs, of one run or of several in the tiles' order.
        """

    @abstractmethod
    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(1, T) -> (1, T, D)."""

    @abstractmethod
    def run_decoder(
        self, embeds: NDArray[np.float32], positions: NDArray[np.int64], deepstack: NDArray[np.float32] | None
    ) -> Logits:
        """Append embeddings (1, T, D) to the cache; the logits (V,) that follow them."""

    def check_room(self, tokens: int) -> None:
        """Refuse what the cache cannot take any more.

        Args:
            tokens: To be appended.
        Raises:
            DataError: they do not fit.
        """

    def encode_image(self, prepared: Prepared) -> Encoded:
        """Each picture by the encoder of its bucket."""
        assert prepared.pixels is not None
        encoders = self.manifest.encoders()
        grids = {name: grid for name, (_, grid) in encoders.items()}
        parts = by_bucket(grids, Pixels(prepared.pixels, prepared.grids))
        encoded = [outputs for name, values in parts for outputs in self.encode_part(*encoders[name], values)]
        pack, params = self.processor.family.pack, self.processor.params
        return gather(encoded, None if pack is None else lambda features: pack(features, prepared.grids, params))

    def prefill(self, prepared: Prepared, features: Encoded | None) -> Logits:
        """All tokens at once, image embeddings merged in."""
        assert prepared.positions is not None
        self.check_room(prepared.ids.shape[1])  # before the work of embedding them
        embeds = self.embed(prepared.ids)
        if features is not None:
            embeds = merge_images(embeds, prepared.ids, features.embeds, self.image_token_id)
        return self.decode(embeds, prepared.positions, self._spread(prepared.ids, features, embeds.shape[-1]))

    def decode_step(self, token: int) -> Logits:
        """One token with the cache."""
        ids = np.array([[token]], dtype=np.int64)
        axes = self.manifest.position_axes
        positions = np.full((1, 1) if axes == 1 else (axes, 1, 1), self._position, dtype=np.int64)
        embeds = self.embed(ids)
        return self.decode(embeds, positions, self._spread(ids, None, embeds.shape[-1]))

    def decode(
        self, embeds: NDArray[np.float32], positions: NDArray[np.int64], deepstack: NDArray[np.float32] | None
    ) -> Logits:
        """As `session.Modules`."""
        self.check_room(embeds.shape[1])
        self._position = int(positions.max()) + 1
        return self.run_decoder(embeds, positions, deepstack)

    def reset(self) -> None:
        """Empty the cache."""
        self._position = 0

    def _spread(self, ids: NDArray[np.int64], features: Encoded | None, width: int) -> NDArray[np.float32] | None:
        if not (layers := self.manifest.deepstack):
            return None
        deepstack = None if features is None else features.deepstack
        return spread_deepstack(ids, deepstack, self.image_token_id, layers, width)
