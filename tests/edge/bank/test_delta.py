"""A version of a bank is used exactly as an allowed key signed it, or refused; it can change nothing but the bank."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from edge.bank.delta import DELTA, DELTA_SIGNATURE, ROWS, Source, delta_from_directory, keys_for_bank, write_delta
from edge.bank.growth import MAX_ADDED_ROWS, GrownBank
from edge.bundle.keys import SigningKey, TrustedKey
from edge.bundle.manifest import BANK_KEY, ScoreLimit
from edge.bundle.reader import MAX_MANIFEST_BYTES, Bundle, file_entry_from_path
from edge.errors import ProcunitError

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\5" * 32), "line-bank.pem", demo=False)
KEYS = (KEY.trusted,)
SCALE = 4e-4
ADDED = np.array([[0.5, 0.5, 0.5, SCALE], [0.6, 0.5, 0.4, SCALE]], np.float32)
SOURCE = Source(sha256="a" * 64, name="part 4711", rows=2, score=0.004)


def rows_of_scale(scale: float, rows: int = 2) -> NDArray[np.float32]:
    """Rows with as many columns as the bundle's bank."""
    return np.tile(np.array([0.5, 0.5, 0.5, scale], np.float32), (rows, 1))


def limit_of(bundle: Bundle) -> ScoreLimit:
    assert bundle.manifest.anomaly is not None
    return bundle.manifest.anomaly


def write(folder: Path, bundle: Bundle, bank: GrownBank | None = None, key: SigningKey = KEY, version: int = 1) -> Path:
    folder.mkdir()
    bank = bank or GrownBank(bundle.bank(), ADDED, (), limit_of(bundle))
    source = SOURCE.model_copy(update={"rows": len(bank.added)})
    write_delta(
        folder,
        bank,
        key,
        bundle_id=bundle.bundle_id,
        version=version,
        sources=(source,),
        made_at_utc="2026-01-01T00:00:00.000Z",
        made_by="m.huber",
    )
    return folder


