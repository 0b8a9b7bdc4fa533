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
from dataclasses import dataclass, replace
from importlib.metadata import version
from random import SystemRandom

from edge.contract.payloads import Status, bytes_from_payload
from edge.contract.topics import METRICS, STATUS, DeviceSettings, root_from_device
from edge.fault_board import put_event
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.mqtt.across_connections import AcrossConnections, Tally
from edge.mqtt.backoff import Backoff
from edge.mqtt.best_effort import BestEffortMessage, BestEffortQueue
from edge.mqtt.cause import CauseFinder, report
from edge.mqtt.client import LinkError
from edge.mqtt.client_id_watch import ClientIdWatch
from edge.mqtt.connection import Connected, Connection, Ended
from edge.mqtt.delivery import Delivery
from edge.mqtt.frame_sender import FramePace
from edge.mqtt.inlet import CLOSED_S, CommandInlet, Incoming
from edge.mqtt.poison_message import PoisonMessageFinder
from edge.mqtt.refused_retry import RefusedRetry
from edge.mqtt.refused_topics import RefusedTopics
from edge.mqtt.settings import MqttSettings
from edge.mqtt.status import Activity, State, StatusContent
from edge.mqtt.tls import TlsFiles
from edge.mqtt.will import WillFallback
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
_QUIET_S = (0.5, 1.5)
"""After a connection that was closed while one packet was in flight, the next one is quiet for a random time in this
range: if it is closed, too, the packet is not the cause."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublisherState:
    """The publisher's connection and counts; `detail` is why there is no connection, or empty while there is one."""

    connected: bool
    detail: str
    connections: int
    sent: int
    quarantined: int
    frames_sent: int


