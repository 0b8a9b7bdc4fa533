"""The content of the retained status: what changes in it while the device runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge.contract.encoding import clean_text
from edge.contract.payloads import Status
from edge.faults import FaultId

State = Literal["starting", "running", "stopped", "offline"]


@dataclass(frozen=True, slots=True)
class Activity:
    """What the device is doing before it inspects; `progress` is the share done, None if unknown."""

    text: str
    progress: float | None


@dataclass(frozen=True, slots=True)
class StatusContent:
    """What changes in the status; it is published again with each change."""

    activity: Activity | None = None
    state_id: str | None = None
    command_counter: int | None = None

    def status(
        self,
        state: State,
        time_utc: str | None,
        device: str,
        epoch: str,
        version: str,
        note: str | None,
        faults: tuple[FaultId, ...],
    ) -> Status:
        """The status with this content; `note` stands where there is no activity.

        The broker publishes `offline` when the device is gone, perhaps long after it was written: it has no counter
        and no faults.
        """
        activity = self.activity if state == "starting" else None
        text = activity.text if activity else note
        return Status(
            device=device,
            epoch=epoch,
            state=state,
            time=time_utc,
            version=version,
            activity=None if text is None else clean_text(text),
            progress=activity.progress if activity else None,
            state_id=None if state == "offline" else self.state_id,
            command_counter=None if state == "offline" else self.command_counter,
            faults=() if state == "offline" else faults,
        )
