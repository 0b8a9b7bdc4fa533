"""The demonstration's line on a tiny bundle: real broker, daemon and live view; it leaves nothing when stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import cv2
import pytest

from tests.support.tiny_bundle import build_tiny_bundle, defect_image, good_image
from tests.tools.processes import MARK, ROOT, alive_with_mark, new_mark, wait_until
from tools.demo.broker import Subscriber, start_broker
from tools.demo.children import Children
from tools.demo.line import DEVICE, LineSetup, run_line
from tools.demo.replay import ReplayPart, write_replay_list
from tools.demo.summary import delivery_of, distinct_results, rows_by_truth

PROCUNIT = str(Path(sys.executable).with_name("procunit"))
DRIVER = """
import sys
from pathlib import Path
from tests.tools.demo.test_line import PROCUNIT, tiny_setup
from tools.demo.children import Children, Stopped
from tools.demo.line import run_line
setup = tiny_setup(Path(sys.argv[1]), parts=500, rate=60.0)
try:
    with Children(lambda command: None) as children:
        run_line(children, PROCUNIT, setup, 500)
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


def tiny_setup(folder: Path, *, parts: int, rate: float | str) -> LineSetup:
    """A line of good parts with every fourth scratched."""
    bundle = build_tiny_bundle(folder / "tiny")
    rows = []
    for number in range(parts):
        truth = "scratch" if number % 4 == 3 else "good"
        file = folder / f"{number % 40}.png"
        if not file.exists():
            cv2.imwrite(str(file), defect_image(number) if truth == "scratch" else good_image(number))
        rows.append(ReplayPart(file.name, f"part-{number}", truth))
    write_replay_list(folder / "line.csv", rows)
    return LineSetup(folder, bundle.path, bundle.public_key, folder / "line.csv", rate)


def ignore(_command: list[str]) -> None:
    """No terminal to print command lines on."""


def test_every_part_of_the_line_gets_one_result(tmp_path: Path) -> None:
    setup = tiny_setup(tmp_path, parts=40, rate="max")
    announced: list[list[str]] = []
    with Children(announced.append) as children:
        received = run_line(children, PROCUNIT, setup, 40)
    assert delivery_of(received, 40).holds
    truths = {counter: "scratch" if counter % 4 == 0 else "good" for counter in range(1, 41)}
    good, scratch = rows_by_truth(distinct_results(received), truths)
    assert (good.photographs, scratch.photographs, scratch.called) == (30, 10, {"scratch": 10})
    assert received[0].device == DEVICE.device
    assert received[0].is_simulated
    assert [command[1] for command in announced[1:]] == ["check-config", "watch", "run"]
    assert "mosquitto" in announced[0][0]


def test_a_daemon_that_cannot_start_is_reported_with_its_last_log_lines(tmp_path: Path) -> None:
    setup = tiny_setup(tmp_path, parts=2, rate="max")
    (setup.bundle / "model.onnx").write_bytes(b"changed")
    with (
        pytest.raises(click.ClickException, match=r"(?s)exit status 2.*model\.onnx"),
        Children(ignore) as children,
    ):
        run_line(children, PROCUNIT, setup, 2)


def test_a_broker_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.demo.broker._START_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(click.ClickException, match="not confirm"):
        Subscriber(silent.getsockname()[1], "a/b")


def test_a_broker_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tools.demo.broker._CONFIG", "listener {port} {host}\nnonsense true\n")
    with pytest.raises(click.ClickException, match="did not start"), Children(ignore) as children:
        start_broker(children, tmp_path / "broker")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_line_stopped_while_it_runs_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    mark = new_mark()
    environment = {**os.environ, MARK: mark}
    with (tmp_path / "watch.log").open("wb") as output:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, env=environment, stdout=output
        )
    wait_until(lambda: "part-2" in (tmp_path / "watch.log").read_text(), 20)
    assert len(alive_with_mark(mark)) == 4, "the driver, mosquitto, the live view, the daemon"
    driver.send_signal(number)
    assert driver.wait(60) == 128 + number
    assert alive_with_mark(mark) == []
    assert "stopped after" in (tmp_path / "daemon.log").read_text(), "the daemon was given time to stop in order"
