"""The list of workers is the list of threads, and what they and others call a problem becomes a fault."""

from __future__ import annotations

import re
import threading
from pathlib import Path

from edge.faults import FaultId
from edge.line.supervisor import merged_problems
from edge.worker import Problems
from tests.support.device import Device
from tests.support.lines import constructed_line

OVERVIEW = Path(__file__).parents[3] / "docs" / "code-overview.md"
OTHERS = {"main (supervise)", "camera", "paho's own"}
"""Rows of the table that are no workers: the first thread, and those that capture and a connection start and stop."""


def rows_of_threads() -> list[str]:
    """The first column of the table of threads."""
    table = OVERVIEW.read_text(encoding="utf-8").partition("\n| thread |")[2].partition("\n\n")[0]
    return [row.split("|")[1].strip() for row in table.splitlines()[2:]]


def test_the_table_of_threads_is_the_list_of_workers(device: Device) -> None:
    with constructed_line(device) as line:
        names = [worker.name for worker in line.workers]
        running = {thread.name for thread in threading.enumerate()}
    assert sorted(rows_of_threads()) == sorted([*names, *OTHERS])
    assert {"outbox", "frames"} <= running


def test_every_worker_of_a_line_says_what_can_be_wrong_and_has_no_problem_before_it_starts(device: Device) -> None:
    with constructed_line(device) as line:
        problems = merged_problems(line.watched)
        assert all(worker.stop() for worker in line.workers)
    told = {fault_id for fault_id, problem in problems.items() if problem is not None}
    assert told == set()
    assert problems.keys() >= {
        FaultId.OUTBOX_FAILED,
        FaultId.DISK_LOW,
        FaultId.FRAMES_FAILED,
        FaultId.FRAMES_DROPPED,
        FaultId.BROKER_UNREACHABLE,
        FaultId.COMMAND_FLOOD,
        FaultId.DISARMED,
    }


class Told:
    """Something with these problems."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def problems(self) -> Problems:
        """See `Watched`."""
        return self._problems


def test_a_fault_that_several_can_have_is_over_when_none_has_it() -> None:
    fine, low, failed = FaultId.OVERLOAD, FaultId.DISK_LOW, FaultId.FRAMES_FAILED
    watched = [
        Told({low: "one", failed: None}),
        Told({low: None, fine: None}),
        Told({low: "two", failed: "same"}),
        Told({failed: "same"}),
    ]
    assert merged_problems(watched) == {low: "one; two", failed: "same", fine: None}


def test_the_paths_of_the_table_exist() -> None:
    table = OVERVIEW.read_text(encoding="utf-8").partition("\n| thread |")[2].partition("\n\n")[0]
    codes = [row.split("|")[2] for row in table.splitlines()[2:]]
    paths = [path for code in codes for path in re.findall(r"`([^`]+)`", code)]
    assert len(paths) > 10
    assert [path for path in paths if not (OVERVIEW.parents[1] / "edge" / path).is_file()] == []
