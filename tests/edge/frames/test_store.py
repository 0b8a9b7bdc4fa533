"""The frame store: what is kept, the order of eviction, and disk failures."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.frames import disk_room
from edge.frames import files as frame_files
from edge.frames import image as frame_image
from edge.frames import store as frames_module
from edge.frames.labels import Labeller, NeedsKeyError
from edge.frames.pin_record import MAX_HISTORY
from edge.frames.store import FrameStore
from edge.geometry import Geometry
from edge.messages import (
    MAIN_VIEW,
    Decision,
    Frame,
    Inspection,
    PinAnswer,
    PixelArray,
    Scores,
    Timings,
    Trigger,
    Verdict,
    View,
    of_main_view,
)
from edge.policy import Policy
from edge.system.files import write_whole
from edge.worker import WorkerState
from tests.support.publishing import wait_until
from tests.support.recipes import recipe_of

NOW = "2026-01-01T00:00:00.000Z"
GEOMETRY = Geometry(input_height_px=64, input_width_px=64)
QUOTA = 1 << 20
RELEASE = Labeller("m.huber", "release.pub")


RECIPE = recipe_of(Policy((), None), bundle_id="bundle-1", main=GEOMETRY)


def noise(seed: int, *shape: int) -> PixelArray:
    """Random pixels, which no encoder compresses much."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def inspection_of(
    pixels: PixelArray | None, verdict: Verdict, *, audit: bool = False, part_id: str | None = None
) -> Inspection:
    """An inspection with this verdict and a frame."""
    frame = None if pixels is None else Frame("f", part_id, 1, NOW, 0, pixels)
    maps = np.zeros((1, 2, 4, 4), np.float32)
    scores = None if verdict is Verdict.NOT_INSPECTED else Scores((0.25, float("nan")), 3.5, maps, maps[:, 0])
    trigger = Trigger(1, "f", part_id, 1, NOW, 0, () if frame is None else (View(MAIN_VIEW, frame),))
    of_views = () if scores is None else of_main_view(scores)
    return Inspection(trigger, Decision(verdict, (), audit=audit), of_views, Timings(), NOW)


def put(
    store: FrameStore, seq: int, verdict: Verdict, pixels: PixelArray | None = None, part_id: str | None = None
) -> None:
    """Store one frame: about 4 kB at model resolution, about 10 kB at full resolution."""
    taken = store.put(
        inspection_of(noise(seq, 100, 100) if pixels is None else pixels, verdict, part_id=part_id),
        f"abc-{seq}",
        RECIPE,
    )
    assert taken
    assert store.flush(40)


def open_store(folder: Path, quota_bytes: int = QUOTA) -> FrameStore:
    """A store for a small geometry."""
    return FrameStore(folder, quota_bytes)


