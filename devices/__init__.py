"""Devices, one file each. A device module holds:

reach() -> (bool, str)   whether it can be used now, and what it is or what is missing
describe() -> dict       for the report
"""

from __future__ import annotations

from edgekit.registry import Registry

DEVICES = Registry("edgekit.devices", "device")
