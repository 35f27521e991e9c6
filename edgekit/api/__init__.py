"""Every verb as a Python call of the same name; heavy imports happen inside the calls."""

from __future__ import annotations

from edgekit.api.answering import chat, run, run_all
from edgekit.api.demo import demo_cards, demo_train
from edgekit.api.distilling import ablate, distill, distill_plan, init, mask, parse_overrides, probe
from edgekit.api.embedding import app
from edgekit.api.exporting import export
from edgekit.api.inspecting import inspect
from edgekit.api.laddering import matrix
from edgekit.api.listing import data_check, data_show, devices, doctor, targets
from edgekit.api.measuring import bench, compare, verify
from edgekit.api.publishing import card, push
from edgekit.api.settings import BenchSettings

__all__ = [
    "BenchSettings",
    "ablate",
    "app",
    "bench",
    "card",
    "chat",
    "compare",
    "data_check",
    "data_show",
    "demo_cards",
    "demo_train",
    "devices",
    "distill",
    "distill_plan",
    "doctor",
    "export",
    "init",
    "inspect",
    "mask",
    "matrix",
    "parse_overrides",
    "probe",
    "push",
    "run",
    "run_all",
    "targets",
    "verify",
]