def names(folder: Path) -> set[str]:
    """Paths of all files below a folder, as FOLDER/NAME."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_full_resolution_frames_are_lossless_and_contain_their_record(tmp_path: Path) -> None:
    frames = {
        2: (noise(2, 50, 60, 3), Verdict.REJECT, "unsent/abc-2.reject.png"),
        3: (noise(3, 50, 60, 4), Verdict.REVIEW, "unsent/abc-3.review.png"),
        4: (noise(4, 50, 60).astype(np.uint16) * 257, Verdict.NOT_INSPECTED, "kept/abc-4.not_inspected.png"),
    }
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.PASS)
        for seq, (pixels, verdict, _) in frames.items():
            put(store, seq, verdict, pixels)
        assert store.put(inspection_of(noise(5, 50, 60), Verdict.PASS, audit=True), "abc-5", RECIPE)
    for pixels, _, name in frames.values():
        found = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert found is not None
        np.testing.assert_array_equal(found, pixels)
    ring = {
        f"ring/abc-{seq}.{decided}.png" for seq, decided in ((1, "pass"), (2, "reject"), (3, "review"), (5, "audit"))
    }
    assert names(tmp_path) == {*ring, *(name for _, _, name in frames.values()), "unsent/abc-5.audit.png"}
    small = cv2.imread(str(tmp_path / "ring" / "abc-1.pass.png"), cv2.IMREAD_UNCHANGED)
    assert small is not None
    assert small.shape == (64, 64)


def test_a_part_without_a_frame_stores_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert not store.put(inspection_of(None, Verdict.NOT_INSPECTED), "abc-1", RECIPE)
    assert names(tmp_path) == set()


def test_frames_are_sent_oldest_first_and_kept_afterwards(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
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
    assert names(tmp_path / "kept") == {"abc-2.review.png", "abc-3.reject.png"}


def test_a_frame_is_sent_again_at_full_resolution_while_stored(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.PASS)
        put(store, 2, Verdict.REVIEW)
        frame = store.next_unsent()
        assert frame is not None
        store.mark_sent(frame)
        assert [store.resend(result_id) for result_id in ("abc-2", "abc-1", "abc-9")] == [True, True, False]
        again = []
        while (frame := store.next_unsent()) is not None:
            again.append(str(frame.path.relative_to(tmp_path)))
            store.mark_sent(frame)
        assert again == ["kept/abc-2.review.png", "ring/abc-1.pass.png"]
    assert names(tmp_path) == {"ring/abc-1.pass.png", "ring/abc-2.review.png", "kept/abc-2.review.png"}


def test_the_oldest_pass_is_evicted_first(tmp_path: Path) -> None:
    with open_store(tmp_path, 39_000) as store:
        put(store, 1, Verdict.REVIEW)
        for seq in range(2, 11):
            put(store, seq, Verdict.PASS)
    kept = {f"ring/abc-{seq}.pass.png" for seq in range(6, 11)}
    assert names(tmp_path) == {"unsent/abc-1.review.png", "ring/abc-1.review.png", *kept}


def test_passes_keep_half_of_the_quota_and_audits_are_evicted_before_rejects(tmp_path: Path) -> None:
    with open_store(tmp_path, 60_000) as store:
        put(store, 1, Verdict.REJECT)
        assert store.put(inspection_of(noise(2, 100, 100), Verdict.PASS, audit=True), "abc-2", RECIPE)
        put(store, 3, Verdict.REJECT)
        put(store, 4, Verdict.REJECT)
        for seq in range(5, 14):
            put(store, seq, Verdict.PASS)
        assert {int(name.split("-")[1].split(".")[0]) for name in names(tmp_path / "unsent")} == {3, 4}
        assert len(names(tmp_path / "ring")) > 6
        unsent = store.next_unsent()
        assert unsent is not None
        assert unsent.result_id == "abc-3"


def test_a_restart_finds_stored_and_unsent_frames(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for seq in (1, 2, 3):
            put(store, seq, Verdict.REJECT)
            for folder in ("unsent", "ring"):
                os.utime(tmp_path / folder / f"abc-{seq}.reject.png", (seq, seq))
        put(store, 4, Verdict.PASS)
        first = store.next_unsent()
        assert first is not None
        store.mark_sent(first)
    (tmp_path / ".abc-9.pass.png.partial").write_bytes(b"half")
    (tmp_path / "pinned" / ".abc-9.pass.json.partial").write_bytes(b"half")
    (tmp_path / "kept" / "notes.txt").write_text("somebody's own file")
    with open_store(tmp_path, 35_000) as store:
        frame = store.next_unsent()
        assert frame is not None
        assert frame.result_id == "abc-2"
    found = {name for name in names(tmp_path) if not name.startswith("ring")}
    assert found == {"unsent/abc-2.reject.png", "unsent/abc-3.reject.png", "kept/notes.txt"}


def test_the_number_of_files_is_limited_whatever_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_files, "MAX_FRAMES", 3)
    with open_store(tmp_path) as store:
        for seq in range(1, 7):
            put(store, seq, Verdict.PASS)
    assert names(tmp_path) == {f"ring/abc-{seq}.pass.png" for seq in (4, 5, 6)}


def test_frames_that_come_too_fast_are_dropped_passes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, "MAX_WAITING_BYTES", 4 * 4_000_000)
    may_write, really_write = threading.Event(), frame_image.png_from_pixels

    def write_when_told(pixels: PixelArray, record: dict[str, object]) -> bytes:
        may_write.wait(10)
        return really_write(pixels, record)

    monkeypatch.setattr(frames_module, "png_from_pixels", write_when_told)
    pixels = np.zeros((2000, 2000), np.uint8)
    with open_store(tmp_path, 1 << 30) as store:
        taken = [
            store.put(inspection_of(pixels, Verdict.REJECT if seq > 4 else Verdict.PASS), f"abc-{seq}", RECIPE)
            for seq in range(1, 9)
        ]
        assert taken == [True, True, False, False, True, True, False, False]
        assert store.dropped == 4
        may_write.set()
    assert names(tmp_path / "unsent") == {"abc-5.reject.png", "abc-6.reject.png"}


class HangingDisk:
    """Writes of image files that do not return before `answers` is set; `entered` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers, self.entered = threading.Event(), 0
        monkeypatch.setattr(frame_files, "write_whole", self._hang)

    def _hang(self, path: Path, data: bytes, *, durable: bool) -> None:
        self.entered += 1
        self.answers.wait()
        write_whole(path, data, durable=durable)


