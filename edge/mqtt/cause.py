"""Finds out why an accepted connection ended: another client with this client id, a message, or a topic."""

from __future__ import annotations

import logging
import time

from edge.fault_board import put_event
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.frames.stored import StoredFrame
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.client import LinkError
from edge.mqtt.client_id_watch import ClientIdWatch
from edge.mqtt.delivery import Delivery
from edge.mqtt.poison_message import CUTS_TO_CONVICT
from edge.outbox.outbox import Outbox
from edge.outbox.refused_messages import Refusal

_REPEAT_EVENT_S = 3600.0

_logger = logging.getLogger(__name__)


def report(outbox: Outbox, device: str, fault_id: FaultId, detail: str) -> None:
    """Log a fault of the connection and store an event about it."""
    fault = fault_id.fault
    _logger.warning("%s: %s (%s) %s", fault_id.value, fault.text, detail, fault.action)
    put_event(outbox, device, fault_id, detail)


class CauseFinder:
    """Judges the ends of connections, one after the other; only the publisher's thread calls.

    `quiet_first` is True if the next connection should send nothing at first: if it ends, too, what was in flight on
    the last one is not the cause.
    """

    def __init__(
        self, outbox: Outbox, frames: FrameStore | None, across: AcrossConnections, client_id_watch: ClientIdWatch
    ) -> None:
        self.quiet_first = False
        self._outbox, self._frames, self._across, self._watch = outbox, frames, across, client_id_watch
        self._suspect_frame: StoredFrame | None = None
        self._next_client_id_event_s = 0.0

    def connection_ended(self, delivery: Delivery, error: LinkError, lived_s: float) -> bool:
        """Judge the end of a connection; returns whether its cause was found and removed.

        A message that broke three connections in a row is given up, a frame that broke two, and a topic rests.
        """
        now_s = time.monotonic()
        window = delivery.window
        messages = {message.message_id: message for message in window.messages}
        names = window.topic_names
        alone = window.packets == 1
        suspect = next(iter(messages), None) or next(iter(names), None) if alone else None
        self._watch.ended(
            now_s,
            lived_s=lived_s,
            cut_off=error.cut_off,
            taken_over=error.taken_over,
            idle=not window.packets,
            suspect=suspect,
        )
        self._across.retry.connection_ended(now_s)
        contested = self._watch.problem(now_s)
        if contested is not None and now_s >= self._next_client_id_event_s:
            self._next_client_id_event_s = now_s + _REPEAT_EVENT_S
            report(self._outbox, self._across.device, FaultId.CLIENT_ID_IN_USE, contested)
        cut_off = error.cut_off and contested is None
        self.quiet_first = cut_off and (alone or self._watch.suspicious)
        found = self._judge_topics(names, str(error), now_s, alone=alone) if cut_off else False
        poison_id = self._across.poison_finder.connection_ended(messages, alone=alone, cut_off=cut_off)
        if poison_id is not None:
            delivery.give_up(messages[poison_id], f"{Refusal.HANG_UP.value}{CUTS_TO_CONVICT} times in a row: {error}")
        if contested is None:
            self._judge_frame(window.frame)
        return found or poison_id is not None

    def _judge_topics(self, names: list[str], reason: str, now_s: float, *, alone: bool) -> bool:
        if names and alone:
            return self._across.topics.cut_alone(names[0], reason, now_s)
        self._across.topics.cut_together(names)
        return False

    def _judge_frame(self, frame: StoredFrame | None) -> None:
        if frame is not None and frame == self._suspect_frame and self._frames is not None:
            _logger.warning("frame %s is not published: the connection broke twice while it was sent", frame.path)
            self._frames.mark_sent(frame)
        self._suspect_frame = frame or self._suspect_frame
