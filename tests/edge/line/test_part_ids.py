"""Part ids: one that is dropped, late or doubled affects only its own part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.contract.commands import PartIdArgs
from edge.line.part_ids import MAX_HELD, PartIds
from edge.system.clock import utc_from_unix_s

BEGAN_S = 1_800_000_000.0
SPACING_S = 1.0
HALF_WINDOW_S = 0.4


def by_counter(part_id: str, counter: int) -> PartIdArgs:
    return PartIdArgs.model_validate({"partId": part_id, "counter": counter})


def by_window(part_id: str, after_s: float, before_s: float) -> PartIdArgs:
    window = {"after": utc_from_unix_s(BEGAN_S + after_s), "before": utc_from_unix_s(BEGAN_S + before_s)}
    return PartIdArgs.model_validate({"partId": part_id, **window})


def at(time_s: float) -> str:
    return utc_from_unix_s(BEGAN_S + time_s)


def claim_of(part: int, *, windows: bool) -> PartIdArgs:
    """The true claim of a part: part n passes at n seconds under counter n."""
    if windows:
        return by_window(f"P{part}", part * SPACING_S - HALF_WINDOW_S, part * SPACING_S + HALF_WINDOW_S)
    return by_counter(f"P{part}", part)


@st.composite
def lines(draw: st.DrawFn) -> list[tuple[str, int]]:
    """A random order of events: claims (dropped, repeated, early, late) and the triggers that were not missed."""
    parts = list(range(1, draw(st.integers(1, 12)) + 1))
    missed = draw(st.sets(st.sampled_from(parts)))
    claims = draw(st.lists(st.sampled_from(parts), max_size=20))
    happenings = [("trigger", part) for part in parts if part not in missed]
    for part in claims:
        happenings.insert(draw(st.integers(0, len(happenings))), ("claim", part))
    return happenings


@pytest.mark.parametrize("windows", [False, True], ids=["counter", "window"])
@given(line=lines())
def test_every_assigned_id_is_the_parts_own_and_every_claim_in_time_is_assigned(
    windows: bool, line: list[tuple[str, int]]
) -> None:
    part_ids = PartIds()
    claimed: set[int] = set()
    for what, part in line:
        if what == "claim":
            part_ids.claim(claim_of(part, windows=windows))
            claimed.add(part)
        else:
            binding = part_ids.bind(part, at(part * SPACING_S))
            assert binding.part_id == (f"P{part}" if part in claimed else None)


@given(
    claims=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40), st.integers(1, 30)), max_size=8),
    triggers=st.lists(st.integers(0, 60), min_size=1, max_size=8),
)
def test_no_two_parts_get_the_same_id_and_an_ambiguous_part_gets_none(
    claims: list[tuple[int, int, int]], triggers: list[int]
) -> None:
    part_ids = PartIds()
    windows: dict[str, tuple[float, float]] = {}
    for index, (_, start, width) in enumerate(claims):
        windows[f"P{index}"] = (start / 10, (start + width) / 10)
        part_ids.claim(by_window(f"P{index}", *windows[f"P{index}"]))
    given_ids = []
    for counter, time in enumerate(sorted(triggers), start=1):
        fitting = {name for name, (after, before) in windows.items() if after <= time / 10 <= before}
        part_id = part_ids.bind(counter, at(time / 10)).part_id
        assert part_id is None or fitting == {part_id}
        given_ids.append(part_id)
    bound = [part_id for part_id in given_ids if part_id is not None]
    assert len(bound) == len(set(bound))


def test_a_dropped_claim_leaves_its_part_without_an_id_and_is_reported() -> None:
    part_ids = PartIds()
    for counter in (1, 3):
        assert part_ids.claim(by_counter(f"P{counter}", counter)) is None
    bindings = [part_ids.bind(counter, at(counter)) for counter in (1, 2, 3)]
    assert [binding.part_id for binding in bindings] == ["P1", None, "P3"]
    assert bindings[1].problem is not None
    assert "no part id arrived for counter 2" in bindings[1].problem


def test_a_line_that_sends_no_part_ids_gets_no_problems() -> None:
    assert PartIds().bind(1, at(1)).problem is None


def test_a_late_claim_is_refused_and_a_repeated_one_is_not() -> None:
    part_ids = PartIds(last_counter=6)
    part_ids.claim(by_counter("P7", 7))
    part_ids.bind(7, at(7))
    assert part_ids.claim(by_counter("P7", 7)) is None
    for late in (by_counter("X", 7), by_counter("P6", 6), by_window("X", 6.9, 7.1), by_window("X", 5, 6)):
        refused = part_ids.claim(late)
        assert refused is not None
        assert "too late" in refused
    assert part_ids.bind(8, at(8)).part_id is None


def test_two_ids_for_one_counter_give_it_neither() -> None:
    part_ids = PartIds()
    part_ids.claim(by_counter("A", 1))
    refused = part_ids.claim(by_counter("B", 1))
    assert refused is not None
    assert part_ids.bind(1, at(1)).part_id is None


@pytest.mark.parametrize(("second", "bound"), [("A", "A"), ("B", None)])
def test_counter_and_window_must_agree(second: str, bound: str | None) -> None:
    part_ids = PartIds()
    part_ids.claim(by_counter("A", 1))
    part_ids.claim(by_window(second, 0.9, 1.1))
    assert part_ids.bind(1, at(1)).part_id == bound


def test_a_second_trigger_in_a_window_gets_no_id() -> None:
    part_ids = PartIds()
    part_ids.claim(by_window("A", 0, 2))
    assert [part_ids.bind(n, at(n)).part_id for n in (1, 2)] == ["A", None]


def test_a_window_that_reaches_back_to_the_previous_trigger_is_not_used() -> None:
    part_ids = PartIds()
    part_ids.bind(1, at(1))
    part_ids.claim(by_window("A", 1.5, 3))
    assert part_ids.bind(2, at(2)).part_id is None


def test_a_missed_part_uses_up_no_window() -> None:
    part_ids = PartIds()
    part_ids.claim(by_window("P2", 1.9, 2.1))
    assert part_ids.bind(1, None).part_id is None
    assert part_ids.bind(2, at(2)).part_id == "P2"


def test_a_counter_that_starts_again_gets_no_id_from_before() -> None:
    part_ids = PartIds()
    part_ids.bind(100, at(1))
    part_ids.claim(by_counter("OLD", 102))
    binding = part_ids.bind(1, at(2))
    assert binding.problem is not None
    assert "the counter went back" in binding.problem
    assert all(part_ids.bind(n, at(n + 1)).part_id is None for n in range(2, 104))


def test_a_clock_that_goes_back_gives_no_id_from_before() -> None:
    part_ids = PartIds()
    part_ids.bind(1, at(100))
    part_ids.claim(by_window("OLD", 101, 101.5))
    binding = part_ids.bind(2, at(50))
    assert binding.problem is not None
    assert "the clock went back" in binding.problem
    assert part_ids.bind(3, at(101.2)).part_id is None


def test_ids_that_match_no_part_are_reported_and_dropped() -> None:
    part_ids = PartIds()
    for n in range(MAX_HELD - 1):
        assert part_ids.claim(by_counter(f"P{n}", 10_000 + n)) is None
    part_ids.claim(by_window("W", 0, 1))
    refused = part_ids.claim(by_counter("X", 1))
    assert refused is not None
    assert "wait for their parts already" in refused
    binding = part_ids.bind(1, at(5))
    assert binding.problem is not None
    assert "'W': no part came in its window" in binding.problem
    assert "'P0': no part with counter 10000 came" in binding.problem
    assert part_ids.claim(by_counter("P2", 2)) is None
    too_far = part_ids.claim(by_counter("P9", 5000))
    assert too_far is not None


@pytest.mark.parametrize(
    "binding",
    [
        {},
        {"counter": 1, "after": "2026-01-01T00:00:00Z", "before": "2026-01-01T00:00:01Z"},
        {"after": "2026-01-01T00:00:00Z"},
        {"after": "2026-01-01T00:00:01Z", "before": "2026-01-01T00:00:01Z"},
        {"counter": -1},
        {"counter": 1.0},
        {"counter": True},
        {"after": "2026-02-30T00:00:00Z", "before": "2026-03-01T00:00:01Z"},
    ],
)
def test_a_claim_names_a_counter_or_a_window(binding: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PartIdArgs.model_validate({"partId": "P1", **binding})
