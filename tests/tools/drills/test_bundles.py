"""The drill of mutated bundles: 500 of its ten thousand, and that it sees what it looks for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.bundle.contents import files_in
from edge.bundle.keys import TrustedKey
from tools.drills.bundles import __main__ as drill
from tools.drills.bundles.mutations import MUTATIONS


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder in memory: the drill makes thousands of files for one bundle."""
    with tempfile.TemporaryDirectory(dir=drill.MEMORY_DISK if drill.MEMORY_DISK.is_dir() else None) as name:
        yield Path(name)


def test_500_mutated_bundles_crash_nothing_and_none_that_is_invalid_is_accepted(folder: Path) -> None:
    outcome = drill.try_bundles(folder, 500, seed=2)
    assert outcome.failures == []
    assert outcome.slowest_s < drill.LIMIT_S
    tried = {name.split()[1] for name in (*outcome.refused, *outcome.accepted)}
    assert tried == {mutation.__name__ for mutation in MUTATIONS}
    assert not any(name.startswith("unsigned") for name in outcome.accepted)
    assert outcome.accepted.total() > 0, "some changes leave a valid bundle: signed again, it opens"


def test_a_bundle_that_is_accepted_wrongly_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def any_signer(_data: bytes, _signature: bytes, trusted: tuple[TrustedKey, ...], _where: str) -> TrustedKey:
        return trusted[0]

    monkeypatch.setattr("edge.bundle.reader.signer_of_bytes", any_signer)
    outcome = drill.try_bundles(folder, 120, seed=2)
    assert any("unsigned changed_manifest" in failure and "accepted" in failure for failure in outcome.failures)


def test_an_exception_that_is_not_for_people_is_seen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def failing(_path: Path) -> frozenset[str]:
        nonlocal calls
        calls += 1
        if calls > 4:  # the pristine bundle has been sealed, opened and shown
            raise AssertionError("nobody thought of this")
        return files_in(_path)

    monkeypatch.setattr("edge.bundle.reader.files_in", failing)
    outcome = drill.try_bundles(folder, 40, seed=2)
    assert any("nobody thought of this" in failure for failure in outcome.failures)
