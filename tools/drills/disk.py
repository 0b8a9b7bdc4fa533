"""A full disk: the daemon inspects while its disk fills up, then is stopped, started, killed and started again.

Needs root for a small ext4 on a loop device.

python -m tools.drills.disk --parts 3000
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from edge.cli.program import run_program
from edge.messages import NotInspected
from edge.terminal import echo
from tests.support.broker import Subscriber, running_broker
from tests.support.device import PATIENT, Device, distinct, events_of, new_device, results_of, stop
from tools.drills.power import mounted

DISK_MB = 320
PARTS_PER_MIN = 1800
SETTLE_S = 3.0
"""How long the daemon runs before the disk is filled; its reserve need not be complete by then."""
ALARM_S = 5.0


def fill(folder: Path) -> int:
    """Fill a disk completely; returns the bytes that could not be used."""
    stuffing = folder / "stuffing"
    with stuffing.open("ab", buffering=0) as stream:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                os.fsync(stream.fileno())
    return shutil.disk_usage(folder).free


def run(device: Device, disk: Path, subscriber: Subscriber, parts: int) -> bool:
    """Run the drill; returns whether every part has one result and the alarm came in time."""

    def wait_for_counter(counter: int) -> None:
        enough_s = 30 + counter * 60 / PARTS_PER_MIN
        subscriber.wait_for(lambda m: max((r.counter for r in results_of(m)), default=0) >= counter, enough_s)

    daemon = device.start()
    try:
        wait_for_counter(parts // 10)
        time.sleep(SETTLE_S)
        left = fill(disk)
        filled_s = time.monotonic()
        subscriber.wait_for(lambda m: any("free on the disk" in e.detail for e in events_of(m)), ALARM_S)
        alarm_s = time.monotonic() - filled_s
        echo(f"full disk: {left} bytes left while the daemon runs; alarm {alarm_s:.1f} s after the disk was full")
        wait_for_counter(parts * 4 // 10)
        code = stop(daemon)
        echo(f"full disk: daemon stopped with exit status {code}, {fill(disk)} bytes left")
        daemon = device.start()
        wait_for_counter(parts * 6 // 10)
    finally:
        daemon.kill()
        daemon.wait()
    echo(f"full disk: daemon killed, {fill(disk)} bytes left")
    code += device.run(60 + parts * 60 / PARTS_PER_MIN)
    results = distinct(results_of(subscriber.wait_for(lambda m: results_of(m)[-1].counter == parts)))
    missing = parts - len({r.counter for r in results})
    in_order = [r.counter for r in results] == sorted(r.counter for r in results)
    inspected = sum(r.not_inspected is None for r in results)
    echo(f"full disk: {len(results)} results of {parts} parts, {missing} missing, in order: {in_order}")
    echo(f"full disk: {inspected} inspected, epochs: {len({r.epoch for r in results})}, sum of exit statuses: {code}")
    only_restarts = {r.not_inspected for r in results} <= {None, NotInspected.RESTART}
    return not missing and in_order and only_restarts and len(results) == parts and code == 0


@click.command()
@click.option("--parts", default=3000, help="Number of parts to inspect.")
def drill(parts: int) -> None:
    """Fill the daemon's disk; exit with 1 if a part has no result."""
    if os.geteuid() != 0:
        raise click.ClickException("this drill mounts a file system and needs root. Run it with sudo")
    folder = Path(tempfile.mkdtemp(prefix="drill-disk-"))
    try:
        image = folder / "disk.img"
        with image.open("wb") as stream:
            stream.truncate(DISK_MB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        with (
            mounted(image, folder / "disk") as disk,
            running_broker(folder) as broker,
            Subscriber(broker) as subscriber,
        ):
            device = new_device(folder / "device", broker.port, parts)
            device.camera["parts_per_min"] = PARTS_PER_MIN
            device.sections |= {"state_dir": str(disk / "state"), "inspection": PATIENT}
            device.write_settings()
            try:
                passed = run(device, disk, subscriber, parts)
            except AssertionError as error:
                raise click.ClickException(f"{error}\n{device.log_text[-3000:]}") from error
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    run_program(drill, "disk")
