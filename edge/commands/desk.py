"""Handles a command: every check in order, then the action, the audit event and the reply.

The broker is not trusted: anybody with access to it can send commands, but a command that changes decisions must be
signed, for this device's state and above every counter accepted there, so that the newest one counts whatever arrives
last. A command is remembered before it is executed, so it runs at most once; if the device stops in between, there is
no reply.
"""

from __future__ import annotations

import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

from edge.bundle.keys import TrustedKey
from edge.commands.audit import AuditLog
from edge.commands.command_state import Position
from edge.commands.reading import RefusedError, envelope_from_payload, request_from_envelope
from edge.commands.signature import signer_of_command
from edge.commands.table import COMMANDS, Answer, CommandKind, DeviceActions, Request
from edge.contract.commands import Command, CommandReply, Refusal
from edge.contract.encoding import clean_text
from edge.contract.payloads import CommandOutcome, CommandRecord, bytes_from_payload
from edge.contract.topics import COMMAND, COMMAND_REPLY
from edge.errors import ProcunitError
from edge.frames.labels import NeedsKeyError
from edge.mqtt.inlet import Incoming
from edge.system.clock import EARLIEST_CREDIBLE_S, unix_s_from_utc, utc_from_unix_s, utc_now

MAX_LIFETIME_S = 86_400.0
"""Longest time from issue to expiry of a signed command; the command is remembered until it expires."""
MAX_CLOCK_DIFFERENCE_S = 300.0
MAX_COUNTER_STEP = 1_000_000
"""How far a counter may be above the last one: a forged status must not make a signer use up all counters at once."""

_REMEMBERED = 10_000
_MAX_CORRELATION_BYTES = 512
_MAX_TOPIC = 512
_NAME = re.compile(r"[a-z][a-z-]{0,31}")

_Id = tuple[bool, str]
"""(signed, cmdId): whoever sends unsigned commands cannot use up the id of a signed one."""

_logger = logging.getLogger(__name__)


class SeenCommands(Protocol):
    """Remembers signed commands until they expire, also across a restart (`edge.outbox.command_memory`)."""

    def seen(self, cmd_id: str) -> bool:
        """Whether the command was executed before."""

    def remember(self, cmd_id: str, expires_at: datetime) -> None:
        """Remember the command until it expires; raises a ProcunitError if too many are remembered."""


class CommandOrder(Protocol):
    """Decides which signed commands are newer than those before (`edge.commands.command_state`)."""

    @property
    def position(self) -> Position:
        """The state's id, and the highest counter accepted."""

    def accept(self, counter: int) -> None:
        """Record the counter, also across a restart; raises a ProcunitError if it cannot be stored."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to publish; `correlation` is the correlation data of the command (MQTT 5)."""

    topic: str
    payload: bytes
    correlation: bytes | None


@dataclass
class _Case:
    """What is known about a command so far, for its reply and its audit."""

    name: str
    command: Command | None = None
    signed_by: str | None = None


