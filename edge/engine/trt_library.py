"""TensorRT or TensorRT for RTX, as the settings name it: imported on first use, its last errors kept.

Each library keeps the first logger it is given for the whole process, so there is one logger per library, made here.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from types import ModuleType

from edge.engine.settings import EngineKind
from edge.errors import ProcunitError

OLDEST_TENSORRT = (10, 3)
_KEPT_MESSAGES, _SUFFIX_MESSAGES = 20, 3

_REMEDIES = {
    "tensorrt": (
        "On a Jetson run: sudo apt install python3-libnvinfer libnvinfer-bin, and make the virtual environment with "
        "--system-site-packages; or set engine.kind to ort"
    ),
    "tensorrt_rtx": "Run: pip install tensorrt-rtx (x86-64 with an RTX GPU); or set engine.kind to ort",
}
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """An imported library: its module, its name for people, its version, and the logger to pass to its objects."""

    module: ModuleType
    name: str
    version: str
    logger: object
    _messages: deque[str] = field(repr=False)

    def messages(self) -> tuple[str, ...]:
        """The last errors that the library logged, the oldest first."""
        return tuple(self._messages)

    def recent_errors_suffix(self) -> str:
        """The last three errors as "; ..." to append to an error message, or ""."""
        return "".join(f"; {line}" for line in self.messages()[-_SUFFIX_MESSAGES:])

    def clear_messages(self) -> None:
        """Forget the errors, so that later ones belong to the next operation."""
        self._messages.clear()


def library_from_kind(kind: EngineKind) -> TensorRT:
    """The library that `engine.kind` names.

    Raises:
        ProcunitError: it is not installed, a shared library is missing, or TensorRT is older than 10.3.
    """
    if kind not in _NAMES:
        raise ProcunitError(f"engine.kind {kind} does not run on TensorRT", remedy="Set it to tensorrt or tensorrt_rtx")
    return _library(kind)


@lru_cache
def _library(kind: str) -> TensorRT:
    name = _NAMES[kind]
    try:
        module = import_module(kind)
    except ModuleNotFoundError as error:
        raise ProcunitError(
            f"{name} is not installed (no Python module {error.name})", remedy=_REMEDIES[kind]
        ) from error
    except (ImportError, OSError) as error:
        raise ProcunitError(f"{name} cannot be loaded: {error}", remedy=_REMEDIES[kind]) from error
    version = str(module.__version__)
    if kind == "tensorrt" and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise ProcunitError(
            f"TensorRT {version} is too old, {oldest} is the oldest that works", remedy="Update JetPack to 6.1 or later"
        )
    return library_from_module(module, name)


def library_from_module(module: ModuleType, name: str) -> TensorRT:
    """Wrap an imported module, with a new logger."""
    messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
    return TensorRT(module, name, str(module.__version__), _logger_of(module, name, messages), messages)


def _logger_of(module: ModuleType, name: str, messages: deque[str]) -> object:
    """A logger that keeps errors; the library calls it from its own threads, and it must not raise."""
    errors = (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR)

    def log(_self: object, severity: object, text: str) -> None:
        line = " ".join(text.split())
        if severity in errors:
            messages.append(line)
            _logger.info("%s: %s", name, line)
        else:
            _logger.debug("%s: %s", name, line)

    logger: object = type("ErrorKeeper", (module.ILogger,), {"log": log})()
    return logger
