"""The checkpoint file: a run's tensors as safetensors, with the run they belong to in the header."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import nn

from edge.errors import ProcunitError, first_problem
from edge.geometry import Geometry
from edge.record import Record
from training.data.run_files import CHECKPOINT_FILE, TRAIN_FILE, TrainRecord

_HEADER_KEY = "procunit_edge"
"""One entry for all values: safetensors writes several in any order, and the same run must give the same bytes."""
_MAX_SHOWN_CHARACTERS = 80
_TRAIN_AGAIN = "Run `procunit train` again"


class CheckpointOrigin(Record):
    """The run that a checkpoint belongs to, as in its `train.json`; `weights` is the source of its trunk's weights."""

    backbone: str
    types: tuple[str, ...]
    fine_tuned: bool
    dataset_sha256: str
    seed: int
    weights: str
    geometry: Geometry
    packages: dict[str, str]
    code_version: str


def origin_from_record(record: TrainRecord) -> CheckpointOrigin:
    """The origin that a run's checkpoint records."""
    return CheckpointOrigin(**{name: getattr(record, name) for name in CheckpointOrigin.model_fields})


def save_checkpoint(model: nn.Module, run: Path, record: TrainRecord) -> None:
    """Write all weights and constants of the model to the run's safetensors file: the same bytes for the same run."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    header = {_HEADER_KEY: origin_from_record(record).model_dump_json()}
    (run / CHECKPOINT_FILE).write_bytes(safetensors_bytes(state, metadata=header))


def origin_from_checkpoint(path: Path) -> CheckpointOrigin | None:
    """The run that the file's header names; None if it names none.

    Raises:
        ProcunitError: the file is missing or not a safetensors file, or its header is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_HEADER_KEY)
        return None if text is None else CheckpointOrigin.model_validate_json(text)
    except (OSError, SafetensorError) as error:
        what = f"not a readable checkpoint: {str(error).partition(chr(10))[0]}"
        raise ProcunitError(what, where=str(path), remedy=_TRAIN_AGAIN) from error
    except ValidationError as error:
        raise ProcunitError(
            f"the checkpoint's header: {first_problem(error)}", where=str(path), remedy=_TRAIN_AGAIN
        ) from error


def check_origin(path: Path, record: TrainRecord) -> None:
    """Check that a run's checkpoint belongs to the record beside it.

    Raises:
        ProcunitError: the checkpoint names no run, or another run.
    """
    origin, wanted = origin_from_checkpoint(path), origin_from_record(record)
    if origin is None:
        what = "the checkpoint does not name the run it belongs to, as in earlier versions"
        raise ProcunitError(what, where=str(path), remedy=_TRAIN_AGAIN)
    for name in CheckpointOrigin.model_fields:
        found, beside = getattr(origin, name), getattr(wanted, name)
        if found != beside:
            raise ProcunitError(
                f"the checkpoint of another run, with {name} {_shown(found)}, while {TRAIN_FILE} beside it has "
                f"{_shown(beside)}",
                where=str(path),
                remedy=f"Put {path.name} and {TRAIN_FILE} of one run together, or run `procunit train` again",
            )


def _shown(value: object) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
