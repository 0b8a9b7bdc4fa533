"""The will and what becomes of it at a broker that refuses a connection because of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

RETAIN_NOT_SUPPORTED = 0x9A
_NOT_ABOUT_THE_WILL = frozenset({0x84, 0x85, 0x86, 0x88, 0x89, 0x8A, 0x8C, 0x95, 0x97, 0x9C, 0x9D, 0x9F})
"""Refusals of a connection with another cause: protocol version, client id, password, busy, banned ..."""
_ATTEMPTS = 3
_WITHOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes when the connection breaks."""

    topic: str
    payload: bytes
    retain: bool = True


class WillFallback:
    """Whether the next connection has a will, and a retained one: a forbidden will must not keep results back.

    Only the publisher's thread calls.
    """

    def __init__(self) -> None:
        self._retain = True
        self._refusals = 0
        self._without_until_s = 0.0

    def will(self, topic: str, payload: bytes) -> Will | None:
        """The will of the next connection; None after the broker refused several connections that had one."""
        tries_without = self._refusals % (_ATTEMPTS + 1) == _ATTEMPTS
        if tries_without or time.monotonic() < self._without_until_s:
            return None
        return Will(topic, payload, self._retain)

    def refused(self, reason_code: int | None) -> None:
        """The broker refused a connection with this code; None if it closed it without an answer."""
        if reason_code == RETAIN_NOT_SUPPORTED:
            self._retain = False
        elif reason_code not in _NOT_ABOUT_THE_WILL:
            self._refusals += 1

    def accepted(self, will: Will | None) -> None:
        """The broker accepted a connection with this will."""
        if will is None and time.monotonic() >= self._without_until_s:
            self._without_until_s = time.monotonic() + _WITHOUT_S
        self._refusals, self._retain = 0, True
