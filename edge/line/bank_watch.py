"""Puts another version of the memory bank into use while the line runs: no restart, no engine build."""

from __future__ import annotations

import logging

from edge.bank.store import BankStore, Stamp, UsableVersion
from edge.commands.rules_in_force import RulesInForce
from edge.errors import ProcunitError
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.worker import Problems

_logger = logging.getLogger(__name__)


class BankWatch:
    """Watches the bank store and passes a new version to the inspection through the rules in force.

    The main thread calls `problems`, and so `look`, often.
    """

    def __init__(self, store: BankStore, rules_in_force: RulesInForce, board: FaultBoard) -> None:
        self._store = store
        self._rules_in_force = rules_in_force
        self._board = board
        self._stamp: Stamp = None
        self._problem: str | None = None

    def look(self) -> None:
        """Put a changed version into use; if it is refused, the version before stays in use."""
        stamp = self._store.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        usable = self._store.latest_usable()
        self._problem = "; ".join(usable.refused) or None
        self._use(usable)

    def problems(self) -> Problems:
        """Look, and return BANK_REFUSED with the refused version and the reason."""
        self.look()
        return {FaultId.BANK_REFUSED: self._problem}

    def _use(self, usable: UsableVersion) -> None:
        current = self._rules_in_force.rules.recipe.bank
        version = 0 if usable.delta is None else usable.delta.record.version
        if version == (0 if current is None else current.version):
            return
        try:
            bank = self._store.in_use(usable)
        except ProcunitError as error:
            self._problem = str(error)
            return
        self._rules_in_force.use_bank(bank)
        self._board.end(FaultId.BANK_CHANGED)
        self._board.report(FaultId.BANK_CHANGED, _description(usable, len(bank.rows)))


def _description(usable: UsableVersion, rows: int) -> str:
    if usable.delta is None:
        return f"the bundle's own bank, {rows} rows"
    record = usable.delta.record
    return (
        f"version {record.version} by {record.made_by}, signed with {usable.delta.signed_by.name}: {rows} rows, "
        f"{len(usable.delta.bank.added)} of them added from {len(record.sources)} frames; "
        f"anomaly threshold {record.anomaly.threshold:.4f}"
    )