def test_a_disk_that_hangs_is_a_fault_and_holds_up_neither_inspection_nor_results_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "WRITE_DEADLINE_S", 0.2)
    monkeypatch.setattr(FrameStore, "stop_s", 0.5)
    monkeypatch.setattr(frames_module, "MAX_WAITING_BYTES", 25_000)
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
    disk = HangingDisk(monkeypatch)
    store = open_store(tmp_path)
    store.start()
    taken = [
        store.put(inspection_of(noise(seq, 100, 100), Verdict.REJECT, part_id="p"), f"abc-{seq}", RECIPE)
        for seq in (2, 3, 4)
    ]
    assert taken == [True, True, False]
    wait_until(lambda: store.problems()[FaultId.FRAMES_FAILED] is not None)
    assert re.fullmatch(r"writing a frame has taken \d+ s so far.*", store.problems()[FaultId.FRAMES_FAILED] or "")
    assert store.problems()[FaultId.FRAMES_DROPPED] == "1 since the start"
    assert disk.entered == 1
    assert store.next_unsent() is None  # abc-1 waits for the disk; it does not hold up results
    before_s = time.monotonic()
    assert not store.stop()
    assert time.monotonic() - before_s < 20
    assert store.dropped == 3
    disk.answers.set()
    wait_until(lambda: store.state is WorkerState.ENDED)
    assert store.problems()[FaultId.FRAMES_FAILED] is None
    unsent = store.next_unsent()
    assert unsent is not None
    assert unsent.result_id == "abc-1"


def test_after_a_disk_that_hung_for_a_while_every_frame_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "WRITE_DEADLINE_S", 0.1)
    disk = HangingDisk(monkeypatch)
    with open_store(tmp_path) as store:
        for seq in (1, 2):
            assert store.put(inspection_of(noise(seq, 100, 100), Verdict.REVIEW), f"abc-{seq}", RECIPE)
        wait_until(lambda: store.problems()[FaultId.FRAMES_FAILED] is not None)
        disk.answers.set()
        assert store.flush(40)
        assert store.problems() == {FaultId.FRAMES_FAILED: None, FaultId.FRAMES_DROPPED: None}
    assert names(tmp_path / "unsent") == {"abc-1.review.png", "abc-2.review.png"}


def test_an_unwritable_disk_is_reported_and_recovers(tmp_path: Path) -> None:
    with open_store(tmp_path / "frames") as store:
        shutil.rmtree(tmp_path / "frames")
        put(store, 1, Verdict.PASS)
        assert isinstance(store.error, OSError)
        for folder in ("ring", "unsent", "kept"):
            (tmp_path / "frames" / folder).mkdir(parents=True)
        put(store, 2, Verdict.PASS)
        assert store.error is None
    assert names(tmp_path / "frames") == {"ring/abc-2.pass.png"}


def test_on_a_nearly_full_disk_new_frames_replace_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        for seq in range(1, 6):
            put(store, seq, Verdict.PASS)
        monkeypatch.setattr(disk_room, "LOW_DISK_BYTES", 1 << 62)
        put(store, 6, Verdict.PASS)
        assert "new frames replace old ones" in str(store.error)
        assert {"ring/abc-5.pass.png", "ring/abc-6.pass.png"} <= names(tmp_path)
        assert len(names(tmp_path)) <= 5
    with open_store(tmp_path / "empty") as store:
        put(store, 1, Verdict.PASS)
        assert store.error is not None
        assert names(tmp_path / "empty") == set()


def test_a_frame_larger_than_the_quota_is_reported(tmp_path: Path) -> None:
    with open_store(tmp_path, 5_000) as store:
        put(store, 1, Verdict.REJECT)
        assert "does not fit the quota" in str(store.error)
        put(store, 2, Verdict.PASS)
        assert store.error is None


