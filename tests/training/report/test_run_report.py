"""The training report: its texts, its pictures, and that it can load nothing."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from edge.bundle.manifest import GOOD
from edge.geometry import Geometry, Region
from training.data.dataset import Photo
from training.data.run_files import RunPhoto, TrainRecord
from training.findings import CurvePoint, Findings
from training.report.hardest_parts import PICTURES_PER_SIDE, PICTURES_SHOWN, hard_parts
from training.report.pictures import PICTURE_PX
from training.report.run_report import NOTES_SHOWN, training_report_html
from training.report.words import result_of_type
from training.validation import PartAuc

HOSTILE = '"><img src=x onerror=alert(1)><script>'
GEOMETRY = Geometry(input_height_px=96, input_width_px=96)
QUIET = Console(quiet=True)
VOID = {"meta", "img"}
MAX_BYTES = 3_000_000


class _Page(HTMLParser):
    """Every tag with its attributes; those that are not closed in order are an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def jpegs(self) -> list[bytes]:
        sources = [str(attributes["src"]) for tag, attributes in self.found if tag == "img"]
        start = "data:image/jpeg;base64,"
        return [b64decode(source[len(start) :], validate=True) for source in sources if source.startswith(start)]


def photo(label: str, part: str, number: int, folder: Path, *, mask: bool = False, name: str = "") -> Photo:
    file = f"{label}/{name}{part}-{number}.png"
    path = folder / ("masked.png" if mask else "plain.png")
    return Photo(path, file, f"{number:064x}", part, label, folder / "mask.png" if mask else None)


def record(photos: Sequence[Photo], types: tuple[str, ...], geometry: Geometry = GEOMETRY) -> TrainRecord:
    return TrainRecord(
        data="/data",
        dataset_sha256="0" * 64,
        product="bracket",
        seed=0,
        backbone="test",
        weights="drawn",
        geometry=geometry,
        types=types,
        photos=tuple(
            RunPhoto(
                sha256=p.sha256,
                part_id=p.part_id,
                label=p.label,
                role="train",
                file=p.file,
                mask="m" if p.mask else None,
            )
            for p in photos
        ),
        out_of_fold_auc={},
        packages={},
        code_version="1",
    )


def _maps(types: int, tiles: int = 1) -> Callable[[int], NDArray[np.float32]]:
    return lambda place: np.random.default_rng(place).normal(0, 3, (tiles, types, 6, 6)).astype(np.float32)


