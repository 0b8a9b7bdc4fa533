"""The base of every model that is read from a file or a message: frozen, and without unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Data that somebody else may have written: a key that the model does not know is refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
