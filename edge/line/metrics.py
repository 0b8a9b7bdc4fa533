"""The device's metrics: published regularly, part of the reply to the command `status`, and in short for systemd."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from edge.contract.metrics import DiskUse, Metrics
from edge.contract.payloads import bytes_from_payload
from edge.frames.store import FrameStore
from edge.line.inspector import Inspector
from edge.messages import Verdict
from edge.mqtt.publisher import Publisher
from edge.outbox.disk_space import retention_s
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now
from edge.system.sensors import THERMAL_DIR, temperatures_c

INTERVAL_S = 10.0
"""Metrics are published this often."""
RATE_KNOWN_S = 60.0
"""After this long the rate of the line is known, and thus how long results are kept."""

_logger = logging.getLogger(__name__)


class DeviceMetrics:
    """Collects the metrics of one device; any thread may call `read`, the main thread calls the other methods.

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
        self._started_monotonic_s = self._due_monotonic_s = time.monotonic()
        self._retention_logged = False

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

    def publish_when_due(self) -> None:
        """Hand the metrics to the publisher if the last ones are `INTERVAL_S` old."""
        now_s = time.monotonic()
        if now_s >= self._due_monotonic_s:
            self._due_monotonic_s = now_s + INTERVAL_S
            self._publisher.offer_metrics(bytes_from_payload(self.read()))

    def in_short(self) -> str:
        """The parts inspected and the messages that wait, as the service manager shows them."""
        return f"{self._parts} parts since the start, {self._outbox.backlog()} messages to send"

    def log_retention_once(self, running_s: float) -> None:
        """Log for how long results are kept at the rate of this line, once it has run long enough to know it."""
        parts = self._parts
        if self._retention_logged or not parts or running_s < RATE_KNOWN_S:
            return
        self._retention_logged = True
        kept_s = retention_s(parts / running_s, self._inspector.result_bytes)
        rate = f"{parts / running_s:.2g} parts per second"
        _logger.info("at %s, acknowledged results are kept for %.1f days for a replay", rate, kept_s / 86_400)

    @property
    def _parts(self) -> int:
        return sum(self._inspector.verdicts.values())


def _disk_use(folder: Path) -> DiskUse | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return DiskUse(free_bytes=usage.free, total_bytes=usage.total)
