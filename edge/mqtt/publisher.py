"""The publisher's thread and its connections, one after the other: outbox -> MQTT, at least once and in order.

What is sent over one connection, and in which order, is in `delivery.py`. The thread publishes only between CONNACK and
the end of a connection, never more at a time than the broker accepts, and starts every connection at the oldest
unacknowledged message; a receiver that drops repetitions by (device, epoch, seq) therefore sees every result once and
in order. A message that the broker refuses, or closes the connection on, is quarantined, so that it blocks nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from edge.contract.encoding import clean_text
from edge.contract.payloads import Status, bytes_from_payload
from edge.contract.topics import COMMAND, METRICS, STATUS, DeviceSettings, root_from_device
from edge.fault_board import put_event
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.frames.stored import StoredFrame
from edge.mqtt.across_connections import AcrossConnections, Tally
from edge.mqtt.backoff import Backoff
from edge.mqtt.best_effort import BestEffortMessage, BestEffortQueue
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Connected, Connection, Ended, Will
from edge.mqtt.delivery import Delivery
from edge.mqtt.frame_sender import FramePace
from edge.mqtt.inlet import CLOSED_S, CommandInlet, Incoming
from edge.mqtt.poison_message import CUTS_TO_CONVICT, PoisonMessageFinder
from edge.mqtt.settings import MqttSettings
from edge.mqtt.tls import TlsFiles
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now

CONNACK_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 1.0
FILE_CHECK_INTERVAL_S = 5.0
"""Interval of the checks for new certificate and key files; they are used once unchanged for one interval."""
UNVERIFIABLE = "acceptance unverifiable: over MQTT 3.1.1 a broker cannot report a refusal"


_TICK_S = 0.5
_STATUS_INTERVAL_S = 0.5
_STABLE_S = 10.0
_DRAIN_S = 5.0

_logger = logging.getLogger(__name__)

State = Literal["starting", "running", "stopped", "offline"]


@dataclass(frozen=True, slots=True)
class PublisherState:
    """The publisher's connection and counts; `detail` is why there is no connection, or empty while there is one."""

    connected: bool
    detail: str
    connections: int
    sent: int
    quarantined: int
    frames_sent: int


@dataclass(frozen=True, slots=True)
class _Activity:
    text: str
    progress: float | None


_Shown = tuple[_Activity | None, tuple[FaultId, ...]]
"""What the status shows; it is published again when this changes."""


