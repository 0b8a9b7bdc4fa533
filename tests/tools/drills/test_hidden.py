"""The drill with hidden defects: which parts it hides, what head and bank are built from, what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from tests.support.photographs import BACKBONE, write_photographs, write_weights
from tools.drills import hidden as drill_hidden
from tools.drills.hidden import Drawn, Drill, drill_from_folder, main, rows_from_draws
from tools.drills.hidden_defects import HIDDEN_SHARE, drawn_split, types_of_parts
from training.near_duplicates import NearDuplicates, Pair
from training.weights import trunk_weights

TYPES = ("line", "spot")
GOOD_PARTS, DEFECT_PARTS = 12, 6


def _small(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Use a small network, and let only the first two good parts look alike; the rendered spots would too."""
    weights = trunk_weights(BACKBONE, write_weights(directory / "w.safetensors"))
    monkeypatch.setattr(drill_hidden, "trunk_weights", lambda *_: weights)
    pair = Pair("good/00-0.png", "good/01-0.png", 0.5)
    monkeypatch.setattr("tools.benchmarks.joined_parts.near_duplicates", lambda *_: NearDuplicates((pair,), (), 2, 2))


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    """One thread, as in the draws: several threads on small matrices only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("hidden"), GOOD_PARTS, dict.fromkeys(TYPES, DEFECT_PARTS))


@pytest.fixture(scope="module")
def drill(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    with pytest.MonkeyPatch.context() as monkeypatch:
        _small(monkeypatch, tmp_path_factory.mktemp("weights"))
        return drill_from_folder(data, 64, Console(quiet=True))


@given(good=st.integers(4, 60), defects=st.lists(st.integers(1, 20), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_split_is_disjoint_and_every_type_keeps_a_taught_part(good: int, defects: list[int], seed: int) -> None:
    types = [f"t{place}" for place in range(len(defects))]
    type_of = {f"{name}-{n}": name for name, parts in zip(types, defects, strict=True) for n in range(parts)}
    type_of |= {f"good-{n}": GOOD for n in range(good)}
    wanted = max(1, round(HIDDEN_SHARE * (good - good // 4)))
    if sum(parts - parts // 2 - 1 for parts in defects) < wanted:
        with pytest.raises(ProcunitError, match="too few to hide"):
            drawn_split(type_of, types, seed)
        return
    split = drawn_split(type_of, types, seed)
    places = (split.bank, split.taught, split.hidden, split.tested_good, split.tested_defects)
    assert sum(map(len, places)) == len(type_of) == len(frozenset.union(*places))
    assert {type_of[part] for part in split.bank | split.tested_good} == {GOOD}
    assert {type_of[part] for part in split.taught} == set(types)
    assert GOOD not in {type_of[part] for part in split.hidden | split.tested_defects}
    assert (len(split.hidden), len(split.tested_good)) == (wanted, good // 4)
    assert split == drawn_split(dict(reversed(type_of.items())), types, seed)


def test_hidden_parts_are_labelled_good_and_neither_taught_nor_tested(drill: Drill) -> None:
    type_of = types_of_parts(drill.dataset.photos)
    split = drawn_split(type_of, TYPES, 0)
    assert split.hidden.isdisjoint(split.tested_defects)
    hidden = [one for one in drill.training_set(split, hide=True) if one.photo.part_id in split.hidden]
    assert hidden
    for one in hidden:
        assert (one.photo.label, one.photo.mask, one.lesson.label, one.lesson.coverage) == (GOOD, None, GOOD, None)
    clean = {one.photo.part_id for one in drill.training_set(split, hide=False)}
    assert clean == split.bank | split.taught
    assert {one.photo.part_id for one in drill.training_set(split, hide=True)} == clean | split.hidden


def test_the_clean_bank_has_no_hidden_part_and_without_a_head_none_is_excluded(drill: Drill) -> None:
    split = drawn_split(types_of_parts(drill.dataset.photos), TYPES, 0)
    clean, hidden = (drill.training_set(split, hide=hide) for hide in (False, True))
    assert drill.bank_of(clean, drill.head_of(clean, 0), 0).parts <= split.bank
    among = drill.bank_of(hidden, drill.head_of(hidden, 0), 0)
    assert among.parts.isdisjoint(among.excluded_parts)
    everything = drill.bank_of(hidden, None, 0)
    assert everything.parts == split.bank | split.hidden
    assert not everything.excluded_parts


def test_draws_are_repeatable_and_ordered(drill: Drill) -> None:
    first = list(drill.draws(2, Console(quiet=True)))
    assert list(drill.draws(1, Console(quiet=True))) == first[:1]
    assert all(0.5 < one.clean <= 1 and one.hidden_parts == 1 for one in first)


def test_drops_are_paired_over_draws() -> None:
    draws = [Drawn(0.9, 0.89, 0.85, 2, 1), Drawn(0.8, 0.77, 0.75, 2, 2)]
    _, clean, among, everything = rows_from_draws(draws)
    assert clean == ("clean", "0.850", "-", "-", "-")
    half_width = 12.7062 * 0.01  # Student's t of one degree of freedom
    assert among[1:] == ("0.830", "0.0200 (0.0100)", f"{0.02 - half_width:.4f} to {0.02 + half_width:.4f}", "3 of 4")
    assert everything[1:3] == ("0.800", "0.0500 (0.0000)")
    assert rows_from_draws(draws[:1])[2][2:4] == ("0.0100", "-")


def test_an_interrupted_drill_prints_its_results(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def draws(*_: object) -> Iterator[Drawn]:
        yield Drawn(0.9, 0.89, 0.85, 1, 1)
        raise KeyboardInterrupt

    _small(monkeypatch, tmp_path)
    monkeypatch.setattr(Drill, "draws", draws)
    result = CliRunner().invoke(main, ["--data", str(data), "--draws", "3", "--input-px", "64"])
    assert result.exit_code == 0, result.output
    assert "draw 1 of 3: AUC 0.9000, drop +0.0100" in result.stderr
    assert "interrupted after 1 of 3 draws" in result.stderr
    assert f"good {GOOD_PARTS - 1}, line {DEFECT_PARTS}, spot {DEFECT_PARTS}; 1 draws" in result.stdout
    assert "| with hidden defects | 0.890 | 0.0100 | - | 1 of 1 |" in result.stdout
