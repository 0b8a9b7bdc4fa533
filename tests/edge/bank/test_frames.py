"""The patches of frames: those that the bundle's inspection graph compares with the bank."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.anomaly import distances_to_rows, score_from_distances
from edge.bank.frames import PatchesGraph, PinnedFrame, defects_of_device, pinned_frames
from edge.bundle.manifest import PATCHES_GRAPH, graph_files
from edge.bundle.reader import Bundle, file_entry_from_path
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.frames.image import png_from_pixels
from edge.geometry import Geometry, Region
from tests.support.tiny_bundle import TINY_GEOMETRY, defect_image, good_image, stained_image


def with_graph(bundle: Bundle, folder: Path, source: Path | bytes) -> Bundle:
    """The opened bundle with another file as the graph of patch features."""
    shutil.copytree(bundle.path, folder / "bundle")
    data = source if isinstance(source, bytes) else source.read_bytes()
    (folder / "bundle" / PATCHES_GRAPH).write_bytes(data)
    entry = file_entry_from_path(folder / "bundle" / PATCHES_GRAPH)
    manifest = bundle.manifest.model_copy(update={"files": {**bundle.manifest.files, PATCHES_GRAPH: entry}})
    return replace(bundle, path=folder / "bundle", manifest=manifest)


@pytest.mark.parametrize("image", [good_image(4), defect_image(4), stained_image(4)])
def test_the_score_from_the_patches_equals_the_engines_score(growing: Bundle, image: NDArray[np.uint8]) -> None:
    engine = OrtEngine(growing.graphs(), growing.bank(), threads=1)
    expected = score_pixels(image, TINY_GEOMETRY, engine)[0].anomaly_score
    (tile,) = PatchesGraph(growing).tiles(image)
    score = score_from_distances(distances_to_rows(tile.patches, growing.bank()), tile.counted)
    assert score == pytest.approx(expected, rel=1e-5)


def patches_in(bundle: Bundle, **geometry: object) -> list[tuple[int, int]]:
    """The number of patches of each tile in another geometry, and the number that its score averages."""
    manifest = bundle.manifest.model_copy(update={"geometry": TINY_GEOMETRY.model_copy(update=geometry)})
    tiles = PatchesGraph(replace(bundle, manifest=manifest)).tiles(good_image(4))
    return [(len(tile.patches), tile.counted) for tile in tiles]


def test_each_region_is_a_tile_of_its_own_and_its_padding_has_no_patches(growing: Bundle) -> None:
    regions = (Region(width=0.5), Region(y=0.25, height=0.25))
    assert patches_in(growing, regions=regions) == [(32, 1), (16, 1)]


def test_patches_within_an_ignored_area_are_left_out(growing: Bundle) -> None:
    left = ((0.0, 0.0), (0.3, 0.0), (0.3, 1.0), (0.0, 1.0))  # two columns of patches, and part of a third
    assert patches_in(growing) == [(64, 2)]
    assert patches_in(growing, ignored=(left,)) == [(48, 2)]


def test_the_defects_are_the_flagged_golden_frames_and_the_pinned_defects(growing: Bundle, tmp_path: Path) -> None:
    pinned = []
    for label, image in (("good", good_image(1)), ("dent", stained_image(1)), ("scratch", defect_image(1))):
        path = tmp_path / f"{label}.png"
        path.write_bytes(png_from_pixels(image, {}))
        pinned.append(PinnedFrame(path, "ab-1", None, label))
    defects = defects_of_device(growing, growing.bank(), PatchesGraph(growing), pinned)
    assert [(defect.name, defect.flagged_by_type) for defect in defects] == [
        ("golden frame golden/defect-0.png", True),
        (f"dent at {tmp_path / 'dent.png'}", False),
        (f"scratch at {tmp_path / 'scratch.png'}", True),
    ]
    assert all([distances.shape for distances in defect.distances] == [(64,)] for defect in defects)


def with_view(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, geometry: Geometry) -> None:
    """Give the bundle a further view; no bundle can have one in its manifest yet."""
    views = {**bundle.manifest.geometries, name: geometry}
    monkeypatch.setattr(type(bundle.manifest), "geometries", property(lambda _manifest: views))


def test_a_frame_is_read_with_the_geometry_of_its_view(
    growing: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_half = TINY_GEOMETRY.model_copy(update={"regions": (Region(width=0.5),)})
    with_view(growing, monkeypatch, "left", left_half)
    image = np.hstack([good_image(4), defect_image(4)])
    (seen,), (expected,) = PatchesGraph(growing).tiles(image, "left"), PatchesGraph(growing).tiles(good_image(4))
    np.testing.assert_array_equal(seen.patches, expected.patches)
    path = tmp_path / "dent.png"
    path.write_bytes(png_from_pixels(image, {}))
    pinned = PinnedFrame(path, "ab-1", None, "dent", "left")
    defects = defects_of_device(growing, growing.bank(), PatchesGraph(growing), [pinned])
    assert [(defect.name, defect.flagged_by_type) for defect in defects[1:]] == [(f"dent at {path}", False)]
    np.testing.assert_array_equal(defects[1].tiles[0].patches, expected.patches)


def test_a_frame_of_a_view_that_the_bundle_does_not_know_is_not_read(growing: Bundle) -> None:
    with pytest.raises(ProcunitError, match="shows view 'top'; the bundle knows main only"):
        PatchesGraph(growing).tiles(good_image(1), "top")


def test_the_view_of_a_pinned_frame_is_that_of_its_record_and_main_in_earlier_versions(tmp_path: Path) -> None:
    for name, view in (("a", {}), ("b", {"view": "left"})):
        (tmp_path / f"{name}.png").write_bytes(png_from_pixels(good_image(1), {}))
        (tmp_path / f"{name}.json").write_text(json.dumps({"result_id": "ab-1", "label": "good", **view}))
    assert [frame.view for frame in pinned_frames(tmp_path)] == ["main", "left"]
    (tmp_path / "b.json").write_text(json.dumps({"result_id": "ab-1", "label": "good", "view": "../x"}))
    with pytest.raises(ProcunitError, match="label it again"):
        pinned_frames(tmp_path)


def test_a_damaged_or_different_graph_is_refused(growing: Bundle, tmp_path: Path) -> None:
    damaged = with_graph(growing, tmp_path / "damaged", b"\xff" * 100)
    with pytest.raises(ProcunitError, match="not a complete ONNX file"):
        PatchesGraph(damaged)
    unlisted = replace(damaged, manifest=growing.manifest)
    with pytest.raises(ProcunitError, match=r"patches\.onnx: 100 bytes long instead of"):
        PatchesGraph(unlisted)
    other = with_graph(growing, tmp_path / "other", growing.path / graph_files()[0])
    with pytest.raises(ProcunitError, match="ONNX Runtime failed"):
        PatchesGraph(other).tiles(good_image(1))


def test_a_frame_that_is_too_small_is_refused(growing: Bundle) -> None:
    with pytest.raises(ProcunitError, match="smallest usable side"):
        PatchesGraph(growing).tiles(np.zeros((10, 10), np.uint8))
