"""Versions of a bank on the device: put in use, undone, and never a damaged one in use."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.bank.delta import DELTA, ROWS, Source
from edge.bank.growth import GrownBank, own_bank
from edge.bank.store import IN_USE, BankStore
from edge.bundle.keys import SigningKey, TrustedKey, trusted_key_from_file
from edge.bundle.reader import Bundle, open_bundle
from edge.errors import ProcunitError
from edge.state_dir import BANK_FOLDER
from tests.support.tiny_bundle import build_tiny_bundle, defect_image, tiny_patches

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\5" * 32), "line-bank.pem", demo=False)
SCALE = 4e-4


def store_in(state: Path, bundle: Bundle, keys: tuple[TrustedKey, ...] = (KEY.trusted,)) -> BankStore:
    return BankStore(state, bundle, keys)


def add(store: BankStore, bundle: Bundle, rows: int, key: SigningKey = KEY) -> int:
    """Add a version with this many rows besides those of the bundle's bank."""
    added = np.tile(np.array([0.5, 0.5, 0.5, SCALE], np.float32), (rows, 1))
    source = Source(sha256="a" * 64, name="part 1", rows=rows, score=0.001)
    bank = GrownBank(bundle.bank(), added, (), store.own_limit)
    with store.locked():
        return store.add(bank, key, (source,), "m.huber")


def in_use(store: BankStore) -> tuple[int, int]:
    """The version in use and its rows."""
    bank = store.in_use(store.latest_usable())
    return bank.version, len(bank.rows)


def folder_of(state: Path, bundle: Bundle) -> Path:
    return state / BANK_FOLDER / bundle.bundle_id


def test_without_a_version_the_bundles_bank_is_in_use(tmp_path: Path, growing: Bundle) -> None:
    store = store_in(tmp_path, growing)
    assert store.numbers() == ()
    assert store.stamp() is None
    assert in_use(store) == (0, 512)
    with pytest.raises(ProcunitError, match="nothing to undo"):
        store.undo()
    assert list(tmp_path.iterdir()) == []


def test_versions_are_put_in_use_and_undone_one_by_one(tmp_path: Path, growing: Bundle) -> None:
    store = store_in(tmp_path, growing)
    seen = {store.stamp()}
    for rows in (1, 2, 3):
        assert add(store, growing, rows) == rows
        assert in_use(store) == in_use(store_in(tmp_path, growing)) == (rows, 512 + rows)
        seen.add(store.stamp())
    assert (store.undo(), in_use(store)) == (2, (2, 514))
    assert (store.undo(), in_use(store)) == (1, (1, 513))
    assert add(store, growing, 5) == 4  # a number is never used again
    assert store.numbers() == (1, 4)
    assert store.undo() == 1
    assert (store.undo(), in_use(store)) == (0, (0, 512))
    assert len(seen) == 4


@pytest.mark.parametrize("file", [DELTA, ROWS])
def test_a_damaged_version_leaves_the_last_good_one_in_use_and_is_reported(
    tmp_path: Path, growing: Bundle, file: str
) -> None:
    store = store_in(tmp_path, growing)
    for rows in (1, 2, 3):
        add(store, growing, rows)
    data = bytearray((folder_of(tmp_path, growing) / "0003" / file).read_bytes())
    data[-3] ^= 1
    (folder_of(tmp_path, growing) / "0003" / file).write_bytes(data)
    assert in_use(store) == (2, 514)
    (problem,) = store.latest_usable().refused
    assert problem.startswith("version 3: ")
    assert file in problem
    shutil.rmtree(folder_of(tmp_path, growing) / "0002")
    (folder_of(tmp_path, growing) / "0001" / ROWS).write_bytes(b"")
    assert in_use(store) == (0, 512)
    assert [text.split(":")[0] for text in store.latest_usable().refused] == [
        "version 3",
        "version 2",
        "version 1",
    ]


def test_a_version_by_a_key_that_is_no_longer_trusted_is_refused(tmp_path: Path, growing: Bundle) -> None:
    add(store_in(tmp_path, growing), growing, 1)
    later = store_in(tmp_path, growing, keys=())
    assert in_use(later) == (0, 512)
    assert "not by any trusted key (none)" in later.latest_usable().refused[0]


