"""The table of all faults: id, severity, what happened and what to do, written for a technician. Code uses the ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["info", "warning", "error", "critical"]
"""info: for the record; warning: parts are still inspected; error: some are not; critical: none are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What a technician reads: `text` is what happened, `action` what to do.

    A fault is `lasting` if it is reported once and stays active until it is ended, as it concerns the device; any other
    concerns single parts, and is over when it has not been reported for a while.
    """

    fault_id: str
    severity: Severity
    text: str
    action: str
    lasting: bool = False


class FaultId(str, Enum):
    """The name of a fault in events and logs."""

    # A member is written as its row of the table, is that row's id, and keeps the row as `fault`.
    _value_: str
    fault: Fault

    def __new__(cls, fault: Fault) -> FaultId:
        """Make the member for a row of the table."""
        member = str.__new__(cls, fault.fault_id)
        member._value_ = fault.fault_id
        member.fault = fault
        return member

    BUNDLE_REFUSED = Fault(
        "bundle_refused",
        "critical",
        "The bundle cannot be used; no part is inspected.",
        "Read the detail. Copy the bundle again, or add the key that signed it to the trusted keys; then check it "
        "with `procunit bundle verify`.",
    )
    DEMO_KEY = Fault(
        "demo_key",
        "warning",
        "A key that the settings trust for production is a demo key. It counts as a demo key: its bundles never really "
        "reject, and it signs commands only while such a bundle is in use.",
        "Name the public key of your release key under bundle.trusted_keys, and the demo key under bundle.demo_keys or "
        "nowhere. Then restart the device.",
        lasting=True,
    )
    OPEN_TO_OTHERS = Fault(
        "open_to_others",
        "warning",
        "Other users of this device may change its settings, its keys, its bundle or its state, and so its verdicts.",
        "Run the commands in the detail as root; then restart the device.",
        lasting=True,
    )
    BANK_REFUSED = Fault(
        "bank_refused",
        "warning",
        "A version of the memory bank cannot be used; parts are inspected with the last usable version before it.",
        "Read the detail; `procunit bank show` shows the version in use. Go back with `procunit bank undo`, or grow "
        "the bank again.",
    )
    BANK_CHANGED = Fault(
        "bank_changed",
        "info",
        "Another version of the memory bank is used from the next part on.",
        "Nothing to do; this event records who made the change.",
    )
    CAMERA_ENDED = Fault(
        "camera_ended",
        "info",
        "The replay has reached its last part.",
        "Nothing to do; a replay is for demonstrations and tests.",
    )
    CAMERA_FAILED = Fault(
        "camera_failed",
        "error",
        "The camera delivers no frames.",
        "Check the camera's cable, its power supply and the camera section of the settings file.",
        lasting=True,
    )
    TRIGGERS_MISSED = Fault(
        "triggers_missed",
        "error",
        "The line's counter shows parts that the device missed; they are reported as not inspected.",
        "If the device was off or restarting, nothing to do. Otherwise check the trigger cable and the maximum frame "
        "rate of the camera.",
    )
    BAD_FRAME = Fault(
        "bad_frame",
        "error",
        "A frame is not a usable image; its part was not inspected.",
        "Check the camera's pixel format and image region. If it happens again, look at the stored frame.",
    )
    FRAME_MISMATCH = Fault(
        "frame_mismatch",
        "error",
        "A frame belongs to another trigger than the part that waited for it; no part is inspected by the frame of "
        "another, and a part whose own frame is lost is reported as not inspected.",
        "Check the wiring of the trigger (one pulse for each part, no bouncing), the network to the camera for lost "
        "packets, and that the camera has enough buffers for its frame rate.",
    )
    OVERLOAD = Fault(
        "overload",
        "error",
        "Parts arrive faster than they can be inspected; some were not inspected.",
        "Slow the line down, or use a smaller network input or a faster engine. Check that the device does not slow "
        "down because it is too hot.",
    )
    ENGINE_FAILED = Fault(
        "engine_failed",
        "error",
        "The engine failed on a part; this part was not inspected.",
        "If it happens again, restart the device. If that does not help, go back to the previous bundle.",
    )
    ENGINE_LOST = Fault(
        "engine_lost",
        "error",
        "The GPU failed on a part; this part was not inspected. The engine is opened again.",
        "If it happens again, check the power supply and the temperature of the device, then restart it.",
    )
    ENGINE_DAMAGED = Fault(
        "engine_damaged",
        "warning",
        "A stored engine could not be used; it was deleted and is built again.",
        "Wait for the build to finish. If it happens again, check the disk of the state directory.",
    )
    ENGINE_FALLBACK = Fault(
        "engine_fallback",
        "warning",
        "The device uses another engine than the settings ask for, because that one cannot be built or gives wrong "
        "results on the golden frames.",
        "Parts are inspected correctly, perhaps more slowly. Read the detail. Set engine.precision to the precision "
        "in use, or have the bundle exported again.",
        lasting=True,
    )
    ENGINE_UNAVAILABLE = Fault(
        "engine_unavailable",
        "critical",
        "No part is inspected: no engine of the bundle can be built, or none gives the right results on the golden "
        "frames.",
        "Read the detail: it names the cause and the remedy. Then restart the device.",
        lasting=True,
    )
    RESTARTED = Fault(
        "restarted",
        "warning",
        "The device stopped without a proper shutdown; parts in progress are reported as not inspected.",
        "Check the power supply, and the log of the last minutes before the stop.",
    )
    THREAD_FAILED = Fault(
        "thread_failed",
        "critical",
        "A thread of the program ended unexpectedly; the program restarts itself.",
        "If it happens again, send the log to support.",
    )
    OUTBOX_FAILED = Fault(
        "outbox_failed",
        "critical",
        "Results cannot be written to the disk, so they are not sent. They wait in memory until writing works again; "
        "while about 2,000 wait there, no part is inspected.",
        "Do not switch the device off: what is only in memory would be lost. Check the disk of the state directory: "
        "its free space, its health, and whether it is mounted read-only.",
        lasting=True,
    )
    OUTBOX_SET_ASIDE = Fault(
        "outbox_set_aside",
        "error",
        "The database of results is damaged and was moved aside; a new database (new epoch) is in use.",
        "Keep the file named in the detail: unsent results may be recovered from it. Check the disk.",
    )
    FRAMES_FAILED = Fault(
        "frames_failed",
        "warning",
        "Image files cannot be written as they should; results are not affected.",
        "Read the detail; check free disk space and the permissions of the frames directory.",
        lasting=True,
    )
    FRAMES_DROPPED = Fault(
        "frames_dropped",
        "warning",
        "Frames come faster than the disk can write them; some are not kept, passes first. Results are not affected.",
        "Use a faster disk, or a smaller image region of the camera. If parts are rejected too often, correct that "
        "first.",
    )
    OUTPUT_FAILED = Fault(
        "output_failed",
        "error",
        "An output did not act on a part as it should; results and the other outputs are not affected.",
        "Read the detail. Check the output's cable, its power supply and the outputs section of the settings file.",
    )
    OUTPUT_BEHIND = Fault(
        "output_behind",
        "error",
        "An output is slower than the line; it did not act on some parts. Results are not affected.",
        "Check that the device behind the output answers at once; slow the line down if it cannot.",
    )
    BROKER_UNREACHABLE = Fault(
        "broker_unreachable",
        "warning",
        "There is no connection to the broker; results are kept and sent later, in order.",
        "Check the network, the broker and the mqtt section of the settings file; `procunit mqtt check` tests each "
        "step.",
        lasting=True,
    )
    MESSAGE_QUARANTINED = Fault(
        "message_quarantined",
        "error",
        "The broker refused a message; the message is kept on the device and the following ones are sent.",
        "Check the broker's access rules and size limit for the topics of this device. The device tries the message "
        "again from time to time and sends it when the broker accepts it.",
    )
    MESSAGES_RETURNED = Fault(
        "messages_returned",
        "info",
        "The broker accepts messages again that it had refused; they are sent now, results marked as backfill.",
        "Nothing to do; this event records how many messages the broker takes now.",
    )
    TOPIC_REFUSED = Fault(
        "topic_refused",
        "warning",
        "The broker refuses a topic of this device, or closes the connection because of it; results are sent without "
        "it.",
        "Give the device access to the topic named in the detail at the broker; `procunit mqtt check` tests every "
        "topic. The device tries the topic again from time to time.",
    )
    CLIENT_ID_IN_USE = Fault(
        "client_id_in_use",
        "warning",
        "Another client connects to the broker with this device's client id, so that each of the two loses its "
        "connection again and again; results are kept and sent later, in order.",
        "Give every device a client id of its own: set mqtt.client_id (by default it is the device's name). If the "
        "other client is no device, stop it or change its client id.",
    )
    COMMAND_RUN = Fault(
        "command_run",
        "info",
        "A command was carried out.",
        "Nothing to do; this event records who sent which command.",
    )
    COMMAND_REFUSED = Fault(
        "command_refused",
        "warning",
        "A command was not carried out.",
        "Read the detail. If nobody at the plant sent the command, check who may publish to the cmd/ topics of the "
        "device.",
    )
    PART_ID_UNBOUND = Fault(
        "part_id_unbound",
        "warning",
        "A part id could not be assigned to a part; the result has no part id.",
        "Read the detail. Check that part ids are sent with the right counter or time, and before the verdict.",
    )
    COMMAND_FLOOD = Fault(
        "command_flood",
        "warning",
        "Commands arrive faster than they can be processed, or one is larger than the device reads; some were "
        "dropped. Inspection and results are not affected.",
        "Find out who publishes to the cmd/ topics of the device, and clear a large retained message there. Commands "
        "are accepted again after a minute, and later each time that it happens at once again, at most 15 minutes.",
    )
    DISARMED = Fault(
        "disarmed",
        "critical",
        "The device was disarmed by a signed command; no part is inspected.",
        "If this is intended, nothing to do. Otherwise ask the holder of the key to send the command `arm`.",
        lasting=True,
    )
    ORDER_DROPPED = Fault(
        "order_dropped",
        "warning",
        "A change made by a signed command is no longer in force.",
        "Read the detail. If the change is still wanted, have it signed for the bundle in use and send it again.",
    )
    DISK_LOW = Fault(
        "disk_low",
        "error",
        "The disk is nearly full; results are stored in space reserved for this case.",
        "Free space on the disk of the state directory.",
        lasting=True,
    )
