"""Parts with several views: every view is stored, published again, labelled and shown, each by its own geometry."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.frames import store as frames_module
from edge.frames.image import heatmap_from_file, png_from_pixels, record_from_png
from edge.frames.store import FrameStore
from edge.frames.stored import frame_from_path, frame_name, part_hash
from edge.geometry import Geometry, Region
from edge.messages import (
    Decision,
    Frame,
    Inspection,
    PinAnswer,
    Scores,
    Timings,
    Trigger,
    Verdict,
    View,
    ViewScores,
)
from edge.policy import Policy
from tests.support.recipes import recipe_of

NOW = "2026-01-01T00:00:00.000Z"
GEOMETRIES = {
    "main": Geometry(input_height_px=64, input_width_px=64),
    "left": Geometry(input_height_px=128, input_width_px=128, regions=(Region(width=0.5),)),
}


RECIPE = recipe_of(Policy((), None), bundle_id="bundle-1", main=GEOMETRIES["main"], left=GEOMETRIES["left"])


def open_store(folder: Path) -> FrameStore:
    """A store for two views."""
    return FrameStore(folder, 1 << 20)


def scores(anomaly: float, patches: int) -> Scores:
    """Scores of one tile of so many patches a side, highest in its middle."""
    anomaly_map = np.zeros((1, patches, patches), np.float32)
    middle = slice(patches // 2 - 1, patches // 2 + 1)
    anomaly_map[0, middle, middle] = anomaly
    return Scores((0.25,), anomaly, np.full((1, 1, patches, patches), -20, np.float32), anomaly_map)


def part(verdict: Verdict, part_id: str | None = None, *names: str) -> Inspection:
    """An inspected part with a frame of 200 x 200 px for each view."""
    names = names or ("main", "left")
    pixels = [np.random.default_rng(seed).integers(0, 256, (200, 200), np.uint8) for seed in range(len(names))]
    frames = [Frame(f"f-{name}", part_id, 1, NOW, 0, image) for name, image in zip(names, pixels, strict=True)]
    views = tuple(View(name, frame) for name, frame in zip(names, frames, strict=True))
    of_views = tuple(
        ViewScores(name, scores(2.0 + index, 8 if name == "left" else 4)) for index, name in enumerate(names)
    )
    inspected = () if verdict is Verdict.NOT_INSPECTED else of_views
    return Inspection(Trigger(1, "f", part_id, 1, NOW, 0, views), Decision(verdict, ()), inspected, Timings(), NOW)


def put(store: FrameStore, seq: int, inspection: Inspection, *, snapshot: bool = False) -> None:
    """Store a part's frames."""
    assert store.put(inspection, f"abc-{seq}", RECIPE, snapshot=snapshot)
    assert store.flush(40)


