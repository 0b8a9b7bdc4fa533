"""SIGKILL in mid-run, several times: every trigger has exactly one result at an independent subscriber, in order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.faults import FaultId
from edge.messages import NotInspected
from tests.support.broker import Broker, Received, Subscriber
from tests.support.device import PATIENT, distinct, events_of, new_device, results_of
from tests.support.hanging_daemon import HANGS_AT

PARTS = 200
KILLS = 3


def at_least(count: int) -> Callable[[list[Received]], bool]:
    """True once that many different results have arrived."""
    return lambda messages: len(distinct(results_of(messages))) >= count


@pytest.mark.slow
def test_every_trigger_has_exactly_one_result_whatever_is_killed(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path / "device", broker.port, PARTS)
    device.camera["parts_per_min"] = 4000
    device.sections["inspection"] = PATIENT
    device.write_settings()
    with Subscriber(broker) as subscriber:
        for kill in range(1, KILLS + 1):
            process = device.start()
            try:
                subscriber.wait_for(at_least(kill * PARTS // (KILLS + 2)), 15)
                time.sleep(0.013 * kill)  # each kill at another point between trigger and PUBACK
                assert process.poll() is None, device.log_text
            finally:
                process.kill()
                process.wait()
        assert device.run() == 0
        messages = subscriber.wait_for(lambda m: distinct(results_of(m))[-1].counter == PARTS)
    results = distinct(results_of(messages))
    assert [r.seq for r in results] == list(range(1, len(results) + 1))
    counters = [r.counter for r in results]
    assert counters == list(range(1, PARTS + 1))
    assert {r.not_inspected for r in results} <= {None, NotInspected.RESTART}
    assert len({r.epoch for r in results}) == 1


def test_the_part_in_the_engine_at_the_kill_becomes_restart(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path / "device", broker.port, 8)
    device.camera["parts_per_min"] = 6000
    device.sections["inspection"] = PATIENT
    device.write_settings()
    with Subscriber(broker) as subscriber:
        process = device.start(sys.executable, "-m", "tests.support.hanging_daemon")
        try:
            subscriber.wait_for(lambda m: len(results_of(m)) == HANGS_AT - 1)
            time.sleep(0.3)
        finally:
            process.kill()
            process.wait()
        assert device.run() == 0
        messages = subscriber.wait_for(lambda m: distinct(results_of(m))[-1].counter == 8)
    results = distinct(results_of(messages))
    assert [(r.seq, r.counter) for r in results] == [(n, n) for n in range(1, 9)]
    assert [r.not_inspected for r in results] == [None] * 2 + [NotInspected.RESTART] * 6
    assert "6 parts from 3 to 8" in next(e.detail for e in events_of(messages) if e.fault is FaultId.RESTARTED)
