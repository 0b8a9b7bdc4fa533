"""What the publisher keeps from one connection to the next."""

from __future__ import annotations

from dataclasses import dataclass

from edge.mqtt.best_effort import BestEffortQueue
from edge.mqtt.frame_sender import FramePace
from edge.mqtt.poison_message import PoisonMessageFinder
from edge.mqtt.refused_retry import RefusedRetry
from edge.mqtt.refused_topics import RefusedTopics
from edge.outbox.outbox import StoredMessage


@dataclass
class Tally:
    """Counts since the start; written only by the publisher's thread.

    `unretained` is the newest acknowledged result, until its retained copy is answered.
    """

    sent: int = 0
    quarantined: int = 0
    frames_sent: int = 0
    newest_seq: int = 0
    unretained: StoredMessage | None = None


@dataclass(frozen=True)
class AcrossConnections:
    """State shared by all connections; `root` is the root of the device's topics."""

    root: str
    device: str
    tally: Tally
    poison_finder: PoisonMessageFinder
    retry: RefusedRetry
    topics: RefusedTopics
    pace: FramePace
    best_effort: BestEffortQueue
