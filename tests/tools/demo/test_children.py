"""The demonstration's child processes: none outlives it, whatever it does and whenever it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.tools.processes import MARK, ROOT, alive_with_mark, new_mark, wait_until
from tools.demo.children import Children, Stopped, has_ended
from tools.line_simulator.writing import dataset_photos, write_dataset

STUBBORN = """
import signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("up", flush=True)
time.sleep(60)
"""


def ignore(_command: list[str]) -> None:
    """No terminal to print command lines on."""


def test_a_command_is_run_and_a_failing_one_is_named() -> None:
    announced: list[list[str]] = []
    with Children(announced.append) as children:
        children.run([sys.executable, "-c", "pass"])
        assert announced == [[sys.executable, "-c", "pass"]]
        with pytest.raises(click.ClickException, match="failed with exit status 3"):
            children.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_output_goes_into_the_log(tmp_path: Path) -> None:
    with Children(ignore) as children:
        process = children.start([sys.executable, "-c", "print('hello')"], log=tmp_path / "log")
        wait_until(lambda: has_ended(process))
        children.stop(process)
        assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_child_gets_time_to_clean_up(tmp_path: Path) -> None:
    polite = (
        "import signal, sys, time\n"
        "def leave(*_):\n time.sleep(0.3); print('tidied', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGINT, leave); print('up', flush=True); time.sleep(60)"
    )
    with Children(ignore) as children:
        process = children.start([sys.executable, "-c", polite], log=tmp_path / "log")
        wait_until(lambda: "up" in (tmp_path / "log").read_text())
    assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "up\ntidied\n"


def test_leaving_kills_a_stubborn_child_and_its_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tools.demo.children._GRACE_S", ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2)))
    mark = new_mark()
    monkeypatch.setenv(MARK, mark)
    with pytest.raises(RuntimeError), Children(ignore) as children:  # noqa: PT012  (the block is what is tested)
        process = children.start([sys.executable, "-c", STUBBORN], log=tmp_path / "log")
        wait_until(lambda: "up" in (tmp_path / "log").read_text())
        assert len(alive_with_mark(mark)) == 2
        raise RuntimeError
    assert process.returncode == -signal.SIGKILL
    assert alive_with_mark(mark) == []


def test_processes_left_by_a_finished_child_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = new_mark()
    monkeypatch.setenv(MARK, mark)
    forking = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with Children(ignore) as children:
        children.run([sys.executable, "-c", forking])
        assert alive_with_mark(mark) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait_and_the_old_handler_is_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, Children(ignore) as children:  # noqa: PT012  (the block is what is tested)
        process = children.start([sys.executable, "-c", "import time; time.sleep(60)"])
        os.kill(os.getpid(), number)
        while True:
            children.pause()
    assert caught.value.number == number
    assert process.returncode is not None
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demonstration_stopped_while_rendering_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    mark = new_mark()
    demo = start_demo(mark, "--out", str(tmp_path / "demo"))
    wait_until(lambda: any((tmp_path / "demo").glob(".parts.*.partial/good/*.png")))
    assert len(alive_with_mark(mark)) == 2
    assert_stops(demo, number, mark)
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [".procunit-demo"]


def test_the_demonstration_stopped_while_training_leaves_nothing(tmp_path: Path) -> None:
    mark = new_mark()
    write_dataset(tmp_path / "parts", 7, dataset_photos({"good": 20, "scratch": 8}))
    demo = start_demo(mark, "--out", str(tmp_path / "demo"), "--data", str(tmp_path / "parts"))
    wait_until(lambda: any(" train " in command for command in alive_with_mark(mark)))
    assert_stops(demo, signal.SIGINT, mark)
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [".procunit-demo"]


def start_demo(mark: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.demo", *options]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=subprocess.PIPE, text=True)


def assert_stops(demo: subprocess.Popen[str], number: signal.Signals, mark: str) -> None:
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 128 + number
    assert "nothing is left running" in output
    assert alive_with_mark(mark) == []
