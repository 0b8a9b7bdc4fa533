"""Power read from copies of the boards' sysfs trees, and from a script that prints what nvidia-smi does."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.system.sensors import power_w


def monitor(root: Path, index: int, name: str, files: dict[str, str]) -> None:
    folder = root / f"hwmon{index}"
    folder.mkdir(parents=True)
    for file, content in {"name": name, **files}.items():
        (folder / file).write_text(f"{content}\n")


def rail(channel: int, label: str, millivolts: int, milliamperes: int) -> dict[str, str]:
    return {
        f"in{channel}_label": label,
        f"in{channel}_input": str(millivolts),
        f"curr{channel}_input": str(milliamperes),
    }


@pytest.fixture(autouse=True)
def no_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_orin_nx_power_is_that_of_the_rail_that_feeds_the_others(tmp_path: Path) -> None:
    rails = rail(1, "VDD_IN", 5000, 2400) | rail(2, "VDD_CPU_GPU_CV", 5000, 800) | rail(3, "VDD_SOC", 5000, 300)
    monitor(tmp_path, 0, "cpu_thermal", {"temp1_input": "45000", "in1_input": "1", "curr1_input": "1"})
    monitor(tmp_path, 1, "ina3221", rails | {"in7_label": "sum of shunt voltages", "in7_input": "7"})
    assert power_w(tmp_path) == pytest.approx(12.0)


def test_agx_orin_power_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    monitor(tmp_path, 3, "ina3221", rail(1, "VDD_GPU_SOC", 20000, 500) | rail(2, "VDD_CPU_CV", 20000, 200))
    monitor(tmp_path, 4, "ina3221", rail(1, "VIN_SYS_5V0", 5000, 1000) | {"in2_label": "NC", "in2_input": "0"})
    assert power_w(tmp_path) == pytest.approx(10 + 4 + 5)


def test_watts_computed_by_the_monitor_are_used(tmp_path: Path) -> None:
    monitor(tmp_path, 0, "ina238", {"power1_input": "31500000", "in1_input": "20000", "curr1_input": "1"})
    assert power_w(tmp_path) == pytest.approx(31.5)


@pytest.mark.parametrize("content", ["", "not a number"])
def test_an_unreadable_sensor_is_none(tmp_path: Path, content: str) -> None:
    monitor(tmp_path, 0, "ina3221", rail(1, "VDD_IN", 5000, 1000) | {"curr1_input": content})
    assert power_w(tmp_path) is None
    assert power_w(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("command", "watts"), [("echo 71.63", 71.63), ("echo '[N/A]'", None), ("exit 9", None)])
def test_discrete_gpu_power_comes_from_nvidia_smi(tmp_path: Path, command: str, watts: float | None) -> None:
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n{command}\n")
    script.chmod(0o755)
    assert power_w(tmp_path) == watts
