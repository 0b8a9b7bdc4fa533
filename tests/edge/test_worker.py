"""What the state of a worker's thread means."""

from __future__ import annotations

import threading

from edge.worker import WorkerState, state_of_thread


def test_a_thread_that_ended_without_being_asked_to_has_failed() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    assert state_of_thread(thread, stopping=False) is WorkerState.WAITING
    thread.start()
    assert state_of_thread(thread, stopping=True) is WorkerState.RUNNING
    release.set()
    thread.join()
    assert state_of_thread(thread, stopping=True) is WorkerState.ENDED
    assert state_of_thread(thread, stopping=False) is WorkerState.FAILED
