"""Which part id belongs to which trigger: by the counter, or by a window of time; never by order.

An id that comes too late, twice or not at all costs its own part the id and no other part anything. A window is trusted
only if it is shorter than the distance to the trigger before and holds one trigger and no other id's claim; whatever is
left in doubt gets no id.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from edge.contract.commands import PartIdArgs
from edge.system.clock import unix_s_from_utc

MAX_HELD = 1000
"""Part ids that may wait for their trigger, and how far a counter may lie ahead of the newest trigger's."""
MAX_WINDOW_S, MAX_AHEAD_S = 60.0, 3600.0
"""How long a window may be, and how far ahead of the newest trigger."""

_REMEMBERED_TRIGGERS = 1000


@dataclass(frozen=True, slots=True)
class Binding:
    """A trigger's part id; `problem` says why a part has none, and what ids found no part, in words."""

    part_id: str | None
    problem: str | None


@dataclass(slots=True)
class _Window:
    part_id: str
    after_s: float
    before_s: float
    spent: bool = False

    @property
    def width_s(self) -> float:
        return self.before_s - self.after_s

    def holds(self, time_s: float) -> bool:
        return self.after_s <= time_s <= self.before_s


@dataclass(frozen=True, slots=True)
class _Bound:
    counter: int
    time_s: float | None
    part_id: str | None


class PartIds:
    """Holds part ids until their trigger's result is made; any thread may call.

    `last_counter` is that of the newest trigger before the start. A counter that goes back, or a clock that does,
    makes it forget what it holds by counter or by time.
    """

    def __init__(self, last_counter: int | None = None) -> None:
        self._lock = threading.Lock()
        self._by_counter: dict[int, str | None] = {}
        """None where two ids claim one counter."""
        self._windows: list[_Window] = []
        self._bound: deque[_Bound] = deque(maxlen=_REMEMBERED_TRIGGERS)
        self._newest = last_counter
        self._newest_s: float | None = None
        self._in_use = False

    def claim(self, args: PartIdArgs) -> str | None:
        """Take a part id in; returns why it will never find its part, or None if it is held (or was bound before)."""
        with self._lock:
            self._in_use = True
            if len(self._by_counter) + len(self._windows) >= MAX_HELD:
                return f"{MAX_HELD} part ids already wait for their parts"
            if args.counter is not None:
                return self._claim_counter(args.part_id, args.counter)
            if args.after is None or args.before is None:  # ruled out by the schema
                return "neither a counter nor a window"
            return self._claim_window(
                _Window(args.part_id, unix_s_from_utc(args.after), unix_s_from_utc(args.before)),
            )

    def bind(self, counter: int, triggered_at_utc: str | None) -> Binding:
        """The part id of a trigger: asked once a trigger, in their order, when its result is made.

        The time is None for a part that only the counter tells of.
        """
        time_s = None if triggered_at_utc is None else unix_s_from_utc(triggered_at_utc)
        with self._lock:
            problems = self._forget_counters(counter)
            claims = {self._by_counter.pop(counter)} if counter in self._by_counter else set()
            if time_s is not None:
                problems += self._forget_windows(time_s)
                claims |= self._claims_at(time_s)
                self._newest_s = time_s
            part_id = claims.pop() if len(claims) == 1 else None
            self._bound.append(_Bound(counter, time_s, part_id))
            self._newest = counter
            if part_id is None and self._in_use:
                problems.append(
                    f"counter {counter}: more than one part id matches, so none is used"
                    if claims
                    else f"no part id arrived for counter {counter} before its result was made"
                )
            return Binding(part_id, "; ".join(problems) or None)

    def _claim_counter(self, part_id: str, counter: int) -> str | None:
        newest = self._newest
        if newest is not None and counter <= newest:
            known = next((bound.part_id for bound in reversed(self._bound) if bound.counter == counter), None)
            return None if known == part_id else f"too late: counter {counter} has its result already"
        if newest is not None and counter > newest + MAX_HELD:
            return f"counter {counter} is more than {MAX_HELD} ahead of the newest part's, {newest}"
        if self._by_counter.setdefault(counter, part_id) != part_id:
            self._by_counter[counter] = None
            return f"two part ids claim counter {counter}; it gets neither"
        return None

    def _claim_window(self, window: _Window) -> str | None:
        if window.width_s > MAX_WINDOW_S:
            return f"a window of {window.width_s:g} s; the longest is {MAX_WINDOW_S:g} s"
        for bound in self._bound:
            if bound.time_s is not None and window.holds(bound.time_s):
                late = f"too late: counter {bound.counter}, within this window, has its result already"
                return None if bound.part_id == window.part_id else late
        if self._newest_s is not None and window.before_s < self._newest_s:
            return "too late: a later part has its result already"
        if not any(
            (w.part_id, w.after_s, w.before_s) == (window.part_id, window.after_s, window.before_s)
            for w in self._windows
        ):
            self._windows.append(window)
        return None

    def _forget_counters(self, counter: int) -> list[str]:
        if self._newest is not None and counter <= self._newest and self._by_counter:
            forgotten = [f"the counter went back; {len(self._by_counter)} part ids are forgotten"]
            self._by_counter.clear()
            return forgotten
        passed = [c for c in self._by_counter if not counter <= c <= counter + MAX_HELD]
        return [f"part id {self._by_counter.pop(c)!r} found no part with counter {c}" for c in passed]

    def _forget_windows(self, time_s: float) -> list[str]:
        if self._newest_s is not None and time_s < self._newest_s and self._windows:
            forgotten = [f"the clock went back; {len(self._windows)} part ids are forgotten"]
            self._windows.clear()
            return forgotten
        passed = [w for w in self._windows if w.before_s < time_s or w.after_s > time_s + MAX_AHEAD_S]
        self._windows = [w for w in self._windows if w not in passed]
        return [f"part id {window.part_id!r} found no part in its window" for window in passed if not window.spent]

    def _claims_at(self, time_s: float) -> set[str | None]:
        """The ids whose windows hold this time, None among them if one of those may be another part's."""
        claims: set[str | None] = set()
        for window in self._windows:
            if window.holds(time_s):
                near = self._newest_s is not None and time_s - self._newest_s <= window.width_s
                claims.add(None if window.spent or near else window.part_id)
                window.spent = True
        return claims
