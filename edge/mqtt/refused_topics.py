"""Topics beside results and events that the broker refuses: they rest for a while, so that they hold up no result.

A broker refuses a topic with an answer (MQTT 5), or closes the connection on it. In the second case the packets that
were in flight together are sent alone on the next connection, and a topic that ends two connections rests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

CUTS_TO_REST = 2
FIRST_REST_S, LONGEST_REST_S = 30.0, 3600.0
"""How long a topic rests after it ended connections; doubled each time it does so again."""
ANSWERED_REST_S = 30.0
"""How long a topic rests after a refusal that cost no connection; a new connection ends the rest."""
MAX_TOPICS = 64
"""Limit on the topics remembered: the sender of a command chooses the topic of its reply."""

_logger = logging.getLogger(__name__)


@dataclass
class _Topic:
    cuts: int = 0
    rest_s: float = field(default_factory=lambda: FIRST_REST_S)
    rests_until_s: float = 0.0
    hung_up: bool = False
    alone: bool = False
    reported: bool = False


class RefusedTopics:
    """What is known of the topics that a broker refused; it lasts from one connection to the next.

    `report` is called with a text when a topic begins to rest. Only the publisher's thread calls. All times are of the
    monotonic clock. Topics are named below the device's root.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._topics: dict[str, _Topic] = {}

    def may_send(self, name: str, now_s: float) -> bool:
        """Whether the topic does not rest."""
        topic = self._topics.get(name)
        return topic is None or now_s >= topic.rests_until_s

    def must_be_alone(self, name: str) -> bool:
        """Whether nothing else may be in flight with a message on this topic, as one of them ended a connection."""
        topic = self._topics.get(name)
        return topic is not None and topic.alone

    def connected(self) -> None:
        """There is a new connection, perhaps to a broker with other rules."""
        for topic in self._topics.values():
            if not topic.hung_up:
                topic.rests_until_s = 0.0

    def accepted(self, name: str) -> None:
        """The broker accepted a message on this topic."""
        topic = self._topics.pop(name, None)
        if topic is not None and topic.reported:
            _logger.info("the broker accepts %s again", name)

    def refused(self, name: str, reason: str, now_s: float) -> None:
        """The broker answered that it refuses the topic."""
        topic = self._topic(name)
        topic.rests_until_s, topic.hung_up = now_s + ANSWERED_REST_S, False
        self._report_once(topic, f"{name}: {reason}")

    def cut_together(self, names: Iterable[str]) -> None:
        """The broker closed the connection while these topics and something else were in flight."""
        for name in names:
            self._topic(name).alone = True

    def cut_alone(self, name: str, reason: str, now_s: float) -> bool:
        """The broker closed the connection while a message on this topic was the only packet in flight.

        Returns whether the topic rests now.
        """
        topic = self._topic(name)
        topic.alone = True
        topic.cuts += 1
        if topic.cuts < CUTS_TO_REST:
            return False
        topic.rests_until_s, topic.hung_up = now_s + topic.rest_s, True
        topic.rest_s = min(2 * topic.rest_s, LONGEST_REST_S)
        self._report_once(topic, f"{name}: the connection broke at it {topic.cuts} times: {reason}")
        return True

    def _topic(self, name: str) -> _Topic:
        if name not in self._topics and len(self._topics) >= MAX_TOPICS:
            del self._topics[next(iter(self._topics))]
        return self._topics.setdefault(name, _Topic())

    def _report_once(self, topic: _Topic, text: str) -> None:
        if not topic.reported:
            topic.reported = True
            self._report(text)
