"""The table of commands: name, role, arguments, and the action of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import create_model
from pydantic.alias_generators import to_pascal

from edge.contract.commands import (
    Command,
    CommandArgs,
    CommandName,
    DeviceReport,
    FrameArgs,
    LabelArgs,
    NoArgs,
    PartIdArgs,
    ReplayArgs,
    ThresholdArgs,
)
from edge.errors import ProcunitError
from edge.frames.labels import Labeller
from edge.messages import PinAnswer

Envelope = Mapping[str, object]
"""A command as parsed from JSON, including its signature."""
CommandRole = Literal["read", "operate", "release"]
"""read: requests data; operate: gives the device data from the line; release: changes decisions and must be signed."""


@dataclass(frozen=True)
class DeviceActions:
    """The daemon's functions behind the commands; a ProcunitError means failure, with its text as the reply's text.

    `replay` (epoch, first and last seq) returns the number of results that will be sent again, `resend_frame` (result
    id) whether the frame exists, `claim_part_id` the reason if the id cannot be matched to a part, else None. `label`
    takes who labels, too. `order` takes the name and signed envelope of a command that stays in force until changed,
    also after a restart.
    """

    report: Callable[[], DeviceReport]
    replay: Callable[[str, int, int], int]
    snapshot: Callable[[], None]
    resend_frame: Callable[[str], bool]
    claim_part_id: Callable[[PartIdArgs], str | None]
    label: Callable[[LabelArgs, Labeller], PinAnswer]
    order: Callable[[CommandName, Envelope], None]


@dataclass(frozen=True)
class Answer:
    """The content of the reply to a command that was executed."""

    text: str
    count: int | None = None
    report: DeviceReport | None = None


@dataclass(frozen=True)
class Request:
    """A command that fits its schema, and the function that executes it.

    `run` takes the name of the key that signed the command, None for an unsigned one.
    """

    command: Command
    run: Callable[[DeviceActions, str | None], Answer]


@dataclass(frozen=True)
class Received:
    """The envelope of a command, and the name of the key that signed it; None for an unsigned one."""

    envelope: Envelope
    signed_by: str | None


@dataclass(frozen=True)
class CommandKind:
    """One row of the table: `schema` is the model of the envelope with this command's arguments.

    `read` takes the parsed JSON and raises a ValidationError if it does not fit.
    """

    name: CommandName
    role: CommandRole
    text: str
    schema: type[Command]
    read: Callable[[Envelope], Request]

    @property
    def signed(self) -> bool:
        """Whether the command has to be signed with a trusted key."""
        return self.role == "release"


ArgsT = TypeVar("ArgsT", bound=CommandArgs)


def _kind(
    name: CommandName,
    role: CommandRole,
    text: str,
    args_type: type[ArgsT],
    run: Callable[[DeviceActions, ArgsT, Received], Answer],
) -> CommandKind:
    default: object = NoArgs() if args_type is NoArgs else ...
    schema = create_model(
        f"{to_pascal(name.replace('-', '_'))}Command", __base__=Command, __doc__=text, args=(args_type, default)
    )

    def read(envelope: Envelope) -> Request:
        command = schema.model_validate(envelope)
        args = args_type.model_validate(command.args)
        return Request(command, lambda actions, signed_by: run(actions, args, Received(envelope, signed_by)))

    return CommandKind(name, role, text, schema, read)


def _status(actions: DeviceActions, _args: NoArgs, _received: Received) -> Answer:
    return Answer("see the report", report=actions.report())


def _replay(actions: DeviceActions, args: ReplayArgs, _received: Received) -> Answer:
    count = actions.replay(args.epoch, args.first_seq, args.last_seq)
    return Answer(f"{count} results will be sent again, marked as backfill", count)


def _snapshot(actions: DeviceActions, _args: NoArgs, _received: Received) -> Answer:
    actions.snapshot()
    return Answer("the next part's photograph will be published")


def _frame(actions: DeviceActions, args: FrameArgs, _received: Received) -> Answer:
    if not actions.resend_frame(args.result_id):
        raise ProcunitError(f"no frame of result {args.result_id} is stored; it may have been deleted for newer ones")
    return Answer("the photograph will be published again")


def _part_id(actions: DeviceActions, args: PartIdArgs, _received: Received) -> Answer:
    problem = actions.claim_part_id(args)
    if problem is not None:
        raise ProcunitError(problem)
    return Answer("kept until the result of its part is made")


def _label(actions: DeviceActions, args: LabelArgs, received: Received) -> Answer:
    by = received.envelope.get("by")
    answer = actions.label(args, Labeller(by if isinstance(by, str) else None, received.signed_by))
    if answer == PinAnswer():
        raise ProcunitError("no frame of this part is stored; it may have been deleted for newer ones")
    text = f"{answer.pinned} frames are kept for training as {args.label!r}"
    if answer.coming:
        text += f", {answer.coming} more as soon as they are written"
    if answer.no_room:
        text += f"; {answer.no_room} are not kept: kept frames already take half of frames.quota_mb"
    return Answer(text, answer.pinned + answer.coming)


def _arm(actions: DeviceActions, _args: NoArgs, received: Received) -> Answer:
    actions.order("arm", received.envelope)
    return Answer("parts are inspected")


def _disarm(actions: DeviceActions, _args: NoArgs, received: Received) -> Answer:
    actions.order("disarm", received.envelope)
    return Answer("parts are not inspected until `arm`; each is reported as not inspected")


def _threshold(actions: DeviceActions, _args: ThresholdArgs, received: Received) -> Answer:
    actions.order("threshold", received.envelope)
    return Answer("the thresholds are in force; a type whose threshold was changed sends to review")


_KINDS = (
    _kind("status", "read", "Report the device's state, faults, thresholds and metrics in the reply.", NoArgs, _status),
    _kind("replay", "read", "Send stored results of one epoch again, in order.", ReplayArgs, _replay),
    _kind("snapshot", "read", "Publish the next part's photograph, whatever its verdict.", NoArgs, _snapshot),
    _kind("frame", "read", "Publish a result's photograph again.", FrameArgs, _frame),
    _kind("part-id", "operate", "Give a part its id, by counter or by a window of time.", PartIdArgs, _part_id),
    _kind("label", "operate", "Give a part its true label; its frames are kept for training.", LabelArgs, _label),
    _kind("arm", "release", "Inspect parts again.", NoArgs, _arm),
    _kind("disarm", "release", "Let parts pass uninspected, each with a result `not_inspected`.", NoArgs, _disarm),
    _kind("threshold", "release", "Change thresholds; this never adds authority.", ThresholdArgs, _threshold),
)

COMMANDS: Mapping[str, CommandKind] = {kind.name: kind for kind in _KINDS}
"""Every command by its name, which is the last level of its topic."""
