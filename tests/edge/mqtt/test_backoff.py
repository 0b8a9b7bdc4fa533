"""Pauses between attempts to connect, and the pace and size of frames."""

from __future__ import annotations

from edge.mqtt.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, Backoff
from edge.mqtt.frame_sender import FIRST_FRAME_BYTES, FRAME_SHARE_S, MAX_FRAME_BYTES, MIN_FRAME_BYTES, FramePace


def test_pauses_are_random_grow_to_a_limit_and_are_short_again_after_a_success() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_s() for _ in range(200)]
    assert all(0 <= pause <= LONGEST_PAUSE_S for pause in pauses)
    assert pauses[0] <= FIRST_PAUSE_S
    late = pauses[10:]
    assert min(late) < 0.2 * LONGEST_PAUSE_S
    assert max(late) > 0.8 * LONGEST_PAUSE_S
    backoff.succeeded()
    assert backoff.pause_s() <= FIRST_PAUSE_S


def test_the_next_frame_is_due_after_one_interval() -> None:
    pace = FramePace(120)
    assert pace.due_in_s(100.0) <= 0
    pace.sent(1000, 100.0)
    assert pace.due_in_s(100.0) == 0.5
    assert pace.due_in_s(100.5) <= 0


def test_on_a_fast_link_the_size_doubles_up_to_the_maximum() -> None:
    pace = FramePace(600)
    for number in range(1, 5):
        pace.sent(pace.max_bytes, 10.0)
        pace.acknowledged(10.01)
        assert pace.max_bytes == min(FIRST_FRAME_BYTES << number, MAX_FRAME_BYTES)
    assert pace.max_bytes == MAX_FRAME_BYTES


def test_a_fast_puback_allows_at_most_twice_the_size_sent_because_a_buffer_may_have_absorbed_it() -> None:
    pace = FramePace(600)
    pace.sent(MIN_FRAME_BYTES, 10.0)
    pace.acknowledged(10.001)
    assert pace.max_bytes == FIRST_FRAME_BYTES


def test_a_small_frame_acknowledged_within_its_share_does_not_reduce_the_size() -> None:
    pace = FramePace(600)
    pace.sent(5000, 10.0)
    pace.acknowledged(10.0 + FRAME_SHARE_S / 2)
    assert pace.max_bytes == FIRST_FRAME_BYTES


def test_on_a_slow_link_the_size_shrinks_to_the_share_of_a_frame_and_grows_again() -> None:
    pace = FramePace(600)
    bytes_per_s = 125_000  # 1 Mbit/s
    now_s = 0.0
    for _ in range(3):
        pace.sent(pace.max_bytes, now_s)
        now_s += pace.max_bytes / bytes_per_s
        pace.acknowledged(now_s)
    assert abs(pace.max_bytes - FRAME_SHARE_S * bytes_per_s) < 100
    pace.sent(pace.max_bytes, now_s)
    pace.acknowledged(now_s + 60)
    assert pace.max_bytes == MIN_FRAME_BYTES
    pace.sent(pace.max_bytes, now_s)
    pace.acknowledged(now_s + 0.01)
    assert pace.max_bytes == 2 * MIN_FRAME_BYTES
