"""The checkpoint file: a run's tensors as safetensors, and in its header which run they are of."""

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
"""One entry that holds everything: safetensors writes several in any order, and the same run is the same file."""
_MAX_SHOWN_CHARACTERS = 80
_TRAIN_AGAIN = "Run `procunit train` again"


class CheckpointOrigin(Record):
    """Which run a checkpoint is of, in the words of its `train.json`; `weights` is where its trunk came from."""

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
    """What a run's checkpoint says of the run."""
    return CheckpointOrigin(**{name: getattr(record, name) for name in CheckpointOrigin.model_fields})


def save_checkpoint(model: nn.Module, run: Path, record: TrainRecord) -> None:
    """Every weight and constant of the model into the run's safetensors file: the same bytes for the same run."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    header = {_HEADER_KEY: origin_from_record(record).model_dump_json()}
    (run / CHECKPOINT_FILE).write_bytes(safetensors_bytes(state, metadata=header))


def origin_from_checkpoint(path: Path) -> CheckpointOrigin | None:
    """What the file's header says of its run; None where it says nothing.

    Raises:
        ProcunitError: it is missing, no safetensors file, or its header is damaged.
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
    """Hold a run's checkpoint to the record beside it.

    Raises:
        ProcunitError: it does not say which run it is of, or is another one's.
    """
    origin, wanted = origin_from_checkpoint(path), origin_from_record(record)
    if origin is None:
        what = "the checkpoint does not say which run it is of; earlier versions wrote such"
        raise ProcunitError(what, where=str(path), remedy=_TRAIN_AGAIN)
    for name in CheckpointOrigin.model_fields:
        found, beside = getattr(origin, name), getattr(wanted, name)
        if found != beside:
            raise ProcunitError(
                f"the checkpoint of another run, by its {name}: {_shown(found)} there, {_shown(beside)} in "
                f"{TRAIN_FILE} beside it",
                where=str(path),
                remedy=f"Put {path.name} and {TRAIN_FILE} of one run together, or run `procunit train` again",
            )


def _shown(value: object) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
