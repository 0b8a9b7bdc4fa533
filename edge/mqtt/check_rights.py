"""The part of `mqtt check` behind the login: the client id, and the permission for every topic.

To publish is tested with messages of QoS 2 that are never completed: the broker answers whether it accepts the topic,
and hands nothing on, so that no receiver sees the check.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from edge.contract.topics import FRAME_VIEW_HEATMAP, FRAME_VIEW_IMAGE, JPEG, JSON, STATUS, TOPICS
from edge.mqtt.client import LinkError
from edge.mqtt.connection import Connection
from edge.mqtt.finding import Finding
from edge.mqtt.occurrences import Acknowledged, Connected, Ended, Subscribed
from edge.mqtt.settings import MqttSettings
from edge.mqtt.will import Will

ANSWER_TIMEOUT_S = 5.0
WATCH_S = 3.0
"""How long a connection with the device's own client id is watched for another client that takes it over."""

_REFUSED = 0x80
_TRIES = 2

_Answer = TypeVar("_Answer", Connected, Acknowledged, Subscribed)


class Session:
    """Connections of the check, one after the other: if the broker ends one, the next step opens another."""

    def __init__(self, settings: MqttSettings, client_id: str) -> None:
        self.settings, self.client_id = settings, client_id
        self._wake = threading.Event()
        self._connection: Connection | None = None

    def login(self, will: Will | None) -> Connected:
        """Connect; a connection with a will is closed properly at once, so that the will is never published.

        Raises:
            LinkError: the broker refused it, or did not answer.
        """
        self.close()
        self._connection = Connection(self.settings, self.client_id, will, self._wake, lambda _: True, probing=True)
        try:
            self._connection.open()
            limits = self._await(Connected)
        except LinkError:
            self.close()
            raise
        if will is not None:
            self.close()
        return limits

    def ask(self, send: Callable[[Connection], None], kind: type[_Answer]) -> _Answer:
        """Send something and wait for its answer, over a new connection if there is none.

        Raises:
            LinkError: the broker closed the connection, or did not answer.
        """
        if self._connection is None:
            self.login(None)
        connection = self._connection
        if connection is None:
            raise LinkError("there is no connection")
        try:
            send(connection)
            return self._await(kind)
        except LinkError:
            self.close()
            raise

    def watch(self, duration_s: float) -> LinkError | None:
        """Send nothing for a while; returns the error if the connection ends all the same."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s and self._connection is not None:
            for occurrence in self._connection.occurrences():
                if isinstance(occurrence, Ended):
                    self.close()
                    return occurrence.error()
            self._wake.wait(0.1)
            self._wake.clear()
        return None

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _await(self, kind: type[_Answer]) -> _Answer:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while self._connection is not None and time.monotonic() < deadline_s:
            for occurrence in self._connection.occurrences():
                if isinstance(occurrence, kind):
                    return occurrence
                if isinstance(occurrence, Ended):
                    raise occurrence.error()
            self._wake.wait(0.1)
            self._wake.clear()
        raise LinkError(f"the broker did not answer within {ANSWER_TIMEOUT_S:g} s")


def published_topics(root: str) -> tuple[str, ...]:
    """Every topic on which a line with one view publishes, with `check` as result id and as command name."""
    topics = [
        topic for topic in TOPICS if topic.direction == "out" and topic not in (FRAME_VIEW_IMAGE, FRAME_VIEW_HEATMAP)
    ]
    return tuple(topic.at(root, resultId="check", name="check") for topic in topics)


def subscribed_filters(root: str) -> tuple[str, ...]:
    """Every topic filter to which the device subscribes."""
    return tuple(topic.at(root, name="+") for topic in TOPICS if topic.direction == "in")


def check_client_id(session: Session) -> Finding:
    """Watch a connection with the device's own client id: another client that uses it would take it over."""
    client_id = session.client_id
    session.login(None)
    error = session.watch(WATCH_S)
    if error is None:
        return Finding("client id", "ok", f"{client_id}: no other client took it within {WATCH_S:g} s")
    remedy = (
        f"Another client uses the client id {client_id}, so that both lose their connection again and again: give "
        "every device a client id of its own (mqtt.client_id, by default the device's name), or stop the other client"
    )
    return Finding("client id", "failed", f"{client_id} is in use: {error}", remedy)


def check_rights(session: Session, root: str, limits: Connected, status: bytes | None) -> Iterator[Finding]:
    """Test every topic; `status` is what the status topic holds while the device does not run, None while it does."""
    for topic in published_topics(root):
        if limits.maximum_qos < 2:
            remedy = "This broker takes no QoS 2, which the test needs: look for the event topic_refused instead"
            yield Finding("may publish", "warning", f"{topic}: not tested", remedy)
        elif status is not None and topic == STATUS.at(root):
            yield _may_publish(session, topic, status, JSON, retain=limits.retain_available)
        else:
            content_type = JPEG if "/frame/" in topic else JSON
            yield _may_publish(session, topic, b"", content_type, retain=False)
    for topic_filter in subscribed_filters(root):
        yield _may_subscribe(session, topic_filter)


def _may_publish(session: Session, topic: str, payload: bytes, content_type: str, *, retain: bool) -> Finding:
    step = "may publish"
    remedy = "Give the device write access to this topic at the broker; the device sets refused messages aside"
    try:
        answer = _patiently(
            session, lambda c: c.probe(topic, payload, retain=retain, content_type=content_type), Acknowledged
        )
    except LinkError as error:
        return Finding(step, "failed", f"{topic}: {error}", f"{remedy}. It closes the connection at this topic")
    if answer.reason_code >= _REFUSED:
        return Finding(step, "failed", f"{topic}: {answer.text}", remedy)
    if session.settings.protocol != "5":
        remedy = "Use protocol 5 if the broker supports it: over 3.1.1 a refusal looks like an acceptance"
        return Finding(step, "warning", f"{topic}: acceptance unverifiable", remedy)
    return Finding(step, "ok", topic)


def _may_subscribe(session: Session, topic_filter: str) -> Finding:
    remedy = "Give the device read access to this topic at the broker; without it no command arrives"
    try:
        answer = _patiently(session, lambda c: c.subscribe(topic_filter), Subscribed)
    except LinkError as error:
        return Finding("may subscribe", "failed", f"{topic_filter}: {error}", remedy)
    if answer.refused:
        return Finding("may subscribe", "failed", f"{topic_filter}: {answer.refused}", remedy)
    return Finding("may subscribe", "ok", topic_filter)


def _patiently(session: Session, send: Callable[[Connection], None], kind: type[_Answer]) -> _Answer:
    """Ask again after a hang-up: only one at the same place again is the topic's fault."""
    for _ in range(_TRIES - 1):
        try:
            return session.ask(send, kind)
        except LinkError:
            continue
    return session.ask(send, kind)
