"""The rungs of a family: what must hold of a checkpoint before a target is asked, and the whole way behind it.

Each rung is a function that another process can call (`edgekit.system.isolated`), and gives back what does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNGS = {
    1: "configuration and names",
    2: "pixels and ids",
    3: "modules",
    4: "tokens",
    5: "distil, export and bench",
}
"""By level. 4 is a target's: its bundle beside PyTorch; 5 is that of a student that was distilled."""
BAKED = 5e-5
"""Largest difference of the split's modules from the untouched model in float32; measured: up to 1.2e-5."""
SIZES = ((100, 60), (37, 300), (1, 1))
"""(width, height) of the images that modules are compared on, beside two at once."""


def names(folder: str) -> str:
    """Level 1: each parameter is of the family's tower or decoder, and a mask reaches each linear layer.

    Args:
        folder: A checkpoint.

    Returns:
        What does not hold; "" where all does.

    Raises:
        EdgekitError: the checkpoint cannot be loaded.
    """
    from torch import nn

    from edgekit.checkpoint.folder import load_model
    from edgekit.distill.masking import maskable
    from edgekit.families import family_of

    model: Any = load_model(Path(folder))
    family = family_of(str(model.config.model_type))
    known = tuple(prefix for prefixes in family.prefixes.values() for prefix in prefixes)
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    if strange := [
        name for name, one in model.named_parameters() if not name.startswith(known) and id(one) not in ends
    ]:
        return f"no prefix of the family names {strange[0]}, and {len(strange) - 1} more"
    reached = {name for name, _ in maskable(model, family)}
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
    if missed := sorted(linear - {f"{name}.weight" for name in head} - reached):
        return f"a mask does not reach {missed[0]}, and {len(missed) - 1} more"
    return "" if reached else "there is no linear layer for a mask"


def inputs(folder: str) -> str:
    """Level 2: prompts and pixels are those of the checkpoint's own processor, over images odd in mode and shape.

    Args, Returns, Raises: As of `names`.
    """
    from edgekit.inputs.agreement import compare_inputs
    from edgekit.inputs.official import load_processor
    from edgekit.inputs.processor import Processor
    from edgekit.report.tolerances import ALWAYS, judge

    found = compare_inputs(Processor.load(Path(folder)), load_processor(Path(folder)), [])
    wanted = {name: bound for name, bound in ALWAYS.items() if name in found}
    missed = [name for name, check in judge(found, wanted).items() if not check["held"]]
    return ", ".join(f"{name} is {found[name]}, its tolerance {wanted[name]:g}" for name in missed)


def modules(folder: str, sizes: Sequence[Sequence[int]] = ()) -> str:
    """Level 3: the modules of an export, in PyTorch, equal the untouched model.

    Args:
        folder: A checkpoint.
        sizes: Image sizes of an export, (width, height), beside the family's own choice; none for families that
            bake none.

    Returns, Raises: As of `names`.
    """
    from PIL import Image

    from edgekit.checkpoint.folder import load_model
    from edgekit.demo.shapes import draw
    from edgekit.export.bundling import baked_against_original
    from edgekit.families import family_of
    from edgekit.inputs.chat import question
    from edgekit.inputs.processor import Processor

    model: Any = load_model(Path(folder))
    family, plain = family_of(str(model.config.model_type)), Processor.load(Path(folder))
    shown = [draw(number)[0].resize(size, Image.Resampling.NEAREST) for number, size in enumerate(SIZES)]
    for chosen in (None, [(width, height) for width, height in sizes]) if sizes else (None,):
        processor = plain.for_sizes(chosen)
        split = family.split(model, processor.params.get("sizes"))
        for images in ([shown[0]], [shown[1], shown[0]], [shown[2]]):
            prompt = processor.encode(question("What is there?", len(images)), images)
            for name, gap in baked_against_original(model, family, split, [prompt]).items():
                if not gap < BAKED:
                    at = "its own size" if chosen is None else f"sizes {chosen}"
                    return f"{name} is {gap:.2g} with {len(images)} images at {at}, its tolerance {BAKED:g}"
    return ""


def distilled(student: str, teacher: str, folder: str) -> str:
    """First half of level 5: a run of MASTERS of a few steps.

    Args:
        student, teacher: Checkpoints of one tokenizer.
        folder: The workspace; made here.

    Returns:
        The trained student's folder.

    Raises:
        EdgekitError: the run did not end.
    """
    from edgekit import yaml_text
    from edgekit.api.distilling import distill

    place = Path(folder)
    place.mkdir()
    recipe = {
        "name": "ladder",
        "teachers": [{"checkpoint": teacher}],
        "student": {"checkpoint": student},
        "data": {"train": "scenes:train", "test": "scenes:test", "train_limit": 6, "test_limit": 4},
        "masters": {
            "mask": {"r_max": 0.2, "step": 0.1},
            "gen_data": {"check_teacher": False, "max_new_tokens": 3, "batch_questions": 6},
        },
        "trainer": {"steps": 3, "batch_questions": 2, "threads": 1, "report_to": []},
    }
    (place / "edgekit.yaml").write_text(yaml_text.write_yaml(recipe), encoding="utf-8")
    return str(distill(place / "edgekit.yaml", workspace=place).student)


def benched(student: str, target: str, precision: str, folder: str) -> str:
    """Second half of level 5: that student exported, and measured beside PyTorch.

    Args:
        student: From `distilled`.
        target, precision: Names.
        folder: Of bundle and report; made here.

    Returns:
        What does not hold, as of `names`.

    Raises:
        EdgekitError: the export failed.
    """
    from edgekit.api.exporting import export
    from edgekit.api.measuring import bench
    from edgekit.api.settings import BenchSettings

    place = Path(folder)
    bundles = export(
        student, targets=target, precisions=precision, out=place / "bundle", data="scenes:test", samples=4,
        calibration_data="scenes:train", calibrate=16,
    )  # fmt: skip
    settings = BenchSettings(
        reference=student, data="scenes:test", limit=2, threads=1, out=place / "report", repetitions=0, processes=1
    )
    report, _ = bench(bundles[0], settings)
    failed = [f"{row.name}: {row.reason}" for row in report.rows if row.status != "ok"]
    return ", ".join(failed) or ("" if len(report.rows) > 1 else "the bundle has no row in the report")
