"""The base class of all models read from files or messages: frozen, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Data from outside the program; an unknown key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
