"""The store of frames: what stays, what goes first, and what a broken disk does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge import frames as frames_module
from edge.errors import ProcunitError
from edge.frames import FrameStore, StoredFrame, jpeg_from_frame
from edge.messages import Decision, Frame, Inspection, PixelArray, Timings, Trigger, Verdict

NOW = "2026-01-01T00:00:00.000Z"


def noise(seed: int, *shape: int) -> PixelArray:
    """Pixels that no encoder can make much smaller."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def inspection_of(pixels: PixelArray | None, verdict: Verdict, *, audit: bool = False) -> Inspection:
    """A verdict on a frame."""
    frame = None if pixels is None else Frame("f", None, 1, NOW, 0, pixels)
    return Inspection(Trigger(1, "f", None, 1, NOW, 0, frame), Decision(verdict, (), audit=audit), None, Timings(), NOW)


def put(store: FrameStore, seq: int, verdict: Verdict, pixels: PixelArray | None = None) -> None:
    """Store one frame of some 10 kB."""
    assert store.put(inspection_of(noise(seq, 100, 100) if pixels is None else pixels, verdict), f"abc-{seq}")
    assert store.flush(5)


def names(folder: Path) -> set[str]:
    """Names of the files under a folder."""
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_frame_comes_back_lossless_and_says_what_it_is(tmp_path: Path) -> None:
    frames = {
        1: (noise(1, 50, 60), Verdict.PASS, "kept/abc-1.pass.png"),
        2: (noise(2, 50, 60, 3), Verdict.REJECT, "unsent/abc-2.reject.png"),
        3: (noise(3, 50, 60, 4), Verdict.REVIEW, "unsent/abc-3.review.png"),
        4: (noise(4, 50, 60).astype(np.uint16) * 257, Verdict.NOT_INSPECTED, "kept/abc-4.not_inspected.png"),
    }
    with FrameStore(tmp_path, 1 << 20) as store:
        for seq, (pixels, verdict, _) in frames.items():
            put(store, seq, verdict, pixels)
        assert store.put(inspection_of(noise(5, 50, 60), Verdict.PASS, audit=True), "abc-5")
    for pixels, _, name in frames.values():
        found = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert found is not None
        np.testing.assert_array_equal(found, pixels)
    assert (tmp_path / "unsent" / "abc-5.audit.png").is_file()


def test_a_part_without_a_frame_stores_nothing(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 1 << 20) as store:
        assert not store.put(inspection_of(None, Verdict.NOT_INSPECTED), "abc-1")
    assert names(tmp_path) == set()


def test_frames_are_sent_oldest_first_and_stay_when_sent(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 1 << 20) as store:
        put(store, 1, Verdict.PASS)
        put(store, 2, Verdict.REVIEW)
        put(store, 3, Verdict.REJECT)
        sent = []
        while (frame := store.next_unsent()) is not None:
            sent.append(frame.result_id)
            store.mark_sent(frame)
            store.mark_sent(frame)
        assert sent == ["abc-2", "abc-3"]
    assert names(tmp_path / "unsent") == set()
    assert names(tmp_path / "kept") == {"abc-1.pass.png", "abc-2.review.png", "abc-3.reject.png"}


def test_the_oldest_pass_goes_first(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 45_000) as store:
        put(store, 1, Verdict.REVIEW)
        for seq in (2, 3, 4, 5, 6):
            put(store, seq, Verdict.PASS)
    assert names(tmp_path) == {"abc-1.review.png", "abc-4.pass.png", "abc-5.pass.png", "abc-6.pass.png"}


def test_shown_frames_leave_half_of_the_quota_to_passes(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 45_000) as store:
        for seq in range(1, 7):
            put(store, seq, Verdict.REJECT)
        assert len(names(tmp_path)) == 4
        for seq in range(7, 12):
            put(store, seq, Verdict.PASS)
        assert names(tmp_path) == {"abc-5.reject.png", "abc-6.reject.png", "abc-10.pass.png", "abc-11.pass.png"}
        unsent = store.next_unsent()
        assert unsent is not None
        assert unsent.result_id == "abc-5"


