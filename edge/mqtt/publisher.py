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
from random import SystemRandom

from edge.contract.payloads import Status, bytes_from_payload
from edge.contract.topics import METRICS, STATUS, DeviceSettings, root_from_device
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.mqtt.across_connections import AcrossConnections, Tally
from edge.mqtt.backoff import Backoff
from edge.mqtt.best_effort import BestEffortMessage, BestEffortQueue
from edge.mqtt.cause import CauseFinder, report
from edge.mqtt.client import LinkError
from edge.mqtt.client_id_watch import ClientIdWatch
from edge.mqtt.connection import Connection
from edge.mqtt.delivery import Delivery
from edge.mqtt.frame_sender import FramePace
from edge.mqtt.inlet import CommandInlet
from edge.mqtt.link import Link, LinkState
from edge.mqtt.occurrences import Connected, Ended
from edge.mqtt.poison_message import PoisonMessageFinder
from edge.mqtt.refused_retry import RefusedRetry
from edge.mqtt.refused_topics import RefusedTopics
from edge.mqtt.settings import MqttSettings
from edge.mqtt.status import DeviceStatus, Shown
from edge.mqtt.tls import TlsFiles
from edge.mqtt.will import WillFallback
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now
from edge.worker import Problems, WorkerState, state_of_thread

CONNACK_TIMEOUT_S = 10.0
COMMIT_S = 5.0
"""When it stops: how long it waits until what was handed to the outbox is on the disk, and can be sent."""
SEND_S = 4.0
"""When it stops: how long it goes on sending what is unsent."""
STATUS_TIMEOUT_S = 1.0
"""How long a status may take to be acknowledged."""
END_S = 1.0
"""When it stops: how long the connection may take to close."""
STOP_S = COMMIT_S + SEND_S + STATUS_TIMEOUT_S + END_S
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


