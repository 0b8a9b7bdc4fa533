"""The pictures in the reports: which photographs are chosen, their size, and that a page loads nothing."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.calibrate import calibrate_run
from edge.bundle.manifest import GOOD
from edge.bundle.records import PhotoScores
from edge.geometry import Geometry
from edge.messages import Scores
from export.bundle_from_run import bundle_from_run
from export.pictures import (
    GOOD_PARTS_SHOWN,
    bank_alone,
    photos_to_show,
    picture_from_scores,
    type_alone,
)
from export.signing import demo_key_from_run
from tests.support.tiny_run import build_tiny_run
from training.data.run_files import EXPORT_FILE, TRAIN_FILE, ExportRecord, TrainRecord, read_record, write_record
from training.report.pictures import PICTURE_PX, Picture

HOSTILE = '"><img src=x onerror=alert(1)><script>'
GEOMETRY = Geometry(input_height_px=96, input_width_px=96, channels=3)
PLENTY_BYTES = 1 << 20


class _Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def _tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(html)
    return parser.found


def _decoded(data: bytes) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels, np.uint8)


def _scores(anomaly_at: tuple[int, int], defect_at: tuple[int, int]) -> Scores:
    """One tile: the bank is high at one position, the one type at another."""
    anomaly, defect = np.ones((1, 6, 6), np.float32), np.full((1, 1, 6, 6), -20, np.float32)
    anomaly[0][anomaly_at], defect[0, 0][defect_at] = 9, 20
    return Scores((0.99,), 9.0, defect, anomaly)


def _yellow_at(picture: Picture) -> tuple[float, float]:
    """Row and column of the yellowest point of the heat map, as fractions of its size."""
    shown = _decoded(picture.jpeg)
    heat_map = shown[:, -shown.shape[0] :].astype(int)
    yellow = cv2.blur((heat_map[:, :, 2] - heat_map[:, :, 0]).astype(np.float32), (9, 9))
    row, column = np.unravel_index(int(yellow.argmax()), yellow.shape)
    return float(row) / yellow.shape[0], float(column) / yellow.shape[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run whose part ids contain HTML."""
    run = build_tiny_run(tmp_path_factory.mktemp("report")).path
    trained = read_record(run, TRAIN_FILE, TrainRecord)
    photos = tuple(photo.model_copy(update={"part_id": HOSTILE + photo.part_id}) for photo in trained.photos)
    write_record(run, TRAIN_FILE, trained.model_copy(update={"photos": photos}))
    exported = read_record(run, EXPORT_FILE, ExportRecord)
    folds = {HOSTILE + part: fold for part, fold in exported.fold_of.items()}
    write_record(run, EXPORT_FILE, exported.model_copy(update={"fold_of": folds}))
    calibrate_run(run)
    bundle = bundle_from_run(run, run.with_name("bundle"), demo_key_from_run(run))
    return (bundle.path / "report.html").read_text(encoding="utf-8")


def test_hostile_part_ids_are_text_and_nothing_is_loaded(report: str) -> None:
    assert "onerror=alert" in report, "the part ids are in it"
    tags = _tags(report)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "a"}
    names = {name for _, attributes in tags for name in attributes}
    assert names <= {"lang", "charset", "http-equiv", "content", "class", "alt", "src"}
    assert "http:" not in report
    assert "https:" not in report
    policy = next(str(attributes["content"]) for _, attributes in tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_every_picture_decodes_and_the_report_stays_small(report: str) -> None:
    sources = [str(attributes["src"]) for tag, attributes in _tags(report) if tag == "img"]
    pictures = [source for source in sources if source.startswith("data:image/jpeg;base64,")]
    assert len(pictures) == len(sources) - 1 == GOOD_PARTS_SHOWN + 2 * 3, "all but the legend; two types of three"
    for picture in pictures:
        height_px, width_px, _ = _decoded(b64decode(picture.partition(",")[2], validate=True)).shape
        assert height_px <= PICTURE_PX
        assert width_px <= 2 * PICTURE_PX + 8
    assert len(report.encode()) < 2_000_000


def test_captions_compare_the_score_with_the_threshold(report: str) -> None:
    caption = r"<figcaption>.*?anomaly score ([\d.]+), (at or above|below) the threshold of ([\d.]+)<"
    captions = re.findall(caption, report)
    assert len(captions) == GOOD_PARTS_SHOWN + 2 * 3
    assert {side for _, side, _ in captions} == {"at or above", "below"}
    for score, side, threshold in captions:
        assert (float(score) >= float(threshold)) == (side == "at or above")


@given(scores=st.lists(st.tuples(st.sampled_from([GOOD, "crack"]), st.integers(0, 5), st.floats(0, 9)), max_size=40))
def test_the_most_unusual_parts_are_shown_and_of_a_type_the_least_unusual_photograph(
    scores: list[tuple[str, int, float]],
) -> None:
    photos = [
        PhotoScores(sha256=str(place), part_id=f"{label}-{part}", label=label, type_scores=(), anomaly_score=score)
        for place, (label, part, score) in enumerate(scores)
    ]
    chosen = photos_to_show(photos, ("crack",))
    for label, shown in chosen.items():
        own = [photo for photo in photos if photo.label == label]
        highest = max(photo.anomaly_score for photo in own)
        assert shown[0].anomaly_score == highest
        assert len({photo.sha256 for photo in shown}) == len(shown)
        if label == GOOD:
            assert len({photo.part_id for photo in shown}) == len(shown) <= GOOD_PARTS_SHOWN
        else:
            assert len(shown) <= 3
            assert min(photo.anomaly_score for photo in shown) == min(photo.anomaly_score for photo in own)
    assert set(chosen) == {photo.label for photo in photos}


@pytest.mark.parametrize("shape", [(200, 200), (2000, 2000, 3), (96, 96, 4)])
def test_the_heat_map_points_to_what_its_scorer_found(shape: tuple[int, ...]) -> None:
    pixels, scores = np.full(shape, 90, np.uint8), _scores((1, 1), (4, 3))
    of_bank = picture_from_scores(pixels, bank_alone(scores), GEOMETRY, "", PLENTY_BYTES)
    of_type = picture_from_scores(pixels, type_alone(scores, 0), GEOMETRY, "", PLENTY_BYTES)
    assert _decoded(of_bank.jpeg).shape[0] == min(shape[0], PICTURE_PX)
    assert _yellow_at(of_bank) == pytest.approx((1.5 / 6, 1.5 / 6), abs=0.08)
    assert _yellow_at(of_type) == pytest.approx((4.5 / 6, 3.5 / 6), abs=0.08)


def test_a_picture_that_is_too_large_is_made_smaller() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)
    picture = picture_from_scores(noise, _scores((0, 0), (0, 0)), GEOMETRY, "", 9000)
    assert len(picture.jpeg) <= 9000
    height_px, width_px, _ = _decoded(picture.jpeg).shape
    assert height_px >= 50
    assert width_px < 2 * PICTURE_PX
