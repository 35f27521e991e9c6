"""RAPL counters, from a folder as the kernel shows it."""

from __future__ import annotations

from pathlib import Path

from edgekit.system.energy import Rapl


def package(root: Path, name: str, energy: str, wrap: str = "999999") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(energy)
    (folder / "max_energy_range_uj").write_text(wrap)
    return folder / "energy_uj"


def test_packages_are_added_and_wrap(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", "900000"), package(tmp_path, "intel-rapl:1", "0")
    package(tmp_path, "intel-rapl:0:0", "5")  # the cores of package 0, counted there already
    meter = Rapl(tmp_path)
    before = meter.look()
    assert meter and before == [900000, 0]
    first.write_text("100000")  # past the end and on
    second.write_text("500000")
    assert meter.joules(before, meter.look()) == 0.7


def test_what_the_machine_does_not_tell_is_absent(tmp_path: Path) -> None:
    assert not Rapl(tmp_path) and not Rapl(tmp_path / "none") and Rapl(tmp_path).look() == []
    package(tmp_path, "intel-rapl:0", "no number")
    assert not Rapl(tmp_path)
