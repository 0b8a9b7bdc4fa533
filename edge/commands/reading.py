"""Reads a command from the bytes of a message: nothing in them is trusted."""

from __future__ import annotations

import json

from pydantic import ValidationError

from edge.commands.table import CommandKind, Request
from edge.contract.commands import MAX_COMMAND_BYTES, Refusal
from edge.errors import first_problem


class RefusedError(Exception):
    """A command is not admitted, for this reason; the text is for the reply."""

    def __init__(self, reason: Refusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def envelope_from_payload(payload: bytes) -> dict[str, object]:
    """The JSON object in a message; raises a RefusedError if there is none, or it is ambiguous."""
    if len(payload) > MAX_COMMAND_BYTES:
        raise RefusedError(Refusal.TOO_LARGE, f"{len(payload)} bytes; a command has at most {MAX_COMMAND_BYTES}")
    try:
        data = json.loads(payload.decode(), object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError(Refusal.NOT_JSON, f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise RefusedError(Refusal.INVALID, "a command has to be a JSON object")
    return data


def _without_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key appears twice")
    return unique


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")


def request_from_envelope(kind: CommandKind, envelope: dict[str, object]) -> Request:
    """The command in the object; raises a RefusedError if it does not fit its schema."""
    try:
        return kind.read(envelope)
    except ValidationError as error:
        raise RefusedError(Refusal.INVALID, first_problem(error)) from error
