"""Exports as `edgekit export` makes them: each bundle is compared by its own runtime."""

from __future__ import annotations

from functools import partial

from edgekit.export import bundling
from edgekit.runtimes.comparison import open_bundle

export_checkpoint = partial(bundling.export_checkpoint, opens=open_bundle)
