"""Holds each frame to its own trigger: no part is ever inspected by the frame of another."""

from __future__ import annotations

from collections.abc import Callable

from edge.messages import Frame

MAX_AHEAD = 16
"""A frame this many triggers ahead may wait for its own: no camera buffers more. Further ahead its counter is wrong."""


class FrameMatcher:
    """Finds the frame of each trigger in the frames of one camera, by their counters; one thread calls.

    A frame can be missing (lost packets, full buffers), come twice, or come late. `report` is told about each frame
    that belongs to another trigger.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._kept: Frame | None = None
        self._asked_before: int | None = None

    def frame_of(self, counter: int, read: Callable[[], Frame]) -> Frame | None:
        """The frame of the trigger with this counter; None if it is lost, as the camera gave that of a later one.

        `read` gives the camera's next frame. What it raises ends the search: it has to raise when the time of this part
        is over, as older frames are dropped until the right one comes.
        """
        before, self._asked_before = self._asked_before, counter
        frame, self._kept = self._kept, None
        counts_anew = before is not None and counter <= before
        if frame is None or frame.counter < counter or counts_anew:
            frame = read()
        while frame.counter < counter:
            # frames between the two triggers are expected: nobody asked for them, because no slot was free
            if before is None or frame.counter <= before or counts_anew:
                self._report(
                    f"the part with counter {counter} waits, and a frame of counter {frame.counter} was dropped"
                )
            frame = read()
        if frame.counter == counter:
            return frame
        self._report(f"the frame of counter {counter} is lost: the camera's next frame is of counter {frame.counter}")
        if frame.counter - counter <= MAX_AHEAD:
            self._kept = frame
        return None
