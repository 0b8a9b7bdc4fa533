"""What is in force beyond the bundle: a grown memory bank, and over it what signed commands have changed.

Commands say whether parts are inspected, and set thresholds until further notice. They are kept on the disk, with their
signatures, and verified again at every start: a file on this device changes no decision. Thresholds are for one bundle
and are dropped with it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edge.bank.store import BankInUse
from edge.bundle.keys import TrustedKey
from edge.commands.signature import signer_of_command
from edge.contract.commands import CommandName, ThresholdArgs
from edge.errors import ProcunitError, first_problem
from edge.policy import Policy, TypePolicy
from edge.record import Record
from edge.system.files import write_whole

_MAX_FILE_BYTES = 8 << 20
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is in force for the next part; without a `bank` it is the bundle's own that judges."""

    armed: bool
    policy: Policy
    bank: BankInUse | None = None


class SignedOrder(Record):
    """A command as it came, with the name that its signature covers."""

    name: CommandName
    command: dict[str, object]


_ORDERS = TypeAdapter(tuple[SignedOrder, ...])


class RulesInForce:
    """The orders in the file `path` of the device with this `root`, over the bundle's own `policy`.

    `rules` may be read by any thread, and is replaced as a whole by those that call `add` and `use_bank`. `dropped`
    says which orders of the file are not in force any more, and why.
    """

    def __init__(self, path: Path, root: str, keys: tuple[TrustedKey, ...], bundle_id: str, policy: Policy) -> None:
        self._path = path
        self._root = root
        self._keys = keys
        self._bundle_id = bundle_id
        self._policy = policy
        self._orders: tuple[SignedOrder, ...] = ()
        self._changing = threading.Lock()
        self.rules = Rules(armed=True, policy=policy)
        self.dropped: tuple[str, ...] = ()
        self._load()

    def add(self, name: CommandName, command: Mapping[str, object]) -> None:
        """Put a command that was admitted (`CommandDesk`) in force, once it is on the disk.

        Raises:
            ProcunitError: it does not fit the bundle, or cannot be stored; nothing has changed.
        """
        with self._changing:
            orders = _without_replaced((*self._orders, SignedOrder(name=name, command=dict(command))))
            rules = self._rules(orders, self.rules.bank)
            self._store(orders)
            self._orders, self.rules = orders, rules

    def use_bank(self, bank: BankInUse) -> None:
        """Judge by another memory bank of the bundle and its anomaly limit; what orders say lies over it."""
        with self._changing:
            self.rules = self._rules(self._orders, bank)

    def _rules(self, orders: tuple[SignedOrder, ...], bank: BankInUse | None = None) -> Rules:
        """What the orders amount to, always counted from the policy of the bundle and its bank."""
        policy = self._policy if bank is None else replace(self._policy, anomaly=bank.limit)
        for order in orders:
            if order.name == "threshold":
                policy = policy_with_thresholds(policy, self._bundle_id, _thresholds(order))
        return Rules(armed=all(order.name != "disarm" for order in orders), policy=policy, bank=bank)

    def _load(self) -> None:
        try:
            stored = self._stored()
        except (OSError, ValueError) as error:
            self.dropped = (f"{self._path.name} cannot be read: {error}",)
            return
        dropped = []
        for order in stored:
            orders = (*self._orders, order)
            try:
                self._check_signature(order)
                self.rules = self._rules(orders)
            except ProcunitError as error:
                dropped.append(f"{order.name} {order.command.get('cmdId', '')}: {error}")
            else:
                self._orders = orders
        self.dropped = tuple(dropped)
        if dropped:
            try:
                self._store(self._orders)
            except ProcunitError as error:
                _logger.warning("%s", error)

    def _stored(self) -> tuple[SignedOrder, ...]:
        if not self._path.exists():
            return ()
        if self._path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        return _ORDERS.validate_json(self._path.read_bytes())

    def _check_signature(self, order: SignedOrder) -> None:
        signature = order.command.get("signature")
        if not isinstance(signature, str) or not signer_of_command(
            self._root, order.name, order.command, signature, self._keys
        ):
            raise ProcunitError("not signed by a key that this device trusts now")

    def _store(self, orders: tuple[SignedOrder, ...]) -> None:
        try:
            write_whole(self._path, json.dumps([order.model_dump() for order in orders], indent=1).encode())
        except OSError as error:
            raise ProcunitError(
                f"the order cannot be stored: {error.strerror}", where=str(self._path), remedy="Check the disk"
            ) from error


def _without_replaced(orders: tuple[SignedOrder, ...]) -> tuple[SignedOrder, ...]:
    """The orders that still say something: the last `disarm` unless `arm` followed, thresholds not set again since."""
    kept: list[SignedOrder] = []
    set_since: set[str | None] = set()
    arming_seen = False
    for order in reversed(orders):
        if order.name == "threshold":
            names = _names(_thresholds(order))
            if not names <= set_since:
                kept.append(order)
            set_since |= names
        else:
            if order.name == "disarm" and not arming_seen:
                kept.append(order)
            arming_seen = True
    return tuple(reversed(kept))


def _names(args: ThresholdArgs) -> set[str | None]:
    """The types whose threshold is set, None for the anomaly score."""
    return {*args.types, *([] if args.anomaly is None else [None])}


def _thresholds(order: SignedOrder) -> ThresholdArgs:
    try:
        return ThresholdArgs.model_validate(order.command.get("args"))
    except ValidationError as error:
        raise ProcunitError(first_problem(error)) from error


def policy_with_thresholds(policy: Policy, bundle_id: str, args: ThresholdArgs) -> Policy:
    """The policy with new thresholds and no new authority.

    A type's authority was proven at one threshold: at another it sends to review until a seeded run proves it again.

    Raises:
        ProcunitError: the command is for another bundle, or names what the bundle does not have.
    """
    if args.bundle_id != bundle_id:
        raise ProcunitError(
            f"the thresholds are for bundle {args.bundle_id[:12]}, and {bundle_id[:12]} is in use",
            remedy="Sign thresholds for the bundle in use",
        )
    unknown = sorted(set(args.types) - {rule.name for rule in policy.types})
    if unknown:
        raise ProcunitError(f"the bundle has no type {', '.join(map(repr, unknown))}")
    if args.anomaly is not None and policy.anomaly is None:
        raise ProcunitError("the bundle has no anomaly score")
    anomaly = policy.anomaly
    if anomaly is not None and args.anomaly is not None:
        anomaly = anomaly.model_copy(update={"threshold": args.anomaly})
    types = tuple(_at_threshold(rule, args.types.get(rule.name)) for rule in policy.types)
    return replace(policy, types=types, anomaly=anomaly)


def _at_threshold(rule: TypePolicy, threshold: float | None) -> TypePolicy:
    if threshold is None or threshold == rule.limit.threshold:
        return rule
    limit = rule.limit.model_copy(update={"threshold": threshold})
    return TypePolicy(rule.name, limit, "review")
