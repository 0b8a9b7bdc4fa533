"""The cache of the engines that this device has built, by key; a damaged or exchanged one is removed, never returned.

engines/KEY/engine-0.plan ...    one serialized engine (plan) per graph of the bundle
engines/KEY/engine.json          the complete key, size and sha256 of every plan, and the mark of the cache's secret
engines/timing-DEVICE.cache      the mark of the measured kernel times, then the times
engines/secret                   what the marks are made with (`cache_secret.py`)

A plan is a program. The mark shows that this device built it: whoever can exchange files here, but is not the service's
user, can make neither plan nor kernel times that pass.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from edge.bundle.manifest import FileEntry
from edge.bundle.reader import file_entry_from_path
from edge.bundle.sealed_file import SealedFile
from edge.engine.build_progress import BuildCancelledError
from edge.engine.cache_secret import MARK_BYTES, CacheSecret
from edge.engine.key import EngineKey
from edge.errors import ProcunitError, first_problem
from edge.record import Record
from edge.system.file_lock import try_lock
from edge.system.files import bytes_from_file, new_directory, write_whole

KEPT_ENGINES = 6
"""Three precisions of the bundle in use and of the one before."""
MAX_TIMING_BYTES = 64 << 20

_SIDECAR = "engine.json"
_MAX_SIDECAR_BYTES = 16 << 10
_LOCK = "lock"
_POLL_S = 0.2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedEngine:
    """A checked engine on the disk: one plan per graph of the bundle, in the bundle's order."""

    key: EngineKey
    plans: tuple[SealedFile, ...]


class _Sidecar(Record):
    """`engine.json`; `mark` is empty in files of versions before 2026-11-30."""

    key: EngineKey
    plans: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=2)]
    mark: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    def marked_bytes(self) -> bytes:
        """What the mark is made of: everything but itself."""
        return b"engine\0" + self.model_dump_json(exclude={"mark"}).encode()


