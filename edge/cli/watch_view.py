"""The view of `procunit watch`: the newest parts, counts, rate, and the states of devices and connection.

Received messages are untrusted: a malformed one is counted and reported, and no control character, escape sequence or
markup from a message reaches the terminal.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TypeVar

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.contract.payloads import MAX_PAYLOAD_BYTES, Event, Result, ScoreSet, Status
from edge.contract.topics import EVENT, RESULT, STATUS, VERSION
from edge.messages import Verdict
from edge.plain_text import plain

RATE_WINDOW_S = 60.0
REMEMBERED_RESULTS = 50_000
"""Number of newest results among which a repetition is recognised."""

_WORDS = {
    Verdict.PASS: ("PASS", "bold green"),
    Verdict.REJECT: ("REJECT", "bold red"),
    Verdict.REVIEW: ("REVIEW", "bold yellow"),
    Verdict.NOT_INSPECTED: ("NOT INSPECTED", "bold magenta"),
}
_STATE_STYLES = {"starting": "cyan", "running": "green", "stopped": "yellow", "offline": "bold red"}
_SHOWN_TYPES = 2
_REMEMBERED_DEVICES = 1000

PayloadT = TypeVar("PayloadT", Result, Event, Status)


class WatchView:
    """The state of the live view.

    `link` is why there is no connection to the broker, or empty while there is one. `note` is the text of the newest
    event or malformed message.
    """

    def __init__(self, kept_rows: int) -> None:
        self.link = "connecting"
        self.note = ""
        self.counts: Counter[Verdict] = Counter()
        self.repeated = 0
        self.malformed = 0
        self._rows: deque[Result] = deque(maxlen=kept_rows)
        self._known: set[tuple[str, str, int]] = set()
        self._known_in_order: deque[tuple[str, str, int]] = deque()
        self._newest: dict[tuple[str, str], int] = {}
        self._arrivals_monotonic_s: deque[float] = deque()
        self._states: dict[str, Status] = {}
        self._run_ended = False

    @property
    def all_stopped(self) -> bool:
        """Whether a device stopped during this watch and no device is running now."""
        return self._run_ended and not any(status.state in ("starting", "running") for status in self._states.values())

    def take(self, topic: str, payload: bytes, *, retained: bool, now_monotonic_s: float) -> Result | None:
        """Process a message; returns the result if it is a result that was not received before."""
        if not payload:  # `procunit mqtt check` tests a permission, or somebody clears a retained message
            return None
        kind = topic.rpartition(f"{VERSION}/")[2]
        if kind == RESULT.suffix:
            return self._take_result(self._parsed(topic, payload, Result), now_monotonic_s)
        if kind == STATUS.suffix:
            self._take_status(topic, self._parsed(topic, payload, Status), retained=retained)
        elif kind == EVENT.suffix and (event := self._parsed(topic, payload, Event)) is not None:
            self.note = plain(f"{event.device}: {event.severity}: {event.text} {event.detail}", 300)
        return None

    def rate_per_min(self, now_monotonic_s: float) -> float:
        """Results per minute over the last minute, or since the first result if that is less."""
        while self._arrivals_monotonic_s and now_monotonic_s - self._arrivals_monotonic_s[0] > RATE_WINDOW_S:
            self._arrivals_monotonic_s.popleft()
        if len(self._arrivals_monotonic_s) < 2:
            return 0.0
        span_s = max(now_monotonic_s - self._arrivals_monotonic_s[0], 1.0)
        return 60.0 * (len(self._arrivals_monotonic_s) - 1) / span_s

    def rendered(self, now_monotonic_s: float) -> RenderableType:
        """The whole view for a terminal."""
        return Group(self._header(now_monotonic_s), self._table(), self._footer())

    def _take_result(self, result: Result | None, now_monotonic_s: float) -> Result | None:
        if result is None:
            return None
        key = (result.device, result.epoch, result.seq)
        if key in self._known:
            self.repeated += 1
            return None
        self._known.add(key)
        self._known_in_order.append(key)
        if len(self._known_in_order) > REMEMBERED_RESULTS:
            self._known.discard(self._known_in_order.popleft())
        self._note_gap(result)
        self.counts[result.verdict] += 1
        self._arrivals_monotonic_s.append(now_monotonic_s)
        self._rows.append(result)
        return result

    def _note_gap(self, result: Result) -> None:
        """Tell which results before this one were not received, of those after the first one that was."""
        key = (result.device, result.epoch)
        before = self._newest.pop(key, result.seq - 1)
        if result.seq > before + 1:
            self.note = plain(f"{result.device}: results {before + 1} to {result.seq - 1} did not reach this view", 300)
        self._newest[key] = max(before, result.seq)
        if len(self._newest) > _REMEMBERED_DEVICES:
            self._newest.pop(next(iter(self._newest)))

    def _take_status(self, topic: str, status: Status | None, *, retained: bool) -> None:
        if status is None:
            return
        before = self._states.get(topic)
        if status.state == "stopped" and (not retained or (before is not None and before.state != "stopped")):
            self._run_ended = True
        self._states[topic] = status

    def _parsed(self, topic: str, payload: bytes, model: type[PayloadT]) -> PayloadT | None:
        try:
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise ValueError(f"{len(payload)} bytes are too many")  # noqa: TRY301  (counted like other malformed ones)
            return model.model_validate_json(payload)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            reason = f"{'.'.join(str(key) for key in problem['loc'])}: {problem['msg']}"
        except ValueError as error:
            reason = str(error)
        self.malformed += 1
        self.note = plain(f"malformed message on {topic}: {reason}", 300)
        return None

    def _header(self, now_monotonic_s: float) -> Text:
        header = Text()
        for verdict, (word, style) in _WORDS.items():
            header.append(f"{word} {self.counts[verdict]}", style)
            header.append("   ")
        header.append(f"{self.rate_per_min(now_monotonic_s):.0f} parts/min\n")
        for status in self._states.values():
            header.append(f"{plain(status.device, 40)} ")
            header.append(status.state, _STATE_STYLES[status.state])
            if status.faults:
                header.append(f" {', '.join(fault.value for fault in status.faults)}", "bold red")
            header.append("   ")
        header.append(link_text(self.link, 120), "bold red" if self.link else "green")
        return header

    def _table(self) -> Table:
        table = Table(expand=True)
        table.add_column("seq", justify="right", no_wrap=True)
        table.add_column("part", no_wrap=True, max_width=24)
        table.add_column("verdict", no_wrap=True)
        table.add_column("why", ratio=1)
        table.add_column("scores", no_wrap=True, max_width=44)
        table.add_column("latency", justify="right", no_wrap=True)
        for result in reversed(self._rows):
            word, style = _WORDS[result.verdict]
            table.add_row(
                Text(plain(str(result.seq), 12)),
                Text(part_text(result)),
                Text(word + verdict_suffix(result), style),
                Text(why_text(result)),
                Text(scores_text(result.scores)),
                Text(latency_text(result)),
            )
        return table

    def _footer(self) -> Text:
        counts = [f"{n} {kind}" for n, kind in ((self.repeated, "repeated"), (self.malformed, "malformed")) if n]
        return Text("   ".join([*counts, self.note] if self.note else counts), "dim")


def line_from_result(result: Result) -> str:
    """A result as one line of plain text."""
    word = _WORDS[result.verdict][0] + verdict_suffix(result)
    fields = (
        plain(str(result.seq), 12),
        part_text(result),
        word,
        why_text(result),
        scores_text(result.scores),
        latency_text(result),
    )
    return "  ".join(field for field in fields if field)


def link_text(problem: str, limit: int) -> str:
    """The state of the connection to the broker, given why there is none, or "" if there is one."""
    return (
        f"no connection to the broker: {plain(problem, limit)}; trying again" if problem else "connected to the broker"
    )


def part_text(result: Result) -> str:
    """The part's id, or the frame's id if the part has none."""
    return plain(result.part_id if result.part_id is not None else f"frame {result.frame_id}", 40)


def verdict_suffix(result: Result) -> str:
    """The review action or the audit mark, to append to the verdict."""
    if result.verdict is Verdict.REVIEW and result.review_action is not None:
        return f" ({result.review_action.replace('_', ' ')})"
    return " (audit)" if result.audit else ""


def why_text(result: Result) -> str:
    """The first reason, and the number of further ones."""
    if not result.why:
        return ""
    more = f" (+{len(result.why) - 1} more)" if len(result.why) > 1 else ""
    reason = f"{result.not_inspected.value}: " if result.not_inspected else ""
    return plain(reason + result.why[0].text, 120) + more


def scores_text(scores: ScoreSet | None) -> str:
    """The anomaly score and the highest type scores."""
    if scores is None:
        return ""
    finite = {name: score for name, score in scores.types.items() if score is not None}
    highest = sorted(finite, key=lambda name: -finite[name])[:_SHOWN_TYPES]
    anomaly = [] if scores.anomaly is None else [f"anomaly {scores.anomaly:.3g}"]
    return "  ".join([*anomaly, *(plain(f"{name} {finite[name]:.2f}", 32) for name in highest)])


def latency_text(result: Result) -> str:
    """Milliseconds from the frame in memory to the verdict; empty if there are no scores."""
    return "" if result.scores is None else f"{result.processing_times.inspect_ms:.4g} ms"
