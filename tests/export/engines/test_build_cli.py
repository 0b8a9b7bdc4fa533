"""`procunit engine build` as an engineer and as the daemon call it, without torch: TensorRT-RTX's real builder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.engine.build_progress import BUILD_LINE, BuildFailure, BuildProgress, BuildResult
from edge.engine.cache import EngineCache
from tests.support.tiny_bundle import build_tiny_bundle

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")

WITHOUT_TORCH = (
    "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx', 'training', 'calibration'))); "
    "from edge.cli.main import main; main()"
)


def command(bundle: Path, cache: Path, *options: str) -> list[str]:
    arguments = ["engine", "build", str(bundle), "--kind=tensorrt_rtx", f"--cache={cache}", *options]
    return [sys.executable, "-c", WITHOUT_TORCH, *arguments]


def procunit(bundle: Path, cache: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(bundle, cache, *options), capture_output=True, text=True, timeout=120, check=False, cwd="/"
    )


def test_for_a_person_it_prints_the_folder_and_the_time(tmp_path: Path) -> None:
    bundle, cache = build_tiny_bundle(tmp_path).path, tmp_path / "engines"
    made = procunit(bundle, cache, "--precision=fp32")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"{cache}/")
    assert "MB, built in" in made.stdout
    refused = procunit(bundle, cache)
    assert refused.returncode == 2
    assert "the bundle has no fp16 graphs, only fp32. Choose one of these" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_for_a_program_it_prints_one_json_object_per_line(tmp_path: Path) -> None:
    bundle, cache = build_tiny_bundle(tmp_path).path, tmp_path / "engines"
    made = procunit(bundle, cache, "--precision=fp32", "--progress=json")
    assert made.returncode == 0, made.stderr
    *progress, result = (BUILD_LINE.validate_json(line) for line in made.stdout.splitlines())
    assert progress
    assert all(isinstance(line, BuildProgress) for line in progress)
    assert isinstance(result, BuildResult)
    assert not result.cached
    refused = procunit(bundle, cache, "--progress=json")
    assert refused.returncode == 2
    (failure,) = (BUILD_LINE.validate_json(line) for line in refused.stdout.splitlines())
    assert isinstance(failure, BuildFailure)
    assert failure.remedy


@pytest.mark.parametrize("end", ["signal", "reader gone"])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, end: str) -> None:
    """The build waits for another one, so that there is time to interrupt it."""
    bundle, cache = build_tiny_bundle(tmp_path).path, tmp_path / "engines"
    with EngineCache(cache).locked(lambda _: True):
        process = subprocess.Popen(
            command(bundle, cache, "--precision=fp32", "--progress=json"), stdout=subprocess.PIPE, cwd="/"
        )
        try:
            assert process.stdout is not None
            assert b"waiting for another build" in process.stdout.readline()
            if end == "signal":
                os.kill(process.pid, signal.SIGINT)
            else:
                process.stdout.close()
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.communicate() if end == "signal" else process.wait()
    assert [path.name for path in cache.iterdir()] == ["lock"]
