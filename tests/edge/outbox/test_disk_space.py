"""Disk space of the outbox: how long acknowledged messages are kept, and results on a nearly full disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.messages import Trigger
from edge.outbox import disk_space
from edge.outbox import writer as outbox_writer
from edge.outbox.disk_space import RETAINED_S, retention_s
from edge.outbox.outbox import Outbox

PAYLOAD = bytes(3000)
PAGE_BYTES = 4096
DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def _tends_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_writer, "_HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(outbox_writer, "_RETRY_S", 0.01)
    monkeypatch.setattr(disk_space, "RESERVE_BYTES", 0)


def hand_in_results(outbox: Outbox, first_seq: int, last_seq: int) -> None:
    """Hand in triggers with results, without waiting for the disk."""
    for seq in range(first_seq, last_seq + 1):
        outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0, None))
        outbox.close_trigger(seq, PAYLOAD)


def stored(path: Path) -> list[tuple[int, str]]:
    """Number and state of every stored result."""
    with sqlite3.connect(path) as db:
        return db.execute("SELECT seq, state FROM messages ORDER BY message_id").fetchall()


def page_count(path: Path) -> int:
    """Pages of the database, including those that are only in the log."""
    with sqlite3.connect(path) as db:
        return int(db.execute("PRAGMA page_count").fetchone()[0])


def free_bytes(path: Path) -> int:
    """Free pages inside the file."""
    with sqlite3.connect(path) as db:
        return int(db.execute("PRAGMA freelist_count").fetchone()[0]) * PAGE_BYTES


def used_bytes(path: Path) -> int:
    """Pages in use."""
    return page_count(path) * PAGE_BYTES - free_bytes(path)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail after 40 s."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_when_the_database_is_large_acknowledged_results_are_deleted_and_pending_ones_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "RETAINED_BYTES", 1_000_000)
    monkeypatch.setattr(disk_space, "_TRIM_ROWS", 10)
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 500)
        assert outbox.flush(40)
        time.sleep(0.1)
        assert len(stored(path)) == outbox.backlog() == 500
        outbox.acknowledge(range(1, 401))
        wait_until(lambda: used_bytes(path) <= 1_000_000)
        kept = stored(path)
        assert 200 < len(kept) < 300
        assert kept[-1] == (500, "pending")
        assert kept == [(seq, "acknowledged" if seq <= 400 else "pending") for seq in range(kept[0][0], 501)]
        assert outbox.backlog() == 100


def test_refused_results_are_deleted_only_when_no_acknowledged_one_can_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "RETAINED_BYTES", 1_000_000)
    monkeypatch.setattr(disk_space, "_TRIM_ROWS", 10)
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 400)
        outbox.acknowledge(range(101, 401))
        for message_id in range(1, 101):
            outbox.quarantine(message_id, "the broker refused it: Not authorized")
        assert outbox.flush(40)
        wait_until(lambda: used_bytes(path) <= 1_000_000)
        kept = stored(path)
        assert [seq for seq, state in kept if state == "quarantined"] == list(range(1, 101))
        hand_in_results(outbox, 401, 800)
        for message_id in range(401, 801):
            outbox.quarantine(message_id, "the broker refused it: Not authorized")
        assert outbox.flush(40)
        wait_until(lambda: used_bytes(path) <= 1_000_000)
        kept = stored(path)
        assert {state for _, state in kept} == {"quarantined"}
        assert [seq for seq, _ in kept] == list(range(kept[0][0], 801))


class SteppingClock:
    """The wall clock, `step_s` away from where it was; a monotonic clock that has gone on by `slept_s`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step_s = self.slept_s = 0.0
        wall_s, monotonic_s = time.time, time.monotonic
        monkeypatch.setattr("time.time", lambda: wall_s() + self.step_s)
        monkeypatch.setattr("edge.outbox.running_time.time", self)
        self.monotonic = lambda: monotonic_s() + self.slept_s


def test_refused_results_are_not_deleted_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "o.sqlite", SteppingClock(monkeypatch)
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 2)
        assert outbox.flush(40)
        outbox.quarantine(1, "the broker refused it: Not authorized")
        outbox.acknowledge([2])
        assert outbox.flush(40)
        clock.slept_s += 2 * RETAINED_S
        wait_until(lambda: stored(path) == [(1, "quarantined")])


def test_acknowledged_results_are_kept_while_the_device_runs_for_seven_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "o.sqlite", SteppingClock(monkeypatch)
    for seq, days_until_next in ((1, 0.9), (2, 0.2), (3, 6.8), (4, 0.1)):
        with Outbox(path) as outbox:  # every start adds to the count
            hand_in_results(outbox, seq, seq)
            outbox.acknowledge([seq])
            assert outbox.flush(40)
            clock.slept_s += days_until_next * DAY_S
    with Outbox(path) as outbox:
        wait_until(lambda: [seq for seq, _ in stored(path)] == [3, 4])
        clock.slept_s += 7 * DAY_S
        wait_until(lambda: stored(path) == [])


