"""What feeds a bundle: its tokenizer, template and image settings as one, and the proof that they are the checkpoint's.

A checkpoint may hold two of each that disagree; a bundle holds the one that counts, so that whoever reads it, on a
phone or in a browser, need not know transformers' order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgekit.data import Sample
from edgekit.families import read_optional_json
from edgekit.files import write_json, write_text
from edgekit.inputs.agreement import compare_inputs
from edgekit.inputs.chat import JINJA, OWN, TOKENIZER
from edgekit.inputs.image_settings import IMAGES, PROCESSOR, read_image_processor
from edgekit.inputs.official import load_processor
from edgekit.inputs.processor import Processor
from edgekit.report.tolerances import ALWAYS, PROMPTS, judge

COMPARED = ("prompt_ids_equal", "pixel_max_abs")


def write_inputs(processor: Processor, checkpoint: Path, folder: Path) -> None:
    """Leave one tokenizer, one template and one set of image settings in a bundle's folder.

    Args:
        processor: Of the checkpoint.
        checkpoint: The Hugging Face folder.
        folder: The bundle's, with the checkpoint's files copied into it.
    """
    processor.text.write(folder)
    write_text(folder / JINJA, processor.template)
    (folder / OWN).unlink(missing_ok=True)
    tokenizer = read_optional_json(folder / TOKENIZER)
    if "chat_template" in tokenizer:
        write_json(folder / TOKENIZER, {**tokenizer, "chat_template": processor.template})
    given = read_optional_json(folder / PROCESSOR)
    if given.keys() & {"image_processor", "chat_template"}:
        write_json(folder / IMAGES, read_image_processor(checkpoint))
        kept = {name: value for name, value in given.items() if name not in ("image_processor", "chat_template")}
        write_json(folder / PROCESSOR, kept)


def compare_with_official(
    checkpoint: Path, folder: Path, params: dict[str, Any], samples: Sequence[Sample], count: int | None
) -> dict[str, Any]:
    """The bundle's prompts and pixels beside those of the checkpoint's own processor, as transformers loads it.

    Args:
        checkpoint: The Hugging Face folder.
        folder: The bundle's, not sealed yet.
        params: Of its preprocessing.
        samples: Of the parity run.
        count: How many of them; PROMPTS when None.

    Returns:
        As `compare_inputs`.
    """
    ours = Processor.load(folder, prepared=True).as_exported(params)
    asked: Iterable[Sample] = samples[: count or PROMPTS]
    prompts = ((sample.messages, [image.open() for image in sample.images]) for sample in asked)
    return compare_inputs(ours, load_processor(checkpoint), prompts)


def with_inputs(parity: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """A parity result that passes only if prompts and pixels are the official processor's too.

    Args:
        parity: From `edgekit.export.parity.measure`.
        figures: From `compare_with_official`.
    """
    if figures["pixels_by"] == "edgekit":  # both sides were the same code, which says nothing
        figures = {**figures, "pixel_max_abs": None}
    tolerances = {
        name: ALWAYS[name] for name in COMPARED if name != "pixel_max_abs" or figures["pixels_by"] != "edgekit"
    }
    checks = {**judge(figures, tolerances), **parity["checks"]}
    passed = None if parity["passed"] is None else all(check["held"] for check in checks.values())
    return {**parity, **figures, "checks": checks, "passed": passed}