class Publisher:
    """Sends the outbox's messages and the frames for review on a thread, over one connection after the other.

    It reconnects to a broker that is absent, restarts or refuses, after a pause of at most 10 s. Messages on
    `{root}/cmd/{name}` go to `on_command`, one at a time, on the thread `commands`. `active_faults` go into the status,
    which is published again when they change: an event would wait for the disk, which may be what fails.
    """

    def __init__(
        self,
        outbox: Outbox,
        frames: FrameStore | None,
        settings: MqttSettings,
        device: DeviceSettings,
        on_command: Callable[[Incoming], None] | None = None,
        active_faults: Callable[[], tuple[FaultId, ...]] = tuple,
    ) -> None:
        self._outbox = outbox
        self._frames = frames
        self._settings = settings
        self._root = root_from_device(device)
        self._version = version("procunit-edge")
        self._stopping = threading.Event()
        self._stop_at_monotonic_s = 0.0
        self._detail = "not connected yet"
        self._connections = 0
        self._activity: _Activity | None = None
        self._best_effort = BestEffortQueue(METRICS.at(self._root))
        self._across = AcrossConnections(
            self._root,
            device.device,
            Tally(),
            PoisonMessageFinder(),
            FramePace(settings.frames_per_min),
            self._best_effort,
        )
        self._backoff = Backoff()
        self._suspect_frame: StoredFrame | None = None
        self._active_faults = active_faults
        self._inlet = CommandInlet(on_command) if on_command is not None else None
        self._dropped_reported = 0
        self._next_dropped_report_s = 0.0
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def state(self) -> PublisherState:
        """The state now; any thread may read it."""
        detail, tally = self._detail, self._across.tally
        return PublisherState(not detail, detail, self._connections, tally.sent, tally.quarantined, tally.frames_sent)

    @property
    def status(self) -> Status:
        """The status that it would publish now; any thread may read it."""
        return self._status("starting" if self._activity else "running", utc_now())

    def start(self) -> None:
        """Start the threads."""
        if self._settings.protocol != "5":
            _logger.warning("%s", UNVERIFIABLE)
        if self._inlet is not None:
            self._inlet.start()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send unsent messages as far as the time allows, publish the status `stopped`, and end."""
        self._stop_at_monotonic_s = time.monotonic() + max(0.0, timeout_s - STATUS_TIMEOUT_S)
        self._stopping.set()
        self._outbox.wakeup.set()
        if self._thread.ident is None:  # never started
            return
        self._thread.join(timeout_s + STATUS_TIMEOUT_S)
        if self._inlet is not None:
            self._inlet.stop(STATUS_TIMEOUT_S)

    def set_activity(self, text: str | None, progress: float | None = None) -> None:
        """Publish the status `starting` with an activity and its progress (0 to 1), or `running` if `text` is None."""
        self._activity = None if text is None else _Activity(text, progress)
        self._outbox.wakeup.set()

    def offer_metrics(self, payload: bytes) -> None:
        """Publish metrics after all unsent messages; new ones replace metrics not sent yet."""
        self._best_effort.put_metrics(payload)
        self._outbox.wakeup.set()

    def reply(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        """Publish the reply to a command after all unsent messages; it is lost if the connection breaks."""
        self._best_effort.put_reply(BestEffortMessage(topic, payload, correlation))
        self._outbox.wakeup.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            sent, started_s = self._across.tally.sent, time.monotonic()
            try:
                self._run_connection()
                continue  # the connection was closed on purpose
            except LinkError as error:
                self._log_link(str(error))
            except Exception as error:
                _logger.exception("the publisher failed; it reconnects")
                self._log_link(f"{type(error).__name__}: {error}")
            self._report_dropped_commands()
            if self._across.tally.sent > sent or time.monotonic() - started_s > _STABLE_S:
                self._backoff.succeeded()
            self._stopping.wait(self._backoff.pause_s())

    def _run_connection(self) -> None:
        """Connect, and send until the connection ends with a LinkError, or is closed on purpose."""
        will = Will(STATUS.at(self._root), bytes_from_payload(self._status("offline", None)))
        files = TlsFiles(self._settings)
        inlet = self._inlet if self._inlet is not None and self._inlet.open else None
        client_id = self._settings.client_id or self._across.device
        connection = Connection(self._settings, client_id, will, self._outbox.wakeup, inlet.put if inlet else None)
        delivery: Delivery | None = None
        try:
            connection.open()
            delivery = Delivery(
                connection, self._limits_from_connack(connection), self._outbox, self._frames, self._across
            )
            published = self._publish_status(delivery)
            if inlet is not None:
                connection.subscribe(COMMAND.at(self._root, name="+"))
            self._connections += 1
            self._log_link("")
            self._deliver(delivery, files, published)
            if self._stopping.is_set():
                delivery.publish_status(bytes_from_payload(self._status("stopped", utc_now())), STATUS_TIMEOUT_S)
                self._detail = "stopped"
            connection.close()
        except LinkError as error:
            if delivery is not None:
                self._give_up_poison(delivery, error)
            raise
        finally:
            connection.abandon()

    def _deliver(self, delivery: Delivery, files: TlsFiles, published: _Shown) -> None:
        """Send until the publisher stops, or has to reconnect because certificates were exchanged."""
        files_checked_s = status_s = time.monotonic()
        while not self._stopping.is_set():
            delivery.step()
            now_s = time.monotonic()
            if self._shown != published and now_s - status_s >= _STATUS_INTERVAL_S:
                published, status_s = self._publish_status(delivery), now_s
            if now_s - files_checked_s >= FILE_CHECK_INTERVAL_S:
                files_checked_s = now_s
                self._report_dropped_commands()
                if files.renewed():
                    _logger.info("the certificates were exchanged: reconnecting")
                    delivery.drain(_DRAIN_S)
                    return
        while delivery.unfinished and time.monotonic() < self._stop_at_monotonic_s:
            delivery.step()

    def _report_dropped_commands(self) -> None:
        """Log dropped commands and store an event about them, at most once per minute."""
        dropped = self._inlet.dropped if self._inlet is not None else 0
        now_s = time.monotonic()
        if dropped == self._dropped_reported or now_s < self._next_dropped_report_s:
            return
        self._next_dropped_report_s = now_s + CLOSED_S
        detail = f"at least {dropped - self._dropped_reported} were dropped unread"
        self._dropped_reported = dropped
        _logger.warning("commands arrive too fast: %s", detail)
        put_event(self._outbox, self._across.device, FaultId.COMMAND_FLOOD, detail)

    @property
    def _shown(self) -> _Shown:
        return self._activity, self._active_faults()

    def _publish_status(self, delivery: Delivery) -> _Shown:
        """Publish the status; returns what it shows."""
        shown = self._shown
        delivery.publish_status(bytes_from_payload(self.status), STATUS_TIMEOUT_S)
        return shown

    def _limits_from_connack(self, connection: Connection) -> Connected:
        deadline = time.monotonic() + CONNACK_TIMEOUT_S
        while time.monotonic() < deadline and not self._stopping.is_set():
            for occurrence in connection.occurrences():
                if isinstance(occurrence, Connected):
                    return occurrence
                if isinstance(occurrence, Ended):
                    raise LinkError(occurrence.text)
            self._outbox.wakeup.wait(_TICK_S)
            self._outbox.wakeup.clear()
        raise LinkError("the broker does not answer")

    def _give_up_poison(self, delivery: Delivery, error: LinkError) -> None:
        """Give up a message that broke three connections in a row, and a frame that broke two."""
        in_flight = {message.message_id: message for message in delivery.in_flight}
        poison_id = self._across.poison_finder.connection_ended(in_flight, alone=delivery.alone, cut_off=error.cut_off)
        if poison_id is not None:
            reason = f"the connection broke at this message {CUTS_TO_CONVICT} times in a row: {error}"
            delivery.give_up(in_flight[poison_id], reason)
        frame = delivery.frame_in_flight
        if frame is not None and frame == self._suspect_frame and self._frames is not None:
            _logger.warning("frame %s is not published: the connection broke twice while it was sent", frame.path)
            self._frames.mark_sent(frame)
        self._suspect_frame = frame or self._suspect_frame

    def _status(self, state: State, time_utc: str | None) -> Status:
        activity = self._activity if state == "starting" else None
        text = activity.text if activity else None if self._settings.protocol == "5" else UNVERIFIABLE
        return Status(
            device=self._across.device,
            epoch=self._outbox.epoch,
            state=state,
            time=time_utc,
            version=self._version,
            activity=None if text is None else clean_text(text),
            progress=activity.progress if activity else None,
            faults=() if state == "offline" else self._active_faults(),
        )

    def _log_link(self, detail: str) -> None:
        if detail != self._detail:
            where = f"{self._settings.host}:{self._settings.port}"
            if detail:
                _logger.warning("no connection to the broker at %s: %s", where, detail)
            else:
                _logger.info("connected to the broker at %s", where)
        self._detail = detail
