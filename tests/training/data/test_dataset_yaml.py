"""A data folder's `dataset.yaml`: reading valid ones, and every kind of error."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge.errors import ProcunitError
from training.data.dataset_yaml import (
    MAX_PATTERN_CHARACTERS,
    SAFE_AUGMENTATION,
    Augmentation,
    DatasetFile,
    dataset_file_from_folder,
    pattern_from_text,
)

ISOTROPIC = Augmentation(direction="isotropic")
RETRAINING = Path(__file__).parents[3] / "docs/retraining.md"


def read(folder: Path, text: str) -> DatasetFile:
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    return dataset_file_from_folder(folder)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ProcunitError) as caught:
        read(folder, text)
    return str(caught.value)


def outcome(folder: Path) -> DatasetFile | ProcunitError:
    try:
        return dataset_file_from_folder(folder)
    except ProcunitError as error:
        return error


def test_without_a_file_augmentation_is_the_safe_default(tmp_path: Path) -> None:
    found = dataset_file_from_folder(tmp_path)
    assert found.part_id_pattern is None
    assert found.augmentation_of("crack") == found.augmentation_of("good") == SAFE_AUGMENTATION
    assert SAFE_AUGMENTATION.in_words() == "directional, rotation within 5 degrees, brightness 10 %, contrast 10 %"
    assert read(tmp_path, "# nothing yet\n").augmentation_of("crack") == SAFE_AUGMENTATION


def test_a_label_has_its_own_settings_else_the_default_ones(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "part_id_pattern: 'num_(?P<part>[0-9]+)'\n"
        "augmentation:\n"
        "  default: {direction: isotropic}\n"
        "  crack:\n"
        "    direction: directional\n"
        "    rotation_deg: 7.5\n"
        "    mirror: [vertical]\n"
        "    elastic: 0.02\n"
        "    brightness: 0\n",
    )
    assert found.part_id_pattern == "num_(?P<part>[0-9]+)"
    assert found.augmentation_of("pore") == found.augmentation_of("good") == ISOTROPIC
    crack = found.augmentation_of("crack")
    assert (crack.rotation_deg, crack.mirrors, crack.elastic) == (7.5, ("vertical",), 0.02)
    assert (crack.brightness, crack.contrast) == (0, 0.1), "no setting is inherited from default"
    assert crack.in_words() == (
        "directional, rotation within 7.5 degrees, mirrored top to bottom, elastic 2 %, brightness 0 %, contrast 10 %"
    )
    assert ISOTROPIC.in_words().startswith("isotropic, rotation through 360 degrees, mirrored, brightness")


def test_a_label_without_photographs_is_named_with_those_that_have_some(tmp_path: Path) -> None:
    found = read(tmp_path, "augmentation:\n  default: {direction: isotropic}\n  carck: {direction: isotropic}")
    found.check_labels(["good", "carck"])
    with pytest.raises(ProcunitError) as caught:
        found.check_labels(["good", "pore", "crack"])
    assert str(caught.value) == (
        f"{tmp_path}/dataset.yaml:3: augmentation.carck: no photograph has the label 'carck'. "
        "Did you mean 'crack'? Labels here: crack, good, pore"
    )


@pytest.mark.parametrize("key", ["hue", "saturation", "color", "colour", "colour_jitter", "Hue"])
def test_colour_augmentation_is_refused_with_the_reason_at_any_level(tmp_path: Path, key: str) -> None:
    for text, line in (
        (f"augmentation:\n  rust: {{direction: isotropic, {key}: 0.1}}", f"2: augmentation.rust.{key}"),
        (f"augmentation:\n  rust:\n    {key}: 0.1", f"3: augmentation.rust.{key}"),
        (f"augmentation:\n  {key}: 0.1", f"2: augmentation.{key}"),
        (f"\n{key}: 0.1", f"2: {key}"),
    ):
        found = refused(tmp_path, text)
        assert found.startswith(f"{tmp_path}/dataset.yaml:{line}: colour augmentation is refused: a defect's colour is")
        assert "part of its physics (discoloration distinguishes a burn or rust from dirt)" in found
        assert "camera and light at the line are fixed, and grey cameras see no colour (it is 0.1)" in found


def test_a_defect_type_may_be_one_of_colour(tmp_path: Path) -> None:
    found = read(tmp_path, "augmentation:\n  discolouration: {direction: isotropic}")
    assert found.augmentation_of("discolouration") == ISOTROPIC


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{}", "crack.direction: the key is missing. Isotropic defects may lie at any angle; directional"),
        ("{directon: isotropic}", "crack.directon: unknown key (it is 'isotropic'). Did you mean 'direction'?"),
        ("{direction: any}", "crack.direction: input should be 'isotropic' or 'directional' (it is 'any')"),
        ("{direction: directional}", "crack: a directional label needs rotation_deg. Directional labels need the lar"),
        ("{direction: directional, rotation_deg: 46}", "rotation_deg: input should be less than or equal to 45 (it is"),
        ("{direction: directional, rotation_deg: -1}", "rotation_deg: input should be greater than or equal to 0"),
        ("{direction: directional, rotation_deg: yes}", "rotation_deg: input should be a valid number (it is True)"),
        ("{direction: directional, rotation_deg: .nan}", "crack.rotation_deg: input should be"),
        ("{direction: isotropic, rotation_deg: 5}", "crack: isotropic rotates through 360 degrees and mirrors, so it"),
        ("{direction: isotropic, mirror: [vertical]}", "crack: isotropic rotates through 360 degrees and mirrors, so"),
        ("{direction: directional, rotation_deg: 5, mirror: left}", "crack.mirror: input should be a valid list (it"),
        ("{direction: directional, rotation_deg: 5, mirror: [left]}", "mirror.0: input should be 'horizontal' or 'ver"),
        (
            "{direction: directional, rotation_deg: 5, mirror: [vertical, vertical]}",
            "crack: a reflection appears twice in mirror. Give [horizontal], [vertical] or both",
        ),
        (
            "{direction: directional, rotation_deg: 0, elastic: 0.01}",
            "crack: elastic bends count as rotations; rotation_deg 0 allows none. Directional labels need",
        ),
        ("{direction: isotropic, elastic: 0.06}", "crack.elastic: input should be less than or equal to 0.05 (it is"),
        ("{direction: isotropic, brightness: 0.31}", "crack.brightness: input should be less than or equal to 0.3"),
        ("{direction: isotropic, contrast: 10%}", "crack.contrast: input should be a valid number (it is '10%'). Give"),
        ("isotropic", "augmentation.crack: no settings (it is 'isotropic'). Give settings such as {direction: iso"),
        ("", "augmentation.crack: no settings (it is empty)"),
    ],
)
def test_settings_that_do_not_fit_are_named_with_value_and_remedy(tmp_path: Path, settings: str, message: str) -> None:
    found = refused(tmp_path, f"augmentation:\n  crack: {settings}")
    assert found.startswith(f"{tmp_path}/dataset.yaml:2: augmentation.crack")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "part_id_patern: x",
            "dataset.yaml:1: part_id_patern: unknown key (it is 'x'). Did you mean 'part_id_pattern'?",
        ),
        ("part_id_pattern: 5", "part_id_pattern: input should be a valid string (it is 5). Give a regular expression"),
        (
            "part_id_pattern: '(?P<part>'",
            "part_id_pattern: not a regular expression of RE2: missing ): (?P<part>",
        ),
        (
            "part_id_pattern: 'a{9999}'",
            "part_id_pattern: not a regular expression of RE2: invalid repetition size: {9999}",
        ),
        (
            r"part_id_pattern: '(?P<part>a)\1'",
            r"part_id_pattern: not a regular expression of RE2: invalid escape sequence: \1",
        ),
        (
            "part_id_pattern: '(?P<part>a)(?=_)'",
            "part_id_pattern: not a regular expression of RE2: invalid perl operator: (?=",
        ),
        ("part_id_pattern: '(.*)'", "part_id_pattern: needs exactly one named group, (?P<part>...) (it is '(.*)')"),
        ("part_id_pattern: '(?P<part>.)(?P<lot>.)'", "part_id_pattern: needs exactly one named group, (?P<part>...)"),
        (f"part_id_pattern: '(?P<part>{'x' * MAX_PATTERN_CHARACTERS})'", "string should have at most 200 characters"),
        ("augmentation: isotropic", "augmentation: no keys (it is 'isotropic'). Give settings such as"),
        (
            "augmentation:\n  a: {direction: isotropic}\n  a: {}",
            "dataset.yaml:3: augmentation.a: the key appears twice",
        ),
        ("- augmentation", "dataset.yaml:1: the file contains no keys. Known keys: part_id_pattern, augmentation"),
        ("augmentation: *all", "dataset.yaml:1: anchors and aliases"),
    ],
)
def test_keys_that_do_not_fit_are_named_with_value_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?P<part>(a+)+)b",
        "(?P<part>(a|aa)+)b",
        "(?P<part>(a|a)*)b",
        "(?P<part>a*a*a*a*a*a*a*a*a*a*)b",
        "(?P<part>(a?){60}a{60})b",
        "(?P<part>(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)[^a])b",
    ],
)
def test_no_pattern_takes_long_on_any_name(tmp_path: Path, pattern: str) -> None:
    """Each of these takes Python's own engine hours on a name of 250 letters, or at least minutes."""
    found = pattern_from_text(str(read(tmp_path, f"part_id_pattern: '{pattern}'").part_id_pattern))
    started_s = time.monotonic()
    assert found.search("a" * 250) is None
    assert time.monotonic() - started_s < 1


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?P<part>T\d+)_\d+",
        r"(?P<part>(?:\d{2}-)+\w)",
        r"(\w+_)?(?P<part>[^(+]+)",
        r"(?P<part>\(a+\))",
        "(?P<part>[]*]x)+",
    ],
)
def test_a_pattern_of_the_usual_kind_is_taken(tmp_path: Path, pattern: str) -> None:
    assert read(tmp_path, f"part_id_pattern: '{pattern}'").part_id_pattern == pattern


