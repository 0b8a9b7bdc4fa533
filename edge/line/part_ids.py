"""Assigns part ids to triggers: by the counter, or by a time window; never by order of arrival.

A part id that arrives late, twice or never affects only its own part. A time window is used only if it is shorter than
the time since the previous trigger, contains exactly one trigger, and no other part id claims that trigger; an
ambiguous part gets no id.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from edge.contract.commands import PartIdArgs
from edge.system.clock import unix_s_from_utc

MAX_HELD = 1000
"""Limit on waiting part ids, and on how far a counter may be ahead of the newest trigger's."""
MAX_WINDOW_S, MAX_AHEAD_S = 60.0, 3600.0
"""Limits on the length of a window, and on how far ahead of the newest trigger it may start."""

_REMEMBERED_TRIGGERS = 1000


@dataclass(frozen=True, slots=True)
class Binding:
    """The part id of a trigger. `problem` is text: why it has none, and which part ids matched no part; else None."""

    part_id: str | None
    problem: str | None


@dataclass(slots=True)
class _Window:
    part_id: str
    after_s: float
    before_s: float
    used: bool = False

    @property
    def width_s(self) -> float:
        return self.before_s - self.after_s

    def contains(self, time_s: float) -> bool:
        return self.after_s <= time_s <= self.before_s


@dataclass(frozen=True, slots=True)
class _Bound:
    counter: int
    time_s: float | None
    part_id: str | None


class PartIds:
    """Keeps part ids until the result of their trigger is made; any thread may call.

    `last_counter` is the counter of the newest trigger before the start. If the counter goes back, the part ids claimed
    by counter are dropped; if the clock goes back, those claimed by time window.
    """

    def __init__(self, last_counter: int | None = None) -> None:
        self._lock = threading.Lock()
        self._by_counter: dict[int, str | None] = {}
        """The value is None if two part ids claim the counter."""
        self._windows: list[_Window] = []
        self._bound: deque[_Bound] = deque(maxlen=_REMEMBERED_TRIGGERS)
        self._newest = last_counter
        self._newest_s: float | None = None
        self._in_use = False

    def claim(self, args: PartIdArgs) -> str | None:
        """Register a part id; returns the reason if it is refused, None if it is kept (or was assigned before)."""
        with self._lock:
            self._in_use = True
            if len(self._by_counter) + len(self._windows) >= MAX_HELD:
                return f"{MAX_HELD} part ids wait for their parts already"
            if args.counter is not None:
                return self._claim_counter(args.part_id, args.counter)
            if args.after is None or args.before is None:  # ruled out by the schema
                return "neither a counter nor a window"
            return self._claim_window(
                _Window(args.part_id, unix_s_from_utc(args.after), unix_s_from_utc(args.before)),
            )

    def bind(self, counter: int, triggered_at_utc: str | None) -> Binding:
        """Assign a part id to a trigger; call it once per trigger, in order, when its result is made.

        `triggered_at_utc` is None for a missed part, known only from a gap in the counter.
        """
        time_s = None if triggered_at_utc is None else unix_s_from_utc(triggered_at_utc)
        with self._lock:
            problems = self._drop_passed_counters(counter)
            claims = {self._by_counter.pop(counter)} if counter in self._by_counter else set()
            if time_s is not None:
                problems += self._drop_passed_windows(time_s)
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
            if bound.time_s is not None and window.contains(bound.time_s):
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

    def _drop_passed_counters(self, counter: int) -> list[str]:
        if self._newest is not None and counter <= self._newest and self._by_counter:
            problems = [f"the counter went back; {len(self._by_counter)} part ids are dropped"]
            self._by_counter.clear()
            return problems
        passed = [c for c in self._by_counter if not counter <= c <= counter + MAX_HELD]
        return [f"part id {self._by_counter.pop(c)!r}: no part with counter {c} came" for c in passed]

    def _drop_passed_windows(self, time_s: float) -> list[str]:
        if self._newest_s is not None and time_s < self._newest_s and self._windows:
            problems = [f"the clock went back; {len(self._windows)} part ids are dropped"]
            self._windows.clear()
            return problems
        passed = [w for w in self._windows if w.before_s < time_s or w.after_s > time_s + MAX_AHEAD_S]
        self._windows = [w for w in self._windows if w not in passed]
        return [f"part id {window.part_id!r}: no part came in its window" for window in passed if not window.used]

    def _claims_at(self, time_s: float) -> set[str | None]:
        """The part ids whose windows contain this time; includes None if such a window may mean another part."""
        claims: set[str | None] = set()
        for window in self._windows:
            if window.contains(time_s):
                near = self._newest_s is not None and time_s - self._newest_s <= window.width_s
                claims.add(None if window.used or near else window.part_id)
                window.used = True
        return claims
