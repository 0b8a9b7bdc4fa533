"""The build as a child process: its output, its ways to end, and that nothing is left; most children are doubles."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bundle.manifest import graph_files
from edge.bundle.reader import open_without_signature_check
from edge.bundle.sealing import seal
from edge.engine.build_child import EngineBuild, build_in_child
from edge.engine.build_progress import BuildCancelledError, BuildProgress, BuildResult
from edge.engine.cache import EngineCache
from edge.errors import ProcunitError
from tests.support.children import FAILURE, HANGS, PROGRESS, RESULT, is_running, replace_child
from tests.support.tiny_bundle import build_tiny_bundle, write_demo_key
from tests.support.tiny_graph import write_tiny_graph

ReplaceChild = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> EngineBuild:
    """A build whose folder contains the files of a killed build."""
    (tmp_path / "engines" / ".feed.partial").mkdir(parents=True)
    return EngineBuild(tmp_path / "bundle", "fp32", "tensorrt_rtx", tmp_path / "engines", "0" * 64)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReplaceChild:
    """Replaces the child by a double; see `replace_child`."""
    return lambda *output, **then: replace_child(monkeypatch, tmp_path, *output, **then)


def real_build(folder: Path) -> EngineBuild:
    """A build of a real bundle."""
    path = build_tiny_bundle(folder).path
    bundle_id = open_without_signature_check(path).bundle_id
    return EngineBuild(path, "fp32", "tensorrt_rtx", folder / "engines", bundle_id)


def never() -> bool:
    return False


def test_progress_is_forwarded_and_the_result_returned(build: EngineBuild, child: ReplaceChild) -> None:
    child("a library that prints", PROGRESS, '{"phase": 1}', PROGRESS, RESULT)
    reported: list[BuildProgress] = []
    result = build_in_child(build, reported.append, never)
    assert result == BuildResult(result="engines/k", cached=False, size_bytes=7, seconds=2.0)
    assert [str(progress) for progress in reported] == ["25%: model: Timing graph nodes (3 of 7)"] * 2


def test_a_failure_of_the_child_is_raised_with_its_text(build: EngineBuild, child: ReplaceChild) -> None:
    child(PROGRESS, FAILURE, then="sys.exit(2)")
    with pytest.raises(ProcunitError) as caught:
        build_in_child(build, lambda _: None, never)
    assert str(caught.value) == "model.onnx: TensorRT ran out of memory. Add swap"


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, as the kernel does when memory runs out.*add swap"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV without an error message.*procunit engine build"),
        ("sys.exit(7)", "ended with exit code 7"),
        ("sys.exit(0)", "ended with exit code 0"),
        ("sys.stdout.write('x' * 200_000)", "ended with exit code 0"),
    ],
)
def test_a_child_that_dies_is_reported_with_a_remedy(
    build: EngineBuild, child: ReplaceChild, then: str, message: str
) -> None:
    child(PROGRESS, then=then)
    with pytest.raises(ProcunitError, match=message):
        build_in_child(build, lambda _: None, never)
    assert (build.cache / ".feed.partial").exists() is ("SIG" not in then)


@pytest.mark.parametrize("obeys_sigterm", [True, False])
def test_a_cancelled_child_ends_at_once(
    build: EngineBuild, child: ReplaceChild, obeys_sigterm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engine.build_child.CANCEL_S", 0.3)
    ignore_sigterm = "" if obeys_sigterm else "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); "
    pid = child(PROGRESS, then=ignore_sigterm + HANGS)
    reported = threading.Event()
    started_s = time.monotonic()
    with pytest.raises(BuildCancelledError):
        build_in_child(build, lambda _: reported.set(), lambda: reported.wait(0.2))
    assert time.monotonic() - started_s < 5
    assert not is_running(pid)
    assert list(build.cache.glob(".*.partial")) == []


def test_a_child_without_output_is_ended(
    build: EngineBuild, child: ReplaceChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engine.build_child.SILENT_S", 0.3)
    pid = child(then=HANGS)
    with pytest.raises(ProcunitError, match="printed nothing for"):
        build_in_child(build, lambda _: None, never)
    assert not is_running(pid)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_child_that_survives_every_signal_is_left_and_reported(
    build: EngineBuild, child: ReplaceChild, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engine.build_child.CANCEL_S", 0.1)
    monkeypatch.setattr("edge.engine.build_child.SILENT_S", 1e9)
    monkeypatch.setattr(subprocess.Popen, "send_signal", lambda _self, _number: None)  # as in a driver's endless call
    pid = child(PROGRESS, then=("" if cancelled else "os.close(1); ") + HANGS)
    reported = threading.Event()
    expected: type[Exception] = BuildCancelledError if cancelled else ProcunitError
    try:
        with pytest.raises(
            expected, match="^$" if cancelled else r"process \d+\) hangs in a driver.*Restart the device"
        ):
            build_in_child(build, lambda _: reported.set(), lambda: cancelled and reported.wait(0.2))
        assert is_running(pid)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_the_real_child_builds_an_engine_then_finds_it_in_the_cache(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = real_build(tmp_path)
    reported: list[BuildProgress] = []
    first = build_in_child(build, reported.append, never)
    again = build_in_child(build, reported.append, never)
    assert (first.cached, again.cached) == (False, True)
    assert reported[0].phase.startswith("model: ")
    assert (Path(first.result) / "engine-0.plan").stat().st_size == first.size_bytes


def test_the_real_child_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    """The cache is locked, so that the child waits and can be cancelled."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = real_build(tmp_path)
    waits: list[str] = []
    with EngineCache(build.cache).locked(lambda _: True), pytest.raises(BuildCancelledError):
        build_in_child(build, lambda progress: waits.append(progress.phase), lambda: len(waits) > 2)
    assert set(waits) == {"waiting for another build here"}
    assert [path.name for path in build.cache.iterdir()] == ["lock"]


def test_the_child_refuses_a_bundle_that_was_exchanged_after_the_daemon_verified_it(tmp_path: Path) -> None:
    """Sealed with the very same key: its signature holds, but it is not the bundle that the daemon will use."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = real_build(tmp_path)
    body = open_without_signature_check(build.bundle).manifest
    write_tiny_graph(build.bundle / graph_files()[0], 1, comment="another")
    seal(build.bundle, body, write_demo_key(tmp_path))
    with pytest.raises(ProcunitError, match=r"this is the bundle \w+, not .*exchanged after it was verified"):
        build_in_child(build, lambda _: None, never)
    assert not build.cache.exists()


def test_the_child_builds_only_from_a_graph_with_the_hash_of_the_manifest(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = real_build(tmp_path)
    write_tiny_graph(build.bundle / graph_files()[0], 1, comment="another")
    with pytest.raises(ProcunitError, match=r"model\.onnx: .*Copy the bundle again"):
        build_in_child(build, lambda _: None, never)
    assert not build.cache.exists()
