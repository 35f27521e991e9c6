"""This machine."""

from __future__ import annotations

from typing import Any

from edgekit import machine
from edgekit.devices import Address


def reach(address: Address) -> tuple[bool, str]:
    """Always here."""
    found = describe()
    return True, f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}"


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system."""
    return machine.describe()
