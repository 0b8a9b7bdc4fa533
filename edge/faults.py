"""The table of all faults: id, severity, what happened and what to do, written for a technician. Code uses the ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["info", "warning", "error", "critical"]
"""info: for the record; warning: parts are still inspected; error: some are not; critical: none are."""


class FaultId(str, Enum):
    """The name of a fault in events and logs."""

    BUNDLE_REFUSED = "bundle_refused"
    DEMO_KEY = "demo_key"
    OPEN_TO_OTHERS = "open_to_others"
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
    FRAMES_DROPPED = "frames_dropped"
    BROKER_UNREACHABLE = "broker_unreachable"
    MESSAGE_QUARANTINED = "message_quarantined"
    MESSAGES_RETURNED = "messages_returned"
    TOPIC_REFUSED = "topic_refused"
    CLIENT_ID_IN_USE = "client_id_in_use"
    COMMAND_RUN = "command_run"
    COMMAND_REFUSED = "command_refused"
    PART_ID_UNBOUND = "part_id_unbound"
    COMMAND_FLOOD = "command_flood"
    DISARMED = "disarmed"
    ORDER_DROPPED = "order_dropped"
    DISK_LOW = "disk_low"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a technician reads: `text` is what happened, `action` what to do."""

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
        "The bundle cannot be used; no part is inspected.",
        "Read the detail. Copy the bundle again, or add the key that signed it to the trusted keys; then check it "
        "with `procunit bundle verify`.",
    ),
    Fault(
        FaultId.DEMO_KEY,
        "warning",
        "A key that the settings trust for production is a demo key. It counts as a demo key: its bundles never really "
        "reject, and it signs commands only while such a bundle is in use.",
        "Name the public key of your release key under bundle.trusted_keys, and the demo key under bundle.demo_keys or "
        "nowhere. Then restart the device.",
    ),
    Fault(
        FaultId.OPEN_TO_OTHERS,
        "warning",
        "Other users of this device may change its settings, its keys, its bundle or its state, and so its verdicts.",
        "Run the commands in the detail as root; then restart the device.",
    ),
    Fault(
        FaultId.BANK_REFUSED,
        "warning",
        "A version of the memory bank cannot be used; parts are inspected with the last usable version before it.",
        "Read the detail; `procunit bank show` shows the version in use. Go back with `procunit bank undo`, or grow "
        "the bank again.",
    ),
    Fault(
        FaultId.BANK_CHANGED,
        "info",
        "Another version of the memory bank is used from the next part on.",
        "Nothing to do; this event records who made the change.",
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
        "The camera delivers no frames.",
        "Check the camera's cable, its power supply and the camera section of the settings file.",
    ),
    Fault(
        FaultId.TRIGGERS_MISSED,
        "error",
        "The line's counter shows parts that the device missed; they are reported as not inspected.",
        "If the device was off or restarting, nothing to do. Otherwise check the trigger cable and the maximum frame "
        "rate of the camera.",
    ),
    Fault(
        FaultId.BAD_FRAME,
        "error",
        "A frame is not a usable image; its part was not inspected.",
        "Check the camera's pixel format and image region. If it happens again, look at the stored frame.",
    ),
    Fault(
        FaultId.OVERLOAD,
        "error",
        "Parts arrive faster than they can be inspected; some were not inspected.",
        "Slow the line down, or use a smaller network input or a faster engine. Check that the device does not slow "
        "down because it is too hot.",
    ),
    Fault(
        FaultId.ENGINE_FAILED,
        "error",
        "The engine failed on a part; this part was not inspected.",
        "If it happens again, restart the device. If that does not help, go back to the previous bundle.",
    ),
    Fault(
        FaultId.ENGINE_LOST,
        "error",
        "The GPU failed on a part; this part was not inspected. The engine is opened again.",
        "If it happens again, check the power supply and the temperature of the device, then restart it.",
    ),
    Fault(
        FaultId.ENGINE_DAMAGED,
        "warning",
        "A stored engine could not be used; it was deleted and is built again.",
        "Wait for the build to finish. If it happens again, check the disk of the state directory.",
    ),
    Fault(
        FaultId.ENGINE_FALLBACK,
        "warning",
        "The device uses another engine than the settings ask for, because that one cannot be built or gives wrong "
        "results on the golden frames.",
        "Parts are inspected correctly, perhaps more slowly. Read the detail. Set engine.precision to the precision "
        "in use, or have the bundle exported again.",
    ),
    Fault(
        FaultId.ENGINE_UNAVAILABLE,
        "critical",
        "No part is inspected: no engine of the bundle can be built, or none gives the right results on the golden "
        "frames.",
        "Read the detail: it names the cause and the remedy. Then restart the device.",
    ),
    Fault(
        FaultId.RESTARTED,
        "warning",
        "The device stopped without a proper shutdown; parts in progress are reported as not inspected.",
        "Check the power supply, and the log of the last minutes before the stop.",
    ),
    Fault(
        FaultId.THREAD_FAILED,
        "critical",
        "A thread of the program ended unexpectedly; the program restarts itself.",
        "If it happens again, send the log to support.",
    ),
    Fault(
        FaultId.OUTBOX_FAILED,
        "critical",
        "Results cannot be written to the disk, so they are not sent. They wait in memory until writing works again; "
        "while about 2,000 wait there, no part is inspected.",
        "Do not switch the device off: what is only in memory would be lost. Check the disk of the state directory: "
        "its free space, its health, and whether it is mounted read-only.",
    ),
    Fault(
        FaultId.OUTBOX_SET_ASIDE,
        "error",
        "The database of results is damaged and was moved aside; a new database (new epoch) is in use.",
        "Keep the file named in the detail: unsent results may be recovered from it. Check the disk.",
    ),
    Fault(
        FaultId.FRAMES_FAILED,
        "warning",
        "Image files cannot be written as they should; results are not affected.",
        "Read the detail; check free disk space and the permissions of the frames directory.",
    ),
    Fault(
        FaultId.FRAMES_DROPPED,
        "warning",
        "Frames come faster than the disk can write them; some are not kept, passes first. Results are not affected.",
        "Use a faster disk, or a smaller image region of the camera. If parts are rejected too often, correct that "
        "first.",
    ),
    Fault(
        FaultId.BROKER_UNREACHABLE,
        "warning",
        "There is no connection to the broker; results are kept and sent later, in order.",
        "Check the network, the broker and the mqtt section of the settings file; `procunit mqtt check` tests each "
        "step.",
    ),
    Fault(
        FaultId.MESSAGE_QUARANTINED,
        "error",
        "The broker refused a message; the message is kept on the device and the following ones are sent.",
        "Check the broker's access rules and size limit for the topics of this device. The device tries the message "
        "again from time to time and sends it when the broker accepts it.",
    ),
    Fault(
        FaultId.MESSAGES_RETURNED,
        "info",
        "The broker accepts messages again that it had refused; they are sent now, results marked as backfill.",
        "Nothing to do; this event records how many messages the broker takes now.",
    ),
    Fault(
        FaultId.TOPIC_REFUSED,
        "warning",
        "The broker refuses a topic of this device, or closes the connection because of it; results are sent without "
        "it.",
        "Give the device access to the topic named in the detail at the broker; `procunit mqtt check` tests every "
        "topic. The device tries the topic again from time to time.",
    ),
    Fault(
        FaultId.CLIENT_ID_IN_USE,
        "warning",
        "Another client connects to the broker with this device's client id, so that each of the two loses its "
        "connection again and again; results are kept and sent later, in order.",
        "Give every device a client id of its own: set mqtt.client_id (by default it is the device's name). If the "
        "other client is no device, stop it or change its client id.",
    ),
    Fault(
        FaultId.COMMAND_RUN,
        "info",
        "A command was carried out.",
        "Nothing to do; this event records who sent which command.",
    ),
    Fault(
        FaultId.COMMAND_REFUSED,
        "warning",
        "A command was not carried out.",
        "Read the detail. If nobody at the plant sent the command, check who may publish to the cmd/ topics of the "
        "device.",
    ),
    Fault(
        FaultId.PART_ID_UNBOUND,
        "warning",
        "A part id could not be assigned to a part; the result has no part id.",
        "Read the detail. Check that part ids are sent with the right counter or time, and before the verdict.",
    ),
    Fault(
        FaultId.COMMAND_FLOOD,
        "warning",
        "Commands arrive faster than they can be processed, or one is larger than the device reads; some were "
        "dropped. Inspection and results are not affected.",
        "Find out who publishes to the cmd/ topics of the device, and clear a large retained message there. Commands "
        "are accepted again after a minute, and later each time that it happens at once again, at most 15 minutes.",
    ),
    Fault(
        FaultId.DISARMED,
        "critical",
        "The device was disarmed by a signed command; no part is inspected.",
        "If this is intended, nothing to do. Otherwise ask the holder of the key to send the command `arm`.",
    ),
    Fault(
        FaultId.ORDER_DROPPED,
        "warning",
        "A change made by a signed command is no longer in force.",
        "Read the detail. If the change is still wanted, have it signed for the bundle in use and send it again.",
    ),
    Fault(
        FaultId.DISK_LOW,
        "error",
        "The disk is nearly full; results are stored in space reserved for this case.",
        "Free space on the disk of the state directory.",
    ),
)
"""Exactly one entry per fault id."""
