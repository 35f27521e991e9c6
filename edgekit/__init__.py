"""edgekit: from a big vision-language model to one on a phone, with proof."""

from __future__ import annotations

import logging

__version__ = "0.1.0"

# transformers and peft load torchao wherever it is installed, and loading it writes these to standard error: kernels
# for GPUs that it has no libraries for, and a call of its own that a later torch will refuse. Neither says anything of
# what the user asked for. Whoever imports them first, edgekit itself was imported before.
_CHATTER = {
    "torchao": ("Failed to load ", "_C_"),
    "torch.utils._pytree": ("register_constant() on Enum subclasses",),
}


def _unlike(words: tuple[str, ...]) -> logging.Filter:
    class Unlike(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            return record.levelno > logging.WARNING or not all(word in record.getMessage() for word in words)

    return Unlike()


for _name, _words in _CHATTER.items():
    logging.getLogger(_name).addFilter(_unlike(_words))
