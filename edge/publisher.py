"""Outbox -> MQTT: every message at least once and in order, acknowledged by PUBACK.

One thread sends. It publishes only between CONNACK and the end of a connection, never more at a time than the broker
takes, and starts every connection at the oldest unacknowledged message; a receiver that drops repetitions by
(device, epoch, seq) therefore sees every result once and in order. A message that the broker refuses is quarantined,
so that it holds up nothing. Frames follow one at a time whenever no message waits.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from edge.config import DeviceSettings, MqttSettings
from edge.delivery import Delivery, Tally
from edge.frames import FrameStore, StoredFrame
from edge.mqtt_session import Connected, Ended, LinkError, Session, Will
from edge.outbox import Outbox
from edge.payloads import Status, bytes_from_payload
from edge.pipeline import utc_now
from edge.topics import STATUS, root_from_device

CONNACK_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 1.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_TICK_S = 0.5

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherState:
    """How the publisher is doing; `detail` says why there is no link, and is empty while there is one."""

    connected: bool
    detail: str
    connections: int
    sent: int
    quarantined: int
    frames_sent: int


class Publisher:
    """Sends what the outbox holds, and the frames that people look at, for as long as it runs.

    A broker that is absent, restarts or refuses is tried again after a pause of 0.5 to 10 s.
    """

    def __init__(
        self, outbox: Outbox, frames: FrameStore | None, settings: MqttSettings, device: DeviceSettings
    ) -> None:
        self._outbox = outbox
        self._frames = frames
        self._settings = settings
        self._device = device.device
        self._root = root_from_device(device)
        self._version = version("procunit-edge")
        self._stopping = threading.Event()
        self._stop_at_monotonic_s = 0.0
        self._detail = "not connected yet"
        self._connections = 0
        self._tally = Tally()
        self._suspect: StoredFrame | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def state(self) -> PublisherState:
        """How it is doing now; any thread may ask."""
        detail, tally = self._detail, self._tally
        return PublisherState(not detail, detail, self._connections, tally.sent, tally.quarantined, tally.frames_sent)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send the messages that wait as far as the time allows, publish the status `stopped`, and end."""
        self._stop_at_monotonic_s = time.monotonic() + max(0.0, timeout_s - STATUS_TIMEOUT_S)
        self._stopping.set()
        self._outbox.wakeup.set()
        self._thread.join(timeout_s + STATUS_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            connections = self._connections
            try:
                self._run_session()
            except LinkError as error:
                self._note_link(str(error))
            except Exception as error:
                _logger.exception("the publisher failed; it connects anew")
                self._note_link(f"{type(error).__name__}: {error}")
            pause_s = _FIRST_PAUSE_S if self._connections > connections else min(2 * pause_s, _LONGEST_PAUSE_S)
            self._stopping.wait(pause_s)

    def _run_session(self) -> None:
        """One connection from its start to its end, which is a LinkError unless the publisher stops."""
        will = Will(f"{self._root}/{STATUS.suffix}", self._status("offline", None))
        session = Session(self._settings, self._settings.client_id or self._device, will, self._outbox.wakeup)
        delivery: Delivery | None = None
        try:
            session.open()
            limits = self._limits_from_connack(session)
            delivery = Delivery(
                session, limits, self._outbox, self._frames, root=self._root, device=self._device, tally=self._tally
            )
            delivery.publish_status(self._status("running", utc_now()), STATUS_TIMEOUT_S)
            self._connections += 1
            self._note_link("")
            self._deliver(delivery)
            delivery.publish_status(self._status("stopped", utc_now()), STATUS_TIMEOUT_S)
            session.close()
            self._detail = "stopped"
        finally:
            session.abandon()
            if delivery is not None and delivery.frame is not None:
                self._suspect_frame(delivery.frame)

    def _deliver(self, delivery: Delivery) -> None:
        while not self._stopping.is_set():
            delivery.step()
        while delivery.unfinished and time.monotonic() < self._stop_at_monotonic_s:
            delivery.step()

    def _limits_from_connack(self, session: Session) -> Connected:
        deadline = time.monotonic() + CONNACK_TIMEOUT_S
        while time.monotonic() < deadline and not self._stopping.is_set():
            for occurrence in session.occurrences():
                if isinstance(occurrence, Connected):
                    return occurrence
                if isinstance(occurrence, Ended):
                    raise LinkError(occurrence.text)
            self._outbox.wakeup.wait(_TICK_S)
            self._outbox.wakeup.clear()
        raise LinkError("the broker does not answer")

    def _suspect_frame(self, frame: StoredFrame) -> None:
        """Give up a frame with which the connection broke a second time: a broker may cut off what is too large."""
        if frame == self._suspect and self._frames is not None:
            _logger.warning("frame %s is given up: the connection breaks with it", frame.path)
            self._frames.mark_sent(frame)
        self._suspect = frame

    def _status(self, state: Literal["running", "stopped", "offline"], time_utc: str | None) -> bytes:
        return bytes_from_payload(
            Status(device=self._device, epoch=self._outbox.epoch, state=state, time=time_utc, version=self._version)
        )

    def _note_link(self, detail: str) -> None:
        if detail != self._detail:
            where = f"{self._settings.host}:{self._settings.port}"
            if detail:
                _logger.warning("no link to the broker at %s: %s", where, detail)
            else:
                _logger.info("linked to the broker at %s", where)
        self._detail = detail