class CommandDesk:
    """Handles commands for the device whose topics start with `root`; one thread calls `handle`.

    `allowed` are the names of the commands that the settings allow, `keys` the keys whose signatures are accepted.
    """

    def __init__(
        self,
        root: str,
        device: str,
        *,
        allowed: Collection[str],
        keys: tuple[TrustedKey, ...],
        memory: SeenCommands,
        order: CommandOrder,
        actions: DeviceActions,
        audit: AuditLog,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._root = root
        self._device = device
        self._allowed = frozenset(allowed)
        self._keys = keys
        self._memory = memory
        self._order = order
        self._actions = actions
        self._audit = audit
        self._now_s = now_s
        self._recent: OrderedDict[_Id, str] = OrderedDict()

    def handle(self, incoming: Incoming) -> Reply | None:
        """Execute or refuse a command and return its reply; None for a message whose topic is not a command's."""
        name = incoming.topic.removeprefix(COMMAND.at(self._root, name=""))
        if name == incoming.topic or not _NAME.fullmatch(name):
            return None
        case = _Case(name)
        outcome: CommandOutcome = "done"
        reason: Refusal | None = None
        try:
            answer = self._admit(case, incoming).run(self._actions, case.signed_by)
        except RefusedError as error:
            outcome, reason, answer = "refused", error.reason, Answer(str(error))
        except NeedsKeyError as error:
            outcome, reason, answer = "refused", Refusal.SIGNATURE, Answer(str(error))
        except ProcunitError as error:
            outcome, reason, answer = "failed", Refusal.IMPOSSIBLE, Answer(str(error))
        except Exception:  # the boundary to the network: a failed command must not stop the next
            _logger.exception("the command %s failed", name)
            outcome, reason, answer = "failed", Refusal.FAILED, Answer("internal error of the device; see its log")
        if case.command is not None and outcome != "refused":
            self._recent[case.signed_by is not None, case.command.cmd_id] = outcome
        self._audit.record(_record(case, outcome), answer.text)
        return self._reply(case, incoming, outcome, reason, answer)

    def _admit(self, case: _Case, incoming: Incoming) -> Request:
        """Check and remember a command; raises a RefusedError, or a ProcunitError if it cannot be remembered."""
        kind = COMMANDS.get(case.name)
        if kind is None:
            raise RefusedError(Refusal.NOT_ALLOWED, f"there is no command {case.name!r}")
        envelope = envelope_from_payload(incoming.payload)
        request = request_from_envelope(kind, envelope)
        case.command = command = request.command
        if incoming.retained:
            raise RefusedError(
                Refusal.RETAINED, "retained commands are never executed; publish it without the retain flag"
            )
        signed = kind.signed or command.signature is not None
        self._check_times(command, signed=signed)
        if kind.name not in self._allowed:
            raise RefusedError(Refusal.NOT_ALLOWED, f"the device's settings do not allow {kind.name!r}")
        if signed:
            case.signed_by = self._signer(kind, envelope, command)
        if (signed, command.cmd_id) in self._recent or (signed and self._memory.seen(command.cmd_id)):
            earlier = self._recent.get((signed, command.cmd_id), "before the device was started")
            raise RefusedError(Refusal.DUPLICATE, f"a command with this cmdId was received before ({earlier})")
        if signed:
            self._order.accept(self._newer_counter(command))
        self._remember(command, signed=signed)
        return request

    def _check_times(self, command: Command, *, signed: bool) -> None:
        issued_s = None if command.issued_at is None else unix_s_from_utc(command.issued_at)
        expires_s = None if command.expires_at is None else unix_s_from_utc(command.expires_at)
        if signed and (issued_s is None or expires_s is None or expires_s - issued_s > MAX_LIFETIME_S):
            text = f"a signed command needs issuedAt and expiresAt, at most {MAX_LIFETIME_S / 3600:g} h apart"
            raise RefusedError(Refusal.INVALID, text)
        if expires_s is None:
            return
        now_s = self._now_s()
        clock = utc_from_unix_s(now_s)
        if now_s < EARLIEST_CREDIBLE_S:
            text = f"the device's clock was never set (it says {clock}), so the expiry cannot be checked"
            raise RefusedError(Refusal.CLOCK, text)
        if issued_s is not None and issued_s > now_s + MAX_CLOCK_DIFFERENCE_S:
            raise RefusedError(Refusal.CLOCK, f"issued in the future; the device's clock says {clock}")
        if expires_s <= now_s:
            raise RefusedError(Refusal.EXPIRED, f"expired at {command.expires_at}; the device's clock says {clock}")

    def _signer(self, kind: CommandKind, envelope: dict[str, object], command: Command) -> str:
        if command.signature is None:
            raise RefusedError(Refusal.SIGNATURE, f"{kind.name!r} must be signed: see `procunit command sign`")
        signer = signer_of_command(self._root, kind.name, envelope, command.signature, self._keys)
        if signer is None:
            text = (
                f"not signed by a key that this device trusts, for the root {self._root} and the command {kind.name!r}"
            )
            raise RefusedError(Refusal.SIGNATURE, text)
        return signer.name

    def _newer_counter(self, command: Command) -> int:
        """The counter of a signed command that is for this device's state, and newer than all before it."""
        position = self._order.position
        where = "read stateId and commandCounter in the device's status, and sign the command again"
        if command.state_id is None or command.counter is None:
            raise RefusedError(Refusal.INVALID, f"a signed command needs stateId and counter: {where}")
        if command.state_id != position.state_id:
            text = (
                f"signed for the state {command.state_id}, and this device's is {position.state_id}: it is for another "
                f"device, or from before this device lost its record of signed commands; {where}"
            )
            raise RefusedError(Refusal.SUPERSEDED, text)
        if command.counter <= position.counter:
            text = f"its counter is {command.counter}, and {position.counter} was accepted before; {where}"
            raise RefusedError(Refusal.SUPERSEDED, text)
        if command.counter > position.counter + MAX_COUNTER_STEP:
            text = f"its counter is {command.counter}, more than {MAX_COUNTER_STEP} above {position.counter}; {where}"
            raise RefusedError(Refusal.INVALID, text)
        return command.counter

    def _remember(self, command: Command, *, signed: bool) -> None:
        """Store a signed command until it expires, because it could be replayed; keep the id of others in memory only.

        Whoever replays an unsigned command could change its id anyway.
        """
        if signed and command.expires_at is not None:
            expires_at = datetime.fromtimestamp(unix_s_from_utc(command.expires_at), timezone.utc)
            self._memory.remember(command.cmd_id, expires_at)
        self._recent[signed, command.cmd_id] = "not finished"
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _reply(
        self, case: _Case, incoming: Incoming, outcome: CommandOutcome, reason: Refusal | None, answer: Answer
    ) -> Reply:
        payload = CommandReply(
            name=case.name,
            cmd_id=case.command.cmd_id if case.command else None,
            device=self._device,
            time=utc_now(),
            outcome=outcome,
            reason=reason,
            text=clean_text(answer.text),
            count=answer.count,
            report=answer.report,
        )
        correlation = incoming.correlation
        if correlation is not None and len(correlation) > _MAX_CORRELATION_BYTES:
            correlation = None
        return Reply(self._reply_topic(case.name, incoming.response_topic), bytes_from_payload(payload), correlation)

    def _reply_topic(self, name: str, requested: str | None) -> str:
        """The requested response topic if it is below the command's reply topic, else that one.

        So no command can make the device publish on another topic.
        """
        own = COMMAND_REPLY.at(self._root, name=name)
        if requested is None or not requested.startswith(f"{own}/"):
            return own
        if len(requested) > _MAX_TOPIC or re.search(r"[+#\x00]", requested):
            return own
        return requested


def _record(case: _Case, outcome: CommandOutcome) -> CommandRecord:
    command = case.command
    return CommandRecord(
        name=case.name,
        cmd_id=command.cmd_id if command else None,
        by=clean_text(command.by) if command and command.by is not None else None,
        signed_by=case.signed_by,
        outcome=outcome,
    )
