"""Reading a safetensors file: tensors by name; unlike pickle, the format cannot contain code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from edge.errors import ProcunitError


def tensors_from_file(path: Path) -> dict[str, NDArray[np.generic]]:
    """The tensors of a safetensors file, by name.

    Raises:
        ProcunitError: it cannot be read, or is no safetensors file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return tensors_from_bytes(data, str(path))


def tensors_from_bytes(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """The tensors of a safetensors file's content, by name.

    Raises:
        ProcunitError: the content is no safetensors file.
    """
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ProcunitError(f"not a readable safetensors file: {error}", where=where) from error