def test_a_restart_knows_what_was_stored_and_what_was_sent(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 1 << 20) as store:
        for seq in (1, 2, 3):
            put(store, seq, Verdict.REJECT)
            os.utime(tmp_path / "unsent" / f"abc-{seq}.reject.png", (seq, seq))
        put(store, 4, Verdict.PASS)
        first = store.next_unsent()
        assert first is not None
        store.mark_sent(first)
    (tmp_path / ".abc-9.pass.png.partial").write_bytes(b"half")
    (tmp_path / "kept" / "notes.txt").write_text("somebody's own file")
    with FrameStore(tmp_path, 35_000) as store:
        frame = store.next_unsent()
        assert frame is not None
        assert frame.result_id == "abc-2"
    assert names(tmp_path) == {"abc-2.reject.png", "abc-3.reject.png", "abc-4.pass.png", "notes.txt"}


def test_frames_that_come_too_fast_are_dropped_passes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "MAX_WAITING_BYTES", 4 * 4_000_000)
    pixels = noise(1, 2000, 2000)
    with FrameStore(tmp_path, 1 << 30) as store:
        put(store, 1, Verdict.PASS)
        taken = {
            seq: store.put(inspection_of(pixels, Verdict.REJECT if seq > 6 else Verdict.PASS), f"abc-{seq}")
            for seq in range(2, 13)
        }
        assert sum(not was_taken for was_taken in taken.values()) == store.dropped
        assert not taken[6]
        assert taken[7]
        assert not taken[12]
    assert names(tmp_path) == {"abc-1.pass.png"} | {
        f"abc-{seq}.{'reject' if seq > 6 else 'pass'}.png" for seq, was_taken in taken.items() if was_taken
    }


def test_a_disk_that_cannot_be_written_is_told_and_recovers(tmp_path: Path) -> None:
    with FrameStore(tmp_path / "frames", 1 << 20) as store:
        shutil.rmtree(tmp_path / "frames")
        put(store, 1, Verdict.PASS)
        assert isinstance(store.error, OSError)
        for folder in ("unsent", "kept"):
            (tmp_path / "frames" / folder).mkdir(parents=True)
        put(store, 2, Verdict.PASS)
        assert store.error is None
    assert names(tmp_path / "frames") == {"abc-2.pass.png"}


def test_a_frame_that_no_file_can_hold_is_told(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 1 << 20) as store:
        put(store, 1, Verdict.PASS, np.zeros((10, 10, 7), np.uint8))
        assert store.error is not None
        put(store, 2, Verdict.PASS)
        assert store.error is None


def test_a_frame_removed_by_somebody_else_is_forgotten(tmp_path: Path) -> None:
    with FrameStore(tmp_path, 1 << 20) as store:
        put(store, 1, Verdict.REJECT)
        frame = store.next_unsent()
        assert frame is not None
        frame.path.unlink()
        with pytest.raises(OSError, match="No such file"):
            jpeg_from_frame(frame, 1 << 20)
        store.mark_sent(frame)
        assert store.next_unsent() is None


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProcunitError, match="frames' folder"):
        FrameStore(tmp_path / "file", 1 << 20)


@pytest.mark.parametrize("max_bytes", [900_000, 60_000, 20_000, 6_000])
def test_a_jpeg_fits_the_limit_and_shows_the_whole_frame(tmp_path: Path, max_bytes: int) -> None:
    jpeg = jpeg_from_frame(stored(tmp_path, noise(1, 400, 300)), max_bytes)
    assert jpeg is not None
    assert len(jpeg) <= max_bytes
    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.shape[0] / pixels.shape[1] == pytest.approx(4 / 3, rel=0.02)


def test_a_frame_that_never_fits_gives_no_jpeg(tmp_path: Path) -> None:
    assert jpeg_from_frame(stored(tmp_path, noise(1, 400, 300)), 300) is None


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_and_alpha_become_an_ordinary_jpeg(tmp_path: Path, channels: int) -> None:
    pixels = np.full((64, 64, channels), 40_000, np.uint16)
    jpeg = jpeg_from_frame(stored(tmp_path, pixels), 100_000)
    assert jpeg is not None
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.shape == (64, 64, 3)
    assert decoded.mean() == pytest.approx(156, abs=2)


def test_a_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    for content in (b"", b"no image"):
        path = tmp_path / "abc-1.reject.png"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no image"):
            jpeg_from_frame(StoredFrame("abc-1", path, len(content), shown=True), 1000)


def stored(folder: Path, pixels: PixelArray) -> StoredFrame:
    """A frame on disk."""
    path = folder / "abc-1.reject.png"
    assert cv2.imwrite(str(path), pixels)
    return StoredFrame("abc-1", path, path.stat().st_size, shown=True)
