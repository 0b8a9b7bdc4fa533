"""Which message breaks the connection: a broker may simply hang up on what it does not like.

Whatever was on its way when a connection ended is sent one at a time on the next, so that the one that breaks it is
found alone. Breaking three connections in a row, alone each time, is proof enough: an outage does not wait for one
message, and silence or a refused connection proves nothing at all.
"""

from __future__ import annotations

from collections.abc import Collection

CUTS_TO_CONVICT = 3


class PoisonMessageFinder:
    """Remembers over connections which message was alone when one was cut off.

    Messages up to `send_alone_until_id` are to be sent one at a time.
    """

    def __init__(self) -> None:
        self.send_alone_until_id = 0
        self._suspect_id = 0
        self._cuts = 0

    def connection_ended(self, on_way: Collection[int], *, alone: bool, cut_off: bool) -> int | None:
        """Learn from the end of a connection that had been accepted; the id to give up, if there is one.

        `on_way` holds the ids that were sent and not acknowledged, `alone` says that nothing else was on its way, and
        `cut_off` that the other side hung up.
        """
        self.send_alone_until_id = max(on_way, default=self.send_alone_until_id)
        if len(on_way) != 1 or not alone or not cut_off:
            self._suspect_id = self._cuts = 0
            return None
        (message_id,) = on_way
        self._cuts = self._cuts + 1 if message_id == self._suspect_id else 1
        self._suspect_id = message_id
        if self._cuts < CUTS_TO_CONVICT:
            return None
        self._suspect_id = self._cuts = 0
        return message_id

    def settled(self) -> None:
        """All that was in doubt has been acknowledged or given up."""
        self.send_alone_until_id = 0
