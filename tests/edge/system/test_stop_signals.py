"""Stop signals, sent to the test process itself."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from edge.system.stop_signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_wakes_a_waiting_thread(number: signal.Signals) -> None:
    with StopSignals() as signals:
        assert not signals.wait(0.01)
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        started_s = time.monotonic()
        assert signals.wait(60)
        assert time.monotonic() - started_s < 5
        assert signals.wait(0)


def test_a_signal_before_the_wait_is_not_lost() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(0)


def test_the_second_signal_ends_the_process() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.wait(1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_the_default_handlers_are_restored() -> None:
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
