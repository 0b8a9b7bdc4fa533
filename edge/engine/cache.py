"""The engines that this device has built, by key: whole and as they were stored, or not there at all.

engines/KEY/engine-0.plan ...    one serialized engine a graph of the bundle
engines/KEY/engine.json          the whole key, size and sha256 of every plan
engines/timing-DEVICE.cache      measured kernel times, sha256 first
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from edge.bundle.manifest import FileEntry
from edge.bundle.reader import file_entry_from_path
from edge.engine.build_progress import BuildCancelledError
from edge.engine.key import EngineKey
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.files import new_directory, write_whole

KEPT_ENGINES = 6
"""Three precisions of the bundle in use and of the one before."""
MAX_TIMING_BYTES = 64 << 20

_SIDECAR = "engine.json"
_MAX_SIDECAR_BYTES = 16 << 10
_LOCK = "lock"
_POLL_S = 0.2
_DIGEST_BYTES = hashlib.sha256().digest_size

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEngine:
    """An engine on the disk, checked: one plan a graph of the bundle, in the bundle's order."""

    key: EngineKey
    plans: tuple[Path, ...]


class _Sidecar(Record):
    """`engine.json`."""

    key: EngineKey
    plans: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=2)]


class EngineCache:
    """A directory of engines; those that were not used for the longest time make room for new ones.

    `on_damage` is told of an engine that is not as it was stored and therefore removed.
    """

    def __init__(self, directory: Path, on_damage: Callable[[str], None] = _logger.warning) -> None:
        self._directory = directory
        self._on_damage = on_damage

    def find(self, key: EngineKey) -> CachedEngine | None:
        """The engine with this key; one that is not as it was stored is removed, and told."""
        folder = self._directory / key.name
        if not folder.is_dir():
            return None
        try:
            engine = _checked(folder, key)
        except ProcunitError as error:
            self.remove(key, str(error))
            return None
        os.utime(folder)
        return engine

    def remove(self, key: EngineKey, problem: str) -> None:
        """Remove an engine that cannot be used, and say why."""
        shutil.rmtree(self._directory / key.name, ignore_errors=True)
        self._on_damage(problem)

    def store(self, key: EngineKey, plans: Sequence[bytes]) -> CachedEngine:
        """Keep an engine: it appears whole, flushed to the disk, or not at all.

        Raises:
            ProcunitError: the disk does not take it.
        """
        folder = self._directory / key.name
        try:
            with new_directory(folder, replace=True) as partial:
                paths = [partial / _plan(index) for index in range(len(plans))]
                for path, plan in zip(paths, plans, strict=True):
                    path.write_bytes(plan)
                sidecar = _Sidecar(key=key, plans=tuple(file_entry_from_path(path) for path in paths))
                (partial / _SIDECAR).write_text(sidecar.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            raise ProcunitError(
                f"the engine cannot be stored: {error.strerror}",
                where=str(folder),
                remedy="Make room on its disk, or check who owns the folder",
            ) from error
        self._prune(keep=folder)
        return CachedEngine(key, tuple(folder / _plan(index) for index in range(len(plans))))

    @contextmanager
    def locked(self, wait: Callable[[float], bool]) -> Iterator[None]:
        """Build alone: waits for another process that builds here, then removes what killed builds left behind.

        `wait` sleeps for the seconds it is given, and may say that nobody wants the engine any more.

        Raises:
            ProcunitError: the directory cannot be written.
            BuildCancelledError: `wait` gave up.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = (self._directory / _LOCK).open("ab")
        except OSError as error:
            raise ProcunitError(
                f"engines cannot be kept here: {error.strerror}",
                where=str(self._directory),
                remedy="Name another folder with --cache, or check who owns it",
            ) from error
        with lock:
            while not _try_lock(lock.fileno()):
                if wait(_POLL_S):
                    raise BuildCancelledError
            self._clear_partials()
            yield

    def clear_partials(self) -> None:
        """Remove what a killed build left behind, unless somebody builds here now."""
        with suppress(OSError), (self._directory / _LOCK).open("ab") as lock:
            if _try_lock(lock.fileno()):
                self._clear_partials()

    def _clear_partials(self) -> None:
        for partial in self._directory.glob(".*.partial"):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def timing(self, key: EngineKey) -> bytes:
        """The kernel times measured on this device, empty if there are none; damaged ones are ignored, and said."""
        path = self._timing_path(key)
        try:
            size_bytes = path.stat().st_size
            data = path.read_bytes() if size_bytes <= MAX_TIMING_BYTES else b""
        except FileNotFoundError:
            return b""
        except OSError as error:
            _logger.warning("%s: the timing cache cannot be read, kernels are timed again: %s", path, error)
            return b""
        digest, times = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(times).digest() != digest:
            _logger.warning("%s: the timing cache is damaged, kernels are timed again", path)
            return b""
        return times

    def store_timing(self, key: EngineKey, times: bytes) -> None:
        """Keep kernel times for the next build; where the disk does not take them, that build is slower."""
        path = self._timing_path(key)
        try:
            write_whole(path, hashlib.sha256(times).digest() + times, durable=False)
        except OSError as error:
            _logger.warning("%s: the timing cache cannot be written: %s", path, error)

    def _timing_path(self, key: EngineKey) -> Path:
        return self._directory / f"timing-{key.device_name}.cache"

    def _prune(self, keep: Path) -> None:
        used = {folder: folder.stat().st_mtime for folder in self._directory.glob("[0-9a-f]*") if folder.is_dir()}
        used[keep] = time.time()
        for folder in sorted(used, key=used.__getitem__, reverse=True)[KEPT_ENGINES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _checked(folder: Path, key: EngineKey) -> CachedEngine:
    sidecar = _sidecar(folder / _SIDECAR)
    if sidecar.key != key:
        different = [name for name, value in asdict(key).items() if asdict(sidecar.key)[name] != value]
        raise ProcunitError(f"the stored engine is another one ({', '.join(different)} differ)", where=str(folder))
    plans = tuple(folder / _plan(index) for index in range(len(sidecar.plans)))
    if len(plans) != len(key.graphs_sha256):
        raise ProcunitError(f"{len(plans)} engines for {len(key.graphs_sha256)} graphs", where=str(folder))
    for plan, expected in zip(plans, sidecar.plans, strict=True):
        _check_plan(plan, expected)
    return CachedEngine(key, plans)


def _check_plan(plan: Path, expected: FileEntry) -> None:
    try:
        found = file_entry_from_path(plan)
    except OSError as error:
        raise ProcunitError(f"the stored engine cannot be read: {error.strerror}", where=str(plan)) from error
    if found.size_bytes != expected.size_bytes:
        raise ProcunitError(
            f"the stored engine is {found.size_bytes} bytes long instead of {expected.size_bytes}", where=str(plan)
        )
    if found != expected:
        raise ProcunitError("the stored engine is not what was built (sha256 differs)", where=str(plan))


def _sidecar(path: Path) -> _Sidecar:
    try:
        if path.stat().st_size > _MAX_SIDECAR_BYTES:
            raise ProcunitError(f"larger than {_MAX_SIDECAR_BYTES} bytes", where=str(path))
        return _Sidecar.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ProcunitError(f"the stored engine cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        raise ProcunitError(first_problem(error), where=str(path)) from error


def _plan(index: int) -> str:
    return f"engine-{index}.plan"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
