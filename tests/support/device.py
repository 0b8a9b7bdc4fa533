"""A device for a test: a tiny bundle, photographs, a settings file, and the daemon as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import yaml

from edge.bundle.manifest import Precision
from edge.config.file import settings_from_file
from edge.config.settings import Settings
from edge.contract.payloads import Event, Result
from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from tests.support.broker import Received
from tests.support.tiny_bundle import build_tiny_bundle, defect_image, good_image

PROCUNIT = [sys.executable, "-c", "from edge.cli.main import main; main()"]
"""The command `procunit` of the interpreter that runs the tests."""
REPOSITORY = Path(__file__).parents[2]
ROOT = "demo/edge-1/v1"
STOP_TIMEOUT_S = 60.0
PATIENT: dict[str, object] = {"frame_slots": 64, "deadline_s": 60}
"""An `inspection` section for tests on a busy machine: no part becomes `overload`."""


@dataclass
class Device:
    """The folder of a device, with the files that its settings name; starts its processes."""

    folder: Path
    port: int
    camera: dict[str, object] = field(default_factory=dict)
    sections: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.folder / "line.yaml"

    @property
    def log(self) -> Path:
        """The log file of all runs of the daemon."""
        return self.folder / "daemon.log"

    @property
    def photos(self) -> Path:
        """The folder that the camera replays."""
        return self.folder / "photos"

    def write_settings(self) -> None:
        """Write the settings file from `port`, `camera` and `sections`."""
        settings: dict[str, object] = {
            "device": {"enterprise": "demo", "device": "edge-1"},
            "bundle": {"path": "bundle", "demo_keys": ["demo-key.pub"]},
            "camera": {"kind": "replay", "path": "photos", "parts_per_min": "max", **self.camera},
            "mqtt": {"host": "127.0.0.1", "port": self.port},
            "engine": {"threads": 1},
            "state_dir": "state",
            **self.sections,
        }
        self.config.write_text(yaml.safe_dump(settings))

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `procunit run`, or another command that takes the same arguments; its stderr goes to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*(command or PROCUNIT), "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, **environment},
            )

    def run(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Run the daemon until it ends by itself; returns the exit code."""
        process = self.start()
        try:
            return process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()

    def wait_for_log(self, text: str, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Wait until the log contains the text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.log_text:
            assert time.monotonic() < deadline, f"not logged: {text!r}\n{self.log_text}"
            time.sleep(0.02)

    @property
    def log_text(self) -> str:
        """The content of the log so far."""
        return self.log.read_text() if self.log.exists() else ""


def new_device(
    folder: Path,
    port: int,
    parts: int,
    *,
    types: tuple[str, ...] = ("scratch",),
    precisions: tuple[Precision, ...] = ("fp32",),
) -> Device:
    """A device with `parts` photographs, every fifth of them defective; the settings file is written."""
    build_tiny_bundle(folder, types=types, rejecting=types, precisions=precisions)
    device = Device(folder, port)
    device.photos.mkdir()
    for index in range(parts):
        image = defect_image(index) if index % 5 == 4 else good_image(index)
        cv2.imwrite(str(device.photos / f"{index:05d}.png"), image)
    device.write_settings()
    return device


def stop(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM; returns the exit code."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


def results_of(messages: list[Received]) -> list[Result]:
    """The results among the messages, in order of arrival, repetitions included."""
    return [Result.model_validate_json(m.payload) for m in messages if m.topic == f"{ROOT}/result"]


def events_of(messages: list[Received]) -> list[Event]:
    """The events among the messages, in order of arrival."""
    return [Event.model_validate_json(m.payload) for m in messages if m.topic == f"{ROOT}/event"]


def distinct(results: list[Result]) -> list[Result]:
    """The results without repetitions, as a receiver recognises them by (device, epoch, seq)."""
    first: dict[tuple[str, str, int], Result] = {}
    for result in results:
        first.setdefault((result.device, result.epoch, result.seq), result)
    return list(first.values())


def settings_of(device: Device) -> Settings:
    """Write the settings file and read it as `procunit run` does."""
    device.write_settings()
    return settings_from_file(device.config)


def kept_in(device: Device) -> tuple[list[Result], list[Event]]:
    """The unsent results and events in the outbox of a stopped device."""
    with Outbox(device.folder / "state" / OUTBOX_FILE) as outbox:
        assert outbox.open_triggers() == []
        messages = outbox.unacknowledged(0, 100_000)
    results = [Result.model_validate_json(m.payload) for m in messages if m.topic == "result"]
    events = [Event.model_validate_json(m.payload) for m in messages if m.topic == "event"]
    return results, events
