"""A data folder's `geometry.yaml` and `ignored.png`: reading valid ones, and every kind of error."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.config.located_yaml import MAX_BYTES
from edge.errors import ProcunitError
from edge.geometry import MAX_POLYGON_POINTS, MAX_POLYGONS, Geometry, Region
from edge.messages import PixelArray
from edge.preprocess import areas_in_words, ignored_pixels, ignored_share
from training.data.folder_geometry import FolderGeometry, geometry_from_folder, painted_pixels, polygons_from_pixels

HALF = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]


def read(folder: Path) -> FolderGeometry:
    return geometry_from_folder(folder, 320)


def refused(folder: Path) -> str:
    with pytest.raises(ProcunitError) as caught:
        read(folder)
    return str(caught.value)


def outcome(folder: Path) -> Geometry | ProcunitError:
    try:
        return read(folder).geometry
    except ProcunitError as error:
        return error


def paint(path: Path, pixels: PixelArray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


def black(height_px: int = 120, width_px: int = 160) -> NDArray[np.uint8]:
    return np.zeros((height_px, width_px), np.uint8)


def test_without_files_the_whole_frame_is_inspected(tmp_path: Path) -> None:
    asked = read(tmp_path)
    assert asked == FolderGeometry(Geometry(), None)
    asked.check_frame(tmp_path / "good/a.png", 480, 640)
    assert areas_in_words(asked.geometry) == "the whole frame, nothing ignored"


def test_every_key_is_taken_and_none_is_needed(tmp_path: Path) -> None:
    (tmp_path / "geometry.yaml").write_text(
        "mm_per_px: 0.05\n"
        "regions:\n"
        "  - {x: 0.25, width: 0.5}\n"
        "  - {x: 0.5, y: 0.5, width: 0.5, height: 0.5}\n"
        f"ignored: [{HALF}]\n"
    )
    geometry = read(tmp_path).geometry
    assert geometry.regions == (Region(x=0.25, width=0.5), Region(x=0.5, y=0.5, width=0.5, height=0.5))
    assert geometry.ignored == (tuple((x, y) for x, y in HALF),)
    assert geometry.mm_per_px == 0.05
    assert ignored_share(geometry) == pytest.approx(0.25 / 0.625, abs=0.005)
    assert areas_in_words(geometry).startswith("2 regions (1: x 0.25 to 0.75, y 0 to 1; 2: x 0.5 to 1, y 0.5 to 1), 40")
    (tmp_path / "geometry.yaml").write_text("# nothing yet\n")
    assert read(tmp_path).geometry == Geometry()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mm_per_px: 1\nregion: 5", "geometry.yaml:2: region: unknown key (it is 5). Did you mean 'regions'?"),
        (
            "input_height_px: 64",
            "input_height_px: unknown key (it is 64). Known keys here: regions, ignored, mm_per_px",
        ),
        ("regions:\n- {}\n- {hight: 1}", "geometry.yaml:3: regions.1.hight: unknown key (it is 1). Did you mean 'heig"),
        ("regions: [{x: 0.6, width: 0.6}]", "regions.0: a region must have an area and lie inside the frame"),
        ("regions: [{x: left}]", "regions.0.x: input should be a valid number (it is 'left'). Give a list of {x, y,"),
        ("regions: [{x: yes}]", "regions.0.x: input should be a valid number (it is True)"),
        ("regions: []", "regions: list should have at least 1 item, not 0"),
        ("regions:", "regions: input should be a valid list (it is empty)"),
        ("ignored: [[[0, 0], [1, 0]]]", "ignored.0: list should have at least 3 items, not 2. Give a list of polygons"),
        ("ignored: [[[0, 0], [1, 0], [0, 1.5]]]", "ignored.0.2.1: input should be less than or equal to 1 (it is 1.5)"),
        ("ignored: [[[0, 0], [1, 0], [0, .nan]]]", "ignored.0.2.1: input should be a finite number (it is nan)"),
        (f"ignored: {[HALF] * (MAX_POLYGONS + 1)}", f"ignored: list should have at most {MAX_POLYGONS} items"),
        (
            f"ignored: [{HALF[:1] * (MAX_POLYGON_POINTS + 1)}]",
            f"ignored.0: list should have at most {MAX_POLYGON_POINTS}",
        ),
        ("mm_per_px: 0", "mm_per_px: input should be greater than 0 (it is 0). Give the size of a pixel"),
        (
            f"mm_per_px: 0x{'f' * 9000}",
            "mm_per_px: input should be a valid number (it is a number of thousands of digits)",
        ),
        ("mm_per_px: 1\nmm_per_px: 2", "geometry.yaml:2: mm_per_px: the key appears twice. Remove one"),
        ("- regions", "geometry.yaml:1: the file contains no keys. Known keys: regions"),
        ("regions: *all", "geometry.yaml:1: anchors and aliases"),
        ("regions: [", "geometry.yaml:1: not valid YAML"),
        ("#" * (MAX_BYTES + 1), "geometry.yaml:1: larger than 64 KB"),
    ],
)
def test_invalid_keys_are_named_with_value_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "geometry.yaml").write_text(text)
    assert message in refused(tmp_path)


def test_the_file_that_an_engineer_copies_from_the_document_is_read(tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs/retraining.md").read_text(encoding="utf-8")
    (tmp_path / "geometry.yaml").write_text(document.split("```yaml\n")[1].split("```")[0])
    geometry = read(tmp_path).geometry
    assert len(geometry.regions) == 2
    assert ignored_share(geometry) == pytest.approx(0.02 / 0.48, abs=0.001)
    assert geometry.mm_per_px == 0.05


def test_a_directory_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "geometry.yaml").mkdir()
    assert "geometry.yaml: cannot be read: Is a directory" in refused(tmp_path)


numbers = st.floats() | st.integers() | st.integers(2**1000, 2**1100)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
keys = st.sampled_from(["regions", "ignored", "mm_per_px", "x", "y", "width", "height"]) | st.text(max_size=8)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=30
)
points = st.lists(numbers, max_size=3)
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "regions": documents | st.lists(st.dictionaries(keys, numbers, max_size=4), max_size=3),
        "ignored": documents | st.lists(st.lists(points, max_size=5), max_size=3),
        "mm_per_px": scalars,
    },
)
hostile = (
    st.binary(max_size=300)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.text("[]{}:,-?!&*|>'\"%@`# \n\tregions0.1", max_size=80).map(str.encode)
    | (documents | near_misses).map(lambda document: yaml.safe_dump(document).encode())
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=hostile)
@example(content=b"regions: [{x: 0x" + b"f" * 9000 + b"}]")
@example(content=b"ignored: [[[0, 0], [1, 0], [0, 1e400]]]")
@example(content=b"mm_per_px: 1:1:1:1:1:1" + b":59" * 300)
@example(content=b"regions: " + b"[" * 3000)
@example(content=b"? [a]\n: b")
@example(content=b"mm_per_px: 2001-99-99")
def test_any_content_gives_a_geometry_or_a_problem_of_this_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "geometry.yaml"
    path.write_bytes(content)
    found = outcome(tmp_path)
    if isinstance(found, ProcunitError):
        assert str(found).startswith(str(path))
        assert found.remedy
    else:
        assert Geometry.model_validate_json(found.model_dump_json()) == found


def test_white_areas_are_ignored_and_black_ones_inspected(tmp_path: Path) -> None:
    painted = black()
    painted[:40] = 255
    cv2.circle(painted, (100, 90), 15, 255.0, -1)
    paint(tmp_path / "ignored.png", painted)
    asked = read(tmp_path)
    assert asked.painted_size_px == (120, 160)
    assert len(asked.geometry.ignored) == 2
    assert ignored_share(asked.geometry) == pytest.approx((painted > 0).mean(), abs=0.02)
    back = ignored_pixels(1200, 1600, asked.geometry)
    assert back[:380].all()
    assert back[900, 1000]
    assert not back[420:700].any()


@pytest.mark.parametrize("scale", [2, 8])
def test_a_black_part_on_a_white_background_stays_inspected(tmp_path: Path, scale: int) -> None:
    """The commonest mask, and an area with a hole; with two holes of the part and a speck of dirt besides."""
    painted = np.full((60 * scale, 80 * scale), 255, np.uint8)
    cv2.circle(painted, (40 * scale, 30 * scale), 25 * scale, 0.0, -1)
    cv2.circle(painted, (30 * scale, 30 * scale), 5 * scale, 255.0, -1)
    cv2.circle(painted, (50 * scale, 30 * scale), 5 * scale, 255.0, -1)
    painted[1:3, 5 * scale] = 0
    paint(tmp_path / "ignored.png", painted)
    geometry = read(tmp_path).geometry
    back = ignored_pixels(*painted.shape, geometry)
    wrong = cv2.morphologyEx((back != (painted > 0)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    assert not wrong.any()
    assert not back[30 * scale, 40 * scale]
    assert back[30 * scale, 30 * scale]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height_px=st.integers(40, 300),
    width_px=st.integers(40, 300),
    share=st.floats(0.05, 0.95),
    grain_px=st.integers(5, 20),
)
@example(seed=8911, height_px=215, width_px=222, share=0.5625, grain_px=5)  # has holes of one pixel
def test_polygons_are_the_painted_areas_whatever_their_shape(
    seed: int, height_px: int, width_px: int, share: float, grain_px: int
) -> None:
    noise = np.random.default_rng(seed).normal(size=(height_px, width_px)).astype(np.float32)
    noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), grain_px), np.float32)
    painted = noise > np.quantile(noise, 1 - share)
    with contextlib.suppress(ProcunitError):  # more areas than a geometry may have
        back = ignored_pixels(height_px, width_px, Geometry(ignored=polygons_from_pixels(painted)))
        around = np.ones((5, 5), np.uint8)
        inside = cv2.erode(painted.astype(np.uint8), around, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        near = cv2.dilate(painted.astype(np.uint8), around) > 0
        assert not (inside & ~back).any()
        assert not (back & ~near).any()


def test_paint_of_any_file_format_counts_where_it_is_opaque_and_bright(tmp_path: Path) -> None:
    white = black()
    white[:60] = 255
    files: dict[str, PixelArray] = {
        "8 bits": white,
        "16 bits": white.astype(np.uint16) * 257,
        "colour": np.dstack([white] * 3),
        "white on a transparent layer": np.dstack([np.full_like(white, 255)] * 3 + [white]),
        "black on white, both opaque": np.dstack([white] * 3 + [np.full_like(white, 255)]),
    }
    for name, pixels in files.items():
        found = painted_pixels(paint(tmp_path / "ignored.png", pixels))
        np.testing.assert_array_equal(found, white > 0, err_msg=name)


def test_strokes_on_a_photograph_are_no_mask(tmp_path: Path) -> None:
    photograph = np.random.default_rng(1).normal(120, 30, (120, 160)).clip(0, 255).astype(np.uint8)
    photograph[:40] = 255
    paint(tmp_path / "ignored.png", photograph)
    assert "neither black nor white. Paint areas that are not inspected white and all others black" in refused(tmp_path)


def test_more_areas_than_a_geometry_may_have_are_refused(tmp_path: Path) -> None:
    painted = black(400, 400)
    for place in range(MAX_POLYGONS):
        y_px, x_px = 40 * (place // 8) + 10, 40 * (place % 8) + 10
        painted[y_px : y_px + 20, x_px : x_px + 20] = 255
    paint(tmp_path / "ignored.png", painted)
    assert len(read(tmp_path).geometry.ignored) == MAX_POLYGONS
    (tmp_path / "geometry.yaml").write_text(f"ignored: [{HALF}]")
    assert f"ignored.png: more than {MAX_POLYGONS} ignored areas. Join areas" in refused(tmp_path)
    painted[360:380, ::8] = 255
    (tmp_path / "geometry.yaml").unlink()
    paint(tmp_path / "ignored.png", painted)
    assert f"ignored.png: more than {MAX_POLYGONS} ignored areas" in refused(tmp_path)


def test_a_mask_with_too_many_holes_is_refused_in_finite_time(tmp_path: Path) -> None:
    painted = np.full((600, 600), 255, np.uint8)
    for number, (y_px, x_px) in enumerate(np.ndindex(29, 29)):
        painted[20 * y_px + 10 : 20 * y_px + 15, 20 * x_px + 7 * number % 15 : 20 * x_px + 7 * number % 15 + 5] = 0
    paint(tmp_path / "ignored.png", painted)
    assert f"more than {MAX_POLYGONS} ignored areas" in refused(tmp_path)


def test_an_outline_of_too_many_points_is_refused(tmp_path: Path) -> None:
    painted = black(100, 2000)
    painted[50:] = 255
    painted[20:50, np.arange(2000) % 16 < 6] = 255
    paint(tmp_path / "ignored.png", painted)
    assert "ignored.png: the outline of an area has " in refused(tmp_path)


def test_a_painted_file_of_another_shape_than_a_photograph_names_the_photograph(tmp_path: Path) -> None:
    painted = black()
    painted[:60] = 255
    paint(tmp_path / "ignored.png", painted)
    asked = read(tmp_path)
    asked.check_frame(tmp_path / "good/a.png", 1200, 1600)
    with pytest.raises(
        ProcunitError, match=r"good/b.png: 1600 x 1600 px, but ignored.png has the aspect ratio of 160 x 120 px"
    ):
        asked.check_frame(tmp_path / "good/b.png", 1600, 1600)


def test_a_region_with_nothing_left_is_found_with_the_first_photograph(tmp_path: Path) -> None:
    (tmp_path / "geometry.yaml").write_text(f"ignored: [{HALF}]\nregions: [{{x: 0.5, width: 0.5}}, {{width: 0.4}}]")
    with pytest.raises(ProcunitError, match=r"region 2 \(x 0 to 0.4, y 0 to 1\) is wholly ignored"):
        read(tmp_path).check_frame(tmp_path / "good/a.png", 480, 640)


@pytest.mark.parametrize("content", [b"", b"\x89PNG nothing more"])
def test_a_damaged_painted_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ignored.png").write_bytes(content)
    assert "ignored.png: not a readable image" in refused(tmp_path)
