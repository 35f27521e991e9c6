"""What transformers.js looks for in a bundle, where it looks for it."""

from __future__ import annotations

from pathlib import Path

from edgekit.families import read_optional_json
from edgekit.files import write_json
from edgekit.inputs.chat import read_chat_template
from edgekit.inputs.image_settings import read_image_processor


def name_processor(folder: Path) -> None:
    """Name the processor and the chat template where transformers.js reads them, in a bundle's folder.

    It takes image settings and the processor's class from preprocessor_config.json alone, and the chat template from
    tokenizer_config.json.
    """
    nested = read_optional_json(folder / "processor_config.json")
    settings = read_image_processor(folder)
    named = settings.get("processor_class") or nested.get("processor_class")
    if named:
        write_json(folder / "preprocessor_config.json", {**settings, "processor_class": named})
    tokenizer = read_optional_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**tokenizer, "chat_template": read_chat_template(folder)})
