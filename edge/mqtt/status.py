"""The retained status: what it shows, and what changes in it while the device runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal

from edge.contract.encoding import clean_text
from edge.contract.payloads import Status
from edge.faults import FaultId

State = Literal["starting", "running", "stopped", "offline"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What changes in the status; it is published again when this changes.

    `activity` is what the device is doing before it inspects, and `progress` the share done, None if unknown.
    """

    activity: str | None = None
    progress: float | None = None
    state_id: str | None = None
    command_counter: int | None = None
    faults: tuple[FaultId, ...] = ()


class DeviceStatus:
    """Makes the status of one device; any thread may call. `wake` is set when there is another one to publish.

    `note` stands where there is no activity. `active_faults` are asked for with each status.
    """

    def __init__(
        self,
        device: str,
        epoch: str,
        note: Callable[[], str | None],
        active_faults: Callable[[], tuple[FaultId, ...]],
        wake: threading.Event,
    ) -> None:
        self._device, self._epoch, self._version = device, epoch, version("procunit-edge")
        self._note, self._active_faults, self._wake = note, active_faults, wake
        self._lock = threading.Lock()
        self._shown = Shown()

    @property
    def shown(self) -> Shown:
        """What it shows now."""
        return replace(self._shown, faults=self._active_faults())

    def set_activity(self, text: str | None, progress: float | None) -> None:
        """The device is doing this before it inspects, or inspects (`text` is None)."""
        with self._lock:
            self._show(replace(self._shown, activity=text, progress=None if text is None else progress))

    def set_command_position(self, state_id: str, command_counter: int) -> None:
        """Signed commands have to name this state, and a counter above this one."""
        with self._lock:
            self._show(replace(self._shown, state_id=state_id, command_counter=command_counter))

    def now(self, time_utc: str) -> Status:
        """The status of the running device."""
        shown = self.shown
        return self._status("running" if shown.activity is None else "starting", time_utc, shown)

    def stopped(self, time_utc: str) -> Status:
        """The status of the device that stops."""
        return self._status("stopped", time_utc, self.shown)

    def offline(self) -> Status:
        """What the broker publishes when the device is gone, perhaps long after it was written.

        It has no time, no counter and no faults.
        """
        return self._status("offline", None, Shown())

    def _show(self, shown: Shown) -> None:
        if shown != self._shown:
            self._shown = shown
            self._wake.set()

    def _status(self, state: State, time_utc: str | None, shown: Shown) -> Status:
        text = shown.activity if state == "starting" else self._note()
        return Status(
            device=self._device,
            epoch=self._epoch,
            state=state,
            time=time_utc,
            version=self._version,
            activity=None if text is None else clean_text(text),
            progress=shown.progress if state == "starting" else None,
            state_id=shown.state_id,
            command_counter=shown.command_counter,
            faults=shown.faults,
        )
