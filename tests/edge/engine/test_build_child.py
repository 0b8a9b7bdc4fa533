"""The build as a child: what it says, how it may end, and that nothing of it stays; most children here are doubles."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.engine.build_child import EngineBuild, build_in_child
from edge.engine.build_progress import BuildCancelledError, BuildProgress, BuildResult
from edge.engine.cache import EngineCache
from edge.errors import ProcunitError
from tests.support.children import FAILURE, HANGS, PROGRESS, RESULT, is_running, replace_child
from tests.support.tiny_bundle import build_tiny_bundle

ReplaceChild = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> EngineBuild:
    """A build whose folder holds what a killed one left."""
    (tmp_path / "engines" / ".feed.partial").mkdir(parents=True)
    return EngineBuild(tmp_path / "bundle", "fp32", "tensorrt_rtx", tmp_path / "engines")


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReplaceChild:
    """Replaces the child by a double; see `replace_child`."""
    return lambda *said, **then: replace_child(monkeypatch, tmp_path, *said, **then)


def never() -> bool:
    return False


def test_progress_comes_as_it_is_said_and_the_result_last(build: EngineBuild, child: ReplaceChild) -> None:
    child("a library that prints", PROGRESS, '{"phase": 1}', PROGRESS, RESULT)
    told: list[BuildProgress] = []
    result = build_in_child(build, told.append, never)
    assert result == BuildResult(result="engines/k", cached=False, size_bytes=7, seconds=2.0)
    assert [str(progress) for progress in told] == ["25%: model: Timing graph nodes (3 of 7)"] * 2


def test_its_failure_is_the_daemon_s_with_its_words(build: EngineBuild, child: ReplaceChild) -> None:
    child(PROGRESS, FAILURE, then="sys.exit(2)")
    with pytest.raises(ProcunitError) as caught:
        build_in_child(build, lambda _: None, never)
    assert str(caught.value) == "model.onnx: TensorRT ran out of memory. Add swap"


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, as the kernel does when memory runs out.*add swap"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV without a reason.*procunit engine build"),
        ("sys.exit(7)", "ended with exit code 7"),
        ("sys.exit(0)", "ended with exit code 0"),
        ("sys.stdout.write('x' * 200_000)", "ended with exit code 0"),
    ],
)
def test_a_child_that_dies_is_told_with_what_to_do(
    build: EngineBuild, child: ReplaceChild, then: str, said: str
) -> None:
    child(PROGRESS, then=then)
    with pytest.raises(ProcunitError, match=said):
        build_in_child(build, lambda _: None, never)
    assert (build.cache / ".feed.partial").exists() is ("SIG" not in then)


@pytest.mark.parametrize("listens", [True, False])
def test_a_child_that_is_not_wanted_any_more_is_gone_at_once(
    build: EngineBuild, child: ReplaceChild, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engine.build_child.CANCEL_S", 0.3)
    deaf = "" if listens else "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('{}', flush=True); "
    pid = child(PROGRESS, then=deaf + HANGS)
    told = threading.Event()
    started_s = time.monotonic()
    with pytest.raises(BuildCancelledError):
        build_in_child(build, lambda _: told.set(), lambda: told.wait(0.2))
    assert time.monotonic() - started_s < 5
    assert not is_running(pid)
    assert list(build.cache.glob(".*.partial")) == []


def test_a_child_that_says_nothing_is_ended(
    build: EngineBuild, child: ReplaceChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engine.build_child.SILENT_S", 0.3)
    pid = child(then=HANGS)
    with pytest.raises(ProcunitError, match="said nothing for"):
        build_in_child(build, lambda _: None, never)
    assert not is_running(pid)


def test_the_real_child_builds_then_finds_what_it_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = EngineBuild(build_tiny_bundle(tmp_path).path, "fp32", "tensorrt_rtx", tmp_path / "engines")
    told: list[BuildProgress] = []
    first = build_in_child(build, told.append, never)
    again = build_in_child(build, told.append, never)
    assert (first.cached, again.cached) == (False, True)
    assert told[0].phase.startswith("model: ")
    assert (Path(first.result) / "engine-0.plan").stat().st_size == first.size_bytes


def test_the_real_child_ends_when_it_is_asked(tmp_path: Path) -> None:
    """A cache that is locked keeps it waiting, so that there is something to end."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    build = EngineBuild(build_tiny_bundle(tmp_path).path, "fp32", "tensorrt_rtx", tmp_path / "engines")
    waits: list[str] = []
    with EngineCache(build.cache).locked(lambda _: True), pytest.raises(BuildCancelledError):
        build_in_child(build, lambda progress: waits.append(progress.phase), lambda: len(waits) > 2)
    assert set(waits) == {"waiting for another build here"}
    assert [path.name for path in build.cache.iterdir()] == ["lock"]