def findings_of(photos: Sequence[Photo], types: tuple[str, ...], seed: int = 0) -> Findings:
    """Scores that separate each type, though not perfectly."""
    logits = np.random.default_rng(seed).normal(-1, 1, (len(photos), len(types)))
    for place, photo in enumerate(photos):
        if photo.label in types:
            logits[place, types.index(photo.label)] += 2
    curve = (CurvePoint(4, 2, 0.8, 0.7, 0.9), CurvePoint(8, 4, 0.9, 0.8, 0.95))
    return Findings(
        types=types,
        photos=tuple(photos),
        logits=logits,
        accuracy=dict.fromkeys(types, PartAuc(0.9, 0.8, 0.96)),
        curves=dict.fromkeys(types, curve),
        notes=(),
        unseen_map=_maps(len(types)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain photograph, one with a spot, and the spot's mask."""
    folder = tmp_path_factory.mktemp("photographs")
    image = np.random.default_rng(0).normal(110, 6, (120, 160)).clip(0, 255).astype(np.uint8)
    mask = np.zeros_like(image)
    cv2.circle(mask, (50, 60), 12, 255.0, -1)
    cv2.imwrite(str(folder / "plain.png"), image)
    cv2.imwrite(str(folder / "masked.png"), np.where(mask > 0, np.uint8(20), image))
    cv2.imwrite(str(folder / "mask.png"), mask)
    return folder


def photos_of(folder: Path, types: Sequence[str], parts: int = 6, good_parts: int = 12, name: str = "") -> list[Photo]:
    """Two photographs a part."""
    return [
        photo(label, f"{label}{part}", copy, folder, mask=label != GOOD, name=name)
        for label in (GOOD, *types)
        for part in range(good_parts if label == GOOD else parts)
        for copy in range(2)
    ]


def _page(photos: Sequence[Photo], findings: Findings, sheet_png: bytes | None = None) -> _Page:
    html = training_report_html(record(photos, findings.types), findings, sheet_png, QUIET)
    assert len(html.encode()) < MAX_BYTES
    assert "http:" not in html
    assert "https:" not in html
    page = _Page(html)
    assert not page.open
    return page


def test_a_page_has_all_texts_and_its_tags_balance(folder: Path) -> None:
    photos = photos_of(folder, ("crack",))
    page = _page(photos, replace(findings_of(photos, ("crack",)), notes=("two photographs are the same",)))
    for expected in (
        "Of 100 parts with this defect, about",
        "two photographs are the same",
        "12 images, 6 parts",
        "18 more images and 4 more parts",
        "95% confidence interval 0.800 to 0.960",
        "Still rising",
        "What it still needs",
        "Hardest to find",
        "Hardest false alarms",
        "All photographs of a part get the same result for",
    ):
        assert expected in page.text
    assert [tag for tag, _ in page.found].count("svg") == 2


def test_hostile_names_are_text_and_nothing_can_be_loaded(folder: Path) -> None:
    photos = [replace(p, part_id=HOSTILE + p.part_id) for p in photos_of(folder, (HOSTILE,), name=HOSTILE)]
    findings = replace(findings_of(photos, (HOSTILE,)), notes=(HOSTILE,))
    page = _page(photos, findings)
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "iframe", "object", "a"}
    names = {name for _, attributes in page.found for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert all(str(a["src"]).startswith("data:image/") for tag, a in page.found if tag == "img")
    policy = next(str(attributes["content"]) for _, attributes in page.found if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert HOSTILE in page.text


def test_a_name_that_is_no_unicode_can_be_written(folder: Path) -> None:
    photos = photos_of(folder, ("crack",), name="\udcff")
    html = training_report_html(record([], ("crack",)), findings_of(photos, ("crack",)), None, QUIET)
    assert html.encode("utf-8")


@pytest.mark.parametrize(("types", "pictures"), [(1, 8), (3, 24), (5, 24), (30, 24)])
def test_pictures_are_shared_out_evenly_and_bounded(folder: Path, types: int, pictures: int) -> None:
    names = tuple(f"type{number}" for number in range(types))
    photos = photos_of(folder, names, parts=5)
    findings = findings_of(photos, names)
    hard = hard_parts(findings, [result_of_type(record(photos, names), findings, name) for name in names])
    assert len(hard) == pictures <= PICTURES_SHOWN
    assert all(sum(h.type_name == name for h in hard) <= 2 * PICTURES_PER_SIDE for name in names)
    jpegs = _page(photos, findings).jpegs
    assert len(jpegs) == pictures
    for jpeg in jpegs:
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape[0] <= PICTURE_PX


def test_masks_are_outlined_in_the_photograph(folder: Path) -> None:
    photos = photos_of(folder, ("crack",))
    for jpeg, outlined in zip(
        _page(photos, findings_of(photos, ("crack",))).jpegs, [True] * 4 + [False] * 4, strict=True
    ):
        decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        photograph = decoded[:, :160].astype(int)
        assert (np.ptp(photograph, axis=2) > 60).any() == outlined


def test_the_hardest_parts_are_the_lowest_of_the_type_and_the_highest_of_the_good(folder: Path) -> None:
    photos = photos_of(folder, ("crack",))
    findings = findings_of(photos, ("crack",))
    means = {
        p.part_id: np.mean([findings.logits[i, 0] for i, q in enumerate(photos) if q.part_id == p.part_id])
        for p in photos
    }
    hard = hard_parts(findings, [result_of_type(record(photos, ("crack",)), findings, "crack")])
    misses = [photos[h.photo_index].part_id for h in hard if not h.is_false_alarm]
    alarms = [photos[h.photo_index].part_id for h in hard if h.is_false_alarm]
    crack = sorted((part for part in means if part.startswith("crack")), key=lambda part: means[part])
    good = sorted((part for part in means if part.startswith(GOOD)), key=lambda part: -means[part])
    assert misses == crack[:PICTURES_PER_SIDE]
    assert alarms == good[:PICTURES_PER_SIDE]


def test_the_page_stays_small_with_a_large_sheet_and_large_photographs(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (900, 1200, 3), np.uint8)
    for name in ("plain.png", "masked.png"):
        cv2.imwrite(str(tmp_path / name), noise)
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((900, 1200), 255, np.uint8))
    names = tuple(f"type{number}" for number in range(4))
    photos = photos_of(tmp_path, names)
    sheet = cv2.imencode(".png", draw.integers(0, 256, (1600, 1300, 3), np.uint8))[1].tobytes()
    findings = replace(findings_of(photos, names), notes=("x" * 200,) * 1000)
    page = _page(photos, findings, sheet)
    assert len(page.jpegs) == 1 + PICTURES_SHOWN
    assert f"And {1000 - NOTES_SHOWN} more." in page.text


def test_several_tiles_and_maps_that_are_no_numbers_are_drawn(folder: Path) -> None:
    geometry = GEOMETRY.model_copy(update={"regions": (Region(width=0.5), Region(x=0.5, width=0.5))})
    photos = photos_of(folder, ("crack",))
    findings = replace(findings_of(photos, ("crack",)), unseen_map=lambda _: np.full((2, 1, 6, 6), np.nan, np.float32))
    html = training_report_html(record(photos, ("crack",), geometry), findings, None, QUIET)
    assert len(_Page(html).jpegs) == 8


def test_a_page_is_made_without_types_or_photographs(folder: Path) -> None:
    good = photos_of(folder, ())
    page = _page(good, findings_of(good, ()))
    assert "No defect type was trained" in page.text
    assert not page.jpegs
    assert "not measurable yet" in _page([], findings_of([], ("crack",))).text


def test_missing_scores_are_left_out_and_reported(folder: Path) -> None:
    photos = photos_of(folder, ("crack", "dent"))
    findings = findings_of(photos, ("crack", "dent"))
    findings.logits[:, 1] = np.nan
    findings.logits[[p.part_id == "crack0" for p in photos], 0] = np.nan
    page = _page(photos, replace(findings, accuracy={"crack": None, "dent": None}, curves={}))
    assert "not measurable yet: no part of this type could be scored in cross-validation" in page.text
    assert "1 part could not be scored in cross-validation" in page.text
    assert "not scored" in page.text
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", page.text)


def test_without_good_parts_those_of_other_types_are_used(folder: Path) -> None:
    photos = [p for p in photos_of(folder, ("crack", "dent")) if p.label != GOOD]
    page = _page(photos, findings_of(photos, ("crack", "dent")))
    assert "parts of other types" in page.text
    assert "Photograph good parts" in page.text
    alone = [p for p in photos if p.label == "crack"]
    assert "there are no other parts to compare with" in _page(alone, findings_of(alone, ("crack",))).text