def test_a_frame_that_does_not_fit_replaces_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path, 60_000) as store:
        put(store, 1, Verdict.PASS, part_id="p")
        assert store.pin_part("p", "scratch") == PinAnswer(pinned=1)
        for seq in (2, 3):
            put(store, seq, Verdict.REJECT)
        before = names(tmp_path)
        put(store, 4, Verdict.NOT_INSPECTED, noise(4, 300, 300))
        assert "does not fit the quota of 0.0572 MB, of which pinned frames take" in str(store.error)
        assert names(tmp_path) == before


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.REJECT])
def test_on_a_nearly_full_disk_no_frame_replaces_a_pinned_one_and_a_pass_no_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    with open_store(tmp_path) as store:
        for seq in (1, 2):
            put(store, seq, Verdict.PASS, part_id="p")
        assert store.pin_part("p", "scratch") == PinAnswer(pinned=2)
        put(store, 3, Verdict.REJECT)
        pinned, others = names(tmp_path / "pinned"), names(tmp_path / "unsent")
        monkeypatch.setattr(disk_room, "LOW_DISK_BYTES", 1 << 62)
        for seq in range(4, 9):
            put(store, seq, verdict)
        assert "new frames replace old ones" in str(store.error)
        assert names(tmp_path / "pinned") == pinned
        newest = {"abc-8.reject.png"} if verdict is Verdict.REJECT else others
        assert names(tmp_path / "unsent") == newest


@pytest.mark.parametrize("quota", [25_000, 12_000, 0])
def test_a_smaller_quota_keeps_pinned_frames_and_says_that_they_exceed_it(tmp_path: Path, quota: int) -> None:
    with open_store(tmp_path) as store:
        for seq in (1, 2, 3):
            put(store, seq, Verdict.REJECT, part_id="p")
        assert store.pin_part("p", "scratch") == PinAnswer(pinned=3)
        pinned = names(tmp_path / "pinned")
    with open_store(tmp_path, quota) as store:
        assert "the pinned frames take 0.0306 MB, more than the quota" in str(store.error)
        put(store, 4, Verdict.REJECT)
        assert "does not fit" in str(store.error)
        assert names(tmp_path / "pinned") == pinned
    with open_store(tmp_path) as store:
        assert store.error is None
        put(store, 5, Verdict.REJECT)
        assert store.error is None
        assert names(tmp_path / "pinned") == pinned


@pytest.mark.parametrize("step_s", [9 * 86_400, -9 * 86_400])
def test_after_a_step_of_the_clock_the_oldest_frames_are_still_evicted_first(tmp_path: Path, step_s: int) -> None:
    with open_store(tmp_path) as store:
        for seq in (9, 10, 11):
            put(store, seq, Verdict.PASS)
    path = tmp_path / "ring" / "abc-10.pass.png"
    written_s = path.stat().st_mtime + step_s
    os.utime(path, (written_s, written_s))
    with open_store(tmp_path, 9_500):
        assert names(tmp_path) == {"ring/abc-10.pass.png", "ring/abc-11.pass.png"}


def test_a_frame_that_cannot_be_encoded_is_reported(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.NOT_INSPECTED, np.zeros((10, 10, 7), np.uint8))
        assert store.error is not None
        put(store, 2, Verdict.PASS)
        assert store.error is None


def test_a_frame_removed_by_somebody_else_is_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
        frame = store.next_unsent()
        assert frame is not None
        frame.path.unlink()
        store.mark_sent(frame)
        assert store.next_unsent() is None
        (tmp_path / "ring" / "abc-1.reject.png").unlink()
        assert store.pin_result("abc-1", "scratch") == PinAnswer()


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProcunitError, match="frames' folder"):
        open_store(tmp_path / "file")


def test_a_label_pins_every_frame_of_a_part_with_its_record(tmp_path: Path) -> None:
    part_id = "Teil/7 \U0001f600 " + "x" * 300
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.PASS, part_id=part_id)
        put(store, 2, Verdict.REVIEW, part_id=part_id)
        put(store, 3, Verdict.PASS, part_id="other")
        assert store.pin_part(part_id, "scratch") == PinAnswer(pinned=2)
        assert store.pin_part("never seen", "scratch") == PinAnswer()
        unsent = store.next_unsent()
        assert unsent is not None
        assert unsent.path.parent.name == "pinned"
        store.mark_sent(unsent)
        assert store.next_unsent() is None
    records = {path.stem.split(".")[0]: json.loads(path.read_text()) for path in (tmp_path / "pinned").glob("*.json")}
    (entry,) = records["abc-1"].pop("label_history")
    assert entry.pop("labelled_at_utc").endswith("Z")
    assert entry == {"label": "scratch", "by": None, "signed_by": None}
    assert records["abc-1"] == {
        "result_id": "abc-1",
        "part_id": part_id,
        "view": "main",
        "frame_id": "f",
        "triggered_at_utc": NOW,
        "verdict": "pass",
        "audit": False,
        "type_scores": [0.25, None],
        "anomaly_score": 3.5,
        "bundle_id": "bundle-1",
        "label": "scratch",
    }
    assert records.keys() == {"abc-1", "abc-2"}
    with open_store(tmp_path) as store:
        assert store.pin_result("abc-2", "good", RELEASE) == PinAnswer(pinned=1)
    (whole,) = (tmp_path / "pinned").glob("abc-2.*.png")
    assert json.loads(whole.with_suffix(".json").read_text())["label"] == "good"
    pixels = cv2.imread(str(whole), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, noise(2, 100, 100))


