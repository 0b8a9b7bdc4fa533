"""The drills' counting finds missing, reordered and repeated results."""

from __future__ import annotations

import pytest

from tools.drills.mqtt.count import count_of


@pytest.mark.parametrize(
    ("numbers", "missing", "out_of_order", "duplicates", "passed"),
    [
        ([1, 2, 3, 4], [], 0, 0, True),
        ([1, 2, 4], [3], 0, 0, False),
        ([1, 3, 2, 4], [], 1, 0, False),
        ([1, 2, 3, 2, 3, 4], [], 0, 2, False),
        ([1, 3, 2, 3], [4], 1, 1, False),
    ],
)
def test_missing_reordered_and_repeated_results_are_counted(
    numbers: list[int], missing: list[int], out_of_order: int, duplicates: int, passed: bool
) -> None:
    count = count_of(numbers, 4)
    assert (count.missing, count.out_of_order, count.duplicates) == (missing, out_of_order, duplicates)
    assert count.figure("drill", "").passed is passed
