"""Finds the message that makes the broker close the connection: some brokers do that instead of refusing it.

Messages that were in flight when a connection ended are sent one at a time on the next connection. A message is given
up after three connections in a row were closed by the broker while it was the only one in flight. Timeouts and refused
connections do not count.
"""

from __future__ import annotations

from collections.abc import Collection

CUTS_TO_CONVICT = 3


class PoisonMessageFinder:
    """Remembers across connections which message was alone in flight when the broker closed one.

    Messages up to the id `send_alone_until_id` have to be sent one at a time; 0 means no restriction.
    """

    def __init__(self) -> None:
        self.send_alone_until_id = 0
        self._suspect_id = 0
        self._cuts = 0

    def connection_ended(self, in_flight: Collection[int], *, alone: bool, cut_off: bool) -> int | None:
        """Record the end of a connection that had been accepted; returns the id to give up, or None.

        `in_flight` holds the ids that were sent and not acknowledged. `alone` is True if exactly one packet of any kind
        was in flight, `cut_off` if the broker closed the connection.
        """
        self.send_alone_until_id = max(in_flight, default=self.send_alone_until_id)
        if len(in_flight) != 1 or not alone or not cut_off:
            self._suspect_id = self._cuts = 0
            return None
        (message_id,) = in_flight
        self._cuts = self._cuts + 1 if message_id == self._suspect_id else 1
        self._suspect_id = message_id
        if self._cuts < CUTS_TO_CONVICT:
            return None
        self._suspect_id = self._cuts = 0
        return message_id

    def all_suspects_done(self) -> None:
        """Lift the restriction: every message up to `send_alone_until_id` was acknowledged or given up."""
        self.send_alone_until_id = 0
