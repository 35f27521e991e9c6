"""Prompts and images to model inputs, without transformers: tokenizer, chat template, own preprocessing.

It reads a checkpoint folder or a bundle alike, so what was trained, exported and run is fed by the same code; parity
with the Hugging Face processors is a test and a field of every report. Only a checkpoint's tokenizer is transformers'
(`edgekit.inputs.tokens`): its tokenizers and processors change what tokenizer.json says, so a bundle gets it as it is
then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError, DataError
from edgekit.families import Family, Grid, Pixels, Size, family_of, read_optional_json
from edgekit.inputs.chat import Message, read_chat_template, render
from edgekit.inputs.checks import check_params, reading, rust_errors
from edgekit.inputs.resizing import COLUMNS, ORDER
from edgekit.inputs.tokens import PromptTokenizer, read_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Inputs:
    """One prompt, ready for a model.

    Attributes:
        ids: int64 (1, T), image placeholders expanded.
        pixels: Of all images; None for a prompt without one.
        positions: int64 (1, T), or (3, 1, T) for M-RoPE; the next token's is one above the largest.
    """

    ids: NDArray[np.int64]
    pixels: Pixels | None
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class Processor:
    """The tokenizer, template and image parameters of one model."""

    family: Family
    text: PromptTokenizer
    template: str
    params: dict[str, Any]

    @classmethod
    def load(cls, folder: Path, *, prepared: bool = False) -> Processor:
        """From a Hugging Face folder or a bundle.

        Args:
            folder: Of either.
            prepared: A bundle's folder that is not sealed yet.

        Raises:
            CheckpointError: files missing, damaged, or of an unknown family.
        """
        config = read_optional_json(folder / "config.json")
        if "model_type" not in config:
            raise CheckpointError(
                f"{folder} is not a model folder.",
                why="It has no config.json with a model_type.",
                fix="Give a Hugging Face checkpoint folder (config.json, model.safetensors, tokenizer.json, ...).",
            )
        family = family_of(str(config["model_type"]))
        # First what edgekit reads itself, whose errors name files and fields.
        with reading(str(folder)):
            params = family.read_preprocessing(folder)
        check_params(params, str(folder))
        template = read_chat_template(folder)
        text = read_tokenizer(folder, prepared=prepared)
        check_image_token(folder, config, text.tokenizer.token_to_id)
        return cls(family, text, template, params)

    @property
    def tokenizer(self) -> Tokenizer:
        """Cuts any text, however long."""
        return self.text.tokenizer

    @property
    def special(self) -> dict[str, str]:
        """Special tokens that the template may name."""
        return self.text.special

    @cached_property
    def vocab_size(self) -> int:
        """One above the tokenizer's highest token; a model's output head may be padded beyond it."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def prompt(self, messages: list[Message], grids: list[Grid]) -> str:
        """The rendered conversation with image placeholders expanded.

        Raises:
            DataError: the number of images and of image parts differ.
        """
        return self.family.expand(self.rendered(messages), grids, self.params)

    def rendered(self, messages: list[Message]) -> str:
        """The conversation as the template writes it, a placeholder for each image.

        Raises:
            DataError: the template refuses it.
        """
        return render(self.template, messages, self.special)

    def encode(self, messages: list[Message], images: list[Image]) -> Inputs:
        """Token ids and pixels of one prompt.

        Raises:
            DataError: the number of images and of image parts differ, or the prompt is cut and loses a part of one.
        """
        pixels = self.preprocess(images) if images else None
        grids = pixels.grids if pixels is not None else []
        text = self.prompt(messages, grids)
        with rust_errors("The model's tokenizer breaks down at this prompt."):
            ids = self.text.prompt_ids(text, adds_special=self.family.adds_special_tokens)
        positions = self.family.positions(ids, grids, self.params)
        return Inputs(np.array([ids], dtype=np.int64), pixels, positions[..., None, :])

    def preprocess(self, images: list[Image]) -> Pixels:
        """What the vision encoder sees of images; one at a time, so that it is known which parts are whose.

        Raises:
            DataError: the family takes no such image.
        """
        each = [self.family.preprocess([image], self.params) for image in images]
        grids = [grid for pixels in each for grid in pixels.grids]
        return Pixels(np.concatenate([p.values for p in each]), grids, [len(p.values) for p in each])

    def for_sizes(self, sizes: Sequence[Size] | None) -> Processor:
        """This processor as an export for images of these sizes has it; None for the family's own choice.

        Raises:
            EdgekitError: the family has no sizes to choose, or the model cannot take one of them.
        """
        params = self.family.fix_sizes(self.params, sizes)
        check_params(params, "this model")
        return replace(self, params=params)

    def as_exported(self, preprocessing: Mapping[str, Any]) -> Processor:
        """This processor as a bundle was made with it: its image sizes, and its order of resizing.

        Args:
            preprocessing: Of its manifest. Before schema 4 no order was recorded: columns first, as Pillow had it
                up to 12.1.

        Raises:
            EdgekitError: as `for_sizes`.
        """
        fitted = self.for_sizes(preprocessing.get("sizes"))
        return replace(fitted, params={**fitted.params, ORDER: preprocessing.get(ORDER, COLUMNS)})

    def answer_ids(self, messages: list[Message], answer: str) -> list[int]:
        """Token ids of an answer as the template writes it after its own prompt, its end token included.

        Raises:
            DataError: the template does not continue its generation prompt when it writes the answer.
        """
        turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        prompt = render(self.template, messages, self.special)
        whole = render(self.template, [*messages, turn], self.special, generation_prompt=False)
        if not whole.startswith(prompt):
            raise DataError(
                "The chat template writes an answer in another way than it asks for one.",
                why="So it cannot be said which tokens the model should learn to write.",
            )
        ids: list[int] = self.tokenizer.encode(whole[len(prompt) :], add_special_tokens=False).ids
        special = {number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        end = next((place for place, number in enumerate(ids) if number in special), len(ids))
        return ids[: end + 1]

    def decode(self, ids: list[int], *, strip_end: bool = True) -> str:
        """Text of generated tokens, special tokens left out, without the space that opens an answer.

        Args:
            ids: Tokens.
            strip_end: Leave out white space at the end too; not while more tokens may follow.
        """
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip() if strip_end else text.lstrip()


def check_image_token(folder: Path, config: dict[str, Any], token_to_id: Callable[[str], int | None]) -> None:
    """The token that images take the places of must be the one that prompts are written with.

    Args:
        folder: Of a checkpoint or a bundle.
        config: Its config.json.
        token_to_id: The tokenizer's.

    Raises:
        CheckpointError: it is another one.
    """
    name = "image_token_id" if "image_token_id" in config else "image_token_index"
    said, placeholder = config.get(name), family_of(str(config["model_type"])).image_token
    if said is None or placeholder is None:
        return
    if (found := token_to_id(placeholder)) != said:
        raise CheckpointError(
            f"{folder / 'config.json'}: {name} is {said}, and {placeholder} is {found} in tokenizer.json.",
            why="So images would be looked for where none are.",
            fix="Take both files from the same model.",
        )
