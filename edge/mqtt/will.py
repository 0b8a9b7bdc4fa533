"""The will and what becomes of it at a broker that refuses a connection because of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edge.mqtt.client import LinkError

RETAIN_NOT_SUPPORTED = 0x9A
_NOT_ABOUT_THE_WILL = frozenset({0x84, 0x85, 0x86, 0x88, 0x89, 0x8A, 0x8C, 0x95, 0x97, 0x9C, 0x9D, 0x9F})
"""Refusals of a connection with another cause: protocol version, client id, password, busy, banned ..."""
_ATTEMPTS, _PROOFS = 3, 2
_WITHOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Will:
    """The message that the broker publishes when the connection breaks."""

    topic: str
    payload: bytes
    retain: bool = True


class WillFallback:
    """Whether the next connection has a will, and a retained one: a forbidden will must not keep results back.

    After three refused connections one without a will is tried. If the broker accepts it, refuses the next one with a
    will, and accepts one without it again, the will is left out for ten minutes. Only the publisher's thread calls.
    """

    def __init__(self) -> None:
        self._retain = True
        self._refusals = self._accepted_without = 0
        self._without_until_s = 0.0

    def will(self, topic: str, payload: bytes) -> Will | None:
        """The will of the next connection, or None."""
        if time.monotonic() < self._without_until_s:
            return None
        attempts = 1 if self._accepted_without else _ATTEMPTS
        return None if self._refusals % (attempts + 1) == attempts else Will(topic, payload, self._retain)

    def refused(self, error: LinkError) -> None:
        """A connection was not accepted."""
        if error.refusal_code == RETAIN_NOT_SUPPORTED:
            self._retain = False
        elif error.cut_off or (error.refusal_code is not None and error.refusal_code not in _NOT_ABOUT_THE_WILL):
            self._refusals += 1

    def accepted(self, will: Will | None) -> bool:
        """The broker accepted a connection with this will; False if it should be closed, to try one with a will."""
        self._refusals, self._retain = 0, True
        if will is not None:
            self._accepted_without = 0
            return True
        if time.monotonic() < self._without_until_s:
            return True
        self._accepted_without += 1
        if self._accepted_without < _PROOFS:
            return False
        self._without_until_s, self._accepted_without = time.monotonic() + _WITHOUT_S, 0
        return True
