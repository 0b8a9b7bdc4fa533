"""Every fault of the device in one table: id, severity, text for a technician, what to do. Code raises ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["info", "warning", "error", "critical"]
"""info: for the record; warning: parts are still judged; error: some are not; critical: none are."""


class FaultId(str, Enum):
    """The name of a fault on the wire and in logs."""

    BUNDLE_REFUSED = "bundle_refused"
    BANK_REFUSED = "bank_refused"
    BANK_CHANGED = "bank_changed"
    CAMERA_ENDED = "camera_ended"
    CAMERA_FAILED = "camera_failed"
    TRIGGERS_MISSED = "triggers_missed"
    BAD_FRAME = "bad_frame"
    OVERLOAD = "overload"
    ENGINE_FAILED = "engine_failed"
    ENGINE_LOST = "engine_lost"
    ENGINE_DAMAGED = "engine_damaged"
    ENGINE_FALLBACK = "engine_fallback"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    RESTARTED = "restarted"
    THREAD_FAILED = "thread_failed"
    OUTBOX_FAILED = "outbox_failed"
    OUTBOX_SET_ASIDE = "outbox_set_aside"
    FRAMES_FAILED = "frames_failed"
    BROKER_UNREACHABLE = "broker_unreachable"
    MESSAGE_QUARANTINED = "message_quarantined"
    COMMAND_RUN = "command_run"
    COMMAND_REFUSED = "command_refused"
    PART_ID_UNBOUND = "part_id_unbound"
    COMMAND_FLOOD = "command_flood"
    DISARMED = "disarmed"
    ORDER_DROPPED = "order_dropped"
    DISK_LOW = "disk_low"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a technician is told of a fault."""

    fault_id: FaultId
    severity: Severity
    text: str
    action: str


def _table(*faults: Fault) -> dict[FaultId, Fault]:
    return {fault.fault_id: fault for fault in faults}


