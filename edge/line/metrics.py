"""The device's metrics: published regularly, and part of the reply to the command `status`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from edge.contract.payloads import DiskUse, Metrics
from edge.frames.store import FrameStore
from edge.line.inspector import Inspector
from edge.messages import Verdict
from edge.mqtt.publisher import Publisher
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now
from edge.system.sensors import THERMAL_DIR, temperatures_c


class DeviceMetrics:
    """Collects the metrics of one device; any thread may call.

    Disk use is that of the disk of `state_dir`; `thermal_dir` holds the kernel's zones (`thermal_zone*/type` and
    `temp`).
    """

    def __init__(
        self,
        device: str,
        outbox: Outbox,
        frames: FrameStore,
        inspector: Inspector,
        publisher: Publisher,
        state_dir: Path,
        thermal_dir: Path = THERMAL_DIR,
    ) -> None:
        self._device = device
        self._outbox = outbox
        self._frames = frames
        self._inspector = inspector
        self._publisher = publisher
        self._state_dir = state_dir
        self._thermal_dir = thermal_dir
        self._started_monotonic_s = time.monotonic()

    def read(self) -> Metrics:
        """The current metrics; `uptime_s` counts from the construction of this object."""
        return Metrics(
            device=self._device,
            epoch=self._outbox.epoch,
            creation_time=utc_now(),
            uptime_s=round(time.monotonic() - self._started_monotonic_s, 3),
            parts={verdict: self._inspector.verdicts[verdict] for verdict in Verdict},
            latencies=self._inspector.latencies.percentiles(),
            backlog=self._outbox.backlog(),
            quarantined=self._publisher.link.quarantined,
            unstored=self._outbox.unstored,
            frames_dropped=self._frames.dropped,
            disk=_disk_use(self._state_dir),
            temperatures_c=temperatures_c(self._thermal_dir),
        )


def _disk_use(folder: Path) -> DiskUse | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return DiskUse(free_bytes=usage.free, total_bytes=usage.total)
