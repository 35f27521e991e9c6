"""doctor, targets, devices and data: what is there."""

from __future__ import annotations

from typing import Any

from edgekit.api import arguments
from edgekit.api.arguments import PathLike, Texts, checked
from edgekit.api.results import DataCheck, DeviceStatus, ImageSize, Ready, SampleShown, TargetStatus


def doctor() -> list[Ready]:
    """What is ready on this machine, one row per thing; other packages' plug-ins that cannot be loaded among them."""
    from edgekit.export import TARGETS
    from edgekit.system.doctor import checks

    needs = {target.extra or name: (target.distributions(), target.install()) for name, target in TARGETS.working()}
    return [*(Ready(**check) for check in checks(needs)), *_plug_ins()]


def _plug_ins() -> list[Ready]:
    from edgekit.data import SOURCES
    from edgekit.data.scoring import SCORING
    from edgekit.devices import DEVICES
    from edgekit.export import TARGETS
    from edgekit.external_results import RESULT_FORMATS
    from edgekit.families import FAMILIES
    from edgekit.formats import READERS
    from edgekit.recipe.model import GENERATORS, JUDGES, OBJECTIVES
    from edgekit.runtimes import RUNTIMES

    registries = (
        TARGETS, RUNTIMES, DEVICES, OBJECTIVES, JUDGES, GENERATORS, SOURCES, SCORING, FAMILIES, RESULT_FORMATS, READERS,
    )  # fmt: skip
    return [
        Ready(f"{registry.kind} {name}", False, " ".join(error.why.split()), error.fix)
        for registry in registries
        for name, error in registry.broken()
    ]


@checked
def data_check(
    spec: PathLike,
    *,
    limit: int | None = None,
    closed_answers: Texts | PathLike | None = None,
    fast: bool = False,
    to: PathLike | None = None,
    drop_bad: bool = False,
    escape_marks: bool = False,
) -> DataCheck:
    """Read every row of a data spec, decode its images, and list what is wrong; perhaps write it in edgekit's form.

    Args:
        spec: Data spec; a file or folder as text or Path.
        limit: The first so many rows.
        closed_answers: The allowed answers: a list of texts, the text `a,b,c`, or a file with one a line.
        fast: Read the headers of the images alone.
        to: A .jsonl or .parquet file, text or Path, to write the rows to; it is only written when all are good.
        drop_bad: Write the good rows where some are bad.
        escape_marks: Take an `<image>` that stands for no image for text, and write it so that no tokenizer knows it.

    Returns:
        The findings, and how many rows were written.
    """
    from contextlib import nullcontext

    from edgekit.data.check import check, row_progress
    from edgekit.data.convert import writing
    from edgekit.data.turns import escaping

    spec, allowed = str(arguments.path(spec, "spec")), _allowed(closed_answers)
    place = None if to is None else arguments.path(to, "to")
    with (
        escaping() if escape_marks else nullcontext(),
        writing(place) if place is not None else nullcontext() as out,
        row_progress(spec, limit) as on_row,
    ):
        on_good = {"on_good": out.add} if out is not None else {}
        found = check(spec, limit=limit, closed_answers=allowed, fast=fast, on_row=on_row, **on_good)
        if out is not None:
            out.kept = found.good > 0 and (drop_bad or not found.bad_count)
    if out is None:
        return DataCheck(found)
    return DataCheck(found, str(place), found.good if out.kept else 0)


def _allowed(answers: Texts | PathLike | None) -> Any:
    import os

    from edgekit.data.check import allowed_answers

    if answers is None:
        return None
    if isinstance(answers, (str, os.PathLike)):
        return allowed_answers(os.fspath(answers))
    return set(arguments.texts(answers, "closed_answers"))


@checked
def data_show(spec: PathLike, *, count: int = 5) -> list[SampleShown]:
    """The first samples of a data spec with the form they came in and the sizes of their images.

    Args:
        spec: Data spec; a file or folder as text or Path.
        count: How many.
    """
    from edgekit.data import samples

    return [
        SampleShown(
            id=sample.id,
            form=sample.form,
            question=sample.text,
            answer=sample.answer,
            answers=list(sample.answers),
            dataset=sample.dataset,
            messages=sample.messages,
            images=[
                ImageSize(image.width, image.height, image.mode) for image in (ref.open() for ref in sample.images)
            ],
            location=sample.location,
        )
        for sample in samples(str(arguments.path(spec, "spec")), limit=count, need_answer=False)
    ]


def targets() -> list[TargetStatus]:
    """Every export target: its precisions, where it can be exported, what runs it, whether it is ready here."""
    import platform

    from edgekit.export import TARGETS

    rows = []
    for name, target in TARGETS.working():
        missing = target.missing()
        here = platform.system() in target.hosts
        rows.append(
            TargetStatus(
                target=name,
                precisions=list(target.precisions),
                options={
                    option: choices if isinstance(choices, str) else list(choices)
                    for option, choices in target.options.items()
                },
                hosts=list(target.hosts),
                runtimes=list(target.runtimes),
                ready=here and not missing,
                missing=target.install() if missing else "" if here else "another system",
            )
        )
    return rows


def devices(addresses: Texts = ()) -> list[DeviceStatus]:
    """Every device, or those of some addresses: whether it can be used now, and what it is or why it cannot.

    Args:
        addresses: One or several, as of `bench(device=...)`; every device when empty.
    """
    from edgekit.devices import DEVICES, parse_address

    rows = []
    for spec in arguments.texts(addresses, "addresses") or [name for name, _ in DEVICES.working()]:
        address = parse_address(spec)
        ready, detail = DEVICES.load(address.device).reach(address)
        rows.append(DeviceStatus(str(address), ready, detail))
    return rows
