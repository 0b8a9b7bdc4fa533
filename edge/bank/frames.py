"""The frames for growing a bank: good ones to add and defects to check against; their patches from the bundle's graph.

The graph is small: it runs beside the daemon on one CPU core, without the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge.anomaly import counted_patches, distances_to_rows
from edge.bank.evidence import StoredDefect, Tile, flagged_by_type
from edge.bundle.manifest import GOOD, PATCHES_GRAPH, PATCHES_KEY
from edge.bundle.reader import Bundle, read_small
from edge.engine.golden_gate import golden_pixels
from edge.engine.ort import OrtEngine, session_from_graph
from edge.engine.protocol import EngineError
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError, first_problem
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import MAIN_VIEW, VIEW_PATTERN, PixelArray, Verdict
from edge.preprocess import inspected_patches, tensor_from_pixels

_ONE_CORE = 1


class _PinRecord(BaseModel):
    """The keys that are used of the JSON file beside a pinned frame; an earlier version's names no view."""

    model_config = ConfigDict(frozen=True)

    result_id: str
    part_id: str | None = None
    view: Annotated[str, Field(pattern=VIEW_PATTERN)] = MAIN_VIEW
    label: str


@dataclass(frozen=True, slots=True)
class PinnedFrame:
    """A frame that the device keeps for the next training, with its label."""

    path: Path
    result_id: str
    part_id: str | None
    label: str
    view: str = MAIN_VIEW


