"""The line itself: broker, subscriber, daemon and live view, until the replay has reached its last part."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from edge.config import DeviceSettings
from edge.payloads import Result
from edge.topics import RESULT, root_from_device
from tools.demo.broker import HOST, Subscriber, start_broker
from tools.demo.children import Children, has_ended

DEVICE = DeviceSettings(enterprise="demo", line="line-1", device="edge-1")
_LAST_RESULTS_S = 10.0
_STRAY_COPIES_S = 0.5
"""How long the last results may take to arrive, and how long to listen for copies that nobody should get."""


@dataclass(frozen=True)
class LineSetup:
    """Where the line's files lie and how fast its parts come; `rate` is as in the camera's `parts_per_min`."""

    folder: Path
    bundle: Path
    demo_key: Path
    replay_list: Path
    rate: float | str

    @property
    def config(self) -> Path:
        """The daemon's settings file."""
        return self.folder / "line.yaml"

    @property
    def state(self) -> Path:
        """The daemon's results and frames."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What the daemon says while the live view has the terminal."""
        return self.folder / "daemon.log"


def write_settings(setup: LineSetup, port: int) -> None:
    """Write the daemon's settings file."""
    settings = {
        "device": DEVICE.model_dump(exclude_none=True),
        "bundle": {"path": str(setup.bundle.resolve()), "demo_keys": [str(setup.demo_key.resolve())]},
        "camera": {
            "kind": "replay",
            "path": str(setup.replay_list.resolve()),
            "parts_per_min": setup.rate,
            "at_end": "stop",
        },
        "mqtt": {"host": HOST, "port": port},
        "state_dir": str(setup.state.resolve()),
    }
    setup.config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")


def run_line(children: Children, procunit: str, setup: LineSetup, triggers: int) -> list[Result]:
    """Run the line from its first part to its last; returns every result that the subscriber got.

    The subscriber holds its subscription before the daemon starts.

    Raises:
        click.ClickException: the broker or the daemon failed.
        Stopped: a signal came.
    """
    port = start_broker(children, setup.folder / "broker")
    write_settings(setup, port)
    subscriber = Subscriber(port, f"{root_from_device(DEVICE)}/{RESULT.suffix}")
    try:
        children.run([procunit, "check-config", str(setup.config)])
        watch = children.start([procunit, "watch", "--config", str(setup.config)])
        daemon = children.start([procunit, "run", "--config", str(setup.config)], log=setup.log)
        while not has_ended(daemon):
            children.pause()
        _wait_for_results(children, subscriber, triggers)
        children.stop(watch)
        children.stop(daemon)
        if daemon.returncode != 0:
            raise click.ClickException(f"the daemon ended with {daemon.returncode}; see {setup.log}")
        return subscriber.results()
    finally:
        subscriber.close()


def _wait_for_results(children: Children, subscriber: Subscriber, triggers: int) -> None:
    """Let the last results arrive, then listen a little longer for one too many."""
    deadline = time.monotonic() + _LAST_RESULTS_S
    while len(subscriber.results()) < triggers and time.monotonic() < deadline:
        children.pause()
    deadline = time.monotonic() + _STRAY_COPIES_S
    while time.monotonic() < deadline:
        children.pause()
