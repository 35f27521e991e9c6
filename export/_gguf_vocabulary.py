"""A checkpoint's tokenizer in llama.cpp's terms, for the text model's GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.console import note
from edgekit.errors import CheckpointError
from edgekit.families import read_optional_json
from edgekit.families._clip import MmProj
from edgekit.inputs.chat import read_chat_template

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of tokens
QWEN2_SPLIT, LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    + digits
    + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
QWEN35_SPLIT = QWEN2_SPLIT.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"^\s\p{L}", r"^\s\p{L}\p{M}")


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer in llama.cpp's terms.

    Attributes:
        tokens, kinds: By id.
        merges: "a b", the first before all others.
        splitter: llama.cpp's name of the regular expressions that cut a text before merging.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    splitter: str


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of a checkpoint.

    Args:
        folder: With tokenizer.json.
        rows: Of the embedding table; those the tokenizer does not know are filled up, and entries of the tokenizer
            that have none are left out, with the merges that make them: the model was never given one.

    Raises:
        CheckpointError: a tokenizer that llama.cpp cannot be told of.
    """
    value = read_optional_json(folder / "tokenizer.json")
    model = value.get("model", {})
    if model.get("type") != "BPE" or not model.get("merges"):
        raise CheckpointError(
            "This tokenizer cannot be written as GGUF.",
            why=f"It is of kind {model.get('type')!r} with {len(model.get('merges') or ())} merges; only byte-level "
            "BPE with merges is known here.",
            fix="Export to another target.",
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [UNUSED] * rows
    entries = {number: (token, NORMAL) for token, number in model["vocab"].items()}
    for added in value.get("added_tokens", ()):
        entries[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    for number, entry in entries.items():
        if number < rows:
            tokens[number], kinds[number] = entry
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if left := sorted(number for number in entries if number >= rows):
        note(
            f"{len(left)} entries of the tokenizer have no row in the embedding table of {rows}, and are left out of "
            f"the GGUF vocabulary, the first: {entries[left[0]][0]!r}."
        )
        known = set(tokens)
        merges = [merge for merge in merges if merge.replace(" ", "", 1) in known]
    return Vocabulary(tokens, kinds, merges, _splitter(value.get("pre_tokenizer") or {}))


def _splitter(found: Mapping[str, Any]) -> str:
    steps = list(found.get("pretokenizers", [found]))
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        pattern = steps[0].get("pattern", {}).get("Regex")
        known = {QWEN2_SPLIT: "qwen2", QWEN35_SPLIT: "qwen35", LLAMA3_SPLIT: "llama-bpe"}
        if pattern in known:
            return known[pattern]
    raise CheckpointError(
        "This tokenizer cannot be written as GGUF.",
        why=f"How it cuts a text before merging ({', '.join(map(str, kinds))}) is none of the ways llama.cpp has a "
        "name for that are known here: GPT-2's, SmolLM's, Qwen2's, Qwen3.5's, Llama 3's.",
        fix="Export to another target.",
    )


def check_pieces(vocabulary: Vocabulary, plan: MmProj) -> None:
    """Whether the vocabulary holds what llama.cpp looks up when it loads the mmproj.

    Raises:
        CheckpointError: a piece is missing; llama.cpp would end the process.
    """
    known = set(vocabulary.tokens) | {_as_text(token) for token in vocabulary.tokens}
    missing = [piece for piece in plan.pieces if piece not in known]
    if missing:
        raise CheckpointError(
            f"The vocabulary lacks {', '.join(map(repr, missing))} as one piece each.",
            why=f"llama.cpp's {plan.projector} looks them up by themselves and ends the process without them.",
            fix="Train the tokenizer with them, or export to another target.",
        )


def _as_text(token: str) -> str:
    """A piece of line ends in byte-level BPE's alphabet, as text."""
    return token.replace("Ċ", "\n") if set(token) == {"Ċ"} else token


def vocabulary_metadata(vocabulary: Vocabulary, folder: Path, end: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer under llama.cpp's keys.

    Args:
        vocabulary: Of the checkpoint.
        folder: With the chat template.
        end: Token that ends an answer.
        config: config.json.
    """
    text = config["text_config"]
    begin, padding = (text.get(key) if text.get(key) is not None else config.get(key) for key in _ENDS)
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": vocabulary.splitter,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.kinds,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.add_bos_token": False,  # the chat template writes it
        "tokenizer.chat_template": read_chat_template(folder),
    }
    if isinstance(begin, int):
        found["tokenizer.ggml.bos_token_id"] = begin
    if isinstance(padding, int) and 0 <= padding < len(vocabulary.tokens):
        found["tokenizer.ggml.padding_token_id"] = padding
    return found


_ENDS = ("bos_token_id", "pad_token_id")
