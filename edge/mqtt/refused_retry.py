"""Tries refused messages again: when the broker's rules were mended, what was set aside comes back by itself.

Of each group (one kind, one reason) a single message is sent again at a slow pace. When the broker accepts it, the
others of its group return to the queue, in order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from edge.outbox.outbox import MessageKind, Outbox, StoredMessage
from edge.outbox.refused_messages import RefusedGroup

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""Pauses between two tries of a group that the broker refuses with an answer; a new connection ends a pause."""
FIRST_HANG_UP_PAUSE_S, LONGEST_HANG_UP_PAUSE_S = 30.0, 3600.0
"""The same for messages on which the broker closes the connection: each try may cost one."""
IN_A_ROW = 3
"""After this many refusals in a row, an acceptance of the same kind means that the rules were mended: no more pause."""

_LOOK_S = 1.0
_ABOUT_THE_TOPIC = ("Not authorized", "Topic name invalid")
"""Refusals that concern all messages of a topic alike, so that trying the oldest one is enough and keeps the order."""


@dataclass
class _Pace:
    due_s: float
    failures: int = 0
    tried_id: int = 0


class RefusedRetry:
    """Chooses which refused message is sent again, and when; it lasts from one connection to the next.

    Only the publisher's thread calls. All times are of the monotonic clock.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._paces: dict[RefusedGroup, _Pace] = {}
        self._trying: RefusedGroup | None = None
        self._look_s = 0.0
        self._refused_in_a_row: Counter[MessageKind] = Counter()

    def connected(self, now_s: float) -> None:
        """There is a new connection, perhaps to a broker with other rules."""
        self._refused_in_a_row.clear()
        self._hurry(now_s)

    def connection_ended(self, now_s: float) -> None:
        """The connection ended, perhaps because of the message that was tried."""
        if self._trying is not None:
            self._failed(self._trying, now_s, hung_up=True)

    def next(self, now_s: float) -> StoredMessage | None:
        """The message to try now, which counts as in flight from now on; None if none is due."""
        if now_s < self._look_s or self._trying is not None:
            return None
        self._look_s = now_s + _LOOK_S
        self._update(now_s)
        for group, pace in self._paces.items():
            if now_s >= pace.due_s and (message := self._outbox.refused.next_of(group, pace.tried_id)) is not None:
                if not (group.reason or "").endswith(_ABOUT_THE_TOPIC):
                    pace.tried_id = message.message_id
                self._trying = group
                return message
        return None

    def tried(self, now_s: float, *, accepted: bool) -> RefusedGroup | None:
        """Record the broker's answer to the message tried; returns its group if the others can be sent as well."""
        group, self._trying = self._trying, None
        if group is None:
            return None
        if not accepted:
            self._failed(group, now_s, hung_up=group.hung_up)
            return None
        self._paces.pop(group, None)
        return group

    def answered(self, kind: MessageKind, now_s: float, *, accepted: bool) -> None:
        """Record the broker's answer to a message that is sent for the first time."""
        if not accepted:
            self._refused_in_a_row[kind] += 1
            return
        if self._refused_in_a_row[kind] >= IN_A_ROW:
            self._hurry(now_s)
        self._refused_in_a_row[kind] = 0

    def _update(self, now_s: float) -> None:
        """Take up new groups, and forget those of which nothing is left."""
        groups = self._outbox.refused.groups()
        self._paces = {
            group: self._paces.get(group) or _Pace(now_s + (FIRST_HANG_UP_PAUSE_S if group.hung_up else FIRST_PAUSE_S))
            for group in groups
        }

    def _hurry(self, now_s: float) -> None:
        self._update(now_s)
        self._look_s = now_s
        for group, pace in self._paces.items():
            if not group.hung_up:
                pace.due_s, pace.failures = now_s, 0

    def _failed(self, group: RefusedGroup, now_s: float, *, hung_up: bool) -> None:
        self._trying = None
        pace = self._paces.setdefault(group, _Pace(now_s))
        first_s, longest_s = (
            (FIRST_HANG_UP_PAUSE_S, LONGEST_HANG_UP_PAUSE_S) if hung_up else (FIRST_PAUSE_S, LONGEST_PAUSE_S)
        )
        pace.failures = min(pace.failures + 1, 16)
        pace.due_s = now_s + min(first_s * 2**pace.failures, longest_s)
