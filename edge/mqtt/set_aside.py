"""Messages set aside because the broker refused them, and their return to the queue."""

from __future__ import annotations

import logging
import time

from edge.fault_board import put_event
from edge.faults import FaultId
from edge.mqtt.across_connections import AcrossConnections
from edge.mqtt.result_replay import ResultReplay
from edge.mqtt.unsent import FLUSH_S
from edge.outbox.outbox import MessageKind, Outbox, StoredMessage
from edge.outbox.refused_messages import RefusedGroup, Returned

_logger = logging.getLogger(__name__)


class SetAside:
    """Sets messages aside over one connection, and has them return when the broker accepts one of their group."""

    def __init__(self, outbox: Outbox, across: AcrossConnections, replay: ResultReplay) -> None:
        self._outbox, self._replay, self._retry = outbox, replay, across.retry
        self._device, self._tally = across.device, across.tally

    def give_up(self, message: StoredMessage, reason: str) -> None:
        """Quarantine a message and publish an event about it; one of a replay is only logged and skipped."""
        if message.replayed:
            _logger.warning("result %s is not sent again: %s", message.seq, reason)
            self._replay.mark_done(message)
            return
        self._outbox.quarantine(message.message_id, reason)
        self._tally.quarantined += 1
        what = f"result {message.seq}" if message.kind is MessageKind.RESULT else f"event {message.message_id}"
        _logger.error("%s is quarantined: %s", what, reason)
        if message.kind is MessageKind.RESULT:  # an event about a refused event would be refused too, and so on
            put_event(self._outbox, self._device, FaultId.MESSAGE_QUARANTINED, f"{what}: {reason}")

    def return_fitting(self, max_payload_bytes: int) -> None:
        """Have those return that were too large for the broker and no longer are."""
        returned = self._outbox.refused.return_fitting(max_payload_bytes)
        self._report(returned, "they were too large for the broker", None)

    def answered(self, message: StoredMessage, *, accepted: bool) -> Returned:
        """The broker answered to a message that it had refused before; returns which others return."""
        group = self._retry.tried(time.monotonic(), accepted=accepted)
        if not accepted or group is None:
            return Returned(0, 0)
        self._outbox.refused.accept(message.message_id)
        self._outbox.flush(FLUSH_S)
        others = self._outbox.refused.return_group(group)
        self._report(Returned(others.count + 1, others.last_id), group.reason or "unknown", group)
        return others

    def too_large(self, message: StoredMessage, reason: str) -> None:
        """A message that the broker had refused before is too large for it now."""
        self._retry.tried(time.monotonic(), accepted=False)
        self._outbox.refused.change_reason(message.message_id, reason)

    def _report(self, returned: Returned, reason: str, group: RefusedGroup | None) -> None:
        if not returned.count:
            return
        self._outbox.flush(FLUSH_S)
        kind = "message" if group is None else group.kind
        text = f"{returned.count} {kind}{'' if returned.count == 1 else 's'} set aside; the reason was: {reason}"
        _logger.info("the broker accepts messages again that it had refused: %s", text)
        put_event(self._outbox, self._device, FaultId.MESSAGES_RETURNED, text)
