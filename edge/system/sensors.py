"""Power and temperatures of the board, read from sysfs; nvidia-smi for the power of a discrete GPU.

A sensor that cannot be read is None, never 0. Source for Jetson power: Jetson Linux Developer Guide, "Power and
Performance": monitors INA3221 (Orin) and INA238 (Thor) under /sys/class/hwmon.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HWMON = Path("/sys/class/hwmon")
THERMAL_DIR = Path("/sys/class/thermal")

_MONITORS = frozenset({"ina3221", "ina238"})
_WHOLE_BOARD = frozenset({"VDD_IN", "VIN"})
"""Rails that feed all others; without one of them the rails are added up."""
_CHANNELS = range(1, 4)
_NVIDIA_SMI = ("nvidia-smi", "--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits")
_TIMEOUT_S = 5.0


def power_w(hwmon: Path = HWMON) -> float | None:
    """Watts drawn now by the Jetson board, else by the first discrete GPU; None if no sensor is readable."""
    rails = _rails_w(hwmon)
    if rails:
        whole = [watts for label, watts in rails if label in _WHOLE_BOARD]
        return sum(whole) if whole else sum(watts for _, watts in rails)
    return _discrete_gpu_w()


def temperatures_c(thermal_dir: Path) -> dict[str, float | None]:
    """Degrees Celsius of each thermal zone, keyed by its type; None if its sensor cannot be read."""
    found: dict[str, float | None] = {}
    for zone in sorted(thermal_dir.glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text(encoding="ascii", errors="replace").strip() or zone.name
        except OSError:
            name = zone.name
        found[name if name not in found else f"{name} {zone.name}"] = _temperature_c(zone / "temp")
    return found


def _rails_w(hwmon: Path) -> list[tuple[str, float]]:
    """Label and watts of each rail; channels that are not connected or not readable are left out."""
    rails = []
    for monitor in sorted(hwmon.glob("hwmon*")):
        if _text(monitor / "name") not in _MONITORS:
            continue
        for channel in _CHANNELS:
            watts = _channel_w(monitor, channel)
            if watts is not None:
                rails.append((_text(monitor / f"in{channel}_label") or "", watts))
    return rails


def _channel_w(monitor: Path, channel: int) -> float | None:
    """From power{n}_input in microwatts, or in{n}_input in millivolts and curr{n}_input in milliamperes."""
    microwatts = _number(monitor / f"power{channel}_input")
    if microwatts is not None:
        return microwatts / 1e6
    millivolts, milliamperes = (_number(monitor / f"{name}{channel}_input") for name in ("in", "curr"))
    if millivolts is None or milliamperes is None:
        return None
    return millivolts * milliamperes / 1e6


def _discrete_gpu_w() -> float | None:
    if shutil.which(_NVIDIA_SMI[0]) is None:
        return None
    try:
        output = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True).stdout
        return float(output)
    except (OSError, subprocess.SubprocessError, ValueError):  # "[N/A]" from a GPU without a power sensor
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _temperature_c(file: Path) -> float | None:
    try:
        return int(file.read_text(encoding="ascii")) / 1000
    except (OSError, ValueError):  # reading a powered-down zone gives EAGAIN
        return None
