"""A bundle that cannot be opened: the daemon says so in an event, exits with 2, and is not restarted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from edge.bundle.keys import SigningKey, signing_key_from_file
from edge.bundle.manifest import GOLDEN, MANIFEST, SIGNATURE, Manifest
from edge.bundle.sealing import seal
from edge.daemon import run_daemon
from edge.errors import ProcunitError
from edge.faults import FaultId
from tests.support.device import Device, kept_in, settings_of
from tools.drills.bundles.mutations import nested_folders


def _nested(device: Device) -> None:
    nested_folders(device.folder / "bundle", 1200)


def _huge_counts(device: Device) -> None:
    bundle = device.folder / "bundle"
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    manifest["types"][0]["seeded"].update(good_parts=10**15, false_rejects=10**14)
    data = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / SIGNATURE).write_bytes(signing_key_from_file(device.folder / "demo-key.pem").key.sign(data))


def _damaged_record(device: Device) -> None:
    bundle = device.folder / "bundle"
    (bundle / GOLDEN).write_bytes(b"[" * 100_000)
    seal(bundle, Manifest.model_validate_json((bundle / MANIFEST).read_bytes()), _key(device))


def _no_manifest(device: Device) -> None:
    (device.folder / "bundle" / MANIFEST).unlink()


def _key(device: Device) -> SigningKey:
    return signing_key_from_file(device.folder / "demo-key.pem")


@pytest.mark.parametrize("damage", [_nested, _huge_counts, _damaged_record, _no_manifest])
def test_whatever_is_wrong_with_a_bundle_is_an_event_and_exit_2(
    device: Device, damage: Callable[[Device], None]
) -> None:
    damage(device)
    try:
        code = device.run()
    finally:
        subprocess.run(["rm", "-rf", device.folder / "bundle/d"], check=True)  # too deep for pytest to remove
    assert code == 2
    results, events = kept_in(device)
    assert results == []
    assert [event.fault for event in events] == [FaultId.BUNDLE_REFUSED]
    assert str(device.folder / "bundle") in events[0].detail
    assert "Traceback" not in device.log_text
    assert "procunit: " in device.log_text


def test_an_error_that_nobody_thought_of_is_the_bundles_too(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> object:
        raise AssertionError("unthinkable")

    monkeypatch.setattr("edge.daemon.open_bundle", failing)
    with pytest.raises(ProcunitError, match="AssertionError: unthinkable"):
        run_daemon(settings_of(device))
    _, events = kept_in(device)
    assert [event.fault for event in events] == [FaultId.BUNDLE_REFUSED]