def history_of(folder: Path, result_id: str) -> list[tuple[str, str | None, str | None]]:
    """The labels of a pinned frame, oldest first: label, by, signed by."""
    (path,) = (folder / "pinned").glob(f"{result_id}.*.json")
    record = json.loads(path.read_text())
    assert record["label"] == record["label_history"][-1]["label"]
    return [(entry["label"], entry["by"], entry["signed_by"]) for entry in record["label_history"]]


def test_from_defect_to_good_needs_a_key_by_whatever_way(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for seq, part in ((1, "p"), (2, "p"), (3, None)):
            put(store, seq, Verdict.REJECT, part_id=part)
        assert store.pin_result("abc-1", "dent", Labeller("quality-2")) == PinAnswer(pinned=1)
        for pin, name in ((store.pin_result, "abc-1"), (store.pin_part, "p"), (store.pin_result, "abc-2")):
            with pytest.raises(NeedsKeyError, match="result abc-1 is labelled 'dent'"):
                pin(name, "good")
        assert store.pin_result("abc-1", "scratch") == PinAnswer(pinned=1)  # another defect, and then good
        with pytest.raises(NeedsKeyError):
            store.pin_result("abc-1", "good")
        assert store.pin_result("abc-3", "good") == PinAnswer(pinned=1)  # of no part, and never a defect
    with open_store(tmp_path) as store:  # after a restart, too
        with pytest.raises(NeedsKeyError, match="procunit label --key"):
            store.pin_part("p", "good")
        assert history_of(tmp_path, "abc-1") == [("dent", "quality-2", None), ("scratch", None, None)]
        assert store.pin_part("p", "good", RELEASE) == PinAnswer(pinned=2)
        assert history_of(tmp_path, "abc-1")[-1] == ("good", "m.huber", "release.pub")
        assert store.pin_part("p", "good") == PinAnswer(pinned=2)  # it is good now
        assert store.pin_part("p", "dent") == PinAnswer(pinned=2)  # to a defect without a key
        with pytest.raises(NeedsKeyError):
            store.pin_part("p", "good")


def test_of_a_part_labelled_a_defect_no_frame_is_called_good_without_a_key_written_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, really_write = threading.Event(), frame_image.png_from_pixels

    def write_when_told(pixels: PixelArray, record: dict[str, object]) -> bytes:
        may_write.wait(10)
        return really_write(pixels, record)

    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT, part_id="p")
        put(store, 2, Verdict.REJECT, part_id="q")
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=1)
        monkeypatch.setattr(frames_module, "png_from_pixels", write_when_told)
        for seq, part in ((3, "p"), (4, "q")):
            assert store.put(inspection_of(noise(seq, 100, 100), Verdict.PASS, part_id=part), f"abc-{seq}", RECIPE)
        with pytest.raises(NeedsKeyError, match="abc-1"):
            store.pin_result("abc-3", "good")  # not written yet; its part's other frame is a defect
        assert store.pin_result("abc-4", "dent") == PinAnswer(coming=1)
        with pytest.raises(NeedsKeyError, match="abc-4"):
            store.pin_result("abc-2", "good")  # its part's other frame is a defect, and not written yet
        assert store.pin_part("q", "good", RELEASE) == PinAnswer(pinned=1, coming=1)
        may_write.set()
        assert store.flush(5)
    assert [label for label, _, _ in history_of(tmp_path, "abc-4")] == ["dent", "good"]


