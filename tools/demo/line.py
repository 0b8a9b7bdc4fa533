"""Runs the inspection line: broker, subscriber, daemon and live view, until the last part of the replay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import yaml

from edge.contract.payloads import Result
from edge.contract.topics import RESULT, DeviceSettings, root_from_device
from tools.demo.broker import HOST, Subscriber, start_broker
from tools.demo.children import Children, has_ended

DEVICE = DeviceSettings(enterprise="demo", line="line-1", device="edge-1")
_LIVE_VIEW_S = 5.0
"""How long the live view may take to notice that the device has stopped."""
_LAST_RESULTS_S, _STRAY_COPIES_S = 10.0, 0.5
"""How long to wait for the last results, and then for results that should not arrive."""
_SHOWN_LOG_LINES = 10


@dataclass(frozen=True)
class LineSetup:
    """The line's files and its speed; `rate` has the values of the camera setting `parts_per_min`."""

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
        """The daemon's log; the terminal shows the live view."""
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
    """Run the line from the first part to the last; returns every result that the subscriber received.

    The subscription is confirmed before the daemon starts.

    Raises:
        click.ClickException: the broker or the daemon failed.
        Stopped: a signal came.
    """
    port = start_broker(children, setup.folder / "broker")
    write_settings(setup, port)
    subscriber = Subscriber(port, RESULT.at(root_from_device(DEVICE)))
    try:
        children.run([procunit, "check-config", str(setup.config)])
        watch = children.start([procunit, "watch", "--config", str(setup.config), "--until-stopped"])
        daemon = children.start([procunit, "run", "--config", str(setup.config)], log=setup.log)
        while not has_ended(daemon):
            children.pause()
        children.stop(daemon)
        if daemon.returncode != 0:
            last_lines = " | ".join(setup.log.read_text(errors="replace").splitlines()[-_SHOWN_LOG_LINES:])
            raise click.ClickException(
                f"the daemon failed with exit status {daemon.returncode}; the end of {setup.log}: {last_lines}"
            )
        _wait_for(children, lambda: has_ended(watch), _LIVE_VIEW_S)
        children.stop(watch)
        _wait_for(children, lambda: len(subscriber.results()) >= triggers, _LAST_RESULTS_S)
        _wait_for(children, lambda: len(subscriber.results()) > triggers, _STRAY_COPIES_S)
        return subscriber.results()
    finally:
        subscriber.close()


def _wait_for(children: Children, condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        children.pause()
