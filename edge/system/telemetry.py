"""Usage reports that dependencies send by default, and their off switches (see docs/privacy.md).

Each package reads its variable when it is imported and then ignores changes, so `edge`, `training`, `export`,
`calibration` and `tools` call `switch_off` in their `__init__`, before any of their modules can import a dependency.
Child processes inherit the variables.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Switch:
    """An environment variable that turns off what a package sends; any other value may turn it on."""

    package: str
    variable: str
    value: str
    sends: str


SWITCHES = (
    Switch(
        "onnxruntime",
        "ORT_DISABLE_TELEMETRY",
        "1",
        "process, session, model and error events with a persistent device id, to Microsoft over HTTPS (from 1.29 on)",
    ),
    Switch(
        "huggingface-hub",
        "HF_HUB_DISABLE_TELEMETRY",
        "1",
        "usage events, and versions of installed packages with each download, to the hub",
    ),
    Switch(
        "hf-xet",
        "HF_XET_TELEMETRY_ENABLED",
        "0",
        "size, speed and duration of each download, to the hub's storage servers",
    ),
)


def switch_off() -> None:
    """Set every variable to the value that turns reports off, whatever it was before."""
    for switch in SWITCHES:
        os.environ[switch.variable] = switch.value
