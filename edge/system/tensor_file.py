"""Reading a safetensors file: tensors by name; unlike pickle, the format cannot contain code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from edge.errors import ProcunitError
from edge.system.files import bytes_from_file

MAX_TENSOR_BYTES = 1 << 30


def tensors_from_file(path: Path) -> dict[str, NDArray[np.generic]]:
    """The tensors of a safetensors file, by name.

    Raises:
        ProcunitError: it cannot be read, is larger than `MAX_TENSOR_BYTES`, or is no safetensors file.
    """
    return tensors_from_bytes(bytes_from_file(path, MAX_TENSOR_BYTES), str(path))


def tensors_from_bytes(data: bytes, where: str) -> dict[str, NDArray[np.generic]]:
    """The tensors of a safetensors file's content, by name.

    Raises:
        ProcunitError: the content is no safetensors file.
    """
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise ProcunitError(f"not a readable safetensors file: {error}", where=where) from error
