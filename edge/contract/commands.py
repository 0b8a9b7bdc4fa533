"""JSON models of commands and replies: one envelope, one set of arguments per command, one reply.

Unlike the device's own messages, a command may contain no unknown field: a misspelt argument is refused, not ignored.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from edge.bundle.manifest import NAME_PATTERN, OneLine
from edge.contract.payloads import BundleRef, CommandOutcome, Metrics, Payload, ScoreSet, StateId, Status, Text
from edge.faults import FaultId
from edge.record import Record
from edge.system.clock import unix_s_from_utc

CommandName = Literal["status", "replay", "snapshot", "frame", "part-id", "label", "arm", "disarm", "threshold"]
ALLOWED_UNLESS_SET: tuple[CommandName, ...] = ("status", "replay", "snapshot", "frame", "part-id", "label")
"""The commands that a device accepts if its settings name none; never one that must be signed."""
MAX_COMMAND_BYTES = 16_000
MAX_PART_ID = 256
"""Maximum length of a part id in characters; a longer one is refused, because the result would cut it."""


def _checked_time(text: str) -> str:
    try:
        unix_s_from_utc(text)
    except ValueError as error:
        raise PydanticCustomError("no_time", "not a valid time: {problem}", {"problem": str(error)}) from error
    return text


UtcTime = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3}|\.[0-9]{6})?Z$"),
    AfterValidator(_checked_time),
]
"""A time in UTC with 0, 3 or 6 decimals of the second."""
Natural = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
ResultId = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}-[0-9]{1,19}$")]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
PartId = Annotated[str, Field(min_length=1, max_length=MAX_PART_ID)]
DefectName = Annotated[str, Field(pattern=NAME_PATTERN)]
Score = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Counter = Annotated[int, Field(strict=True, ge=1, lt=1 << 53)]
"""The number of a signed command; every JSON reader holds an integer below 2^53 exactly."""
CmdId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
"""The id that the sender gives a command and never uses again, such as a UUID."""


class CommandArgs(Record, alias_generator=to_camel):
    """A command's arguments."""


class NoArgs(CommandArgs):
    """The command takes no arguments."""


class ReplayArgs(CommandArgs):
    """The results of one epoch from the `seq` `from` to the `seq` `to`, both included."""

    epoch: Epoch
    first_seq: Natural = Field(alias="from")
    last_seq: Natural = Field(alias="to")

    @model_validator(mode="after")
    def _ascending(self) -> ReplayArgs:
        if self.last_seq < self.first_seq:
            raise PydanticCustomError("backwards", "`to` is below `from`")
        return self


class FrameArgs(CommandArgs):
    """The result whose frame is published again."""

    result_id: ResultId


class PartIdArgs(CommandArgs):
    """A part id and its trigger, given by the counter or by a time window that contains no other trigger."""

    part_id: PartId
    counter: Natural | None = None
    after: UtcTime | None = None
    before: UtcTime | None = None

    @model_validator(mode="after")
    def _counter_or_window(self) -> PartIdArgs:
        window = (self.after, self.before)
        if (self.counter is None) == (None in window) or (self.counter is not None and any(window)):
            raise PydanticCustomError("one_binding", "give either `counter`, or `after` and `before`")
        if self.after and self.before and unix_s_from_utc(self.before) <= unix_s_from_utc(self.after):
            raise PydanticCustomError("backwards", "`before` is not later than `after`")
        return self


class LabelArgs(CommandArgs):
    """The true label of a part: a defect type of the bundle, or `good` for a false alarm; others need `new_type`."""

    label: DefectName
    part_id: PartId | None = None
    result_id: ResultId | None = None
    new_type: bool = Field(default=False, strict=True)

    @model_validator(mode="after")
    def _part_or_result(self) -> LabelArgs:
        if (self.part_id is None) == (self.result_id is None):
            raise PydanticCustomError("one_name", "give either `partId` or `resultId`")
        return self


class ThresholdArgs(CommandArgs):
    """New thresholds for the bundle with this id; thresholds that are not given stay unchanged."""

    bundle_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    types: Annotated[dict[DefectName, Score], Field(max_length=256)] = {}  # noqa: RUF012  (pydantic copies defaults)
    anomaly: Score | None = None

    @model_validator(mode="after")
    def _valid_thresholds(self) -> ThresholdArgs:
        if not self.types and self.anomaly is None:
            raise PydanticCustomError("nothing", "no threshold is given")
        if any(value > 1 for value in self.types.values()):
            raise PydanticCustomError("no_sigmoid", "a type's threshold lies between 0 and 1")
        return self


class Command(CommandArgs):
    """The envelope of every command: `by` is only recorded, `signature` is Ed25519 in base64.

    A command without `expires_at` never expires. A signed command must have both times, the `state_id` of the device's
    status, and a `counter` above the `command_counter` there. `args` differ per command.
    """

    cmd_id: CmdId
    issued_at: UtcTime | None = None
    expires_at: UtcTime | None = None
    by: OneLine | None = None
    state_id: StateId | None = None
    counter: Counter | None = None
    args: CommandArgs
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")] | None = None


class Refusal(str, Enum):
    """The reason why a command was not executed."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    RETAINED = "retained"
    CLOCK = "clock"
    EXPIRED = "expired"
    NOT_ALLOWED = "not_allowed"
    DUPLICATE = "duplicate"
    SUPERSEDED = "superseded"
    SIGNATURE = "signature"
    IMPOSSIBLE = "impossible"
    FAILED = "failed"


class DeviceReport(Payload):
    """The report in the reply to `status`; `thresholds` are those in force."""

    status: Status
    armed: bool
    faults: tuple[FaultId, ...]
    bundle: BundleRef
    thresholds: ScoreSet
    metrics: Metrics


class CommandReply(Payload):
    """The outcome of a command; `cmd_id` is None if the command could not be read.

    `count` is the number in the text: results to be sent again, or frames kept for training.
    """

    name: str
    cmd_id: str | None
    device: str
    time: str
    outcome: CommandOutcome
    reason: Refusal | None
    text: Text
    count: int | None = None
    report: DeviceReport | None = None