class PatchesGraph:
    """The graph of a bundle that computes patch features.

    Raises:
        ProcunitError: the graph cannot be loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._path = bundle.path / PATCHES_GRAPH
        self._bundle = bundle
        self._features = bundle.bank().shape[1] - 1
        self._session = session_from_graph(bundle.file(PATCHES_GRAPH), _ONE_CORE)

    def tiles(self, pixels: PixelArray, view: str = MAIN_VIEW) -> tuple[Tile, ...]:
        """The tiles of a frame of this view, without the patches that have no inspected pixel.

        Raises:
            ProcunitError: the bundle does not know the view, the frame is no usable image, or the graph's output does
                not fit the bank.
        """
        tiles_u8 = tensor_from_pixels(pixels, _geometry_of_view(self._bundle, view))
        inspected = inspected_patches(tiles_u8)
        expected = (len(tiles_u8), self._features, *inspected.shape[1:])
        try:
            (maps,) = self._session.run([PATCHES_KEY], {"image": tiles_u8})
        except Exception as error:  # onnxruntime's classes share no base
            raise ProcunitError(f"ONNX Runtime failed: {error}", where=str(self._path)) from error
        maps = np.asarray(maps, np.float32)
        if maps.shape != expected or not np.isfinite(maps).all():
            raise ProcunitError(
                f"the graph's output is {list(maps.shape)} or not finite; {list(expected)} is needed",
                where=str(self._path),
                remedy="Export and build the bundle again",
            )
        of_tiles = (of_tile[places] for of_tile, places in zip(maps.transpose(0, 2, 3, 1), inspected, strict=True))
        return tuple(Tile(patches, counted_patches(len(patches))) for patches in of_tiles)


def pinned_frames(folder: Path) -> tuple[PinnedFrame, ...]:
    """All pinned frames of the device; `folder` is the folder `pinned` of its frames.

    Raises:
        ProcunitError: a frame's record is missing or damaged.
    """
    return tuple(_pinned_frame(path) for path in sorted(folder.glob("*.png")))


def good_frames(pinned: Sequence[PinnedFrame], parts: Sequence[str], results: Sequence[str]) -> tuple[PinnedFrame, ...]:
    """The pinned frames of these parts and results.

    Raises:
        ProcunitError: a part or result has no pinned frame, or one that is not labelled good.
    """
    wanted = [(f"part {part}", [frame for frame in pinned if frame.part_id == part]) for part in parts]
    wanted += [(f"result {result}", [frame for frame in pinned if frame.result_id == result]) for result in results]
    chosen = {frame.path: frame for name, found in wanted for frame in _labelled_good(found, name)}
    return tuple(chosen.values())


def defects_of_device(
    bundle: Bundle, base: NDArray[np.float32], graph: PatchesGraph, pinned: Sequence[PinnedFrame]
) -> tuple[StoredDefect, ...]:
    """The bundle's flagged golden frames, and the pinned frames labelled with a defect; `base` [M, D + 1] is its bank.

    Raises:
        ProcunitError: a frame cannot be read or scored.
    """
    golden = [frame for frame in bundle.golden().frames if frame.verdict is not Verdict.PASS]
    found: list[tuple[str, Callable[[], PixelArray], tuple[float, ...], str]] = [
        (f"golden frame {frame.file}", partial(golden_pixels, bundle, frame), frame.type_scores, MAIN_VIEW)
        for frame in golden
    ]
    labelled = [frame for frame in pinned if frame.label != GOOD]
    if labelled:
        scores = type_scores_of_files(bundle, base, {frame.path: frame.view for frame in labelled})
        found += [
            (f"{f.label} at {f.path}", partial(read_image, f.path), own, f.view)
            for f, own in zip(labelled, scores, strict=True)
        ]
    defects = []
    for name, read, type_scores, view in found:
        tiles = graph.tiles(read(), view)
        flagged = flagged_by_type(type_scores, bundle.manifest.types)
        distances = tuple(distances_to_rows(tile.patches, base) for tile in tiles)
        defects.append(StoredDefect(name, flagged, tiles, distances))
    return tuple(defects)


def type_scores_of_files(
    bundle: Bundle, base: NDArray[np.float32], view_of: Mapping[Path, str]
) -> list[tuple[float, ...]]:
    """The type scores of each frame (path -> view), computed anew: stored ones may come from another bundle.

    `base` [M, D + 1] is the bundle's bank.

    Raises:
        ProcunitError: a frame cannot be read or scored.
    """
    engine = OrtEngine(bundle.graphs(), base, threads=_ONE_CORE)
    try:
        return [
            score_pixels(read_image(path), _geometry_of_view(bundle, view), engine)[0].type_scores
            for path, view in view_of.items()
        ]
    except EngineError as error:
        raise ProcunitError(str(error), where=str(bundle.path)) from error
    finally:
        engine.close()


def unknown_view_text(view: str, bundle: Bundle) -> str | None:
    """Why a frame of this view cannot be used, as a sentence's end; None if the bundle knows the view."""
    known = bundle.manifest.geometries
    return None if view in known else f"shows view {view!r}; the bundle knows {', '.join(known)} only"


def _geometry_of_view(bundle: Bundle, view: str) -> Geometry:
    problem = unknown_view_text(view, bundle)
    if problem is not None:
        raise ProcunitError(f"the frame {problem}", remedy="Leave the frame out")
    return bundle.manifest.geometries[view]


def _pinned_frame(path: Path) -> PinnedFrame:
    beside = path.with_suffix(".json")
    try:
        record = _PinRecord.model_validate_json(read_small(beside))
    except ValidationError as error:
        raise ProcunitError(
            first_problem(error), where=str(beside), remedy="Remove the frame and its record, or label it again"
        ) from error
    return PinnedFrame(path, record.result_id, record.part_id, record.label, record.view)


def _labelled_good(found: list[PinnedFrame], name: str) -> list[PinnedFrame]:
    if not found:
        raise ProcunitError(
            f"no frame of {name} is kept for the next training",
            remedy="Label it good first (`procunit label`), or name the frame's file",
        )
    for frame in found:
        if frame.label != GOOD:
            raise ProcunitError(
                f"the frame of {name} is labelled {frame.label!r}, not {GOOD!r}",
                where=str(frame.path),
                remedy="A bank is grown by good frames only; correct the label if it is wrong",
            )
    return found