def sign_changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the record and sign it, as the holder of the key can."""
    record = json.loads((folder / DELTA).read_bytes())
    change(record)
    data = json.dumps(record).encode()
    (folder / DELTA).write_bytes(data)
    (folder / DELTA_SIGNATURE).write_bytes(KEY.key.sign(data))


def refused(
    folder: Path, bundle: Bundle, text: str, file: str = DELTA, base: NDArray[np.float32] | None = None
) -> None:
    with pytest.raises(ProcunitError, match=re.escape(text)) as caught:
        delta_from_directory(folder, 1, bundle, bundle.bank() if base is None else base, KEYS)
    assert caught.value.where == str(folder / file)


@pytest.fixture
def folder(tmp_path: Path, growing: Bundle) -> Path:
    return write(tmp_path / "0001", growing)


def test_a_version_is_read_as_it_was_written(folder: Path, growing: Bundle) -> None:
    delta = delta_from_directory(folder, 1, growing, growing.bank(), KEYS)
    assert delta.record.sources == (SOURCE,)
    assert (delta.record.made_by, delta.signed_by.name) == ("m.huber", "line-bank.pem")
    assert np.array_equal(delta.bank.rows, np.concatenate([growing.bank(), ADDED]))
    assert delta.bank.limit == growing.manifest.anomaly


@pytest.mark.parametrize("file", [DELTA, DELTA_SIGNATURE, ROWS])
def test_a_missing_truncated_or_linked_file_is_refused(
    folder: Path, growing: Bundle, file: str, tmp_path: Path
) -> None:
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-1])
    with pytest.raises(ProcunitError):
        delta_from_directory(folder, 1, growing, growing.bank(), KEYS)
    (folder / file).unlink()
    refused(folder, growing, "missing, or not a plain file", file)
    (tmp_path / "elsewhere").write_bytes(data)
    (folder / file).symlink_to(tmp_path / "elsewhere")
    refused(folder, growing, "not a plain file", file)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_changed_byte_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, growing: Bundle, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed"
    if not folder.exists():
        write(folder, growing)
    file = folder / data.draw(st.sampled_from([DELTA, DELTA_SIGNATURE, ROWS]))
    original = file.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        with pytest.raises(ProcunitError):
            delta_from_directory(folder, 1, growing, growing.bank(), KEYS)
    finally:
        file.write_bytes(original)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_holder_of_the_key_signs_raises_no_other_error(
    tmp_path_factory: pytest.TempPathFactory, growing: Bundle, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hostile"
    if not folder.exists():
        write(folder, growing)
        shutil.copy(folder / DELTA, folder / "original")
    record = json.loads((folder / "original").read_bytes())
    key = data.draw(st.sampled_from([*record, "types", "authority", "model"]))
    record[key] = data.draw(_JSON)
    record_bytes = data.draw(st.just(json.dumps(record).encode()) | st.binary(max_size=60))
    (folder / DELTA).write_bytes(record_bytes)
    (folder / DELTA_SIGNATURE).write_bytes(KEY.key.sign(record_bytes))
    where = None
    try:
        delta = delta_from_directory(folder, 1, growing, growing.bank(), KEYS)
    except ProcunitError as error:
        where = error.where
    else:
        assert delta.record.bundle_id == growing.bundle_id
        assert delta.bank.limit.threshold <= limit_of(growing).threshold
    assert where in (None, str(folder / DELTA), str(folder / ROWS))


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_malformed_signed_rows_are_refused(
    tmp_path_factory: pytest.TempPathFactory, growing: Bundle, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "norows"
    if not folder.exists():
        write(folder, growing)
    (folder / ROWS).write_bytes(data)
    entry = file_entry_from_path(folder / ROWS).model_dump()
    sign_changed(folder, lambda record: record.update(rows=entry))
    refused(folder, growing, "safetensors", ROWS)


def test_a_key_that_may_not_grow_the_bank_is_refused(tmp_path: Path, growing: Bundle) -> None:
    stranger = SigningKey(Ed25519PrivateKey.generate(), "stranger.pem", demo=False)
    folder = write(tmp_path / "0001", growing, key=stranger)
    refused(folder, growing, "the signature is not by any trusted key (line-bank.pem)")
    (folder / DELTA).write_bytes(b"{" * 3000)  # the signature is checked first: nothing else is read
    refused(folder, growing, "the signature is not by any trusted key")


def test_bank_keys_may_only_sign_banks(tmp_path: Path) -> None:
    path = tmp_path / "line-bank.pub"
    path.write_bytes(KEY.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    release = TrustedKey("release.pub", Ed25519PrivateKey.generate().public_key(), demo=False)
    demo = TrustedKey("demo.pub", Ed25519PrivateKey.generate().public_key(), demo=True)
    assert [key.name for key in keys_for_bank((path,), (release, demo), demo_bundle=False)] == [
        "line-bank.pub",
        "release.pub",
    ]
    assert [key.name for key in keys_for_bank((), (release, demo), demo_bundle=True)] == ["release.pub", "demo.pub"]


def test_a_version_for_another_bundle_is_refused(tmp_path: Path, growing: Bundle) -> None:
    folder = write(tmp_path / "0001", replace(growing, bundle_id="b" * 64))
    refused(folder, growing, f"it is version 1 for bundle {'b' * 12}")


def test_a_version_under_another_number_is_refused(tmp_path: Path, growing: Bundle) -> None:
    refused(write(tmp_path / "0001", growing, version=2), growing, "it is version 2 for bundle")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r.update(types={"scratch": 0.9}), "key types: Extra inputs are not permitted"),
        (lambda r: r.update(authority={"scratch": "reject"}), "key authority: Extra inputs"),
        (lambda r: r.update(model="model.onnx"), "key model: Extra inputs"),
        (lambda r: r.update(format="procunit-bundle"), "key format"),
        (lambda r: r.update(format_version=2), "key format_version"),
        (lambda r: r.update(version=0), "key version"),
        (lambda r: r["anomaly"].update(threshold=100.0), "it raises the anomaly threshold above the bundle's"),
        (lambda r: r["anomaly"].update(threshold=float("nan")), "key anomaly.threshold"),
        (lambda r: r["anomaly"].update(spread=0), "key anomaly.spread"),
        (lambda r: r.update(removed=[0]), "it drops 1 rows of the bundle's bank, and has to drop 0"),
        (lambda r: r.update(removed=[3, 3]), "key removed: the rows removed must ascend"),
        (lambda r: r.update(removed=[-1]), "key removed.0"),
        (lambda r: r["sources"][0].update(rows=1), "not as many as its frames gave"),
        (lambda r: r.update(sources=[]), "key sources"),
        (lambda r: r["sources"][0].update(name="\x1b[2J"), "key sources.0.name"),
        (lambda r: r.update(made_by="a\nb"), "key made_by"),
    ],
)
def test_a_signed_record_that_changes_anything_else_is_refused(
    folder: Path, growing: Bundle, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    sign_changed(folder, change)
    refused(folder, growing, text)


@pytest.mark.parametrize(
    ("added", "text", "file"),
    [
        (np.full((2, 4), np.nan, np.float32), "rows of finite numbers", ROWS),
        (np.ones((2, 5), np.float32), "4 features per row, the bank has 3", ROWS),
        (np.zeros((0, 4), np.float32), "rows of finite numbers", ROWS),
        (np.zeros((2, 4), np.float64), "one float32 matrix", ROWS),
        (rows_of_scale(0), "a local scale above 0", ROWS),
        (rows_of_scale(-SCALE), "a local scale above 0", ROWS),
        (rows_of_scale(0.5), "the largest local scale of its rows is 0.5000, of the bundle's bank", DELTA),
        (rows_of_scale(SCALE, MAX_ADDED_ROWS + 1), f"its {MAX_ADDED_ROWS + 1} rows are more than", DELTA),
        (rows_of_scale(SCALE, MAX_ADDED_ROWS + 1000), "bytes long", ROWS),
    ],
)
def test_signed_rows_beyond_the_limits_are_refused(
    folder: Path, growing: Bundle, added: NDArray[np.float32], text: str, file: str
) -> None:
    (folder / ROWS).write_bytes(save({BANK_KEY: added}))
    entry = file_entry_from_path(folder / ROWS).model_dump()
    sign_changed(folder, lambda r: (r.update(rows=entry), r["sources"][0].update(rows=len(added))))
    refused(folder, growing, text, file)


def test_a_full_bank_must_drop_exactly_its_surplus_rows(tmp_path: Path, growing: Bundle) -> None:
    full = np.random.default_rng(0).uniform(0.1, 1, size=(16_383, 4)).astype(np.float32)
    full[9, -1] = 2
    bank = GrownBank(full, ADDED, (7,), limit_of(growing))
    folder = write(tmp_path / "0001", growing, bank)
    delta = delta_from_directory(folder, 1, growing, full, KEYS)
    assert np.array_equal(delta.bank.rows, np.concatenate([np.delete(full, 7, axis=0), ADDED]))
    sign_changed(folder, lambda r: r.update(removed=[]))
    refused(folder, growing, "it drops 0 rows of the bundle's bank, and has to drop 1", base=full)
    sign_changed(folder, lambda r: r.update(removed=[16_383]))
    refused(folder, growing, "it drops 1 rows", base=full)
    sign_changed(folder, lambda r: r.update(removed=[9]))
    refused(folder, growing, "it drops the row with the largest local scale of the bundle's bank", base=full)


def test_an_oversized_record_is_not_even_read(folder: Path, growing: Bundle) -> None:
    with (folder / DELTA).open("r+b") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    refused(folder, growing, f"larger than {MAX_MANIFEST_BYTES} bytes")


def test_a_version_outside_the_limits_is_not_written(tmp_path: Path, growing: Bundle) -> None:
    with pytest.raises(ProcunitError, match="key version"):
        write(tmp_path / "0001", growing, version=10_000)
