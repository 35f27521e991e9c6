"""app: an app around a bundle."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.api import arguments
from edgekit.api.arguments import Folder, PathLike, Texts, checked
from edgekit.api.results import AppWritten
from edgekit.errors import EdgekitError


@checked
def app(
    bundle: Folder,
    *,
    platforms: Texts = "web",
    out: PathLike,
    name: str | None = None,
    bundle_id: str = "com.example.edgekit",
    model_url: str = "",
    ort: PathLike | None = None,
    dry_run: bool = False,
) -> list[AppWritten]:
    """Write an app around a bundle: its library, a sample of one screen, golden vectors, and a README.

    Args:
        bundle: Folder of a bundle.
        platforms: One name or several; `edgekit.apps` holds them.
        out: The app's folder; of several platforms, the folder with one for each. It appears whole or not at all, and
            one that is there is replaced only if this wrote it and nobody changed it.
        name: Of the app, as people see it; the bundle's when None.
        bundle_id: As systems and stores see it.
        model_url: Address of the folder that the bundle is downloaded from; "" puts the bundle into the app.
        ort: Folder of onnxruntime-web, for the web; looked for, and fetched by npm, when None.
        dry_run: Check everything, and write nothing.

    Returns:
        For each platform what was written, or would be.

    Raises:
        EdgekitError: a platform cannot run the bundle, its tokenizer or template is not supported, there is no room,
            or the folder is another's.
    """
    from edgekit.apps import PLATFORMS, App
    from edgekit.apps._sources import check, check_place, read_model, write
    from edgekit.bundle import Bundle

    chosen: Sequence[str] = arguments.texts(platforms, "platforms")
    if not chosen or len(set(chosen)) != len(chosen):
        raise EdgekitError("Name each platform once.", fix=f"There are: {', '.join(PLATFORMS.names())}.")
    base, runtime = arguments.path(out, "out"), None if ort is None else arguments.path(ort, "ort")
    loaded = Bundle.load(arguments.folder(bundle, "bundle"))
    given = App(loaded, loaded.manifest.name if name is None else name, bundle_id, model_url, runtime)
    places = {one: base / one if len(chosen) > 1 else base for one in chosen}
    known = {one: PLATFORMS.load(one) for one in chosen}
    for one, platform in known.items():
        check(one, platform, given)
        check_place(one, platform, places[one])
    plans = {one: platform.pieces(given) for one, platform in known.items()}
    if not dry_run:
        for one, pieces in plans.items():
            write(one, known[one], pieces, places[one])
    return [
        AppWritten(
            platform=one,
            out=str(places[one]),
            files={path: piece.bytes for path, piece in sorted(pieces.items())},
            bytes=sum(piece.bytes for piece in pieces.values()),
            model_bytes=read_model(loaded)["bytes"],
            model_url=model_url,
            start=known[one].start.replace("{out}", str(places[one])),
            written=not dry_run,
        )
        for one, pieces in plans.items()
    ]
