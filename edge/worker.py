"""What the daemon starts, watches and stops in the same way: everything that runs on a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from threading import Thread
from typing import Protocol

from edge.faults import FaultId

Problems = Mapping[FaultId, str | None]
"""Each fault that a worker can have, with what is wrong at present, or None while it does not have it."""


class WorkerState(Enum):
    """Whether a worker still does its work."""

    WAITING = "not started"
    RUNNING = "running"
    ENDED = "nothing is left to do"
    FAILED = "its thread ended, or cannot go on"


def state_of_thread(thread: Thread, *, stopping: bool) -> WorkerState:
    """The state of a worker whose thread ends only because it is `stopping`."""
    if thread.is_alive():
        return WorkerState.RUNNING
    if thread.ident is None:
        return WorkerState.WAITING
    return WorkerState.ENDED if stopping else WorkerState.FAILED


class Watched(Protocol):
    """What can have problems, with a thread of its own or without."""

    def problems(self) -> Problems:
        """What is wrong at present; called often."""
        ...


class Worker(Watched, Protocol):
    """One thread of the daemon. `name` is the thread's; `stop_s` is the longest that `stop` may take, in seconds."""

    @property
    def name(self) -> str:
        """The name of its thread, as the log and the code overview show it."""
        ...

    @property
    def stop_s(self) -> float:
        """The longest that `stop` takes."""
        ...

    @property
    def state(self) -> WorkerState:
        """The present state; FAILED ends the daemon, so that the service manager starts it anew."""
        ...

    def start(self) -> None:
        """Start the thread; returns at once."""
        ...

    def stop(self) -> bool:
        """Finish what was accepted, and end; False if something was left undone within `stop_s`."""
        ...

    def problems(self) -> Problems:
        """What is wrong at present; any thread may call, often: it returns at once and blocks on nothing."""
        ...
