"""What the outbox has to send, read in the order of its storing, page by page."""

from __future__ import annotations

from collections import deque

from edge.outbox.outbox import Outbox, StoredMessage

FLUSH_S = 2.0
"""How long the publisher's thread waits until what it noted in the outbox is committed, before it reads again."""
_PAGE = 200


class UnsentMessages:
    """The unacknowledged messages, over one connection, from the oldest on.

    `last_id` is the id of the message handed out last, 0 at first.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.last_id = 0
        self._outbox = outbox
        self._page: deque[StoredMessage] = deque()
        self._found_none = False

    @property
    def all_read(self) -> bool:
        """Whether every message was handed out, as of the last call of `next`."""
        return self._found_none and not self._page

    def next(self) -> StoredMessage | None:
        """The next message to send; None if there is none at present."""
        if not self._page:
            self._page.extend(self._outbox.unacknowledged(self.last_id, _PAGE))
            self._found_none = not self._page
        if not self._page:
            return None
        message = self._page.popleft()
        self.last_id = message.message_id
        return message

    def any_left(self) -> bool:
        """Whether there is a message to send; looks into the outbox."""
        return bool(self._page or self._outbox.unacknowledged(self.last_id, 1))

    def start_again(self) -> None:
        """Hand out all messages again that are not acknowledged."""
        self._outbox.flush(FLUSH_S)  # so that acknowledged messages are not read again
        self._page.clear()
        self.last_id, self._found_none = 0, False
