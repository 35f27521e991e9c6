"""The tokenizer as transformers applies it, of a checkpoint or of a bundle.

What tokenizer.json says is not all: a tokenizer's class may rebuild it, tokenizer_config.json may give tokens other
flags, a processor may add tokens anew (Idefics3's makes `<end_of_utterance>` a plain one, whatever its `rstrip` was),
and a `truncation` that a trainer left there cuts prompts. So a checkpoint's is taken from its loaded processor, and
written into each bundle, where it is read without transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.bundle import MANIFEST
from edgekit.console import note_once
from edgekit.errors import CheckpointError, DataError
from edgekit.families import read_optional_json
from edgekit.files import write_json, write_text
from edgekit.inputs.checks import check_tokenizer, check_tokenizer_file, rust_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True)
class PromptTokenizer:
    """A tokenizer, and what is done to a prompt beside.

    Attributes:
        tokenizer: Cuts and pads nothing.
        special: Special tokens by name, such as bos_token, that a chat template may write.
        limit: Prompts are cut to so many tokens; None for not at all.
        side: Where they are cut.
        image_token_id: What may not be cut off; None where the configuration does not say.
    """

    tokenizer: Tokenizer
    special: dict[str, str]
    limit: int | None = None
    side: Literal["left", "right"] = "right"
    image_token_id: int | None = None

    def prompt_ids(self, text: str, *, adds_special: bool = True) -> list[int]:
        """Ids of a rendered prompt, as transformers' `apply_chat_template` gives them.

        Args:
            text: Placeholders expanded.
            adds_special: Whether the processor lets the tokenizer put its beginning before a prompt that has none.

        Raises:
            DataError: it is cut, and a part of an image with it; or the tokenizer cannot take it.
        """
        begin = self.special.get("bos_token")
        adds = adds_special and not (begin is not None and text.startswith(begin))
        try:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # the Rust side's bare one, such as for a vocabulary without its unknown token
            raise DataError("The tokenizer cannot cut this prompt.", why=str(error)) from error
        if self.limit is not None:
            room = self.limit - (self.tokenizer.num_special_tokens_to_add(False) if adds else 0)
            whole = self._image_tokens(encoding.ids)
            encoding.truncate(max(room, 0), direction=self.side)
            if self._image_tokens(encoding.ids) != whole:
                raise DataError(
                    f"The prompt is cut to {self.limit} tokens, and an image with it.",
                    why=f"{TOKENIZER} says so in `truncation`, as a trainer left it; transformers refuses it too.",
                    fix='Set "truncation" to null there, and export again.',
                )
        ids: list[int] = self.tokenizer.post_process(encoding, None, adds).ids
        return ids

    def _image_tokens(self, ids: list[int]) -> int:
        return 0 if self.image_token_id is None else ids.count(self.image_token_id)

    def write(self, folder: Path) -> None:
        """Put the tokenizer into a bundle's folder, so that whoever reads it there has the same.

        Args:
            folder: With the checkpoint's own files already.
        """
        from tokenizers import Tokenizer

        mine = Tokenizer.from_str(self.tokenizer.to_str())
        if self.limit is not None:
            mine.enable_truncation(self.limit, direction=self.side)
        path, text = folder / TOKENIZER, mine.to_str()
        if not path.exists() or Tokenizer.from_file(str(path)).to_str() != text:
            write_text(path, text)
        config = read_optional_json(folder / CONFIG)
        if _special_of(config) != self.special:
            plain = {name: value for name, value in config.items() if name not in _special_of(config)}
            write_json(folder / CONFIG, {**plain, **self.special})


def read_tokenizer(folder: Path, *, prepared: bool = False) -> PromptTokenizer:
    """The tokenizer of a bundle, or of a checkpoint through transformers.

    Args:
        folder: Of either.
        prepared: A bundle's folder that is not sealed yet.

    Raises:
        CheckpointError: missing, damaged, or set to what no prompt can be prepared by.
    """
    config = read_optional_json(folder / "config.json")
    found = config.get("image_token_id", config.get("image_token_index"))
    image_token_id = found if isinstance(found, int) else None
    if prepared or (folder / MANIFEST).exists():
        return _of_bundle(folder, image_token_id)
    return _of_checkpoint(folder, image_token_id)


def _of_bundle(folder: Path, image_token_id: int | None) -> PromptTokenizer:
    tokenizer = _read_tokenizer(folder)
    cut = tokenizer.truncation
    tokenizer.no_padding()
    tokenizer.no_truncation()
    special = _special_of(read_optional_json(folder / CONFIG))
    if cut is None:
        return PromptTokenizer(tokenizer, special, image_token_id=image_token_id)
    return PromptTokenizer(tokenizer, special, cut["max_length"], cut["direction"], image_token_id)


def _read_tokenizer(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    check_tokenizer_file(folder / TOKENIZER)
    with rust_errors(f"Cannot read {folder / TOKENIZER}."):
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    check_tokenizer(tokenizer, str(folder))
    return tokenizer


def _of_checkpoint(folder: Path, image_token_id: int | None) -> PromptTokenizer:
    from edgekit.inputs.official import load_processor

    _read_tokenizer(folder)  # a missing or damaged one is said in one line
    processor = load_processor(folder)
    theirs = processor.tokenizer
    if not hasattr(theirs, "backend_tokenizer"):
        raise CheckpointError(f"The tokenizer in {folder} is no fast one.", why=f"It has no {TOKENIZER} of its own.")
    if theirs.split_special_tokens:
        raise CheckpointError(
            f"{folder / CONFIG}: split_special_tokens is true.",
            why="Special tokens would be cut like any text, those that stand for an image too.",
            fix="Set it to false.",
        )
    limit = _limit(folder, processor)
    tokenizer = theirs.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return PromptTokenizer(tokenizer, dict(theirs.special_tokens_map), limit, theirs.truncation_side, image_token_id)


def _limit(folder: Path, processor: Any) -> int | None:
    """How long the processor lets a prompt be, from what its tokenizer was saved with.

    Raises:
        CheckpointError: it pads a prompt, or its settings contradict each other.
    """
    tokenizer = processor.tokenizer
    try:
        settings = processor._merge_kwargs(tokenizer_init_kwargs=tokenizer.init_kwargs)["text_kwargs"]
        asked = {name: settings.get(name) for name in ("truncation", "max_length", "pad_to_multiple_of")}
        padding, cutting, limit, _ = tokenizer._get_padding_truncation_strategies(
            padding=settings.get("padding", False), **asked, verbose=False
        )
    except Exception as error:  # of any type, as what is wrong with a setting
        raise CheckpointError(
            f"transformers cannot apply the tokenizer's settings in {folder}.", why=str(error)[:300]
        ) from error
    if padding.value != "do_not_pad":
        raise CheckpointError(
            f"The tokenizer in {folder} fills prompts up: padding is {padding.value!r}.",
            why=f"{CONFIG} says so. The model would read the filling as part of the question.",
            fix=f"Remove padding from {CONFIG}.",
        )
    if cutting.value == "do_not_truncate" or limit is None:
        return None
    note_once(
        f"{folder}: its tokenizer cuts prompts to {limit} tokens, as transformers does; "
        f'"truncation" and "padding" of {TOKENIZER} and max_length of {CONFIG} say so'
    )
    return int(limit)


def _special_of(config: dict[str, Any]) -> dict[str, str]:
    extra = config.get("extra_special_tokens")
    found = {**(extra if isinstance(extra, dict) else {}), **config}
    # Older folders spell a token as {"content": "..."}.
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}
