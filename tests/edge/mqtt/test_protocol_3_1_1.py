"""The daemon, `procunit watch` and `procunit label` over MQTT 3.1.1."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.broker import Broker, Subscriber
from tests.support.device import PROCUNIT, REPOSITORY, new_device, results_of, stop

PARTS = 5


def procunit(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command."""
    return subprocess.Popen(
        [*PROCUNIT, *map(str, arguments)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_results_the_live_view_and_commands(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path, broker.port, PARTS)
    device.sections = {"mqtt": {"host": "127.0.0.1", "port": broker.port, "protocol": "3.1.1"}}
    device.camera = {"at_end": "hold"}
    device.write_settings()
    labels = tmp_path / "labels.csv"
    with Subscriber(broker) as subscriber:
        watch = procunit("watch", "--config", device.config, "--count", str(PARTS))
        daemon = None
        try:
            assert watch.stderr is not None
            assert next(line for line in watch.stderr if "connect" in line) == "connected to the broker\n"
            daemon = device.start()
            results = results_of(subscriber.wait_for(lambda m: len(results_of(m)) == PARTS))
            shown, _ = watch.communicate(timeout=20)
            labels.write_text(f"result_id,label\n{results[-1].result_id},good\n")
            label = procunit("label", labels, "--config", device.config)
            labelled, problem = label.communicate(timeout=20)
        finally:
            watch.kill()
            watch.wait()
            assert daemon is None or stop(daemon) == 0
    assert [int(line.split()[0]) for line in shown.splitlines()] == list(range(1, PARTS + 1))
    assert labelled.startswith("1 of 1 labels; 1 frames"), problem
