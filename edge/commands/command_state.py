"""The order of signed commands on this device: a random state id, a secret, and the highest counter accepted.

A signed command carries the state id and a counter above the highest accepted one, so that neither an older command
that arrives late nor one for another device is carried out; no clock decides. The file is written before a command is
carried out, so a command that was interrupted by a power cut is not carried out later either.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from edge.contract.payloads import StateId
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.files import write_whole

_MAX_FILE_BYTES = 4096
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """What a signed command must fit: the state's id, and the highest counter accepted in this state."""

    state_id: str
    counter: int


class _Stored(Record):
    """The content of the file; `orders_counter` is the counter of the newest order in `orders.json`."""

    state_id: StateId
    secret: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    counter: Annotated[int, Field(ge=0)] = 0
    orders_counter: Annotated[int, Field(ge=0)] = 0


class CommandState:
    """The state in the file `path`, a new one if there is none; written by one thread, `position` is read by any.

    `lost` is why the file that was there could not be used, or None. A state that cannot be written is kept in memory;
    no signed command is accepted until it can.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lost: str | None = None
        self._stored = self._read() or _new()
        if not path.exists() or self.lost is not None:
            self._try_to_write()

    @property
    def position(self) -> Position:
        """The state's id and its highest counter."""
        stored = self._stored
        return Position(stored.state_id, stored.counter)

    @property
    def orders_counter(self) -> int:
        """The counter of the newest order that was stored; 0 before the first."""
        return self._stored.orders_counter

    def accept(self, counter: int) -> None:
        """Record, durably, that the command with this counter is carried out.

        Raises:
            ProcunitError: it cannot be written; nothing has changed.
        """
        self._write(self._stored.model_copy(update={"counter": counter}))

    def note_orders(self, counter: int) -> None:
        """Record that the orders with this counter are stored, so that an older copy of them is recognised."""
        self._stored = self._stored.model_copy(update={"orders_counter": counter})
        self._try_to_write()

    def renew(self) -> None:
        """Start a new state, with another id and secret; every command that was signed before is refused."""
        self._stored = _new()
        self._try_to_write()

    def seal(self, data: bytes) -> str:
        """The device's mark (HMAC-SHA256) on data that it stored itself."""
        return hmac.new(bytes.fromhex(self._stored.secret), data, hashlib.sha256).hexdigest()

    def _read(self) -> _Stored | None:
        try:
            with self._path.open("rb") as stream:
                return _Stored.model_validate_json(stream.read(_MAX_FILE_BYTES + 1))
        except FileNotFoundError:
            return None
        except OSError as error:
            self.lost = f"{self._path.name} cannot be read: {error.strerror}"
        except ValidationError as error:
            self.lost = f"{self._path.name} is damaged: {first_problem(error)}"
        return None

    def _write(self, stored: _Stored) -> None:
        try:
            write_whole(self._path, stored.model_dump_json(indent=1).encode(), mode=0o600)
        except OSError as error:
            raise ProcunitError(
                f"the counter of signed commands cannot be stored: {error.strerror}",
                where=str(self._path),
                remedy="Check the disk",
            ) from error
        self._stored = stored

    def _try_to_write(self) -> None:
        try:
            self._write(self._stored)
        except ProcunitError as error:
            _logger.warning("%s", error)


def _new() -> _Stored:
    return _Stored(state_id=secrets.token_hex(16), secret=secrets.token_hex(32))
