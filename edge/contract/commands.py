"""What a command and its reply look like on the wire: one envelope, one set of arguments a command, one reply.

Unlike what the device sends, a command may hold nothing unknown: a misspelt argument is refused, never ignored.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from edge.bundle.manifest import NAME_PATTERN, OneLine
from edge.contract.payloads import BundleRef, CommandOutcome, Metrics, Payload, ScoreSet, Status, Text
from edge.faults import FaultId
from edge.record import Record
from edge.system.clock import unix_s_from_utc

CommandName = Literal["status", "replay", "snapshot", "frame", "part-id", "label", "arm", "disarm", "threshold"]
MAX_COMMAND_BYTES = 16_000
MAX_PART_ID = 256
"""Characters of a part id; a longer one would be cut in the result and is refused."""


def _is_a_time(text: str) -> str:
    try:
        unix_s_from_utc(text)
    except ValueError as error:
        raise PydanticCustomError("no_time", "not a time: {problem}", {"problem": str(error)}) from error
    return text


UtcTime = Annotated[
    str,
    Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3}|\.[0-9]{6})?Z$"),
    AfterValidator(_is_a_time),
]
"""A time in UTC with 0, 3 or 6 decimals."""
Natural = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
ResultId = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}-[0-9]{1,19}$")]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
PartId = Annotated[str, Field(min_length=1, max_length=MAX_PART_ID)]
DefectName = Annotated[str, Field(pattern=NAME_PATTERN)]
Score = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
CmdId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
"""The sender's own name of a command, never used again; a UUID does."""


class CommandArgs(Record, alias_generator=to_camel):
    """A command's arguments."""


class NoArgs(CommandArgs):
    """The command takes none."""


class ReplayArgs(CommandArgs):
    """Results of one epoch from one `seq` to another, both included."""

    epoch: Epoch
    first_seq: Natural = Field(alias="from")
    last_seq: Natural = Field(alias="to")

    @model_validator(mode="after")
    def _forwards(self) -> ReplayArgs:
        if self.last_seq < self.first_seq:
            raise PydanticCustomError("backwards", "`to` is below `from`")
        return self


class FrameArgs(CommandArgs):
    """The result whose frame is sent again."""

    result_id: ResultId


class PartIdArgs(CommandArgs):
    """A part's id and the trigger it belongs to: by the counter, or by a window of time that holds no other trigger."""

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
    """What a part turned out to be: a defect type's name, or `good` for an alarm that was cleared."""

    label: DefectName
    part_id: PartId | None = None
    result_id: ResultId | None = None

    @model_validator(mode="after")
    def _one_name(self) -> LabelArgs:
        if (self.part_id is None) == (self.result_id is None):
            raise PydanticCustomError("one_name", "give either `partId` or `resultId`")
        return self


class ThresholdArgs(CommandArgs):
    """New thresholds for the bundle with this id; what is not named stays as it is."""

    bundle_id: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    types: Annotated[dict[DefectName, Score], Field(max_length=256)] = {}  # noqa: RUF012  (pydantic copies defaults)
    anomaly: Score | None = None

    @model_validator(mode="after")
    def _something(self) -> ThresholdArgs:
        if not self.types and self.anomaly is None:
            raise PydanticCustomError("nothing", "no threshold is named")
        if any(value > 1 for value in self.types.values()):
            raise PydanticCustomError("no_sigmoid", "a type's threshold lies between 0 and 1")
        return self


class Command(CommandArgs):
    """What every command carries: `by` is for the record alone, `signature` is Ed25519 in base64.

    A command without `expires_at` never expires; a signed one must carry both times. `args` is narrowed a command.
    """

    cmd_id: CmdId
    issued_at: UtcTime | None = None
    expires_at: UtcTime | None = None
    by: OneLine | None = None
    args: CommandArgs
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")] | None = None


class Refusal(str, Enum):
    """Why a command was not carried out."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    RETAINED = "retained"
    CLOCK = "clock"
    EXPIRED = "expired"
    NOT_ALLOWED = "not_allowed"
    DUPLICATE = "duplicate"
    SIGNATURE = "signature"
    IMPOSSIBLE = "impossible"
    FAILED = "failed"


class DeviceReport(Payload):
    """What `status` answers; `thresholds` are those in force."""

    status: Status
    armed: bool
    faults: tuple[FaultId, ...]
    bundle: BundleRef
    thresholds: ScoreSet
    metrics: Metrics


class CommandReply(Payload):
    """What became of a command; `cmd_id` is None if it could not be read.

    `count` is what the text counts: results to be sent again, frames that were kept.
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
