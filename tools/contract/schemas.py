"""The JSON Schemas of v1, generated from the models."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from edge.commands.table import COMMANDS
from edge.contract.commands import CommandReply
from edge.contract.metrics import Metrics
from edge.contract.payloads import Event, Result, Status

DOCS = Path(__file__).parents[2] / "docs"
SCHEMAS_DIR, EXAMPLES_DIR = DOCS / "schemas/v1", DOCS / "examples/v1"

MODELS: dict[str, type[BaseModel]] = {
    "result": Result,
    "event": Event,
    "status": Status,
    "metrics": Metrics,
    "reply": CommandReply,
    **{f"command-{kind.name}": kind.schema for kind in COMMANDS.values()},
}
"""The payload models of v1 by schema name; the file name of an example starts with it."""


def schema_text(model: type[BaseModel]) -> str:
    """The model's schema (draft 2020-12) as stored in the file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def write_schemas(directory: Path) -> None:
    """Write all schemas."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        (directory / f"{name}.json").write_text(schema_text(model), encoding="utf-8")
