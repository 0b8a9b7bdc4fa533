"""The capture thread: camera -> sequence number, written to the journal -> trigger queue.

Every part that the camera reports, or whose number is missing between two counter values, gets exactly one sequence
number, in order. A camera that fails is opened again until it works.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from edge.camera.source import Arrival, CameraError, FrameError, FrameSource, SourceEnded
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.line.trigger_queue import TriggerQueue
from edge.messages import Frame, NotInspected, Trigger
from edge.outbox.outbox import Outbox
from edge.worker import Problems, WorkerState

MAX_MISSED = 10_000
"""Missed parts get one result each up to this many; a larger jump of the counter is reported as one event."""

_POLL_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_logger = logging.getLogger(__name__)

OpenCamera = Callable[[int | None], FrameSource]
"""Opens the camera; the argument is the counter of the last part before, or None."""


class Capture:
    """Puts every part of the camera into the trigger queue.

    `deadline_s` is the age at which a waiting frame is dropped, because its verdict would be too late for the line; it
    does not apply to a self-paced source.
    """

    name = "capture"
    stop_s = 5.0

    def __init__(
        self, open_camera: OpenCamera, outbox: Outbox, trigger_queue: TriggerQueue, board: FaultBoard, deadline_s: float
    ) -> None:
        self._open_camera = open_camera
        self._outbox = outbox
        self._trigger_queue = trigger_queue
        self._board = board
        self._deadline_s = deadline_s
        self._next_seq = outbox.next_seq()
        self._last_counter = outbox.last_counter()
        self._stopping = threading.Event()
        self._source: FrameSource | None = None
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._refuses_parts = False
        self._failed = False

    def open(self) -> None:
        """Open the camera for the first time, before `start`; if it does not answer, the thread tries again.

        Raises:
            ProcunitError: the camera cannot work with its settings.
        """
        try:
            self._source = self._open_camera(self._last_counter)
        except CameraError as error:
            self._board.report(FaultId.CAMERA_FAILED, str(error))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def state(self) -> WorkerState:
        """See `Worker`."""
        if self._thread.is_alive():
            return WorkerState.RUNNING
        if self._thread.ident is None:
            return WorkerState.WAITING
        return WorkerState.FAILED if self._failed else WorkerState.ENDED

    def problems(self) -> Problems:
        """None of its own: what goes wrong with the camera is reported when it happens."""
        return {}

    def stop(self) -> bool:
        """Stop the thread and close the camera and the trigger queue; False if that took longer than `stop_s`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(self.stop_s)
        elif self._source is not None:
            self._source.close()
        self._trigger_queue.close()
        if self._thread.is_alive():
            _logger.error("the camera did not close within %.0f s; stopping without it", self.stop_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._take_parts_until_the_end()
        finally:
            self._trigger_queue.close()

    def _take_parts_until_the_end(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            counter = self._last_counter
            try:
                self._take_parts()
            except SourceEnded:
                self._board.report(FaultId.CAMERA_ENDED, f"part {self._last_counter or 0} was the last one")
                return
            except CameraError as error:
                self._board.report(FaultId.CAMERA_FAILED, str(error))
            except Exception as error:  # not the camera (`_driver_call`): the supervisor ends the program
                _logger.exception("the capture thread failed")
                self._failed = True
                self._board.report(FaultId.THREAD_FAILED, f"{self.name}: {type(error).__name__}: {error}")
                return
            pause_s = _FIRST_PAUSE_S if self._last_counter != counter else min(2 * pause_s, _LONGEST_PAUSE_S)
            self._stopping.wait(pause_s)

    def _take_parts(self) -> None:
        with _driver_call():
            source = self._source or self._open_camera(self._last_counter)
        self._source = None
        try:
            while not self._stopping.is_set():
                if source.self_paced and not self._may_ask_for_part():
                    continue
                with _driver_call():
                    arrival = source.wait_arrival(_POLL_S)
                self._board.end(FaultId.CAMERA_FAILED)
                if arrival is not None and self._may_take_parts():
                    self._take_part(source, arrival)
        finally:
            with _driver_call():
                source.close()

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

    def _take_part(self, source: FrameSource, arrival: Arrival) -> None:
        self._take_missed(arrival)
        trigger = self._journal(arrival, None)
        if not self._trigger_queue.has_free_slot():
            self._trigger_queue.put(replace(trigger, not_inspected=NotInspected.OVERLOAD))
            return
        frame: Frame | None = None
        try:
            with _driver_call():
                frame = source.read_frame(arrival)
        except FrameError as error:
            self._board.report(FaultId.BAD_FRAME, str(error))
        finally:
            served = replace(trigger, frame=frame, not_inspected=None if frame is not None else NotInspected.CAMERA)
            self._trigger_queue.put(served, None if source.self_paced else self._deadline_s)

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
                self._trigger_queue.put(self._journal(unseen, NotInspected.DEVICE_DOWN))

    def _journal(self, arrival: Arrival, reason: NotInspected | None) -> Trigger:
        trigger = Trigger(
            self._next_seq,
            arrival.frame_id,
            arrival.part_id,
            arrival.counter,
            arrival.arrived_at_utc,
            arrival.arrived_monotonic_ns,
            frame=None,
            not_inspected=reason,
        )
        self._outbox.open_trigger(trigger)
        self._next_seq += 1
        self._last_counter = arrival.counter
        return trigger


@contextmanager
def _driver_call() -> Iterator[None]:
    """Turn the exceptions of a driver into `CameraError`, so that they are not taken for those of the outbox."""
    try:
        yield
    except (CameraError, FrameError, SourceEnded):
        raise
    except Exception as error:  # drivers' classes share no base
        _logger.exception("the camera failed unexpectedly")
        raise CameraError(f"{type(error).__name__}: {error}") from error
