"""VQA accuracy: the mean over annotators of min(1, matches among the others / 3), after the VQA normaliser.

Source: Antol et al., "VQA", arXiv:1505.00468, and the evaluation at visualqa.org, whose rules are followed: newlines
and tabs to blanks, punctuation dropped or made a blank, periods dropped unless a digit follows, lower case, number
words to digits, articles dropped, contractions given their apostrophe. References always go through the same rules
(the official code spares them where all annotators agree). With fewer than four annotators the official formula could
not reach 1: the divisor is then the number of the others, and a single reference is matched or not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from edgekit.data.scoring import Metric

NUMBER_WORDS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
ARTICLES = frozenset(("a", "an", "the"))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


@cache
def _mended() -> dict[str, str]:
    """A contraction with one apostrophe left out -> the contraction."""
    return {
        word[:place] + word[place + 1 :]: word
        for word in CONTRACTIONS.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }


def normalise(text: str) -> str:
    """An answer by the rules above; the typographic apostrophe counts as the plain one."""
    text = " ".join(unicodedata.normalize("NFC", text).split()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    words = [NUMBER_WORDS.get(word, word) for word in _without_punctuation(text).lower().split()]
    return " ".join(_mended().get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    out = text
    joins = _DIGIT_COMMA.search(text) is not None  # "1,000 m/s": then every sign is dropped, none becomes a blank
    for sign in PUNCTUATION:
        beside_blank = f"{sign} " in text or f" {sign}" in text
        out = out.replace(sign, "" if joins or beside_blank else " ")
    return _PERIOD.sub("", out)


def score(prediction: str, answers: Sequence[str]) -> float:
    """The accuracy of one answer against its annotators'; 0.0 for one of which nothing is left."""
    said = normalise(prediction)
    if not said or not answers:
        return 0.0
    given = Counter(normalise(answer) for answer in answers)
    matches, others = given[said], len(answers) - 1
    if others == 0:
        return float(matches)
    needed = min(3, others)
    # Leaving out one who agrees leaves one match less; leaving out another leaves them all.
    agreeing, differing = min(1.0, (matches - 1) / needed), min(1.0, matches / needed)
    return (matches * max(0.0, agreeing) + (len(answers) - matches) * differing) / len(answers)


METRIC = Metric.of_answers(score)