def test_a_version_that_no_trusted_key_signed_is_not_put_in_use(tmp_path: Path, growing: Bundle) -> None:
    store = store_in(tmp_path, growing)
    add(store, growing, 1)
    stranger = SigningKey(Ed25519PrivateKey.generate(), "stranger.pem", demo=False)
    with pytest.raises(ProcunitError, match="not by any trusted key"):
        add(store, growing, 2, key=stranger)
    assert in_use(store) == (1, 513)


def test_versions_for_another_bundle_are_ignored(tmp_path: Path, growing: Bundle) -> None:
    add(store_in(tmp_path, growing), growing, 1)
    other = replace(growing, bundle_id="c" * 64)
    assert in_use(store_in(tmp_path, other)) == (0, 512)
    shutil.copytree(folder_of(tmp_path, growing), folder_of(tmp_path, other))
    assert in_use(store_in(tmp_path, other)) == (0, 512)
    assert "it is version 1 for bundle" in store_in(tmp_path, other).latest_usable().refused[0]


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=60) | st.lists(st.integers(-5, 20000), max_size=5).map(lambda n: str(n).encode()))
def test_whatever_the_list_contains_only_signed_versions_are_used(
    tmp_path_factory: pytest.TempPathFactory, growing: Bundle, data: bytes
) -> None:
    state = tmp_path_factory.getbasetemp() / "lists"
    store = store_in(state, growing)
    if not state.exists():
        add(store, growing, 1)
        add(store, growing, 2)
    (folder_of(state, growing) / IN_USE).write_bytes(data)
    usable = store.latest_usable()
    assert in_use(store) in ((0, 512), (1, 513), (2, 514))
    assert usable.delta is not None or usable.refused or data.strip() in (b"[]", b"[ ]")


def test_files_half_written_before_a_power_cut_are_ignored(tmp_path: Path, growing: Bundle) -> None:
    store = store_in(tmp_path, growing)
    add(store, growing, 1)
    folder = folder_of(tmp_path, growing)
    shutil.copytree(folder / "0001", folder / ".0002.partial")
    shutil.copytree(folder / "0001", folder / "0002")  # complete, but the power went before the list was written
    (folder / f".{IN_USE}.partial").write_bytes(b"[1, 2")
    assert in_use(store) == (1, 513)
    assert add(store, growing, 3) == 3
    assert in_use(store) == (3, 515)
    assert store.undo() == 1


def test_two_commands_cannot_change_the_bank_at_once(tmp_path: Path, growing: Bundle) -> None:
    with (
        store_in(tmp_path, growing).locked(),
        pytest.raises(ProcunitError, match="another `procunit bank` is changing this bank"),
        store_in(tmp_path, growing).locked(),
    ):
        pass
    with store_in(tmp_path, growing).locked():
        pass


def test_a_state_folder_that_cannot_be_written_is_reported(tmp_path: Path, growing: Bundle) -> None:
    (tmp_path / BANK_FOLDER).write_text("a file")
    with pytest.raises(ProcunitError, match="as the user of the daemon"), store_in(tmp_path, growing).locked():
        pass
    store = store_in(tmp_path, growing)
    assert in_use(store) == (0, 512)
    assert "cannot be read" in store.latest_usable().refused[0] or "plain file" in store.latest_usable().refused[0]


def test_a_signed_version_that_would_miss_a_stored_defect_is_not_used(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path, types=(), grows=True)
    bundle = open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))
    store = store_in(tmp_path / "state", bundle)
    scratch = tiny_patches(defect_image(3000))
    added = np.column_stack([scratch, np.full(len(scratch), SCALE, np.float32)])
    blind = replace(own_bank(bundle.bank(), store.own_limit), added=added)
    source = Source(sha256="a" * 64, name="part 1", rows=64, score=0.001)
    with store.locked(), pytest.raises(ProcunitError, match="would miss a stored defect: the bundle's photograph"):
        store.add(blind, KEY, (source,), "m.huber")
    assert in_use(store) == (0, 512)


def test_a_bundle_without_an_anomaly_score_has_no_bank_to_grow(growing: Bundle, tmp_path: Path) -> None:
    manifest = growing.manifest.model_copy(update={"anomaly": None})
    with pytest.raises(ProcunitError, match="memory bank is not used"):
        store_in(tmp_path, replace(growing, manifest=manifest))