_Shown = tuple[StatusContent, tuple[FaultId, ...]]
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
        self._changing = StatusContent()
        self._change_lock = threading.Lock()
        self._best_effort = BestEffortQueue(METRICS.at(self._root))
        self._across = AcrossConnections(
            self._root,
            device.device,
            Tally(),
            PoisonMessageFinder(),
            RefusedRetry(outbox),
            RefusedTopics(self._report_refused_topic),
            FramePace(settings.frames_per_min),
            self._best_effort,
        )
        self._client_id = settings.client_id or device.device
        self._client_id_watch = ClientIdWatch(self._client_id)
        self._cause_finder = CauseFinder(outbox, frames, self._across, self._client_id_watch)
        self._will_fallback = WillFallback()
        self._random = SystemRandom()
        self._reduced_status = ""
        self._backoff = Backoff()
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
        return self._status("starting" if self._changing.activity else "running", utc_now())

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
        self._change(lambda shown: replace(shown, activity=None if text is None else Activity(text, progress)))

    def set_command_position(self, state_id: str, command_counter: int) -> None:
        """Publish in the status which state signed commands have to name, and the highest counter accepted in it."""
        self._change(lambda shown: replace(shown, state_id=state_id, command_counter=command_counter))

    def offer_metrics(self, payload: bytes) -> None:
        """Publish metrics after all unsent messages; new ones replace metrics not sent yet."""
        self._best_effort.put_metrics(payload)
        self._outbox.wakeup.set()

    def reply(self, topic: str, payload: bytes, correlation: bytes | None) -> None:
        """Publish the reply to a command after all unsent messages; it is lost if the connection breaks."""
        self._best_effort.put_reply(BestEffortMessage(topic, payload, correlation))
        self._outbox.wakeup.set()

    def _change(self, change: Callable[[StatusContent], StatusContent]) -> None:
        with self._change_lock:
            before, self._changing = self._changing, change(self._changing)
        if self._changing != before:
            self._outbox.wakeup.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            sent, started_s, closed = self._across.tally.sent, time.monotonic(), False
            try:
                self._run_connection()
                continue  # the connection was closed on purpose
            except LinkError as error:
                closed = error.cut_off or error.taken_over
                self._log_link(str(error))
            except Exception as error:
                _logger.exception("the publisher failed; it reconnects")
                self._log_link(f"{type(error).__name__}: {error}")
            self._report_dropped_commands()
            now_s = time.monotonic()
            if self._client_id_watch.problem(now_s) is not None:
                self._stopping.wait(self._backoff.contested_pause_s())
                continue
            if (self._across.tally.sent > sent and not closed) or now_s - started_s > _STABLE_S:
                self._backoff.succeeded()
            self._stopping.wait(self._backoff.pause_s())

    def _run_connection(self) -> None:
        """Connect, and send until the connection ends with a LinkError, or is closed on purpose."""
        will = self._will_fallback.will(STATUS.at(self._root), bytes_from_payload(self._status("offline", None)))
        files = TlsFiles(self._settings)
        inlet = self._inlet if self._inlet is not None and self._inlet.open else None
        connection = Connection(
            self._settings,
            self._client_id,
            will,
            self._outbox.wakeup,
            inlet.put if inlet else None,
            inlet.refuse_oversize if inlet else None,
        )
        delivery: Delivery | None = None
        accepted_s = 0.0
        try:
            connection.open()
            limits = self._limits_from_connack(connection)
            accepted_s = time.monotonic()
            if not self._will_fallback.accepted(will):
                connection.close()
                return
            if will is None or not will.retain or not limits.retain_available:
                self._report_reduced_status("without a will" if will is None else "not retained")
            delivery = Delivery(connection, limits, self._outbox, self._frames, self._across)
            if self._cause_finder.quiet_first:
                delivery.stay_quiet(self._random.uniform(*_QUIET_S))
            published = self._publish_status(delivery)
            if inlet is not None:
                delivery.subscribe()
            self._connections += 1
            self._log_link("")
            self._deliver(delivery, files, published)
            if self._stopping.is_set():
                delivery.publish_status(bytes_from_payload(self._status("stopped", utc_now())), STATUS_TIMEOUT_S)
                self._detail = "stopped"
            connection.close()
        except LinkError as error:
            if delivery is not None:
                if self._cause_finder.connection_ended(delivery, error, time.monotonic() - accepted_s):
                    self._backoff.succeeded()
            else:
                self._client_id_watch.not_accepted()
                self._will_fallback.refused(error)
            raise
        finally:
            connection.abandon()

    def _deliver(self, delivery: Delivery, files: TlsFiles, published: _Shown) -> None:
        """Send until the publisher stops, or has to reconnect because certificates were exchanged."""
        files_checked_s = status_s = time.monotonic()
        while not self._stopping.is_set():
            delivery.step()
            now_s = time.monotonic()
            if (self._shown != published or delivery.status_due) and now_s - status_s >= _STATUS_INTERVAL_S:
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
        _logger.warning("commands arrive too fast or are too large: %s", detail)
        put_event(self._outbox, self._across.device, FaultId.COMMAND_FLOOD, detail)

    @property
    def _shown(self) -> _Shown:
        return self._changing, self._active_faults()

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
                    raise occurrence.error()
            self._outbox.wakeup.wait(_TICK_S)
            self._outbox.wakeup.clear()
        raise LinkError("the broker does not answer")

    def _report_refused_topic(self, detail: str) -> None:
        report(self._outbox, self._across.device, FaultId.TOPIC_REFUSED, detail)

    def _report_reduced_status(self, how: str) -> None:
        detail = f"status: published {how}, as the broker refuses it otherwise"
        if detail != self._reduced_status:
            self._reduced_status = detail
            report(self._outbox, self._across.device, FaultId.TOPIC_REFUSED, detail)

    def _status(self, state: State, time_utc: str | None) -> Status:
        note = self._client_id_watch.problem(time.monotonic())
        note = note or (None if self._settings.protocol == "5" else UNVERIFIABLE)
        device, epoch = self._across.device, self._outbox.epoch
        return self._changing.status(state, time_utc, device, epoch, self._version, note, self._active_faults())

    def _log_link(self, detail: str) -> None:
        if detail != self._detail:
            where = f"{self._settings.host}:{self._settings.port}"
            if detail:
                _logger.warning("no connection to the broker at %s: %s", where, detail)
            else:
                _logger.info("connected to the broker at %s", where)
        self._detail = detail
