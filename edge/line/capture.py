"""The capture thread: camera -> sequence number, written to the journal -> trigger queue.

Every part that the triggers report, or whose number is missing between two counter values, gets exactly one sequence
number, in order. A camera that fails is opened again until it works (`edge/camera/driver.py`); one that hangs costs the
parts that wait for it their inspection, and after `HANG_LIMIT_S` the program ends, to be started anew: nothing else
frees a driver that hangs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from edge.camera.driver import CLOSE_S, Driver
from edge.camera.source import Arrival, CameraError, FrameError, FrameSource, SourceEnded, TriggerSource
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.line.frame_matcher import FrameMatcher
from edge.line.trigger_queue import TriggerQueue
from edge.messages import Frame, NotInspected, Trigger, View
from edge.outbox.outbox import Outbox
from edge.worker import Problems, WorkerState

MAX_MISSED = 10_000
"""Missed parts get one result each up to this many; a larger jump of the counter is reported as one event."""
FRAME_S = 2.0
"""The time of one part: until then its frame is looked for among the camera's frames."""
GRACE_S = 2.0
"""A call of a driver hangs if it takes this much longer than the time given to it."""
HANG_LIMIT_S = 30.0
"""A driver that has hung for this long will not answer any more."""

_FIRST_OPEN_S = 10.0  # mistakes in the settings show sooner, and meanwhile the program takes no signal
_POLL_S = 0.2
_CLOSED_POLL_S = 0.02
_logger = logging.getLogger(__name__)


class _DriverHangsError(Exception):
    """A driver has not returned for so long that only a new start of the program helps."""