@pytest.mark.parametrize("step_days", [9, -9, 3650, -20_000])
def test_a_step_of_the_clock_deletes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_days: int) -> None:
    path, clock = tmp_path / "o.sqlite", SteppingClock(monkeypatch)
    tended: list[float] = []
    tend = disk_space.DiskSpace.tend

    def tend_and_note(space: disk_space.DiskSpace) -> None:
        tend(space)
        tended.append(clock.step_s)

    monkeypatch.setattr(disk_space.DiskSpace, "tend", tend_and_note)
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 20)
        outbox.acknowledge(range(1, 11))
        assert outbox.flush(40)
        for step_s in (step_days * DAY_S, 0.0):
            clock.step_s = step_s
            tended.clear()
            wait_until(lambda: len(tended) > 3)
            outbox.acknowledge(range(11, 21))
            assert outbox.flush(40)
        assert outbox.replays.ask(outbox.epoch, 1, 20) == 20
    clock.step_s = step_days * DAY_S
    with Outbox(path) as outbox:
        tended.clear()
        wait_until(lambda: len(tended) > 3)
        assert outbox.replays.ask(outbox.epoch, 1, 20) == 20


def test_messages_settled_by_the_wall_clock_of_an_older_version_age_from_now_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "o.sqlite", SteppingClock(monkeypatch)
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 3)
        outbox.acknowledge([1, 2])
        assert outbox.flush(40)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE running")
        db.execute("UPDATE messages SET settled_s = ? WHERE seq = 1", (time.time() - 9 * DAY_S,))
        db.execute("UPDATE messages SET settled_s = NULL WHERE seq = 2")
    with Outbox(path) as outbox:
        clock.slept_s += 6.9 * DAY_S
        time.sleep(0.1)
        assert [seq for seq, _ in stored(path)] == [1, 2, 3]
        clock.slept_s += 0.2 * DAY_S
        wait_until(lambda: stored(path) == [(3, "pending")])
        assert outbox.backlog() == 1


def test_the_filler_grows_to_its_full_size_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "RESERVE_BYTES", 6 << 20)
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        wait_until(lambda: path.stat().st_blocks * 512 > 6 << 20)
        time.sleep(0.1)
        assert path.stat().st_size < 7 << 20
        assert outbox.shortage is None


def test_on_a_full_disk_results_use_the_filler_then_replace_acknowledged_ones_then_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "RESERVE_BYTES", 2 << 20)
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        hand_in_results(outbox, 1, 200)
        outbox.acknowledge(range(1, 201))
        wait_until(lambda: path.stat().st_size > 2 << 20)
        assert outbox.shortage is None
        monkeypatch.setattr(disk_space, "LOW_DISK_BYTES", 1 << 62)
        wait_until(lambda: outbox.shortage is not None)
        pages = page_count(path)  # some may be only in the log: copying them into the file is not growth
        hand_in_results(outbox, 201, 400)
        assert outbox.flush(40)
        hand_in_results(outbox, 401, 2000)
        wait_until(lambda: outbox.error is not None and outbox.backlog() > 300)
        assert "full" in str(outbox.error)
        assert "MB of reserved space" in str(outbox.shortage)
        time.sleep(0.2)
        states = stored(path)
        assert {state for _, state in states} == {"pending"}
        assert [seq for seq, _ in states] == list(range(201, 201 + len(states)))
        assert page_count(path) == pages
        assert path.stat().st_size <= pages * PAGE_BYTES
        monkeypatch.setattr(disk_space, "LOW_DISK_BYTES", 0)
        assert outbox.flush(40)
        assert outbox.error is None
        assert [m.seq for m in outbox.unacknowledged(0, 5000)] == list(range(201, 2001))


def test_the_log_and_the_ballast_are_allocated_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    ballast, log = tmp_path / "o.sqlite.ballast", tmp_path / "o.sqlite-wal"
    with Outbox(path):
        assert log.stat().st_blocks * 512 >= disk_space.LOG_BYTES
    assert not log.exists()
    assert ballast.stat().st_blocks * 512 >= disk_space.BALLAST_BYTES


def test_how_long_results_are_kept_depends_on_the_rate() -> None:
    assert retention_s(0.1, 1000) == RETAINED_S
    assert retention_s(2, 1500) == pytest.approx(3.07 * 24 * 3600, rel=0.01)
    assert retention_s(500, 1000) == pytest.approx(1591, rel=0.01)