FAULTS = _table(
    Fault(
        FaultId.BUNDLE_REFUSED,
        "critical",
        "The bundle cannot be used; no part is judged.",
        "Read the detail; copy the bundle again or trust the key that signed it, then check it with "
        "`procunit bundle verify`.",
    ),
    Fault(
        FaultId.BANK_REFUSED,
        "warning",
        "A version of the memory bank cannot be used; parts are judged by the last good one before it.",
        "Read the detail; `procunit bank show` tells what is in use. Go back with `procunit bank undo`, or grow the "
        "bank again.",
    ),
    Fault(
        FaultId.BANK_CHANGED,
        "info",
        "Another version of the memory bank judges from the next part on.",
        "Nothing to do; the event is the record of who changed it.",
    ),
    Fault(
        FaultId.CAMERA_ENDED,
        "info",
        "The replay has reached its last part.",
        "Nothing to do; a replay is for demonstrations and tests.",
    ),
    Fault(
        FaultId.CAMERA_FAILED,
        "error",
        "The camera gives no frames.",
        "Check its cable, its power and the camera section of the configuration.",
    ),
    Fault(
        FaultId.TRIGGERS_MISSED,
        "error",
        "The line's counter shows parts that the device did not see; they are reported as not inspected.",
        "If it was down or restarting, nothing more. Otherwise check the trigger cable and the camera's rate.",
    ),
    Fault(
        FaultId.BAD_FRAME,
        "error",
        "A frame is no usable image; its part was not inspected.",
        "Check the camera's pixel format and region; look at the frame's file if it repeats.",
    ),
    Fault(
        FaultId.OVERLOAD,
        "error",
        "Parts come faster than they can be judged; some were not inspected.",
        "Slow the line, or use a smaller input or a faster engine; check that the device is not throttled by heat.",
    ),
    Fault(
        FaultId.ENGINE_FAILED,
        "error",
        "The engine failed on a part, which was not inspected.",
        "If it repeats, restart the device; then go back to the last good bundle.",
    ),
    Fault(
        FaultId.ENGINE_LOST,
        "error",
        "The accelerator failed on a part, which was not inspected; the engine is opened anew.",
        "If it repeats, check the power supply and the temperature of the device, then restart it.",
    ),
    Fault(
        FaultId.ENGINE_DAMAGED,
        "warning",
        "A stored engine cannot be used; it has been removed and is built again.",
        "Nothing to do but wait for the build. If it repeats, check the disk that holds the state directory.",
    ),
    Fault(
        FaultId.ENGINE_FALLBACK,
        "warning",
        "The engine in use is not the wanted one, which cannot be built or does not judge as it should.",
        "Parts are judged correctly, perhaps more slowly. Read the detail; set engine.precision to what is in use, or "
        "have the bundle exported again.",
    ),
    Fault(
        FaultId.ENGINE_UNAVAILABLE,
        "critical",
        "The device cannot inspect: no engine of the bundle can be had that judges as it should.",
        "Read the detail, which names the cause and its remedy; then restart the device.",
    ),
    Fault(
        FaultId.RESTARTED,
        "warning",
        "The device stopped without notice; parts it had not judged are reported as not inspected.",
        "Check the power supply and the log of the last minutes before the stop.",
    ),
    Fault(
        FaultId.THREAD_FAILED,
        "critical",
        "A part of the program ended unexpectedly; the device restarts itself.",
        "If it repeats, send the log to support.",
    ),
    Fault(
        FaultId.OUTBOX_FAILED,
        "critical",
        "Results cannot be written to disk; they are kept in memory until it works again.",
        "Check free space and health of the disk that holds the state directory. Do not switch the device off.",
    ),
    Fault(
        FaultId.OUTBOX_SET_ASIDE,
        "error",
        "The database of results was damaged and has been set aside; a new one (new epoch) is in use.",
        "Keep the file named in the detail: results not yet sent may be recovered from it. Check the disk.",
    ),
    Fault(
        FaultId.FRAMES_FAILED,
        "warning",
        "Image files cannot be written; results are not affected.",
        "Check free space and permissions of the frames directory.",
    ),
    Fault(
        FaultId.BROKER_UNREACHABLE,
        "warning",
        "There is no link to the broker; results are kept and sent later, in order.",
        "Check the network, the broker and the mqtt section of the configuration.",
    ),
    Fault(
        FaultId.MESSAGE_QUARANTINED,
        "error",
        "The broker refused a message; it is kept on the device and the following ones are sent.",
        "Check the broker's access rules and its size limit for the device's topics.",
    ),
    Fault(
        FaultId.COMMAND_RUN,
        "info",
        "A command was carried out.",
        "Nothing to do; the event is the record of who asked for what.",
    ),
    Fault(
        FaultId.COMMAND_REFUSED,
        "warning",
        "A command was not carried out.",
        "Read the detail. If nobody at the plant sent it, check who may publish below the device's cmd/ topics.",
    ),
    Fault(
        FaultId.PART_ID_UNBOUND,
        "warning",
        "A part id and its part did not find each other; the result has no part id.",
        "Read the detail; check that part ids are sent with the right counter or time, before the verdict.",
    ),
    Fault(
        FaultId.COMMAND_FLOOD,
        "warning",
        "Commands come faster than they can be looked at; some were dropped. Inspection and results are not affected.",
        "Find who publishes below the device's cmd/ topics, and who may; commands are taken again after a minute.",
    ),
    Fault(
        FaultId.DISARMED,
        "critical",
        "The device is disarmed by a signed command; no part is judged.",
        "Nothing, if that is wanted. Otherwise have whoever holds the key send the command `arm`.",
    ),
    Fault(
        FaultId.ORDER_DROPPED,
        "warning",
        "A change that a signed command had made is not in force any more.",
        "Read the detail; if the change is still wanted, have it signed for the bundle in use and send it again.",
    ),
    Fault(
        FaultId.DISK_LOW,
        "error",
        "The disk is nearly full; results go on into room set aside.",
        "Free space on the state directory's disk.",
    ),
)
"""One entry for every id."""
