"""Records every command as an event, with a limit so that a flood of commands cannot flood the outbox."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from edge.commands.table import COMMANDS
from edge.contract.encoding import clean_text
from edge.contract.payloads import CommandOutcome, CommandRecord, bytes_from_payload, event_from_fault
from edge.faults import FaultId
from edge.system.clock import utc_now

MAX_A_MINUTE = 60
"""Limit of events per minute, outcome and kind of command; the next event counts the rest.

The commands that only ask share one limit, and so do names that do not exist; each other command has its own, and
signed ones apart from unsigned ones. So questions never use up the record of changes. A command that was signed with a
trusted key and carried out is always recorded.
"""

_WINDOW_S = 60.0
_Kind = tuple[str, bool, CommandOutcome]
_logger = logging.getLogger(__name__)


class AuditLog:
    """Writes each command to the log and stores it as an event; called by one thread.

    `put_event` stores the bytes of an event (`Outbox.put_event`).
    """

    def __init__(
        self,
        put_event: Callable[[bytes], None],
        *,
        device: str,
        epoch: str,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._put_event = put_event
        self._device = device
        self._epoch = epoch
        self._monotonic_s = monotonic_s
        self._window_start_s = monotonic_s()
        self._in_window: Counter[_Kind] = Counter()
        self._unrecorded = 0

    def record(self, record: CommandRecord, text: str) -> None:
        """Store the outcome of a command; `text` is the text of its reply."""
        signed = record.signed_by is not None
        if not (signed and record.outcome != "refused") and not self._within_limit(
            (_kind(record.name), signed, record.outcome)
        ):
            self._unrecorded += 1
            return
        who = f" by {record.by}" if record.by else ""
        key = f", signed with {record.signed_by}" if record.signed_by else ""
        more = f" ({self._unrecorded} earlier commands were not recorded)" if self._unrecorded else ""
        detail = clean_text(f"{record.name} {record.cmd_id or ''}{who}{key}: {record.outcome}: {text}{more}", 900)
        _logger.info("command %r", detail)
        self._unrecorded = 0
        fault_id = FaultId.COMMAND_RUN if record.outcome == "done" else FaultId.COMMAND_REFUSED
        event = event_from_fault(
            fault_id, detail, device=self._device, epoch=self._epoch, created_at_utc=utc_now(), command=record
        )
        self._put_event(bytes_from_payload(event))

    def _within_limit(self, kind: _Kind) -> bool:
        now_s = self._monotonic_s()
        if now_s - self._window_start_s >= _WINDOW_S:
            self._window_start_s = now_s
            self._in_window.clear()
        self._in_window[kind] += 1
        return self._in_window[kind] <= MAX_A_MINUTE


def _kind(name: str) -> str:
    command = COMMANDS.get(name)
    if command is None:
        return "unknown"
    return "read" if command.role == "read" else name
