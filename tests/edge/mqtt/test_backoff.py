"""Pauses between attempts, and how frames share the link."""

from __future__ import annotations

from edge.mqtt.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S, Backoff
from edge.mqtt.frame_sender import FIRST_FRAME_BYTES, FRAME_SHARE_S, MAX_FRAME_BYTES, MIN_FRAME_BYTES, FramePace


def test_pauses_are_spread_grow_to_a_limit_and_start_again() -> None:
    backoff = Backoff()
    pauses = [backoff.pause_s() for _ in range(200)]
    assert all(0 <= pause <= LONGEST_PAUSE_S for pause in pauses)
    assert pauses[0] <= FIRST_PAUSE_S
    late = pauses[10:]
    assert min(late) < 0.2 * LONGEST_PAUSE_S
    assert max(late) > 0.8 * LONGEST_PAUSE_S
    backoff.succeeded()
    assert backoff.pause_s() <= FIRST_PAUSE_S


def test_frames_keep_their_rate() -> None:
    pace = FramePace(120)
    assert pace.due_in_s(100.0) <= 0
    pace.sent(1000, 100.0)
    assert pace.due_in_s(100.0) == 0.5
    assert pace.due_in_s(100.5) <= 0


def test_on_a_fast_link_frames_double_until_they_have_their_full_size() -> None:
    pace = FramePace(600)
    for number in range(1, 5):
        pace.sent(pace.max_bytes, 10.0)
        pace.acknowledged(10.01)
        assert pace.max_bytes == min(FIRST_FRAME_BYTES << number, MAX_FRAME_BYTES)
    assert pace.max_bytes == MAX_FRAME_BYTES


def test_what_a_buffer_swallowed_does_not_make_the_next_frame_larger_than_twice_that() -> None:
    pace = FramePace(600)
    pace.sent(MIN_FRAME_BYTES, 10.0)
    pace.acknowledged(10.001)
    assert pace.max_bytes == FIRST_FRAME_BYTES


def test_a_small_frame_on_a_slow_answering_broker_shrinks_nothing() -> None:
    pace = FramePace(600)
    pace.sent(5000, 10.0)
    pace.acknowledged(10.0 + FRAME_SHARE_S / 2)
    assert pace.max_bytes == FIRST_FRAME_BYTES


def test_on_a_slow_link_frames_shrink_to_their_share_and_grow_again() -> None:
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
