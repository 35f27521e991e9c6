"""Texts that tokenizers part ways at: blanks, digits, contractions, scripts, marks, emoji, code, special tokens."""

from __future__ import annotations

from collections.abc import Iterable

PLAIN = (
    "Is there a circle?", "what color is the shape?", "Describe the picture.", "yes", "No.", "HELLO world", "a",
    "A", "",
    "the quick brown fox jumps over the lazy dog", "Antidisestablishmentarianism", "re-use, well-known",
    "e.g. i.e. etc.",
    "camelCaseName snake_case_name kebab-case-name", "user@example.org https://example.org/a?b=c&d=%20#x",
    "C:\\temp\\x",
    "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL THEY'D I'VE DON'T",
    "it\u2019s \u2018so\u2019", "'tis 'twas rock'n'roll",
    "'s", "x's'x", "l'\u0153uvre d'art", "O'Neill's",
)  # fmt: skip
BLANKS = (
    " ", "  ", "   a", "a   ", "a  b", "a   b    c", "\n", "\n\n", "\n\n\n", "a\nb", "a\n b", "a \n b", "a\n\n b",
    " \n \n ", "\t", "\t\ta",
    "a\tb", "a \t b", "\r\n", "a\r\nb\r\n", "\r", "\x0b\x0c", "a\u00a0b", "\u00a0", "a\u2003b\u2009c", "\u3000x",
    "a\u200bb", "\ufeffa", "a\u2028b\u2029c",
    "\u0085a", "\x1ca\x1f", "end of line  \nnext", "a  \n  b", "    def f(x):\n        return x\n", " leading",
    "trailing ", "\u180ea", "\u1680x",
)  # fmt: skip
DIGITS = (
    "0", "12", "123", "1234", "12345678", "3.14159", "1,234,567.89", "1e-5", "0x1F", "2026-11-27", "10:30",
    "+49 30 123456", "50%", "$5.00",
    "\u00bd \u00b2 \u2167 \u2460", "\u0661\u0662\u0663", "\u0967\u0968\u0969", "\uff11\uff12\uff13", "v1.2.3",
    "a1b2c3", "100km", "1 000 000",
)  # fmt: skip
SCRIPTS = (
    "Gr\u00fc\u00dfe aus K\u00f6ln", "na\u00efve caf\u00e9 \u00e0 la cr\u00e8me", "e\u0301a\u0300", "\u00e9",
    "\u0130stanbul \u0131\u015f\u0131k", "stra\u00dfe STRASSE \u1e9e", "\ufb01 \ufb03 \u01c6",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\uc548\ub155\ud558\uc138\uc694", "\u1112\u1161\u11ab",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u0937",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "ti\u1ebfng Vi\u1ec7t",
    "\u10d0\u10d1\u10d2 \u1c90",
    "\U00010400\U00010428", "\U0001d54f \U0001d7d9", "\u20000 \U00020000", "mixed \u4e2d\u6587and English123",
    "\u202eright to left\u202c",
)  # fmt: skip
SIGNS = (
    "!", "!!!", "?!...", "\u2026", "\u201cquoted\u201d \u00abtext\u00bb", "a,b;c:d", "(a)[b]{c}<d>", "a/b\\c|d",
    "~`^*_#@&", "->=>!==<=", "---\n***\n", "# Title\n\n- a\n- b\n",
    "{\"a\": [1, null, true]}", "x = y ** 2 // 3  # why", "for(;;){i++;}", "\u2014 \u2013 -",
    "\u20ac\u00a3\u00a5\u20bf", "\u2200x\u2208\u211d: x\u2264\u221e", "\u00a9\u00ae\u2122\u00b0\u00b5",
    ".hidden", "a.b.c", "'\"'\"'", "\x00", "a\x00b", "\x7f", "\ufffd", "\ue000", "\ufdd0\uffff",
)  # fmt: skip
EMOJI = (
    "\U0001f600", "\U0001f600\U0001f600", "\U0001f469\u200d\U0001f4bb",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "\u2764",
    "1\ufe0f\u20e3", "a\U0001f600b", "\U0001fae8 \U0001f3f4\U000e0067\U000e0062\U000e007f",
)  # fmt: skip
MOST_SPECIAL = 12


def strings(special: Iterable[str]) -> list[str]:
    """The texts, and some with a tokenizer's own special tokens.

    Args:
        special: The tokens' texts.
    """
    own: list[str] = []
    for token in list(special)[:MOST_SPECIAL]:
        own += [token, f"a{token} b", f" {token}\n{token[:-1]}"]
    return [*PLAIN, *BLANKS, *DIGITS, *SCRIPTS, *SIGNS, *EMOJI, *own]
