"""card and push: a finished run, for others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.api import arguments
from edgekit.api.arguments import Folder, Folders, PathLike, checked
from edgekit.api.results import CardWritten, Pushed
from edgekit.api.runs import check_student, latest_run
from edgekit.console import note
from edgekit.errors import EdgekitError

if TYPE_CHECKING:
    from edgekit.publishing.card import Card
    from edgekit.workspace import Run


@checked
def card(
    run: Folder | None = None,
    *,
    bundles: Folders | None = None,
    out: PathLike | None = None,
    license_id: str | None = None,
    benchmark: str | None = None,
) -> CardWritten:
    """Write the model card of a finished run: README.md, and accuracy as the hub reads it.

    Args:
        run: Its folder; the latest run's when None.
        bundles: In the card; all of the run when None, and none for [].
        out: Folder that it goes to; the run's `card/` when None.
        license_id: As the hub names it, such as apache-2.0; left out when None: edgekit cannot know it.
        benchmark: `ORG/NAME` or `ORG/NAME:TASK` of the hub that the test questions are of.

    Returns:
        The text and the files.

    Raises:
        EdgekitError: the run is not finished, or a bundle is not of it.
    """
    from edgekit.files import write_text

    chosen = _run(run)
    made = _card(chosen, bundles, license_id, benchmark)
    place = chosen.folder / "card" if out is None else arguments.path(out, "out")
    files = {"README.md": made.text, **{f".eval_results/{name}": text for name, text in made.results.items()}}
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(place / name, text)
    return CardWritten(str(place), made.text, sorted(files))


@checked
def push(
    repository: str,
    run: Folder | None = None,
    *,
    bundles: Folders | None = None,
    license_id: str | None = None,
    benchmark: str | None = None,
    public: bool = False,
    message: str = "edgekit push",
    dry_run: bool = True,
) -> Pushed:
    """Upload a run's student, bundles and card to a repository of the hub, in one commit.

    Args:
        repository: `ORG/NAME`; made where it is not there.
        run, bundles, license_id, benchmark: As of `card`.
        public: Of a repository that is made now; private otherwise. One that is there keeps what it is.
        message: Of the commit.
        dry_run: Say what would go up, and send nothing: the default, so that nothing is published by mistake.

    Returns:
        The files with their sizes, and the commit's address.

    Raises:
        EdgekitError: as `card`; the hub cannot be reached, or refuses.
    """
    from edgekit.publishing.push import gather
    from edgekit.publishing.push import push as send

    chosen = _run(run)
    upload = gather(repository, chosen.student, _card(chosen, bundles, license_id, benchmark))
    url = "" if dry_run else send(upload, private=not public, message=message)
    return Pushed(repository, upload.sizes, url)


def _run(folder: Folder | None) -> Run:
    from edgekit.workspace import Run

    if folder is None:
        return latest_run()
    run = Run(arguments.folder(folder, "run"))
    if not run.begun:
        raise EdgekitError(f"{run.folder} is no run.", fix="Name a folder below runs/.")
    if not run.finished:
        raise EdgekitError(f"The run {run.name!r} is not finished.", fix="Go on with it:  edgekit distill")
    check_student(run)
    return run


def _card(run: Run, bundles: Folders | None, license_id: str | None, benchmark: str | None) -> Card:
    from edgekit.bundle import Bundle
    from edgekit.publishing.card import Benchmark, model_card
    from edgekit.report.files import read_measured

    if bundles is None:
        chosen = sorted(path.parent for path in run.bundles.glob("*/manifest.json"))
    else:
        chosen = arguments.folders(bundles, "bundles")
    path = run.reports / "bench" / "report.json"
    report = read_measured(path).report if path.exists() else None
    if report is None and chosen:
        note(f"The run {run.name!r} has no report: no accuracy of its bundles stands in the card (edgekit bench).")
    dataset, _, task = (benchmark or "").partition(":")
    named = None if benchmark is None else Benchmark(dataset, task or "default")
    loaded = [Bundle.load(Path(folder)) for folder in chosen]
    return model_card(run, loaded, report, license_id=license_id, benchmark=named)
