"""A driver on its own thread: answers, errors, and every call that can hang."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from edge.camera import driver as module
from edge.camera.driver import Driver
from edge.camera.source import CameraError, FrameError
from edge.errors import ProcunitError
from tests.doubles.separate_sources import Pulses
from tests.support.device import REPOSITORY
from tests.support.publishing import wait_until

PATIENT_S = 30.0


@pytest.fixture
def pulses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulses]:
    """A source of triggers that is opened again at once; what hangs in it is released at the end."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    source = Pulses()
    yield source
    source.release()


@pytest.fixture
def driver(pulses: Pulses) -> Iterator[Driver[Pulses]]:
    """The driver of `pulses`, not started; it is stopped at the end."""
    driver = Driver(pulses.open)
    yield driver
    pulses.release()
    driver.stop()
    assert driver.wait_stopped(PATIENT_S)


def started(driver: Driver[Pulses], last_counter: int | None = None) -> Driver[Pulses]:
    driver.start(lambda: last_counter)
    driver.wait_open(PATIENT_S)
    return driver


def next_counter(driver: Driver[Pulses], within_s: float = PATIENT_S) -> int | None:
    arrival = driver.call("wait_arrival", lambda source: source.wait_arrival(0.01), within_s)
    return arrival.counter if arrival else None


def fails(error: Exception) -> object:
    raise error


def test_calls_are_answered_on_a_thread_of_their_own(driver: Driver[Pulses], pulses: Pulses) -> None:
    pulses.give(7)
    assert next_counter(started(driver, 6)) == 7
    assert pulses.openings == [6]
    assert driver.call("thread", lambda _: threading.current_thread().name, PATIENT_S) == "camera"
    assert (driver.problem, driver.overdue_s) == (None, 0.0)


def test_a_lost_frame_is_an_answer(driver: Driver[Pulses], pulses: Pulses) -> None:
    with pytest.raises(FrameError, match="half"):
        started(driver).call("read_frame", lambda _: fails(FrameError("half of it")), PATIENT_S)
    assert driver.problem is None
    assert next_counter(driver) is None
    assert len(pulses.openings) == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CameraError("the cable is out"), "the cable is out"),
        (ZeroDivisionError("a mistake"), "ZeroDivisionError: a mistake"),
        (ProcunitError("a setting does not fit"), "a setting does not fit"),
    ],
)
def test_a_source_that_fails_is_opened_again(
    driver: Driver[Pulses], pulses: Pulses, error: Exception, text: str
) -> None:
    with pytest.raises(CameraError, match=text):
        started(driver).call("wait_arrival", lambda _: fails(error), PATIENT_S)
    assert driver.problem == text
    wait_until(lambda: len(pulses.openings) == 2)
    wait_until(lambda: answers(driver))
    assert driver.problem is None


def answers(driver: Driver[Pulses]) -> bool:
    try:
        next_counter(driver)
    except CameraError:
        return False
    return True


def test_a_call_that_hangs_is_told_and_its_late_answer_is_dropped(driver: Driver[Pulses], pulses: Pulses) -> None:
    started(driver)
    pulses.hang("wait_arrival")
    pulses.give(1)
    with pytest.raises(CameraError, match=r"hangs: `wait_arrival` has not returned since 2\d{3}-.*Z"):
        next_counter(driver, 0.05)
    with pytest.raises(CameraError, match="hangs"):  # at once
        next_counter(driver)
    wait_until(lambda: driver.overdue_s > 0.1)
    pulses.release()
    wait_until(lambda: len(pulses.openings) == 2)
    assert driver.problem is not None
    assert "returned after" in driver.problem
    pulses.give(2)
    wait_until(lambda: answers(driver))
    assert driver.problem is None


def test_opening_that_hangs_is_told(driver: Driver[Pulses], pulses: Pulses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_S", 0.05)
    pulses.hang("open")
    driver.start(lambda: None)
    driver.wait_open(0.01)
    wait_until(lambda: driver.overdue_s > 0)
    assert "`open` has not returned" in (driver.problem or "")
    with pytest.raises(CameraError, match="open"):
        next_counter(driver)
    pulses.release()
    wait_until(lambda: answers(driver))
    assert driver.problem is None
    assert len(pulses.openings) == 1


def test_closing_that_hangs_is_told_and_the_source_is_opened_once_it_is_closed(
    driver: Driver[Pulses], pulses: Pulses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)
    started(driver)
    pulses.hang("close")
    with pytest.raises(CameraError, match="out"):
        driver.call("wait_arrival", lambda _: fails(CameraError("the cable is out")), PATIENT_S)
    wait_until(lambda: driver.overdue_s > 0)
    assert "`close` has not returned" in (driver.problem or "")
    assert len(pulses.openings) == 1
    pulses.release()
    wait_until(lambda: answers(driver))
    assert (driver.problem, len(pulses.openings)) == (None, 2)


def test_settings_that_the_source_cannot_work_with_are_told_to_who_opens_it() -> None:
    driver: Driver[Pulses] = Driver(lambda _: fails(ProcunitError("no such model", remedy="Name another")))  # type: ignore[arg-type,return-value]
    driver.start(lambda: None)
    try:
        with pytest.raises(ProcunitError, match="no such model"):
            driver.wait_open(PATIENT_S)
    finally:
        driver.stop()
    assert driver.wait_stopped(PATIENT_S)


def test_a_driver_that_hangs_does_not_hold_up_the_stop(driver: Driver[Pulses], pulses: Pulses) -> None:
    started(driver)
    pulses.hang("wait_arrival")
    pulses.give(1)
    with pytest.raises(CameraError):
        next_counter(driver, 0.01)
    driver.stop()
    assert not driver.wait_stopped(0.01)


def test_a_driver_that_hangs_does_not_hold_up_the_end_of_the_program() -> None:
    program = (
        "import time\n"
        "from edge.camera.driver import Driver\n"
        "driver = Driver(lambda _: time.sleep(3600))\n"
        "driver.start(lambda: None)\n"
        "driver.wait_open(0.1)\n"
        "print('over')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "over\n"
