"""doctor, targets, devices and data: what is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def doctor() -> list[dict[str, Any]]:
    """What is ready on this machine, one row per thing."""
    from edgekit.doctor import checks

    return checks()


def data_check(spec: str, *, limit: int | None = None, closed_answers: str | None = None) -> dict[str, Any]:
    """Read every row of a data spec, decode its pictures, and list what is wrong.

    Args:
        spec: Data spec.
        limit: The first so many rows.
        closed_answers: `a,b,c`, or a file with one allowed answer a line.
    """
    from edgekit.data.check import allowed_answers, check, row_notes

    allowed = allowed_answers(closed_answers) if closed_answers is not None else None
    return check(spec, limit=limit, closed_answers=allowed, on_row=row_notes(spec, limit)).as_dict()


def data_show(spec: str, *, count: int = 5) -> list[dict[str, Any]]:
    """The first samples of a data spec with the sizes of their pictures."""
    from edgekit.data import samples

    return [
        {
            "id": sample.id,
            "question": sample.text,
            "answer": sample.answer,
            "answers": list(sample.answers),
            "dataset": sample.dataset,
            "messages": sample.messages,
            "images": [
                {"width": image.width, "height": image.height, "mode": image.mode}
                for image in (ref.open() for ref in sample.images)
            ],
            "location": sample.location,
        }
        for sample in samples(spec, limit=count, need_answer=False)
    ]


def targets() -> list[dict[str, Any]]:
    """Every export target: its precisions, where it can be exported, what runs it, whether it is ready here."""
    import platform
    from importlib.util import find_spec

    from edgekit.export import TARGETS

    rows = []
    for name in TARGETS.names():
        module = TARGETS.load(name)
        missing = [package for package in module.PACKAGES if find_spec(package) is None]
        here = platform.system() in module.HOSTS
        rows.append(
            {
                "target": name,
                "precisions": list(module.PRECISIONS),
                "options": {
                    option: words if isinstance(words, str) else list(words)
                    for option, words in getattr(module, "OPTIONS", {}).items()
                },
                "hosts": list(module.HOSTS),
                "runtimes": list(module.RUNTIMES),
                "ready": here and not missing,
                "missing": f"pip install 'edgekit[{module.EXTRA}]'" if missing else "" if here else "another system",
            }
        )
    return rows


def devices(addresses: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every device, or those of some addresses: whether it can be used now, and what it is or why it cannot."""
    from edgekit.devices import DEVICES, parse_address

    rows = []
    for spec in addresses or DEVICES.names():
        address = parse_address(spec)
        ready, detail = DEVICES.load(address.device).reach(address)
        rows.append({"device": str(address), "ready": ready, "detail": detail})
    return rows
