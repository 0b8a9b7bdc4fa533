"""What happens on a connection, as paho's network thread tells the publisher's thread."""

from __future__ import annotations

from dataclasses import dataclass

from paho.mqtt.reasoncodes import ReasonCode

from edge.mqtt.client import OVERSIZE_TEXT, LinkError
from edge.mqtt.tls import text_from_tls_alert

_UNSPECIFIED_ERROR = 0x80
_TAKEN_OVER = 0x8E
_NOT_CUT_OFF_TEXTS = ("timed out", "unreachable", "Keep alive", OVERSIZE_TEXT)
_NOT_ABOUT_A_MESSAGE = frozenset({0x89, 0x8B, 0x8D, 0x8E, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0xA0})
"""DISCONNECT reason codes that no message can cause: busy, shutting down, session taken over, quota ..."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection, with these limits."""

    receive_maximum: int
    maximum_packet_bytes: int
    retain_available: bool = True
    maximum_qos: int = 2


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker's PUBACK; `reason_code` from 0x80 on is a refusal."""

    packet_id: int
    reason_code: int
    text: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker's SUBACK; `refused` is the reason of a refusal, or empty."""

    refused: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection was refused or ended; the fields are those of a LinkError."""

    text: str
    cut_off: bool = False
    taken_over: bool = False
    refusal_code: int | None = None

    def error(self) -> LinkError:
        """The error to raise for it."""
        return LinkError(self.text, cut_off=self.cut_off, taken_over=self.taken_over, refusal_code=self.refusal_code)


Occurrence = Connected | Acknowledged | Subscribed | Ended


def ended_from_disconnect(reason: ReasonCode, logged: str, client_id: str) -> Ended:
    """Why a connection ended; `logged` is the last error that paho logged, or empty."""
    if reason.value == _TAKEN_OVER:
        text = f"another client connected with the client id {client_id}: session taken over"
        return Ended(text, taken_over=True)
    closed = reason.value == _UNSPECIFIED_ERROR  # paho's reason for a socket that the broker closed
    text = (
        text_from_tls_alert(logged)
        or logged
        or ("the broker closed the connection" if closed else f"the connection ended: {reason}")
    )
    by_itself = any(part in f"{text} {reason}" for part in _NOT_CUT_OFF_TEXTS)
    return Ended(text, cut_off=not by_itself and reason.value not in _NOT_ABOUT_A_MESSAGE)
