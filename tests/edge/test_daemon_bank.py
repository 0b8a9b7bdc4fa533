"""The memory bank is grown and the growth undone while the daemon inspects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from edge.bank.delta import DELTA, DELTA_SIGNATURE
from edge.bank.store import IN_USE
from edge.bundle.reader import BundleContent
from edge.cli.main import root as cli
from edge.contract.commands import Refusal
from edge.contract.payloads import Event, Result
from edge.daemon import run_daemon
from edge.engine.protocol import Engine, EngineLostError
from edge.engine.settings import EngineSettings
from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.messages import NotInspected, Verdict
from edge.state_dir import BANK_FOLDER
from tests.support.broker import Broker, Subscriber
from tests.support.device import ROOT, Device, events_of, kept_in, results_of, settings_of, stop
from tests.support.engines import Trouble, TroubledEngine
from tests.support.plant import connected_plant
from tests.support.tiny_bundle import good_image, stained_image


def bank(device: Device, command: str, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["bank", command, "--config", str(device.config), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def add(device: Device, *arguments: str) -> str:
    return bank(device, "add", "--yes", "--key", str(device.folder / "line-bank.pem"), *arguments)


def photograph(device: Device, images: list[NDArray[np.uint8]]) -> None:
    for index, image in enumerate(images):
        cv2.imwrite(str(device.photos / f"{index:05d}.png"), image)


def store_of(device: Device) -> Path:
    (folder,) = (device.folder / "state" / BANK_FOLDER).iterdir()
    return folder


def put_in_use_by_a_stranger(device: Device) -> None:
    """Forge version 2 from version 1, with access to the disk but without the key."""
    folder = store_of(device)
    shutil.copytree(folder / "0001", folder / "0002")
    record = {**json.loads((folder / "0002" / DELTA).read_bytes()), "version": 2}
    (folder / "0002" / DELTA).write_text(json.dumps(record))
    signature = Ed25519PrivateKey.generate().sign((folder / "0002" / DELTA).read_bytes())
    (folder / "0002" / DELTA_SIGNATURE).write_bytes(signature)
    (folder / "next").write_text("[1, 2]")
    (folder / "next").rename(folder / IN_USE)


def test_a_false_alarm_is_cleared_while_parts_are_inspected_and_undo_brings_it_back(
    growing_device: Device, broker: Broker
) -> None:
    device = growing_device
    device.port, device.camera = broker.port, {"parts_per_min": 1200, "at_end": "hold"}
    device.sections["commands"] = {"allowed": ["status", "label", "disarm"]}
    photograph(device, [stained_image(1)] * 600)
    device.write_settings()

    def results(version: int, count: int = 3) -> list[Result]:
        """Wait for new results made with this version of the bank; returns them."""
        seen = len(results_of(subscriber.messages))
        found = subscriber.wait_for(
            lambda m: len([r for r in results_of(m)[seen:] if r.bundle.bank_version == version]) >= count
        )
        return [r for r in results_of(found) if r.bundle.bank_version == version]

    def reported(fault: FaultId, count: int = 1) -> list[Event]:
        found = subscriber.wait_for(lambda m: [e.fault for e in events_of(m)].count(fault) >= count)
        return [event for event in events_of(found) if event.fault is fault]

    with Subscriber(broker) as subscriber, connected_plant(broker, ROOT, device.folder / "demo-key.pem") as plant:
        process = device.start()
        try:
            plant.wait_for_device()
            alarm = results(0)[0]
            assert (alarm.verdict, alarm.why[0].scorer) == (Verdict.REVIEW, "anomaly")
            assert plant.ask("label", {"label": "good", "resultId": alarm.result_id}).outcome == "done"
            assert "Version 1" in add(device, "--result", alarm.result_id)

            cleared = results(1)[0]
            (changed,) = reported(FaultId.BANK_CHANGED)
            assert "version 1 by " in changed.detail
            assert "signed with line-bank.pub: 51" in changed.detail
            assert cleared.verdict is Verdict.PASS
            assert (cleared.bundle.id, cleared.authority) == (alarm.bundle.id, alarm.authority)
            assert cleared.thresholds.types == alarm.thresholds.types
            assert cleared.internal_configuration_id != alarm.internal_configuration_id
            report = plant.ask("status").report
            assert report is not None
            assert (report.bundle, report.thresholds) == (cleared.bundle, cleared.thresholds)

            with connected_plant(broker, ROOT, device.folder / "line-bank.pem") as line_key:
                assert line_key.ask("disarm", sign=True).reason is Refusal.SIGNATURE
            put_in_use_by_a_stranger(device)
            (refused,) = reported(FaultId.BANK_REFUSED)
            assert "version 2: " in refused.detail
            assert "the signature is not by any trusted key" in refused.detail
            assert results(1)[-1].verdict is Verdict.PASS
            bank(device, "undo")
            device.wait_for_log("bank_refused: over")

            assert "The bundle's own memory bank" in bank(device, "undo")
            assert len(reported(FaultId.BANK_CHANGED, 2)) == 2
            back = results_of(subscriber.messages)[-1] if results(0) else alarm
            assert (back.verdict, back.internal_configuration_id) == (Verdict.REVIEW, alarm.internal_configuration_id)
        finally:
            code = stop(process)
        assert code == 0, device.log_text
        every = results_of(subscriber.wait_for(lambda m: any(b'"stopped"' in r.payload for r in m)))
    assert [r.seq for r in every] == list(range(1, len(every) + 1))
    verdicts = {r.bundle.bank_version: {s.verdict for s in every if s.bundle == r.bundle} for r in every}
    assert verdicts == {0: {Verdict.REVIEW}, 1: {Verdict.PASS}}
    assert device.log_text.count("passes the golden gate") == 1


def test_after_a_restart_the_first_part_is_inspected_with_the_grown_bank(
    growing_device: Device, quick_end: None
) -> None:
    photograph(growing_device, [stained_image(1), good_image(2), stained_image(3)])
    add(growing_device, str(growing_device.photos / "00000.png"))
    assert run_daemon(settings_of(growing_device)) == 0
    results, events = kept_in(growing_device)
    assert [(r.verdict, r.bundle.bank_version) for r in results] == [(Verdict.PASS, 1)] * 3
    assert [e.fault for e in events].count(FaultId.BANK_CHANGED) == 1


def test_a_damaged_version_is_reported_and_the_bundles_own_bank_is_used(
    growing_device: Device, quick_end: None
) -> None:
    photograph(growing_device, [stained_image(1), good_image(2)])
    add(growing_device, str(growing_device.photos / "00000.png"))
    (store_of(growing_device) / "0001" / DELTA).write_bytes(b"")
    assert run_daemon(settings_of(growing_device)) == 0
    results, events = kept_in(growing_device)
    assert [(r.verdict, r.bundle.bank_version) for r in results] == [(Verdict.REVIEW, 0), (Verdict.PASS, 0)]
    assert FaultId.BANK_REFUSED in [e.fault for e in events]


class LostWhileSwapping(TroubledEngine):
    """Test double: the real engine, failing at the first swap of the bank; it would infer with the old one."""

    def swap_bank(self, bank: NDArray[np.float32]) -> None:
        raise EngineLostError("the bank was swapped half-way")


def test_an_engine_lost_while_the_bank_is_swapped_costs_one_part(growing_device: Device, quick_end: None) -> None:
    photograph(growing_device, [stained_image(1)] * 4)
    add(growing_device, str(growing_device.photos / "00000.png"))
    trouble = Trouble()
    opened: list[Engine] = []

    def engine_opener(bundle: BundleContent, settings: EngineSettings, *_: object, **__: object) -> Engine:
        engine = trouble.open(bundle, settings)
        if not opened:
            engine = LostWhileSwapping(engine, trouble, golden_frames=0)
        opened.append(engine)
        return engine

    assert run_daemon(settings_of(growing_device), engine_opener) == 0
    results, events = kept_in(growing_device)
    assert [r.not_inspected for r in results] == [NotInspected.ENGINE, None, None, None]
    assert [(r.verdict, r.bundle.bank_version) for r in results[1:]] == [(Verdict.PASS, 1)] * 3
    assert [e.fault for e in events].count(FaultId.ENGINE_LOST) == 1
    assert len(opened) == 2


def test_a_bank_key_cannot_sign_a_bundle(growing_device: Device) -> None:
    keys = {"trusted_keys": ["line-bank.pub"], "bank_keys": ["demo-key.pub"]}
    growing_device.sections["bundle"] = {"path": "bundle", **keys}
    with pytest.raises(ProcunitError, match=r"not by any trusted key \(line-bank\.pub\)"):
        run_daemon(settings_of(growing_device))