class Publisher:
    """Sends the outbox's messages and the frames for review on a thread, over one connection after the other.

    It reconnects to a broker that is absent, restarts or refuses, after a pause of at most 10 s. Messages on
    `{root}/cmd/{name}` go to `inlet`, a worker of its own, while that is open. `active_faults` go into the status,
    which is published again when they change: an event would wait for the disk, which may be what fails.
    """

    name = "publisher"
    stop_s = STOP_S

    def __init__(
        self,
        outbox: Outbox,
        frames: FrameStore | None,
        settings: MqttSettings,
        device: DeviceSettings,
        inlet: CommandInlet | None = None,
        active_faults: Callable[[], tuple[FaultId, ...]] = tuple,
    ) -> None:
        self._outbox = outbox
        self._frames = frames
        self._settings = settings
        self._root = root_from_device(device)
        self._stopping = threading.Event()
        self._stop_at_monotonic_s = 0.0
        self._link = Link(f"{settings.host}:{settings.port}")
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
        self._status = DeviceStatus(device.device, outbox.epoch, self._note, active_faults, outbox.wakeup)
        self._inlet = inlet
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    @property
    def state(self) -> WorkerState:
        """Whether the thread runs; without a connection it does, too."""
        return state_of_thread(self._thread, stopping=self._stopping.is_set())

    @property
    def link(self) -> LinkState:
        """The connection, and what went over it since the start; any thread may read it."""
        detail, tally = self._link.detail, self._across.tally
        return LinkState(not detail, detail, self._link.connections, tally.sent, tally.quarantined, tally.frames_sent)

    @property
    def status(self) -> Status:
        """The status that it would publish now; any thread may read it."""
        return self._status.now(utc_now())

    def problems(self) -> Problems:
        """Whether the broker is out of reach, and why."""
        return {FaultId.BROKER_UNREACHABLE: self._link.problem()}

    def start(self) -> None:
        """Start the thread."""
        if self._settings.protocol != "5":
            _logger.warning("%s", UNVERIFIABLE)
        self._thread.start()

    def stop(self) -> bool:
        """Send unsent messages as far as the time allows, publish the status `stopped`, and end.

        Returns False if something handed to the outbox could not be committed, or the thread did not end. A message
        that is not sent is kept for the next start.
        """
        committed = self._outbox.flush(COMMIT_S)
        if not committed:
            _logger.error("results cannot be written to the disk")
        self._stop_at_monotonic_s = time.monotonic() + SEND_S
        self._stopping.set()
        self._outbox.wakeup.set()
        if self._thread.ident is not None:
            self._thread.join(SEND_S + STATUS_TIMEOUT_S + END_S)
        return committed and not self._thread.is_alive()

    def set_activity(self, text: str | None, progress: float | None = None) -> None:
        """Publish the status `starting` with an activity and its progress (0 to 1), or `running` if `text` is None."""
        self._status.set_activity(text, progress)

    def set_command_position(self, state_id: str, command_counter: int) -> None:
        """Publish in the status which state signed commands have to name, and the highest counter accepted in it."""
        self._status.set_command_position(state_id, command_counter)

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
            sent, started_s, closed = self._across.tally.sent, time.monotonic(), False
            try:
                self._run_connection()
                continue  # the connection was closed on purpose
            except LinkError as error:
                closed = error.cut_off or error.taken_over
                self._link.lost(str(error))
            except Exception as error:
                _logger.exception("the publisher failed; it reconnects")
                self._link.lost(f"{type(error).__name__}: {error}")
            now_s = time.monotonic()
            if self._client_id_watch.problem(now_s) is not None:
                self._stopping.wait(self._backoff.contested_pause_s())
                continue
            if (self._across.tally.sent > sent and not closed) or now_s - started_s > _STABLE_S:
                self._backoff.succeeded()
            self._stopping.wait(self._backoff.pause_s())

    def _run_connection(self) -> None:
        """Connect, and send until the connection ends with a LinkError, or is closed on purpose."""
        will = self._will_fallback.will(STATUS.at(self._root), bytes_from_payload(self._status.offline()))
        files = TlsFiles(self._settings)
        inlet = self._inlet
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
            self._link.connected()
            self._deliver(delivery, files, published)
            if self._stopping.is_set():
                delivery.publish_status(bytes_from_payload(self._status.stopped(utc_now())), STATUS_TIMEOUT_S)
                self._link.stopped()
            connection.close()
        except LinkError as error:
            if delivery is None:
                self._client_id_watch.not_accepted()
                self._will_fallback.refused(error)
                raise
            reason = delivery.finish(error)
            if self._cause_finder.connection_ended(delivery, reason, time.monotonic() - accepted_s):
                self._backoff.succeeded()
            raise reason from error
        finally:
            connection.abandon()

    def _deliver(self, delivery: Delivery, files: TlsFiles, published: Shown) -> None:
        """Send until the publisher stops, or has to reconnect because certificates were exchanged."""
        files_checked_s = status_s = time.monotonic()
        subscribed = self._inlet is None
        while not self._stopping.is_set():
            if not subscribed and self._inlet is not None and self._inlet.open:
                delivery.subscribe()
                subscribed = True
            delivery.step()
            now_s = time.monotonic()
            if (self._status.shown != published or delivery.status_due) and now_s - status_s >= _STATUS_INTERVAL_S:
                published, status_s = self._publish_status(delivery), now_s
            if now_s - files_checked_s >= FILE_CHECK_INTERVAL_S:
                files_checked_s = now_s
                if files.renewed():
                    _logger.info("the certificates were exchanged: reconnecting")
                    delivery.drain(_DRAIN_S)
                    return
        while delivery.unfinished and time.monotonic() < self._stop_at_monotonic_s:
            delivery.step()

    def _publish_status(self, delivery: Delivery) -> Shown:
        """Publish the status; returns what it shows."""
        shown = self._status.shown
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

    def _note(self) -> str | None:
        note = self._client_id_watch.problem(time.monotonic())
        return note or (None if self._settings.protocol == "5" else UNVERIFIABLE)
