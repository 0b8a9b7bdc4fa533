"""The rules for the next part: whether it is inspected, and the recipe, with what signed commands changed in it.

Signed commands switch the inspection on or off, and set thresholds, until the next such command. They are stored on the
disk with their signatures, under the device's own seal, and both are verified at every start, so that a changed file
cannot change a decision. Thresholds are for one bundle and are dropped if another bundle is used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from edge.bundle.keys import TrustedKey
from edge.commands.command_state import CommandState
from edge.commands.orders_file import LostOrdersError, OrdersFile, SignedOrder
from edge.commands.signature import signer_of_command
from edge.contract.commands import CommandName, ThresholdArgs
from edge.errors import ProcunitError, first_problem
from edge.faults import FaultId
from edge.policy import Policy, TypePolicy
from edge.recipe import BankInUse, Recipe
from edge.worker import Problems

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules for the next part; it is not inspected unless `armed`."""

    armed: bool
    recipe: Recipe


class RulesInForce:
    """The recipe in use: `recipe`, with the signed orders in the file `path`; `root` is that of the device's topics.

    `rules` may be read by any thread; `add` and `use_bank` replace it as a whole. `dropped` lists the orders in the
    file that are no longer in force, each with the reason. If the file is not what this device stored last under
    `state`, no order in it is in force, and the state is renewed.
    """

    def __init__(
        self,
        path: Path,
        root: str,
        keys: tuple[TrustedKey, ...],
        recipe: Recipe,
        state: CommandState,
    ) -> None:
        self._file = OrdersFile(path, state)
        self._state = state
        self._root = root
        self._keys = keys
        self._own_recipe = recipe
        self._orders: tuple[SignedOrder, ...] = ()
        self._changing = threading.Lock()
        self.rules = Rules(armed=True, recipe=recipe)
        self.dropped: tuple[str, ...] = ()
        self._load()

    def add(self, name: CommandName, command: Mapping[str, object]) -> None:
        """Store a command that `CommandDesk` admitted, then put it in force.

        Raises:
            ProcunitError: it does not fit the bundle, or cannot be stored; nothing has changed.
        """
        with self._changing:
            orders = _without_replaced((*self._orders, SignedOrder(name=name, command=dict(command))))
            rules = self._rules(orders, self.rules.recipe.bank)
            self._file.store(orders)
            self._orders, self.rules = orders, rules

    def use_bank(self, bank: BankInUse) -> None:
        """Use another memory bank with its anomaly limit; thresholds set by orders keep precedence."""
        with self._changing:
            self.rules = self._rules(self._orders, bank)

    def problems(self) -> Problems:
        """DISARMED while no part is inspected."""
        return {FaultId.DISARMED: None if self.rules.armed else "until the command `arm`"}

    def _rules(self, orders: tuple[SignedOrder, ...], bank: BankInUse | None = None) -> Rules:
        """Apply the orders, in their order, to the policy of the bundle and its bank."""
        own = self._own_recipe
        policy = own.policy if bank is None else replace(own.policy, anomaly=bank.limit)
        for order in orders:
            if order.name == "threshold":
                policy = policy_with_thresholds(policy, own.bundle.bundle_id, _thresholds(order))
        armed = all(order.name != "disarm" for order in orders)
        return Rules(armed=armed, recipe=replace(own, policy=policy, bank=bank))

    def _load(self) -> None:
        try:
            stored = self._file.load()
        except OSError as error:
            self.dropped = (f"the signed orders cannot be read: {error.strerror}",)
            return
        except LostOrdersError as error:
            self.dropped = tuple(text for text in (self._state.lost, str(error)) if text is not None)
            self._state.renew()
            self._store_or_warn()
            return
        dropped = [] if self._state.lost is None else [self._state.lost]
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
            self._store_or_warn()

    def _check_signature(self, order: SignedOrder) -> None:
        signature = order.command.get("signature")
        if not isinstance(signature, str) or not signer_of_command(
            self._root, order.name, order.command, signature, self._keys
        ):
            raise ProcunitError("not signed by a key that this device trusts")

    def _store_or_warn(self) -> None:
        try:
            self._file.store(self._orders)
        except ProcunitError as error:
            _logger.warning("%s", error)


def _without_replaced(orders: tuple[SignedOrder, ...]) -> tuple[SignedOrder, ...]:
    """The orders that still have an effect: the last `disarm` unless `arm` followed, and thresholds not set again."""
    kept: list[SignedOrder] = []
    set_later: set[str | None] = set()
    arming_seen = False
    for order in reversed(orders):
        if order.name == "threshold":
            names = _threshold_names(_thresholds(order))
            if not names <= set_later:
                kept.append(order)
            set_later |= names
        else:
            if order.name == "disarm" and not arming_seen:
                kept.append(order)
            arming_seen = True
    return tuple(reversed(kept))


def _threshold_names(args: ThresholdArgs) -> set[str | None]:
    """The types whose threshold is set, and None if that of the anomaly score is set."""
    return {*args.types, *([] if args.anomaly is None else [None])}


def _thresholds(order: SignedOrder) -> ThresholdArgs:
    try:
        return ThresholdArgs.model_validate(order.command.get("args"))
    except ValidationError as error:
        raise ProcunitError(first_problem(error)) from error


def policy_with_thresholds(policy: Policy, bundle_id: str, args: ThresholdArgs) -> Policy:
    """The policy with new thresholds; a type whose threshold changes loses its authority to reject.

    The authority was proven at one threshold; at another one the type sends to review until a seeded run proves it.

    Raises:
        ProcunitError: the command is for another bundle, or names a score that the bundle does not have.
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