class Capture:
    """Puts every part that `triggers` reports into the trigger queue, with the frame of each view; a `Worker`.

    A camera that gives triggers and frames is the same `Driver` in both places. `deadline_s` is the age at which a
    waiting frame is dropped, because its verdict would be too late for the line; it does not apply to a self-paced
    source. The trigger queue is closed when the thread ends, for whatever reason.
    """

    name = "capture"
    stop_s = 5.0

    def __init__(
        self,
        triggers: Driver[TriggerSource],
        frames: Mapping[str, Driver[FrameSource]],
        outbox: Outbox,
        trigger_queue: TriggerQueue,
        board: FaultBoard,
        deadline_s: float,
    ) -> None:
        self._triggers = triggers
        self._frames = frames
        self._drivers: tuple[Driver[TriggerSource] | Driver[FrameSource], ...]
        self._drivers = tuple(dict.fromkeys((triggers, *frames.values())))
        self._matchers = {view: FrameMatcher(self._report_mismatch) for view in frames}
        self._outbox = outbox
        self._trigger_queue = trigger_queue
        self._board = board
        self._deadline_s = deadline_s
        self._next_seq = outbox.next_seq()
        self._last_counter = outbox.last_counter()
        self._self_paced: bool | None = None
        self._refuses_parts = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._state = WorkerState.WAITING

    def open(self) -> None:
        """Open the sources for the first time, before `start`; one that does not answer is tried again meanwhile.

        Raises:
            ProcunitError: a source cannot work with its settings.
        """
        for driver in self._drivers:
            driver.start(lambda: self._last_counter)
        end_s = time.monotonic() + _FIRST_OPEN_S
        for driver in self._drivers:
            driver.wait_open(max(0.0, end_s - time.monotonic()))

    def start(self) -> None:
        """Start the thread; call `open` before."""
        self._state = WorkerState.RUNNING
        self._thread.start()

    @property
    def state(self) -> WorkerState:
        """ENDED once no part will follow, FAILED if the thread failed or a driver hangs for good."""
        return self._state

    def problems(self) -> Problems:
        """CAMERA_FAILED, from the first sign of it until the driver answers."""
        problems = [driver.problem for driver in self._drivers]
        return {FaultId.CAMERA_FAILED: "; ".join(filter(None, problems)) or None}

    def stop(self) -> bool:
        """Stop taking parts and close the sources; False if one did not close within `stop_s`."""
        self._stopping.set()
        if self._thread.ident is None:
            self._end(WorkerState.ENDED)
        else:
            self._thread.join(self.stop_s)
        self._trigger_queue.close()
        closed = not self._thread.is_alive() and all(driver.wait_stopped(0) for driver in self._drivers)
        if not closed:
            _logger.error("the camera did not close within %.0f s; stopping without it", self.stop_s)
        return closed

    def _run(self) -> None:
        state = WorkerState.FAILED
        try:
            while not self._stopping.is_set():
                self._watch_drivers()
                self._take_next()
            state = WorkerState.ENDED
        except SourceEnded:
            self._board.report(FaultId.CAMERA_ENDED, f"part {self._last_counter or 0} was the last one")
            state = WorkerState.ENDED
        except _DriverHangsError as error:
            self._board.report(FaultId.THREAD_FAILED, f"capture: {error}")
        except Exception as error:  # not the camera: `Driver` turns whatever it raises into `CameraError`
            _logger.exception("the capture thread failed")
            self._board.report(FaultId.THREAD_FAILED, f"capture: {type(error).__name__}: {error}")
        finally:
            self._end(state)

    def _end(self, state: WorkerState) -> None:
        self._state = state
        self._trigger_queue.close()
        for driver in self._drivers:
            driver.stop()
        end_s = time.monotonic() + CLOSE_S
        for driver in self._drivers:
            driver.wait_stopped(0 if driver.overdue_s else max(0.0, end_s - time.monotonic()))

    def _watch_drivers(self) -> None:
        problem = self.problems()[FaultId.CAMERA_FAILED]
        if problem is None:
            self._board.end(FaultId.CAMERA_FAILED)
            return
        self._board.report(FaultId.CAMERA_FAILED, problem)
        if any(driver.overdue_s > HANG_LIMIT_S for driver in self._drivers):
            raise _DriverHangsError(problem)

    def _take_next(self) -> None:
        """Wait a moment for the next part, and take it."""
        try:
            if self._self_paced is None:
                self._self_paced = self._triggers.call("self_paced", lambda source: source.self_paced, GRACE_S)
            if self._self_paced and not self._may_ask_for_part():
                return
            arrival = self._triggers.call(
                "wait_arrival", lambda source: source.wait_arrival(_POLL_S), _POLL_S + GRACE_S
            )
        except CameraError:  # `_watch_drivers` tells it
            self._stopping.wait(_CLOSED_POLL_S)
            return
        if arrival is not None and self._may_take_parts():
            self._take_part(arrival)

    def _may_ask_for_part(self) -> bool:
        """Whether a source that waits for the inspection may give the next part; takes a moment if not."""
        if not self._may_take_parts():
            self._stopping.wait(_POLL_S)
            return False
        return self._trigger_queue.wait_for_free_slot(_POLL_S)

    def _may_take_parts(self) -> bool:
        """False while no further result could be stored: such a part stays missing in the counter, and gets its result
        `device_down` by that, once results can be stored again."""
        refuses = self._outbox.overfull
        if refuses and not self._refuses_parts:
            _logger.error("no part is inspected until the disk takes results again: too many wait in memory")
        elif self._refuses_parts and not refuses:
            _logger.info("parts are inspected again: the disk takes results")
        self._refuses_parts = refuses
        return not refuses

    def _take_part(self, arrival: Arrival) -> None:
        self._take_missed(arrival)
        trigger = self._journal(arrival)
        if not self._trigger_queue.has_free_slot():
            self._trigger_queue.put(trigger.refused(NotInspected.OVERLOAD))
            return
        views = self._read_views(arrival)
        if len(views) < len(self._frames):
            self._trigger_queue.put(trigger.refused(NotInspected.CAMERA))
            return
        self._trigger_queue.put(replace(trigger, views=views), None if self._self_paced else self._deadline_s)

    def _read_views(self, arrival: Arrival) -> tuple[View, ...]:
        """The views of a part, without those whose frame is lost."""
        views: list[View] = []
        end_s = time.monotonic() + FRAME_S
        for name, driver in self._frames.items():
            try:
                frame = self._matchers[name].frame_of(arrival.counter, partial(_read_frame, driver, arrival, end_s))
            except FrameError as error:
                self._board.report(FaultId.BAD_FRAME, str(error))
            except CameraError:
                self._watch_drivers()
            else:
                if frame is not None:
                    views.append(View(name, frame))
        return tuple(views)

    def _report_mismatch(self, detail: str) -> None:
        self._board.report(FaultId.FRAME_MISMATCH, detail)

    def _take_missed(self, arrival: Arrival) -> None:
        """Give a sequence number and a result to each part that is missing between the last two counter values."""
        if self._last_counter is None:
            return
        missed = arrival.counter - self._last_counter - 1
        if missed < 0:
            detail = (
                f"the counter went back from {self._last_counter} to {arrival.counter}; parts in between are unknown"
            )
            self._board.report(FaultId.TRIGGERS_MISSED, detail)
        elif missed > MAX_MISSED:
            detail = f"the counter jumped from {self._last_counter} to {arrival.counter}; too far to report each part"
            self._board.report(FaultId.TRIGGERS_MISSED, detail)
        elif missed > 0:
            self._board.report(FaultId.TRIGGERS_MISSED, f"{missed} parts before counter {arrival.counter}")
            for counter in range(self._last_counter + 1, arrival.counter):
                unseen = replace(arrival, frame_id=str(counter), part_id=None, counter=counter)
                self._trigger_queue.put(self._journal(unseen).refused(NotInspected.DEVICE_DOWN))

    def _journal(self, arrival: Arrival) -> Trigger:
        trigger = Trigger(
            self._next_seq,
            arrival.frame_id,
            arrival.part_id,
            arrival.counter,
            arrival.arrived_at_utc,
            arrival.arrived_monotonic_ns,
        )
        self._outbox.open_trigger(trigger)
        self._next_seq += 1
        self._last_counter = arrival.counter
        return trigger


def _read_frame(driver: Driver[FrameSource], arrival: Arrival, end_s: float) -> Frame:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise FrameError(f"the frame of the part with counter {arrival.counter} did not come within {FRAME_S:g} s")
    return driver.call("read_frame", lambda source: source.read_frame(arrival), left_s + GRACE_S)