def names(folder: Path) -> set[str]:
    """Paths of all images below a folder, as FOLDER/NAME."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def sent(store: FrameStore) -> list[tuple[str, str]]:
    """Result id and view of every frame to be published, in order; they are marked as sent."""
    found = []
    while (frame := store.next_unsent()) is not None:
        found.append((frame.result_id, frame.view))
        store.mark_sent(frame)
    return found


def test_every_view_is_stored_with_its_own_record_and_at_the_resolution_of_its_geometry(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, part(Verdict.REJECT, "P1"))
    main, left = f"abc-1.reject.{part_hash('P1')}.png", f"abc-1.reject.{part_hash('P1')}.view-left.png"
    assert names(tmp_path) == {f"ring/{main}", f"ring/{left}", f"unsent/{main}", f"unsent/{left}"}
    small = [cv2.imread(str(tmp_path / "ring" / name), cv2.IMREAD_UNCHANGED) for name in (main, left)]
    assert [image.shape for image in small if image is not None] == [(64, 64), (128, 128)]
    records = [record_from_png(tmp_path / "unsent" / name) for name in (main, left)]
    assert [(r["view"], r["frame_id"], r["anomaly_score"], r["verdict"]) for r in records] == [
        ("main", "f-main", 2.0, "reject"),
        ("left", "f-left", 3.0, "reject"),
    ]


def test_the_heatmap_of_a_view_is_drawn_by_its_own_geometry(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, part(Verdict.REJECT))
    shapes = {}
    for path in (tmp_path / "unsent").iterdir():
        drawn = heatmap_from_file(path, 1 << 20)
        assert drawn is not None
        colours = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
        assert colours is not None
        yellow = (colours[:, :, 2].astype(int) - colours[:, :, 0]).clip(0).sum(axis=0)
        shapes["left" if "left" in path.name else "main"] = int((yellow * np.arange(200)).sum() / yellow.sum())
    assert abs(shapes["main"] - 100) < 12
    assert abs(shapes["left"] - 50) < 12  # its region is the left half of the frame


def test_all_views_of_a_part_are_published_once_and_again_on_request_also_after_a_restart(tmp_path: Path) -> None:
    both = [("abc-1", "main"), ("abc-1", "left")]
    with open_store(tmp_path) as store:
        put(store, 1, part(Verdict.REVIEW))
    with open_store(tmp_path) as store:
        assert sorted(sent(store)) == sorted(both)
        assert store.resend("abc-1")
        assert sorted(sent(store)) == sorted(both)
        put(store, 2, part(Verdict.PASS), snapshot=True)
        put(store, 3, part(Verdict.PASS))
        assert sorted(sent(store)) == [("abc-2", "left"), ("abc-2", "main")]
        assert store.resend("abc-3")  # of passes there are frames at the model's resolution
        assert sorted(sent(store)) == [("abc-3", "left"), ("abc-3", "main")]


def test_a_label_pins_every_view_that_is_stored_or_still_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, part(Verdict.REVIEW, "P1"))
        assert store.pin_part("P1", "scratch") == PinAnswer(pinned=2)
        assert store.pin_result("abc-1", "dent") == PinAnswer(pinned=2)
        answers: list[PinAnswer] = []

        def label_while_writing(*arguments: object) -> bytes:
            if not answers:
                answers.append(store.pin_result("abc-2", "scratch"))
            return png_from_pixels(*arguments)  # type: ignore[arg-type]  # passed through

        monkeypatch.setattr(frames_module, "png_from_pixels", label_while_writing)
        put(store, 2, part(Verdict.REVIEW, "P2"))
        assert answers == [PinAnswer(coming=2)]
    records = [json.loads(path.read_text()) for path in (tmp_path / "pinned").glob("*.json")]
    assert sorted((record["result_id"], record["view"], record["label"]) for record in records) == [
        ("abc-1", "left", "dent"),
        ("abc-1", "main", "dent"),
        ("abc-2", "left", "scratch"),
        ("abc-2", "main", "scratch"),
    ]


def test_a_part_is_kept_with_all_its_views_or_dropped_with_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def encode_later(*arguments: object) -> bytes:
        assert goes_on.wait(40)
        return png_from_pixels(*arguments)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(frames_module, "MAX_WAITING_BYTES", 3 * 200 * 200)
    monkeypatch.setattr(frames_module, "png_from_pixels", encode_later)
    with open_store(tmp_path) as store:
        assert store.put(part(Verdict.REJECT), "abc-1", RECIPE)
        assert not store.put(part(Verdict.REJECT), "abc-2", RECIPE)
        assert store.dropped == 1
        goes_on.set()
        assert store.flush(40)
    assert {name.split("/")[1].split(".")[0] for name in names(tmp_path)} == {"abc-1"}


def test_every_view_of_a_part_that_was_not_inspected_is_kept_also_one_that_nobody_taught(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        put(store, 1, part(Verdict.NOT_INSPECTED, None, "main", "top"))
        assert store.error is None
    assert names(tmp_path) == {"kept/abc-1.not_inspected.png", "kept/abc-1.not_inspected.view-top.png"}


@pytest.mark.parametrize("part_id", [None, "P1"])
@pytest.mark.parametrize("view", ["main", "left", "0123456789abcdef", "view-view", "a_b-c"])
def test_a_file_name_says_of_which_view_it_is(tmp_path: Path, part_id: str | None, view: str) -> None:
    name = frame_name("abc-7", "review", part_id, view)
    frame = frame_from_path(tmp_path / "ring" / name, 5)
    assert frame is not None
    assert (frame.result_id, frame.view, frame.part is None) == ("abc-7", view, part_id is None)


@pytest.mark.parametrize("name", ["abc-7.pass.png", "abc-7.reject.0123456789abcdef.png"])
def test_a_file_of_an_earlier_version_is_of_the_main_view(tmp_path: Path, name: str) -> None:
    frame = frame_from_path(tmp_path / "ring" / name, 5)
    assert frame is not None
    assert frame.view == "main"


@pytest.mark.parametrize("view", ["view-", "view-LEFT", "view-a.b", "view-" + "a" * 33, "left"])
def test_a_file_of_no_valid_view_is_no_frame(tmp_path: Path, view: str) -> None:
    assert frame_from_path(tmp_path / "ring" / f"abc-7.pass.{view}.png", 5) is None
