"""The disk of the state directory fails while a real daemon runs on it; needs root, to mount a disk.

The kernel takes a disk that reports errors read-only (ext4's `errors=remount-ro`), or fails every call with EIO.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.contract.payloads import Result, Status
from edge.faults import FaultId
from edge.messages import NotInspected
from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from tests.faults.test_disk import disk_of, fill
from tests.support.broker import Received, Subscriber, running_broker
from tests.support.device import PATIENT, ROOT, Device, distinct, new_device, results_of, stop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that fails")

EXT4_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


@contextmanager
def ext4_disk(folder: Path, *options: str, size_mb: int = 400) -> Iterator[Path]:
    """A disk with an ext4 file system, made with `options`."""
    image = folder / "disk.img"
    with image.open("wb") as stream:
        stream.truncate(size_mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *options, str(image)], check=True)
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", str(image), str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def make_read_only(disk: Path) -> None:
    """Let the kernel find an error on the disk: it becomes read-only, with all its files open."""
    source = subprocess.run(["findmnt", "-no", "SOURCE", str(disk)], capture_output=True, text=True, check=True).stdout
    trigger = Path("/sys/fs/ext4") / Path(source.strip()).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("this kernel cannot cause an error of ext4")
    trigger.write_text("1")


def fail_every_call(disk: Path) -> None:
    """Every call to the disk fails with EIO from now on, as with a cable that is pulled."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, EXT4_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


def device_on(disk: Path, folder: Path, port: int, parts: int) -> Device:
    """A device at ten parts per second with its state on the disk."""
    device = new_device(folder / "device", port, parts)
    device.camera |= {"parts_per_min": 600, "at_end": "hold"}
    device.sections |= {"state_dir": str(disk / "state"), "inspection": PATIENT}
    device.write_settings()
    return device


def statuses(messages: list[Received]) -> list[Status]:
    """The statuses among the messages."""
    return [Status.model_validate_json(m.payload) for m in messages if m.topic == f"{ROOT}/status"]


def lost_and_taken(device: Device) -> tuple[int, int]:
    """From the last line of the log: the verdicts that could not be stored, and the parts taken."""
    closing = device.log_text.splitlines()[-1]
    lost, taken = re.search(r"(\d+) verdicts could not be stored", closing), re.search(r"after (\d+) parts", closing)
    assert taken is not None, device.log_text
    return int(lost[1]) if lost else 0, int(taken[1])


@pytest.mark.parametrize("failure", [make_read_only, fail_every_call])
def test_a_state_disk_that_fails_is_told_over_the_live_connection_and_what_is_lost_is_counted(
    tmp_path: Path, failure: Callable[[Path], None]
) -> None:
    with ext4_disk(tmp_path) as disk, running_broker(tmp_path) as broker, Subscriber(broker) as subscriber:
        device = device_on(disk, tmp_path, broker.port, 400)
        process = device.start()
        try:
            subscriber.wait_for(lambda m: len(results_of(m)) >= 5)
            failure(disk)
            subscriber.wait_for(lambda m: any(FaultId.OUTBOX_FAILED in s.faults for s in statuses(m)))
            device.wait_for_log("outbox_failed: ")
            code = stop(process)
        finally:
            process.kill()
            process.wait()
        messages = subscriber.wait_for(lambda m: statuses(m)[-1].state in ("stopped", "offline"))
    assert code == 1
    lost, taken = lost_and_taken(device)
    received = len(distinct(results_of(messages)))
    assert received + lost == taken
    assert "the outbox failed, and its last events are lost" in device.log_text or lost
    assert "all messages were sent" not in device.log_text
    failed = next(s for s in statuses(messages) if FaultId.OUTBOX_FAILED in s.faults)
    assert failed.state in ("running", "stopped")
    if failure is make_read_only:
        assert lost > 0
        assert "Traceback" not in device.log_text.split("stopping: ")[1]
        assert FaultId.OUTBOX_FAILED in statuses(messages)[-1].faults


@pytest.mark.slow
def test_on_a_full_disk_without_a_reserve_what_is_lost_is_counted_and_the_next_start_goes_on_after_it(
    tmp_path: Path,
) -> None:
    with disk_of(40, tmp_path / "disk") as disk:
        device = device_on(disk, tmp_path, 1, 30)
        process = device.start()
        try:
            device.wait_for_log("inspecting; ")
            fill(disk)
            device.wait_for_log("outbox_failed: ")
            code = stop(process)
        finally:
            process.kill()
            process.wait()
        assert code == 1
        lost, taken = lost_and_taken(device)
        subprocess.run(["mount", "-o", "remount,size=400m", str(disk)], check=True)
        assert [r.counter for r in stored_on(disk)] == list(range(1, taken - lost + 1))
        device.camera |= {"parts_per_min": "max", "at_end": "stop"}
        with running_broker(tmp_path) as broker, Subscriber(broker) as subscriber:
            device.port = broker.port
            device.write_settings()
            assert device.run() == 0
            results = distinct(results_of(subscriber.wait_for(lambda m: len(distinct(results_of(m))) == 30)))
    assert [r.counter for r in results] == list(range(1, 31))
    assert [r.seq for r in results] == list(range(1, 31))
    assert {r.not_inspected for r in results} <= {None, NotInspected.RESTART}


def stored_on(disk: Path) -> list[Result]:
    """The results in the outbox of a stopped device, none of which was sent."""
    with Outbox(disk / "state" / OUTBOX_FILE) as outbox:
        messages = outbox.unacknowledged(0, 10_000)
    return [Result.model_validate_json(m.payload) for m in messages if m.topic == "result"]