def test_the_file_that_an_engineer_copies_from_the_document_is_read(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", RETRAINING.read_text(encoding="utf-8"), re.DOTALL)
    found = read(tmp_path, next(block for block in blocks if "augmentation:" in block))
    assert found.part_id_pattern is not None
    part = re.search(found.part_id_pattern, "T0415_cam2.png")
    assert part is not None
    assert part["part"] == "T0415"
    assert {found.augmentation_of(label).direction for label in ("pore", "scoring")} == {"isotropic", "directional"}


keys = st.sampled_from(["part_id_pattern", "augmentation", "default", "hue", *Augmentation.model_fields]) | st.text(
    max_size=8
)
scalars = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers(-(2**1100), 2**1100)
    | st.text(max_size=8)
    | st.sampled_from(["isotropic", "directional", "horizontal", "(?P<part>.)"])
    | st.text("(?P<part>)*+{1,}[]\\|^", max_size=20)
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)
near_misses = st.fixed_dictionaries(
    {},
    optional={
        "part_id_pattern": scalars,
        "augmentation": documents | st.dictionaries(keys, st.dictionaries(keys, scalars, max_size=5), max_size=3),
    },
)
hostile = (
    st.binary(max_size=200)
    | st.text("[]{}:,-?!&*|>'\"%@`# \n\taugmentation0.1", max_size=80).map(str.encode)
    | (documents | near_misses).map(lambda document: yaml.safe_dump(document).encode())
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=hostile)
@example(content=b"augmentation: {a: {direction: isotropic, elastic: 0x" + b"f" * 9000 + b"}}")
@example(content=b"part_id_pattern: '" + b"(" * 190 + b"'")
@example(content=b"part_id_pattern: '(?#))(?P<part>.*)'")
@example(content=b"augmentation: {a: 2001-99-99}")
def test_any_content_is_read_or_is_a_problem_of_this_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dataset.yaml"
    path.write_bytes(content)
    found = outcome(tmp_path)
    if isinstance(found, ProcunitError):
        assert str(found).startswith(str(path))
        assert found.remedy
    else:
        assert found.part_id_pattern is None or re.compile(found.part_id_pattern).groupindex.keys() == {"part"}
        assert all(found.augmentation_of(label).in_words() for label in found.augmentations)
