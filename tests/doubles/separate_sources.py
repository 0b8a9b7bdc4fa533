"""Test doubles of a line whose triggers and frames come from two devices, either of which can hang in any call."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np

from edge.camera.source import Arrival, CameraError, FrameError, SourceEnded
from edge.messages import Frame
from edge.system.clock import utc_now


class Hanging:
    """Calls that hang: from `hang` on, a call of this name does not return before `release`."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._released = threading.Event()
        self.entered = threading.Event()

    def hang(self, name: str) -> None:
        self._released.clear()
        self.entered.clear()
        self._names = {name}

    def release(self) -> None:
        self._names = set()
        self._released.set()

    def pass_through(self, name: str) -> None:
        """What each call of a double does first."""
        if name in self._names:
            self.entered.set()
            self._released.wait()


class Pulses(Hanging):
    """A source of triggers: one for each counter that the test gives; None ends it. It is opened by `open`."""

    self_paced = False

    def __init__(self, counters: Iterable[int | None] = ()) -> None:
        super().__init__()
        self._counters: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.openings: list[int | None] = []
        self.give(*counters)

    def give(self, *counters: int | None) -> None:
        for counter in counters:
            self._counters.put(counter)

    def open(self, after_counter: int | None) -> Pulses:
        self.pass_through("open")
        self.openings.append(after_counter)
        return self

    def wait_arrival(self, timeout_s: float) -> Arrival | None:
        try:
            counter = self._counters.get(timeout=timeout_s)
        except queue.Empty:
            counter = 0
        self.pass_through("wait_arrival")
        if counter is None:
            raise SourceEnded
        return Arrival(str(counter), None, counter, utc_now(), time.monotonic_ns()) if counter else None

    def close(self) -> None:
        self.pass_through("close")


class Buffer(Hanging):
    """A camera that takes frames by its own trigger input and buffers them; its pixels show their counter.

    `taken` lists, for each trigger, the counters of the frames that are in the buffer from then on, after those before;
    without an entry it is the frame of this trigger. `fails` is raised once by the next read.
    """

    def __init__(self, taken: Mapping[int, list[int]] | None = None) -> None:
        super().__init__()
        self._taken = taken or {}
        self._frames: deque[int] = deque()
        self._newest = 0
        self.openings = 0
        self.closings = 0
        self.reads = 0
        self.fails: CameraError | None = None

    def open(self, _: int | None) -> Buffer:
        self.pass_through("open")
        self.openings += 1
        return self

    def read_frame(self, arrival: Arrival) -> Frame:
        self.reads += 1
        if arrival.counter != self._newest:
            self._newest = arrival.counter
            self._frames.extend(self._taken.get(arrival.counter, [arrival.counter]))
        self.pass_through("read_frame")
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        if not self._frames:
            raise FrameError("the buffer is empty")
        return frame_of(self._frames.popleft())

    def close(self) -> None:
        self.pass_through("close")
        self.closings += 1


def frame_of(counter: int) -> Frame:
    """A frame whose pixels show whose it is."""
    return Frame(str(counter), None, counter, utc_now(), time.monotonic_ns(), np.full((2, 2), counter, np.uint8))