def test_a_pinned_frame_whose_record_is_damaged_counts_as_a_defect(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=1)
    (record,) = (tmp_path / "pinned").glob("*.json")
    record.write_text("{")
    with open_store(tmp_path) as store:
        with pytest.raises(NeedsKeyError, match="cannot be read"):
            store.pin_result("abc-1", "good")
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=1)


def test_a_label_of_an_earlier_version_stays_in_the_history(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=1)
    (record,) = (tmp_path / "pinned").glob("*.json")
    data = json.loads(record.read_text())
    del data["label_history"]
    record.write_text(json.dumps(data))
    with open_store(tmp_path) as store:
        with pytest.raises(NeedsKeyError):
            store.pin_result("abc-1", "good")
        assert store.pin_result("abc-1", "good", RELEASE) == PinAnswer(pinned=1)
    assert history_of(tmp_path, "abc-1") == [("dent", None, None), ("good", "m.huber", "release.pub")]


def test_the_history_of_labels_is_bounded_and_a_repeated_label_adds_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
        for number in range(2 * MAX_HISTORY):
            for _ in range(2):
                store.pin_result("abc-1", "dent" if number % 2 else "scratch", Labeller(f"{number}"))
    history = history_of(tmp_path, "abc-1")
    assert [by for _, by, _ in history] == ["0", *(f"{n}" for n in range(MAX_HISTORY + 1, 2 * MAX_HISTORY))]


def test_neither_labels_nor_new_frames_displace_a_labelled_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_files, "MAX_FRAMES", 8)
    with open_store(tmp_path) as store:
        put(store, 1, Verdict.REJECT)
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=1)
        for seq in range(2, 20):
            put(store, seq, Verdict.PASS)
            store.pin_result(f"abc-{seq}", "good")
        monkeypatch.setattr(disk_room, "LOW_DISK_BYTES", 1 << 62)
        for seq in range(20, 40):
            put(store, seq, Verdict.PASS)
            store.pin_result(f"abc-{seq}", "good")
        assert len(list((tmp_path / "pinned").glob("*.png"))) == 4  # half of the files
    assert "pinned/abc-1.reject.png" in names(tmp_path)
    with open_store(tmp_path, 12_000):  # nor does a smaller quota take one
        assert len(list((tmp_path / "pinned").glob("*.png"))) == 4


def test_pinned_frames_outlast_all_others_and_use_at_most_half_of_the_quota(tmp_path: Path) -> None:
    with open_store(tmp_path, 45_000) as store:
        for seq in (1, 2, 3):
            put(store, seq, Verdict.REJECT, part_id="p")
        assert store.pin_part("p", "scratch") == PinAnswer(pinned=2, no_room=1)
        for seq in range(4, 24):
            put(store, seq, Verdict.PASS)
        assert len(names(tmp_path / "ring")) < 8
        assert len(list((tmp_path / "pinned").glob("*.png"))) == 2
    with open_store(tmp_path, 12_000) as store:
        assert len(list((tmp_path / "pinned").glob("*.png"))) == 2
        assert "pinned frames take 0.0204 MB, more than the quota of 0.0114 MB" in str(store.error)


def test_a_label_that_comes_before_its_frame_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, really_write = threading.Event(), frame_image.png_from_pixels

    def write_when_told(pixels: PixelArray, record: dict[str, object]) -> bytes:
        may_write.wait(10)
        return really_write(pixels, record)

    monkeypatch.setattr(frames_module, "png_from_pixels", write_when_told)
    with open_store(tmp_path) as store:
        for seq in (1, 2):
            assert store.put(inspection_of(noise(seq, 100, 100), Verdict.PASS, part_id="p"), f"abc-{seq}", RECIPE)
        assert store.pin_part("p", "scratch") == PinAnswer(coming=2)
        assert store.pin_result("abc-2", "dent") == PinAnswer(coming=1)
        for pin, name in ((store.pin_result, "abc-2"), (store.pin_part, "p"), (store.pin_result, "abc-1")):
            with pytest.raises(NeedsKeyError):
                pin(name, "good")
        may_write.set()
        assert store.flush(40)
    labels = {path.name.split(".")[0]: json.loads(path.read_text())["label"] for path in tmp_path.rglob("*.json")}
    assert labels == {"abc-1": "scratch", "abc-2": "dent"}
    assert [label for label, _, _ in history_of(tmp_path, "abc-2")] == ["scratch", "dent"]
    assert names(tmp_path / "ring") == set()


def test_an_invalid_label_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(ProcunitError, match="is no label"):
        store.pin_part("p", "../etc")
