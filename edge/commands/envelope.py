"""The envelope of a command that this computer sends, signed or not."""

from __future__ import annotations

import time
import uuid

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.commands.command_state import Position
from edge.commands.signature import signature_from_key
from edge.contract.commands import CommandName
from edge.system.clock import utc_from_unix_s


def unsigned_envelope(args: object, by: str | None) -> dict[str, object]:
    """A command that never expires."""
    return {"cmdId": uuid.uuid4().hex, "args": args} | ({} if by is None else {"by": by})


def envelope_to_sign(args: object, by: str | None, after: Position, valid_s: float) -> dict[str, object]:
    """A command issued now, with the counter that follows `after`; `signed` signs it."""
    now_s = time.time()
    return {
        **unsigned_envelope(args, by),
        "issuedAt": utc_from_unix_s(now_s),
        "expiresAt": utc_from_unix_s(now_s + valid_s),
        "stateId": after.state_id,
        "counter": after.counter + 1,
    }


def signed(envelope: dict[str, object], key: Ed25519PrivateKey, root: str, name: CommandName) -> dict[str, object]:
    """The envelope with its signature, for the device whose topics start with `root`."""
    return {**envelope, "signature": signature_from_key(key, root, name, envelope)}
