"""Multiple choice: the option a response names, by its letter or by its text, against the reference's.

The options are read from the question, one a line ("A. cat", "(B) dog", "C: bird") or in one line ("(A) cat (B) dog",
"A. cat B. dog"). A letter counts where it stands as one: alone, with its mark, or after "answer is"; the article of
"A cat" is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgekit.data.scoring import Metric, exact, fold

_LINE = re.compile(r"^[ \t]*(?:\(([A-Z])\)|([A-Z])[).:])[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_INLINE = re.compile(r"\(([A-Z])\)\s*([^()\n]+?)\s*[,;]?\s*(?=\([A-Z]\)|$)", re.MULTILINE)
_FLAT = re.compile(r"(?:^|\s)([A-Z])[).:][ \t]+(\S.*?)(?=\s+[A-Z][).:]\s|$)", re.MULTILINE)
_SUFFIX = re.compile(r"\s*\banswer with\b.*$", re.IGNORECASE | re.DOTALL)  # "Answer with a single letter."
_ALONE = re.compile(r"\(?([A-Za-z])\)?[).:,]?")
_LEADING = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[).:,])(?=\s)")
# After a cue a capital letter counts before any word but a noun: "is B because", not "is A cat".
_CUED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*(?:\boption\s+)?"
    r"(?:\(([A-Za-z])\)|([A-Za-z])(?=[).:,;!]*\s*$|[).:,;!]\s)|([B-HJ-Z])(?=\s))",
    re.IGNORECASE,
)
_LAST = re.compile(r"\b(?:is|it's|be|choose|pick|select)\s+\(?([A-Z])\)?[.!]?$")
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\(?([A-Za-z])\)?\}")
_ARTICLE = re.compile(r"^(?:an?|the)\s+")


def options(question: str) -> dict[str, str]:
    """Letter -> text of the options that stand in a question, from A on without a gap; empty where there are none."""
    for pattern in (_LINE, _INLINE, _FLAT):
        found: dict[str, str] = {}
        for match in pattern.finditer(question):
            *letters, text = match.groups()
            letter = next(item for item in letters if item)
            if letter == "A" and len(found) == 1:
                found = {}  # the first was no option: "A. Smith wrote ..."
            if letter == chr(ord("A") + len(found)):
                found[letter] = _bare(_SUFFIX.sub("", text))
        if len(found) > 1:
            return found
    return {}


def letter_of(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter a response or a reference names.

    Args:
        text: For example "B", "(b)", "B) cat", "The answer is B", or an option's own text.
        choices: Letter -> text; empty when they are not known.

    Returns:
        A capital letter, one of `choices` where there are any; None when no letter is named, or more than one option.
    """
    plain = " ".join(text.replace("*", "").split()).strip("\"'`")
    found = _marked(plain) or _by_text(plain, choices) or _cued(plain, _LAST)
    return found if found and (not choices or found in choices) else None


def score(prediction: str, answers: Sequence[str], question: str = "") -> float:
    """1.0 when the prediction names the same option as a reference; where no letter is found, when the texts agree."""
    choices = options(question)
    said = letter_of(prediction, choices)
    return float(any(_right(prediction, said, answer, choices) for answer in answers))


def _right(prediction: str, said: str | None, answer: str, choices: Mapping[str, str]) -> bool:
    wanted = letter_of(answer, choices)
    if said is None or wanted is None:
        return bool(exact.score(prediction, [answer]))
    return said == wanted


def _marked(plain: str) -> str | None:
    """A letter that carries the mark of one: alone, "B)", "(B)", boxed, or after "answer is"."""
    for match in (_ALONE.fullmatch(plain), _LEADING.match(plain)):
        if match:
            return _letter(match)
    return _cued(plain, _BOXED) or _cued(plain, _CUED)


def _cued(plain: str, pattern: re.Pattern[str]) -> str | None:
    """The last one: a response that thinks aloud names its answer at the end."""
    found = list(pattern.finditer(plain))
    return _letter(found[-1]) if found else None


def _letter(match: re.Match[str]) -> str:
    return next(item for item in match.groups() if item).upper()


def _by_text(plain: str, choices: Mapping[str, str]) -> str | None:
    """The one option whose text the response is, or holds; a text inside a longer option that is there is not it."""
    said = _bare(plain)
    whole = [letter for letter, text in choices.items() if said in (text, f"{letter.lower()} {text}")]
    if len(whole) == 1:
        return whole[0]
    held = {letter: text for letter, text in choices.items() if text and _holds(said, text)}
    longest = [
        letter for letter, text in held.items() if not any(text != other and text in other for other in held.values())
    ]
    return longest[0] if len(longest) == 1 else None


def _holds(said: str, text: str) -> bool:
    """Whether whole words of `said` are `text`; 5 is not in -5, 10 is not in 10.5."""
    return re.search(rf"(?<![\w\-\N{{MINUS SIGN}}])(?<!\d[.,]){re.escape(text)}(?!\w|[.,]\d)", said) is not None


def _bare(text: str) -> str:
    return _ARTICLE.sub("", exact.normalise(fold(text)))


METRIC = Metric(score)
