"""The outbox: nothing is lost and nothing stored twice, whatever stops the process."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.messages import Trigger
from edge.outbox import command_memory as outbox_commands
from edge.outbox import database as outbox_database
from edge.outbox import writer as outbox_writer
from edge.outbox.outbox import MessageKind, Outbox, StoredMessage
from edge.outbox.refused_messages import Refusal, Returned
from edge.outbox.replays import MAX_REPLAYS
from edge.worker import Worker, WorkerState
from tests.support.publishing import wait_until

REPOSITORY = Path(__file__).parents[3]


def trigger(seq: int, counter: int | None = None) -> Trigger:
    """A trigger without a frame; the journal stores no frames."""
    return Trigger(seq, f"f{seq}", f"part-{seq}", seq if counter is None else counter, "2026-01-01T00:00:00Z", 0)


def fill(outbox: Outbox, count: int, padding: bytes = b"") -> None:
    """Store `count` triggers with results."""
    first = outbox.next_seq()
    for seq in range(first, first + count):
        outbox.open_trigger(trigger(seq))
        outbox.close_trigger(seq, b'{"seq": %d}' % seq + padding)
    assert outbox.flush(40)


def stored_results(path: Path) -> list[int]:
    """Sequence numbers of all stored results in any state, read directly from the file."""
    with sqlite3.connect(path) as db:
        return [row[0] for row in db.execute("SELECT seq FROM messages WHERE kind = 'result' ORDER BY seq")]


def test_results_and_events_come_back_in_the_order_in_which_they_were_handed_in(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        for seq in (1, 2, 3):
            outbox.open_trigger(trigger(seq, counter=seq + 40))
        outbox.close_trigger(2, b"second")
        outbox.put_event(b"event")
        outbox.close_trigger(1, b"first")
        assert outbox.flush(40)
        messages = outbox.unacknowledged(0, 10)
        assert [(m.kind, m.seq, m.topic, m.payload) for m in messages] == [
            (MessageKind.RESULT, 2, "result", b"second"),
            (MessageKind.EVENT, None, "event", b"event"),
            (MessageKind.RESULT, 1, "result", b"first"),
        ]
        assert {m.epoch for m in messages} == {outbox.epoch}
        assert [t.seq for t in outbox.open_triggers()] == [3]
        assert (outbox.next_seq(), outbox.last_counter(), outbox.backlog()) == (4, 43, 3)
        assert outbox.wakeup.is_set()
        assert [m.payload for m in outbox.unacknowledged(messages[0].message_id, 1)] == [b"event"]


def test_a_new_outbox_is_empty_and_reopening_keeps_its_epoch(tmp_path: Path) -> None:
    path = tmp_path / "state" / "o.sqlite"
    with Outbox(path) as outbox:
        epoch = outbox.epoch
        assert (outbox.next_seq(), outbox.last_counter(), outbox.set_aside) == (1, None, None)
        fill(outbox, 3)
    with Outbox(path) as outbox:
        assert outbox.epoch == epoch
        assert (outbox.next_seq(), outbox.backlog()) == (4, 3)


def test_a_second_result_for_a_trigger_is_dropped(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        outbox.open_trigger(trigger(1))
        outbox.close_trigger(1, b"first")
        outbox.close_trigger(1, b"again")
        assert outbox.flush(40)
        outbox.close_trigger(1, b"and again")
        assert outbox.flush(40)
        assert [m.payload for m in outbox.unacknowledged(0, 10)] == [b"first"]


def test_quarantined_and_acknowledged_messages_leave_the_backlog_and_stay_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        fill(outbox, 3)
        first, second, third = outbox.unacknowledged(0, 10)
        outbox.acknowledge([first.message_id])
        outbox.quarantine(second.message_id, "too large")
        outbox.acknowledge([second.message_id])
        assert outbox.flush(40)
        assert outbox.unacknowledged(0, 10) == [third]
    with sqlite3.connect(path) as db:
        states = db.execute("SELECT state, reason FROM messages ORDER BY message_id").fetchall()
    assert states == [("acknowledged", None), ("quarantined", "too large"), ("pending", None)]


def test_refused_messages_return_by_kind_and_reason_and_those_too_large_when_they_fit(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        fill(outbox, 6)
        outbox.put_event(b"event")
        assert outbox.flush(5)
        ids = [m.message_id for m in outbox.unacknowledged(0, 10)]
        for message_id in (ids[0], ids[2], ids[6]):
            outbox.quarantine(message_id, f"{Refusal.ANSWER.value}Not authorized")
        outbox.quarantine(ids[1], f"{Refusal.HANG_UP.value}3 times in a row: closed")
        outbox.quarantine(ids[3], f"9{Refusal.TOO_LARGE.value}8")
        assert outbox.flush(5)
        forbidden, hung_up, event = outbox.refused.groups()
        assert [g.hung_up for g in (forbidden, hung_up, event)] == [False, True, False]
        assert [g.kind for g in (forbidden, hung_up, event)] == ["result", "result", "event"]
        first = outbox.refused.next_of(forbidden, 0)
        assert first is not None
        assert (first.message_id, first.refusal) == (ids[0], forbidden.reason)
        second = outbox.refused.next_of(forbidden, first.message_id)
        assert second is not None
        assert second.message_id == ids[2]
        assert outbox.refused.next_of(forbidden, ids[2]) == first
        assert outbox.backlog() == 2
        outbox.refused.accept(first.message_id)
        assert outbox.flush(5)
        assert outbox.refused.return_group(forbidden) == Returned(1, ids[2])
        assert outbox.refused.return_fitting(1) == Returned(0, 0)
        assert outbox.refused.return_fitting(1000) == Returned(1, ids[3])
        assert outbox.flush(5)
        assert outbox.refused.groups() == [hung_up, event]
        assert [m.message_id for m in outbox.unacknowledged(0, 10)] == ids[2:6]
        assert outbox.backlog() == 4


def test_a_replay_counts_and_sends_what_was_refused_but_not_what_is_too_large(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        fill(outbox, 5)
        ids = [m.message_id for m in outbox.unacknowledged(0, 10)]
        outbox.acknowledge(ids[:2])
        outbox.quarantine(ids[2], f"{Refusal.ANSWER.value}Not authorized")
        outbox.quarantine(ids[4], f"9{Refusal.TOO_LARGE.value}8")
        assert outbox.flush(5)
        assert outbox.replays.ask(outbox.epoch, 2, 5) == 3  # one of each state; the pending one is sent in any case
        assert outbox.flush(5)
        assert [(m.seq, m.refusal is not None) for m in outbox.replays.page(None, 10)] == [(2, False), (3, True)]


def test_another_process_can_ask_whether_the_outbox_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    program = (
        "import sys; from pathlib import Path; from edge.outbox.database import in_use; "
        "print(in_use(Path(sys.argv[1])))"
    )

    def answer() -> str:
        command = [sys.executable, "-c", program, str(path)]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()

    assert answer() == "False"
    with Outbox(path):
        assert answer() == "True"
    assert answer() == "False"


@pytest.mark.parametrize("damage", ["header", "middle", "within a page", "truncated", "not a database"])
def test_a_damaged_database_is_set_aside_and_a_new_epoch_begins(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        old_epoch = outbox.epoch
        fill(outbox, 300)
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:64] = bytes(64)
    elif damage == "middle":
        content[4096:] = random.Random(1).randbytes(len(content) - 4096)  # noqa: S311
    elif damage == "within a page":
        page = 4096 * (len(content) // 4096 // 2)
        content[page : page + 100] = random.Random(1).randbytes(100)  # noqa: S311
    elif damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content = bytearray(b"this is not a database\n" * 500)
    path.write_bytes(content)
    with Outbox(path) as outbox:
        assert outbox.epoch != old_epoch
        assert outbox.set_aside == tmp_path / "o.sqlite.damaged-1"
        assert outbox.set_aside.read_bytes() == content
        fill(outbox, 2)
        assert outbox.backlog() == 2
    path.write_bytes(content)
    with Outbox(path) as outbox:
        assert outbox.set_aside == tmp_path / "o.sqlite.damaged-2"


def test_a_leftover_log_of_a_damaged_database_does_not_reach_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        fill(outbox, 300)
    with Outbox(path) as outbox:
        fill(outbox, 1)
        log = path.with_name("o.sqlite-wal").read_bytes()
    path.write_bytes(b"damaged" * 1000)
    path.with_name("o.sqlite-wal").write_bytes(log)
    with Outbox(path) as outbox:
        assert (outbox.backlog(), outbox.next_seq()) == (0, 1)


def test_a_database_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    Outbox(path).stop()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ProcunitError, match="schema 99"):
        Outbox(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    Outbox(path).stop()


def test_a_database_of_schema_1_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(f"{outbox_database._JOURNAL_AND_MESSAGES} PRAGMA user_version = 1;")
        db.execute("INSERT INTO journal VALUES ('e1', 4, 44)")
        db.execute("INSERT INTO triggers VALUES (4, 'f4', NULL, 44, '2026-01-01T00:00:00Z')")
        db.executemany(
            "INSERT INTO messages (kind, seq, topic, payload, state) VALUES ('result', ?, 'result', ?, ?)",
            [(1, b"one", "acknowledged"), (2, b"two", "quarantined"), (3, b"three", "pending")],
        )
    with Outbox(path) as outbox:
        assert (outbox.epoch, outbox.next_seq(), outbox.last_counter(), outbox.set_aside) == ("e1", 5, 44, None)
        assert [left.seq for left in outbox.open_triggers()] == [4]
        outbox.close_trigger(4, b"four")
        assert outbox.flush(40)
        assert [(m.seq, m.payload) for m in outbox.unacknowledged(0, 10)] == [(3, b"three"), (4, b"four")]
        assert all(m.created_at_utc > "2026" and not m.replayed for m in outbox.unacknowledged(0, 10))
        assert outbox.replays.ask("e1", 1, 4) == 4
        assert outbox.flush(40)
        again = [(m.seq, m.payload, m.replayed) for m in outbox.replays.page(None, 10)]
        assert again == [(1, b"one", True), (2, b"two", True)]
    assert stored_results(path) == [1, 2, 3, 4]


def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProcunitError, match="cannot open the outbox"):
        Outbox(tmp_path / "file" / "o.sqlite")
    (tmp_path / "o.sqlite").mkdir()
    with pytest.raises(ProcunitError, match="cannot open the outbox"):
        Outbox(tmp_path / "o.sqlite")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    program = "import sys; from pathlib import Path; from edge.outbox.outbox import Outbox; Outbox(Path(sys.argv[1]))"
    with Outbox(path):
        other = subprocess.run(
            [sys.executable, "-c", program, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
    assert other.returncode == 1
    assert "another process uses this outbox" in other.stderr


def test_a_file_that_another_program_has_locked_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.outbox.database._BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "o.sqlite"
    Outbox(path).stop()
    with sqlite3.connect(path, isolation_level=None) as browser:
        browser.execute("PRAGMA locking_mode = EXCLUSIVE")
        browser.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ProcunitError, match=r"database is locked\. Close the program that has the file open"):
            Outbox(path)
    browser.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")
@pytest.mark.parametrize("used_before", [True, False])
def test_a_file_system_that_became_read_only_is_called_so(tmp_path: Path, used_before: bool) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(tmp_path)], check=True)
    try:
        if used_before:
            Outbox(tmp_path / "state" / "o.sqlite").stop()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        with pytest.raises(ProcunitError, match="Read-only file system") as caught:
            Outbox(tmp_path / "state" / "o.sqlite")
        assert "mounted read-only" in str(caught.value)
        assert "disk is not full" not in str(caught.value)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_writes_that_fail_wait_and_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.outbox.database._BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(outbox_writer, "_RETRY_S", 0.05)
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        outbox.open_trigger(trigger(1))
        outbox.close_trigger(1, b"kept")
        assert not outbox.flush(0.5)
        assert "locked" in str(outbox.error)
        other.execute("COMMIT")
        other.close()
        assert outbox.flush(40)
        assert outbox.error is None
        assert [m.payload for m in outbox.unacknowledged(0, 10)] == [b"kept"]


def test_closing_while_the_disk_fails_leaves_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.outbox.database._BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(outbox_writer, "_MAX_BATCH", 1)
    path = tmp_path / "o.sqlite"
    outbox = Outbox(path)
    outbox.start()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for seq in (1, 2, 3):
        outbox.open_trigger(trigger(seq))
    started = time.monotonic()
    outbox.stop()
    assert time.monotonic() - started < 5
    other.execute("COMMIT")
    other.close()
    with Outbox(path) as reopened:
        assert reopened.next_seq() == 1


def hang_at_commit(outbox: Outbox) -> threading.Event:
    """From now on a commit does not return before the event is set."""
    answers = threading.Event()

    def hang(sql: str) -> None:
        if sql == "COMMIT":
            answers.wait()

    outbox._database.writer.set_trace_callback(hang)
    return answers


def test_a_commit_that_does_not_return_is_a_fault_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_writer, "COMMIT_DEADLINE_S", 0.2)
    outbox = Outbox(tmp_path / "o.sqlite")
    worker: Worker = outbox  # mypy holds it to the interface
    states = [worker.state]
    answers = hang_at_commit(outbox)
    with outbox:
        hand_in_one_part(outbox)
        wait_until(lambda: worker.problems()[FaultId.OUTBOX_FAILED] is not None)
        assert re.fullmatch(r"the disk has not answered for \d+ s", worker.problems()[FaultId.OUTBOX_FAILED] or "")
        assert outbox.error is None
        assert not outbox.flush(0.1)
        answers.set()
        assert outbox.flush(40)
        assert worker.problems() == {FaultId.OUTBOX_FAILED: None, FaultId.DISK_LOW: None}
        states.append(worker.state)
    assert [*states, worker.state] == [WorkerState.WAITING, WorkerState.RUNNING, WorkerState.ENDED]
    assert worker.stop()


def test_the_stop_gives_up_a_commit_that_does_not_return_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outbox, "stop_s", 0.3)
    outbox = Outbox(tmp_path / "o.sqlite")
    answers = hang_at_commit(outbox)
    outbox.start()
    hand_in_one_part(outbox)
    before_s = time.monotonic()
    assert not outbox.stop()
    assert time.monotonic() - before_s < 20
    assert outbox.unstored == 1
    answers.set()
    wait_until(lambda: outbox.state is WorkerState.ENDED)


def hand_in_one_part(outbox: Outbox) -> None:
    """Hand in one part, and do not wait for the disk."""
    outbox.open_trigger(trigger(1))
    outbox.close_trigger(1, b"{}")


def test_what_was_handed_in_before_the_start_is_committed_even_if_only_stopped(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.sqlite")
    hand_in_one_part(outbox)
    assert outbox.stop()
    with Outbox(tmp_path / "o.sqlite") as reopened:
        assert [m.seq for m in reopened.unacknowledged(0, 10)] == [1]


def test_a_failed_writer_is_reported_and_accepts_nothing(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        outbox.open_trigger(trigger(1))
        outbox.open_trigger(trigger(1))
        assert not outbox.flush(5)
        assert isinstance(outbox.error, sqlite3.IntegrityError)
        assert outbox.state is WorkerState.FAILED
        assert outbox.problems()[FaultId.OUTBOX_FAILED] == str(outbox.error)
        with pytest.raises(RuntimeError, match="outbox is closed"):
            outbox.put_event(b"lost")


@pytest.mark.parametrize("met_by", ["reading", "writing"])
def test_damage_found_while_running_ends_the_outbox_and_the_next_start_sets_it_aside(
    tmp_path: Path, met_by: str
) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        fill(outbox, 1500, bytes(3000))  # more than the cache of a connection
    with Outbox(path) as outbox:
        old_epoch = outbox.epoch
        intact = path.read_bytes()
        path.write_bytes(intact[:4096] + bytes(len(intact) - 4096))
        if met_by == "reading":
            assert outbox.unacknowledged(0, 100) == [], "who sends goes on, to tell it over the live connection"
        else:
            outbox.acknowledge(range(1, 1501))
            assert not outbox.flush(5)
        assert "malformed" in str(outbox.error)
        assert outbox.refused.groups() == []
        assert outbox.refused.return_fitting(1 << 20).count == 0
        with pytest.raises(RuntimeError, match="outbox is closed"):
            outbox.put_event(b"lost")
    path.write_bytes(intact)  # the check at the next start finds no damage
    with Outbox(path) as outbox:
        assert outbox.set_aside == tmp_path / "o.sqlite.damaged-1"
        assert outbox.epoch != old_epoch
        fill(outbox, 1)
    with Outbox(path) as outbox:
        assert outbox.set_aside is None


def test_an_impossible_replay_is_refused_with_its_reason(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o.sqlite") as outbox:
        fill(outbox, 20)
        outbox.acknowledge(range(1, 21))
        assert outbox.replays.ask(outbox.epoch, 21, 30) == 0
        with pytest.raises(ProcunitError, match="epoch e1 is not stored here"):
            outbox.replays.ask("e1", 1, 2)
        with pytest.raises(ProcunitError, match="3 to 2 is no range"):
            outbox.replays.ask(outbox.epoch, 3, 2)
        for seq in range(1, MAX_REPLAYS + 1):
            assert outbox.replays.ask(outbox.epoch, seq, 1000) == 21 - seq
        assert outbox.flush(40)
        with pytest.raises(ProcunitError, match="16 replays wait"):
            outbox.replays.ask(outbox.epoch, 1, 2)


def test_replays_survive_a_restart_and_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    with Outbox(path) as outbox:
        fill(outbox, 6)
        outbox.acknowledge(range(1, 7))
        outbox.replays.ask(outbox.epoch, 4, 99)
        outbox.replays.ask(outbox.epoch, 1, 2)
        outbox.flush(5)
        outbox.replays.acknowledge(outbox.replays.page(None, 1)[0])
        fill(outbox, 3)
    with Outbox(path) as outbox:
        assert outbox.backlog() == 3
        sent: list[StoredMessage] = []
        while page := outbox.replays.page(sent[-1] if sent else None, 1):
            sent += page
        assert [m.seq for m in sent] == [5, 6, 1, 2]


def test_a_command_is_remembered_until_it_expires_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_commands, "MAX_COMMANDS", 2)
    path, now = tmp_path / "o.sqlite", datetime.now(timezone.utc)
    with Outbox(path) as outbox:
        assert not outbox.command_memory.seen("c1")
        outbox.command_memory.remember("c1", now + timedelta(hours=1))
        assert outbox.command_memory.seen("c1")
        outbox.command_memory.remember("c2", now - timedelta(seconds=1))
        outbox.command_memory.remember("c3", now + timedelta(hours=1))
        with pytest.raises(ProcunitError, match="are remembered that have not expired"):
            outbox.command_memory.remember("c4", now + timedelta(hours=1))
    with Outbox(path) as outbox:
        assert [outbox.command_memory.seen(cmd_id) for cmd_id in ("c1", "c2", "c3", "c4")] == [True, False, True, False]


_VICTIM = textwrap.dedent(
    """
    import random, sys
    from pathlib import Path
    from edge.messages import Trigger
    from edge.outbox.outbox import Outbox

    outbox = Outbox(Path(sys.argv[1]))
    outbox.start()
    draw = random.Random(int(sys.argv[2]))
    for left in outbox.open_triggers():
        outbox.close_trigger(left.seq, b"restart")
    seq, waiting = outbox.next_seq(), []
    while True:
        outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, "2026-01-01T00:00:00Z", 0))
        waiting.append(seq)
        seq += 1
        while waiting and draw.random() < 0.6:
            outbox.close_trigger(waiting.pop(0), b"x" * draw.randrange(1, 3000))
        if draw.random() < 0.2:
            outbox.flush(5)
            print(seq - 1, flush=True)
        if draw.random() < 0.1:
            outbox.acknowledge([message.message_id for message in outbox.unacknowledged(0, 20)])
    """
)


def test_sigkill_at_any_moment_leaves_every_journalled_trigger_open_or_with_one_result(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite"
    draw = random.Random(7)  # noqa: S311
    last_round_seq = 0
    for round_number in range(8):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(path), str(round_number)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.25))
        victim.kill()
        committed = [int(line) for line in victim.communicate()[0].split("\n")[:-1]]
        with Outbox(path) as outbox:
            assert outbox.set_aside is None
            open_now = [left.seq for left in outbox.open_triggers()]
            last_seq = outbox.next_seq() - 1
        assert sorted(open_now + stored_results(path)) == list(range(1, last_seq + 1))
        assert last_seq >= max(committed, default=0)
        assert last_seq > last_round_seq
        last_round_seq = last_seq


class OutboxMachine(RuleBasedStateMachine):
    """Calls in any order, with restarts in between, compared with a simple model."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.outbox = Outbox(self.directory / "o.sqlite")
        self.outbox.start()
        self.open: list[int] = []
        self.pending: dict[int, bytes] = {}
        self.results: dict[int, int] = {}
        self.settled: set[int] = set()
        self.replay: tuple[int, int] | None = None
        self.stored = 0
        self.last_seq = 0

    @rule()
    def trigger_comes(self) -> None:
        self.last_seq += 1
        self.outbox.open_trigger(trigger(self.last_seq))
        self.open.append(self.last_seq)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), payload=st.binary(max_size=50))
    def result_is_stored(self, data: st.DataObject, payload: bytes) -> None:
        seq = data.draw(st.sampled_from(self.open))
        self.outbox.close_trigger(seq, payload)
        self.open.remove(seq)
        self._store(payload)
        self.results[self.stored] = seq

    @precondition(lambda self: self.last_seq > len(self.open))
    @rule(data=st.data())
    def result_is_stored_twice(self, data: st.DataObject) -> None:
        closed = sorted(set(range(1, self.last_seq + 1)) - set(self.open))
        self.outbox.close_trigger(data.draw(st.sampled_from(closed)), b"second")

    @rule(payload=st.binary(max_size=50))
    def event_is_put(self, payload: bytes) -> None:
        self.outbox.put_event(payload)
        self._store(payload)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), quarantined=st.booleans())
    def message_is_settled(self, data: st.DataObject, quarantined: bool) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.pending)))
        if quarantined:
            self.outbox.quarantine(message_id, "refused")
        else:
            self.outbox.acknowledge([message_id])
        if message_id in self.results:
            self.settled.add(self.results[message_id])
        del self.pending[message_id]

    @precondition(lambda self: self.results and self.replay is None)
    @rule(data=st.data())
    def replay_is_asked_for(self, data: st.DataObject) -> None:
        first, last = sorted(data.draw(st.tuples(*[st.integers(1, self.last_seq)] * 2)))
        stored = [seq for seq in self.results.values() if first <= seq <= last]
        assert self.outbox.replays.ask(self.outbox.epoch, first, last) == len(stored)
        self.replay = (first, max(stored)) if stored else None

    @precondition(lambda self: self.replay is not None)
    @rule(data=st.data(), limit=st.integers(1, 5))
    def replay_goes_on(self, data: st.DataObject, limit: int) -> None:
        assert self.replay is not None
        first, last = self.replay
        expected = [seq for seq in sorted(self.settled) if first <= seq <= last]
        page = self.outbox.replays.page(None, limit)
        assert [m.seq for m in page] == expected[:limit]
        assert all(m.replayed for m in page)
        self.replay = None
        if page:
            delivered = data.draw(st.sampled_from(page))
            assert delivered.seq is not None
            later = [m.seq for m in self.outbox.replays.page(delivered, 1000)]
            assert later == [seq for seq in expected if seq > delivered.seq]
            self.outbox.replays.acknowledge(delivered)
            self.replay = (delivered.seq + 1, last) if delivered.seq < last else None

    @rule()
    def process_restarts(self) -> None:
        self.outbox.stop()
        self.outbox = Outbox(self.directory / "o.sqlite")
        self.outbox.start()

    @invariant()
    def outbox_is_like_the_model(self) -> None:
        assert self.outbox.flush(40)
        assert [left.seq for left in self.outbox.open_triggers()] == self.open
        found = {m.message_id: m.payload for m in self.outbox.unacknowledged(0, 1000)}
        assert list(found.items()) == sorted(self.pending.items())
        assert self.outbox.next_seq() == self.last_seq + 1
        assert self.outbox.backlog() == len(self.pending)
        assert self.outbox.newest_id() == self.stored

    def teardown(self) -> None:
        self.outbox.stop()
        shutil.rmtree(self.directory)

    def _store(self, payload: bytes) -> None:
        self.stored += 1
        self.pending[self.stored] = payload


OutboxMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