class EngineCache:
    """A directory of at most `KEPT_ENGINES` engines; the least recently used ones are deleted.

    `on_damage` is called with the reason when an unusable engine is removed.
    """

    def __init__(self, directory: Path, on_damage: Callable[[str], None] = _logger.warning) -> None:
        self._directory = directory
        self._on_damage = on_damage
        self._secret = CacheSecret(directory)

    def find(self, key: EngineKey) -> CachedEngine | None:
        """The engine with this key, or None; a damaged one is removed and reported to `on_damage`."""
        folder = self._directory / key.name
        if not folder.is_dir():
            return None
        try:
            engine = self._checked(folder, key)
        except ProcunitError as error:
            self.remove(key, str(error))
            return None
        self._mark_newest(folder)
        return engine

    def remove(self, key: EngineKey, problem: str) -> None:
        """Remove an engine that cannot be used, and report the problem to `on_damage`."""
        shutil.rmtree(self._directory / key.name, ignore_errors=True)
        self._on_damage(problem)

    def store(self, key: EngineKey, plans: Sequence[bytes]) -> CachedEngine:
        """Store an engine atomically, flushed to the disk.

        Raises:
            ProcunitError: the disk refuses it.
        """
        folder = self._directory / key.name
        try:
            with new_directory(folder, replace=True) as partial:
                paths = [partial / _plan(index) for index in range(len(plans))]
                for path, plan in zip(paths, plans, strict=True):
                    path.write_bytes(plan)
                sidecar = _Sidecar(key=key, plans=tuple(file_entry_from_path(path) for path in paths))
                mark = self._secret.mark(sidecar.marked_bytes(), create=True).hex()
                sidecar = sidecar.model_copy(update={"mark": mark})
                (partial / _SIDECAR).write_text(sidecar.model_dump_json(indent=1), encoding="utf-8")
        except OSError as error:
            raise ProcunitError(
                f"the engine cannot be stored: {error.strerror}",
                where=str(folder),
                remedy="Free space on the disk, or check who owns the folder",
            ) from error
        self._mark_newest(folder)
        self._prune()
        return CachedEngine(key, _plans(folder, sidecar))

    @contextmanager
    def locked(self, wait: Callable[[float], bool]) -> Iterator[None]:
        """Hold the cache's lock: waits while another process builds here, then removes the files of killed builds.

        `wait` sleeps for the given seconds and returns True to cancel.

        Raises:
            ProcunitError: the directory cannot be written or locked.
            BuildCancelledError: `wait` returned True.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = (self._directory / _LOCK).open("ab")
        except OSError as error:
            raise ProcunitError(
                f"engines cannot be stored here: {error.strerror}",
                where=str(self._directory),
                remedy="Name another folder with --cache, or check who owns it",
            ) from error
        with lock:
            while not try_lock(lock.fileno(), self._directory / _LOCK):
                if wait(_POLL_S):
                    raise BuildCancelledError
            self._clear_partials()
            yield

    def clear_partials(self) -> None:
        """Remove the files of killed builds, unless another process is building here."""
        with suppress(OSError, ProcunitError), (self._directory / _LOCK).open("ab") as lock:
            if try_lock(lock.fileno(), self._directory / _LOCK):
                self._clear_partials()

    def _clear_partials(self) -> None:
        for partial in self._directory.glob(".*.partial"):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def timing(self, key: EngineKey) -> bytes:
        """The kernel times measured on this device; empty if there are none or if they are damaged (logged)."""
        path = self._timing_path(key)
        try:
            data = bytes_from_file(path, MAX_TIMING_BYTES)
        except ProcunitError as error:
            if path.exists():
                _logger.warning("the timing cache cannot be used, kernels are timed again: %s", error)
            return b""
        mark, times = data[:MARK_BYTES], data[MARK_BYTES:]
        if not self._secret.is_marked(_marked_times(key, times), mark):
            _logger.warning("%s: the timing cache is damaged or not of this device, kernels are timed again", path)
            return b""
        return times

    def store_timing(self, key: EngineKey, times: bytes) -> None:
        """Store kernel times for the next build; if the disk refuses them (logged), that build is slower."""
        path = self._timing_path(key)
        try:
            mark = self._secret.mark(_marked_times(key, times), create=True)
            write_whole(path, mark + times, durable=False)
        except OSError as error:
            _logger.warning("%s: the timing cache cannot be written: %s", path, error)

    def _checked(self, folder: Path, key: EngineKey) -> CachedEngine:
        sidecar = _sidecar(folder / _SIDECAR)
        if sidecar.key != key:
            different = [name for name, value in asdict(key).items() if asdict(sidecar.key)[name] != value]
            raise ProcunitError(
                f"the stored engine was built for another key ({', '.join(different)} differ)", where=str(folder)
            )
        plans = _plans(folder, sidecar)
        if len(plans) != len(key.graphs_sha256):
            raise ProcunitError(f"{len(plans)} plans for {len(key.graphs_sha256)} graphs", where=str(folder))
        if not self._secret.is_marked(sidecar.marked_bytes(), bytes.fromhex(sidecar.mark)):
            raise ProcunitError(
                "the stored engine has no mark of this device: it was exchanged, or built before engines were marked",
                where=str(folder),
            )
        for plan in plans:
            try:
                plan.check()
            except ProcunitError as error:
                raise ProcunitError(f"the stored engine cannot be used: {error.what}", where=error.where) from error
        return CachedEngine(key, plans)

    def _timing_path(self, key: EngineKey) -> Path:
        return self._directory / f"timing-{key.device_name}.cache"

    def _used_ns(self) -> dict[Path, int]:
        """The engines and the modification times that order them by their last use."""
        return {folder: folder.stat().st_mtime_ns for folder in self._directory.glob("[0-9a-f]*") if folder.is_dir()}

    def _mark_newest(self, folder: Path) -> None:
        """Order an engine after all others: one second after the newest, whatever the clock says, as it may step.

        Who may read the cache and not write it leaves the order as it is.
        """
        newest_ns = max(self._used_ns().values(), default=0) + 1_000_000_000
        with suppress(OSError):
            os.utime(folder, ns=(newest_ns, newest_ns))

    def _prune(self) -> None:
        used_ns = self._used_ns()
        for folder in sorted(used_ns, key=used_ns.__getitem__, reverse=True)[KEPT_ENGINES:]:
            shutil.rmtree(folder, ignore_errors=True)


def _plans(folder: Path, sidecar: _Sidecar) -> tuple[SealedFile, ...]:
    return tuple(SealedFile(folder, _plan(index), entry) for index, entry in enumerate(sidecar.plans))


def _marked_times(key: EngineKey, times: bytes) -> bytes:
    return b"timing\0" + key.device_name.encode() + b"\0" + times


def _sidecar(path: Path) -> _Sidecar:
    try:
        return _Sidecar.model_validate_json(bytes_from_file(path, _MAX_SIDECAR_BYTES))
    except ValidationError as error:
        raise ProcunitError(first_problem(error), where=str(path)) from error


def _plan(index: int) -> str:
    return f"engine-{index}.plan"
