"""A model's own generation settings: what generation_config.json says, read as transformers reads it.

What they do to a greedy answer is in `edgekit.checkpoint.rules`. Settings of sampling are kept for apps to follow, and
change no greedy answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from edgekit.errors import CheckpointError, EdgekitError

Mode = Literal["model", "greedy"]
"""model: greedy decoding with the model's own settings, as transformers does it; greedy: the plain best token."""
FILE = "generation_config.json"


@dataclass(frozen=True)
class Generation:
    """What a model's folder says of generating; names and meanings are those of transformers' GenerationConfig."""

    repetition_penalty: float = 1.0
    """Logits of tokens that stand in prompt or answer are divided by it, negative ones multiplied."""
    encoder_repetition_penalty: float = 1.0
    """Logits of the prompt's tokens are multiplied by it, negative ones divided."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens comes twice in prompt and answer; 0 for any."""
    encoder_no_repeat_ngram_size: int = 0
    """No run of so many tokens of the prompt comes again; 0 for any."""
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    """(tokens, what is added to the logit of the last one where the others came just before)."""
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens that never come."""
    min_length: int = 0
    """Tokens of prompt and answer before an end token may come."""
    min_new_tokens: int = 0
    """Tokens of the answer before an end token may come."""
    forced_bos_token_id: int | None = None
    """The token behind a prompt of one token."""
    forced_eos_token_id: tuple[int, ...] = ()
    """What the longest answer ends with."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(first place, factor): from that place of the answer on the end tokens' logits grow."""
    suppress_tokens: tuple[int, ...] = ()
    """Tokens that never come."""
    begin_suppress_tokens: tuple[int, ...] = ()
    """Tokens that do not come first."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end an answer."""
    do_sample: bool = False
    """Whether the model's authors draw tokens; edgekit does so only where it is asked to."""
    temperature: float | None = None
    """Of sampling."""
    top_k: int | None = None
    """Of sampling."""
    top_p: float | None = None
    """Of sampling."""
    min_p: float | None = None
    """Of sampling."""
    not_followed: tuple[str, ...] = ()
    """What would change a greedy answer in transformers, and no runtime of edgekit does, with its value."""


SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")
PLAIN = Generation()


def read_generation(settings: Mapping[str, Any], source: str = FILE) -> Generation:
    """The settings that a GenerationConfig holds.

    Args:
        settings: As generation_config.json, or `GenerationConfig.to_dict()`; null is unset.
        source: Where they stand, for messages.

    Raises:
        CheckpointError: one is not what transformers takes; its name is in the message.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    found: dict[str, Any] = {}
    for name, (read, wanted) in _READERS.items():
        if name in given:
            try:
                found[name] = read(given[name])
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                raise CheckpointError(
                    f"{source}: {name} is {str(given[name])[:60]}, and should be {wanted}.",
                    fix="Mend it in the model's folder; `edgekit run --generation greedy` does without such settings.",
                ) from error
    return Generation(**found, not_followed=tuple(_not_followed(given)))


def recorded(settings: Mapping[str, Any], source: str = FILE) -> dict[str, Any]:
    """What of a GenerationConfig a bundle hands on: the settings that `read_generation` knows, where they are set.

    Args:
        settings, source: As for `read_generation`, which reads it again.

    Raises:
        CheckpointError: as `read_generation`.
    """
    read_generation(settings, source)
    names = (*_READERS, *_WAYS)
    return {name: _plain(settings[name]) for name in names if settings.get(name) is not None}


def acting(generation: Generation) -> dict[str, Any]:
    """The settings that change a greedy answer: name -> value, without those that say nothing."""
    names = [field.name for field in fields(Generation) if field.name not in (*SAMPLING, "not_followed")]
    return {name: getattr(generation, name) for name in names if getattr(generation, name) != getattr(PLAIN, name)}


def as_dict(generation: Generation, mode: Mode) -> dict[str, Any]:
    """How an answer was made, for JSON: mode, the settings that acted, and those that are not followed."""
    return {"mode": mode, "settings": acting(generation), "not_followed": list(generation.not_followed)}


def check_mode(mode: str) -> Mode:
    """The mode of that name.

    Raises:
        EdgekitError: there is none.
    """
    for known in get_args(Mode):
        if mode == known:
            found: Mode = known
            return found
    raise EdgekitError(f"There is no generation {mode!r}.", fix=f"There are: {', '.join(get_args(Mode))}.")


def check_penalty(penalty: float) -> float:
    """A repetition penalty that a caller asks for.

    Raises:
        EdgekitError: it has no meaning.
    """
    if not (math.isfinite(penalty) and penalty > 0):
        raise EdgekitError(
            f"A repetition penalty of {penalty:g} has no meaning.",
            fix="Give one above 0: 1 changes nothing, 1.1 discourages repeating.",
        )
    return penalty


# --------------------------------------------------------------------------------------------------------- reading them


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _positive(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError
    return _number(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise ValueError
    return value


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_count(item) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, (list, tuple)) and word for word in value):
        raise TypeError
    return tuple(_ids(word) for word in value)


def _biases(value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    found = [(_ids(word), _number(bias)) for word, bias in value]
    if not all(word for word, _ in found):
        raise ValueError
    return tuple(found)


def _decays(value: Any) -> tuple[int, float]:
    start, factor = value
    return _count(start), _number(factor)


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return tuple(text for text in texts if text)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "repetition_penalty": (_positive, "a number above 0"),
    "encoder_repetition_penalty": (_positive, "a number above 0"),
    "no_repeat_ngram_size": (_count, "a count"),
    "encoder_no_repeat_ngram_size": (_count, "a count"),
    "sequence_bias": (_biases, "a list of [[token, ...], number]"),
    "bad_words_ids": (_words, "a list of lists of tokens"),
    "min_length": (_count, "a count"),
    "min_new_tokens": (_count, "a count"),
    "forced_bos_token_id": (_count, "a token"),
    "forced_eos_token_id": (_ids, "a token, or several"),
    "exponential_decay_length_penalty": (_decays, "[a count, a number]"),
    "suppress_tokens": (_ids, "a list of tokens"),
    "begin_suppress_tokens": (_ids, "a list of tokens"),
    "stop_strings": (_texts, "a text, or several"),
    "do_sample": (_flag, "true or false"),
    "temperature": (_number, "a number"),
    "top_k": (_whole, "a whole number"),
    "top_p": (_number, "a number"),
    "min_p": (_number, "a number"),
}


# Settings that make transformers' `do_sample=False` something else than one greedy loop over its logits.
_WAYS: dict[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "num_beams": lambda value, given: bool(value != 1),
    "guidance_scale": lambda value, given: bool(value != 1),
    "penalty_alpha": lambda value, given: bool(value) and given.get("top_k", 50) > 1,
    **dict.fromkeys(
        ("watermarking_config", "token_healing", "constraints", "force_words_ids", "dola_layers", "max_time",
         "remove_invalid_values"),
        lambda value, given: bool(value),
    ),
}  # fmt: skip


def _not_followed(given: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {shorten(given[name])}" for name, acts in _WAYS.items() if name in given and acts(given[name], given)
    ]


def _plain(value: Any) -> Any:
    """A value as JSON holds it; what is none, as text."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)[:200]


def shorten(value: Any) -> str:
    """A setting's value in a few letters: a number, a text, or how many there are."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and not (len(value) < 3 and all(isinstance(x, (int, float)) for x in value)):
        return f"({len(value)})"
    return " ".join(f"{item:g}" for item in value) if isinstance(value, (list, tuple)) else str(value)[:40]
