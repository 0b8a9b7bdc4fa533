"""The file of signed orders: `orders.json`, with a seal by the device's own secret.

A signature proves who ordered, not that this device accepted it in time; the seal does. It covers all orders together,
the counter of the newest and the state's id, so that an order can be neither added, nor removed, nor put back.
"""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from edge.commands.command_state import CommandState
from edge.contract.commands import CommandName
from edge.contract.payloads import StateId
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.files import write_whole

_MAX_FILE_BYTES = 8 << 20
_SIGN_AGAIN = "the device is armed with its bundle's thresholds; have what is still wanted signed and sent again"


class SignedOrder(Record):
    """A command as received, with the name that its signature covers."""

    name: CommandName
    command: dict[str, object]


class _File(Record):
    """The content of the file: `counter` is that of the newest order, also if it had no lasting effect."""

    state_id: StateId
    counter: Annotated[int, Field(ge=0)]
    orders: tuple[SignedOrder, ...]
    seal: str = ""


class LostOrdersError(Exception):
    """The file is not what this device stored last; the text says why."""


class OrdersFile:
    """The orders in the file `path`, sealed with the secret of `state`."""

    def __init__(self, path: Path, state: CommandState) -> None:
        self._path = path
        self._state = state

    def load(self) -> tuple[SignedOrder, ...]:
        """The orders that this device stored last.

        Raises:
            LostOrdersError: the file is missing, or not what this device stored last.
            OSError: the file cannot be read.
        """
        try:
            with self._path.open("rb") as stream:
                data = stream.read(_MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            if self._state.orders_counter == 0:
                return ()
            raise LostOrdersError(self._text("is missing")) from None
        if data.strip() == b"[]" and self._state.orders_counter == 0:
            return ()  # of an earlier version, without orders
        stored = self._parsed(data)
        if stored.state_id != self._state.position.state_id:
            raise LostOrdersError(self._text("was written in another state, or by another device"))
        if not hmac.compare_digest(stored.seal.encode(), self._state.seal(_sealed_bytes(stored)).encode()):
            raise LostOrdersError(self._text("was changed, not by this device"))
        if stored.counter < self._state.orders_counter:
            raise LostOrdersError(self._text("is an older copy"))
        return stored.orders

    def store(self, orders: tuple[SignedOrder, ...]) -> None:
        """Store the orders in the place of those that were there.

        Raises:
            ProcunitError: they cannot be written; the file is unchanged.
        """
        position = self._state.position
        unsealed = _File(state_id=position.state_id, counter=position.counter, orders=orders)
        sealed = {**unsealed.model_dump(), "seal": self._state.seal(_sealed_bytes(unsealed))}
        try:
            write_whole(self._path, json.dumps(sealed, indent=1).encode(), mode=0o600)
        except OSError as error:
            raise ProcunitError(
                f"the order cannot be stored: {error.strerror}", where=str(self._path), remedy="Check the disk"
            ) from error
        self._state.note_orders(position.counter)

    def _parsed(self, data: bytes) -> _File:
        if len(data) > _MAX_FILE_BYTES:
            raise LostOrdersError(self._text(f"cannot be read: it is larger than {_MAX_FILE_BYTES} bytes"))
        if data.startswith(b"["):
            raise LostOrdersError(self._text("cannot be read: an earlier version wrote it, without the device's seal"))
        try:
            return _File.model_validate_json(data)
        except ValidationError as error:
            raise LostOrdersError(self._text(f"cannot be read: {first_problem(error)}")) from error

    def _text(self, what: str) -> str:
        return f"{self._path.name} {what}; {_SIGN_AGAIN}"


def _sealed_bytes(stored: _File) -> bytes:
    return json.dumps(stored.model_dump(exclude={"seal"}), sort_keys=True, separators=(",", ":")).encode()
