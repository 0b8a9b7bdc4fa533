"""Commands sent through a real broker to the whole daemon: what each does, and which are refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from paho.mqtt import publish

from edge.cli.main import root as cli
from edge.config.file import settings_from_file
from edge.contract.commands import CommandReply, Refusal
from edge.contract.metrics import Metrics
from edge.contract.payloads import Event, Result, Status
from edge.daemon import run_daemon
from edge.faults import FaultId
from edge.messages import NotInspected, Verdict
from tests.doubles.scripted_camera import ScriptedCamera, install
from tests.support.broker import Broker, Received, Subscriber
from tests.support.device import PATIENT, ROOT, Device, events_of, new_device, results_of, stop
from tests.support.plant import Plant, connected_plant

ALL = ["status", "replay", "snapshot", "frame", "part-id", "label", "arm", "disarm", "threshold"]
PARTS = 60


@pytest.fixture
def device(tmp_path: Path, broker: Broker) -> Device:
    """A device with 60 photographs, every fifth of them defective, that allows every command."""
    device = new_device(tmp_path / "device", broker.port, PARTS)
    device.camera["at_end"] = "hold"
    device.sections = {"inspection": PATIENT, "commands": {"allowed": ALL}, "policy": {"audit_rate": 0.0}}
    return device


@contextmanager
def listening(broker: Broker, device: Device) -> Iterator[tuple[Subscriber, Plant]]:
    """A subscriber to everything, and a client that sends commands for the plant."""
    with Subscriber(broker) as subscriber, connected_plant(broker, ROOT, device.folder / "demo-key.pem") as plant:
        yield subscriber, plant


@contextmanager
def running(device: Device, plant: Plant, **camera: object) -> Iterator[None]:
    """Run the daemon as a process that accepts commands; stop it at the end."""
    device.camera |= camera
    device.write_settings()
    process = device.start()
    try:
        plant.wait_for_device()
        yield
    finally:
        code = stop(process)
    assert code == 0, device.log_text


def payloads(messages: list[Received], suffix: str) -> list[bytes]:
    return [m.payload for m in messages if m.topic == f"{ROOT}/{suffix}"]


def refusals(messages: list[Received]) -> list[Event]:
    return [event for event in events_of(messages) if event.fault is FaultId.COMMAND_REFUSED]


def test_each_unsigned_command_does_what_it_promises(device: Device, broker: Broker) -> None:
    with listening(broker, device) as (subscriber, plant), running(device, plant):
        results = results_of(subscriber.wait_for(lambda m: len(results_of(m)) == PARTS))
        shown = [r for r in results if r.image]
        messages = subscriber.wait_for(lambda m: len([r for r in m if r.topic.endswith("/image")]) == len(shown))
        place = {m.topic: index for index, m in enumerate(messages)}
        where = [index for index, m in enumerate(messages) if m.topic == f"{ROOT}/result"]
        assert all(r.image and place[r.image.topic] > where[results.index(r)] for r in shown)
        heatmaps = {r.image.heatmap_topic for r in shown if r.image}
        subscriber.wait_for(lambda m: {r.topic for r in m} >= heatmaps)
        rejected = shown[0]

        report = plant.ask("status").report
        assert report is not None
        assert (report.status.state, report.armed, report.bundle) == ("running", True, rejected.bundle)
        assert report.thresholds == rejected.thresholds
        parts = {verdict: count for verdict, count in report.metrics.parts.items() if count}
        assert parts == {Verdict.PASS: 48, Verdict.REJECT: 12}
        assert report.metrics.latencies.engine.p99_ms

        assert plant.ask("replay", {"epoch": rejected.epoch, "from": 3, "to": 7}).count == 5
        again = results_of(subscriber.wait_for(lambda m: len(results_of(m)) == PARTS + 5))[PARTS:]
        assert [(r.seq, r.backfill) for r in again] == [(n, True) for n in range(3, 8)]
        assert plant.ask("replay", {"epoch": "ab", "from": 3, "to": 7}).reason is Refusal.IMPOSSIBLE

        image = f"frame/{rejected.result_id}/image"
        assert plant.ask("frame", {"resultId": rejected.result_id}).outcome == "done"
        subscriber.wait_for(lambda m: len(payloads(m, image)) == 2)
        assert plant.ask("frame", {"resultId": f"{rejected.epoch}-999"}).reason is Refusal.IMPOSSIBLE

        assert plant.ask("label", {"label": "good", "resultId": rejected.result_id}).count == 1
        dent = {"label": "dent", "newType": True}
        assert plant.ask("label", {**dent, "partId": "00003.png"}).count == 1
        assert plant.ask("label", {**dent, "partId": "nobody's"}).reason is Refusal.IMPOSSIBLE
        assert len(list((device.folder / "state/frames/pinned").glob("*.json"))) == 2

        labels = device.folder / "labels.csv"
        labels.write_text("part_id,label\n00007.png,good\n00008.png,dent\nnobody's,dent\n")
        labelled = CliRunner().invoke(cli, ["label", str(labels), "--config", str(device.config), "--new-type", "dent"])
        assert labelled.exit_code == 0
        assert labelled.output.startswith(
            "2 of 3 labels; 2 frames are kept for training\n  nobody's: no frame of this part is"
        )
        assert len(list((device.folder / "state/frames/pinned").glob("*.json"))) == 4

        assert "too late" in plant.ask("part-id", {"partId": "P1", "counter": 4}).text

        with Subscriber(broker, f"{ROOT}/result/last") as later:
            (last,) = later.wait_for(bool)
        assert last.retained
        assert Result.model_validate_json(last.payload).seq == PARTS
        metrics = [Metrics.model_validate_json(payload) for payload in payloads(subscriber.messages, "metrics")]
        assert metrics[0].device == "edge-1"
        recorded = [event.command for event in events_of(subscriber.messages) if event.command]
        assert {command.name for command in recorded} == {"status", "replay", "frame", "label", "part-id"}


def test_a_snapshot_publishes_one_photograph_whatever_its_verdict(device: Device, broker: Broker) -> None:
    for defective in range(4, PARTS, 5):
        (device.photos / f"{defective:05d}.png").unlink()
    with listening(broker, device) as (subscriber, plant), running(device, plant, parts_per_min=900):
        assert plant.ask("snapshot").outcome == "done"
        messages = subscriber.wait_for(lambda m: any(r.topic.endswith("/image") for r in m))
        (shown,) = [r for r in results_of(messages) if r.image]
        assert shown.verdict is Verdict.PASS
        assert shown.image is not None
        assert payloads(messages, f"frame/{shown.result_id}/image")


def test_signed_orders_hold_over_a_restart_until_they_are_changed(device: Device, broker: Broker) -> None:
    def next_result(subscriber: Subscriber) -> Result:
        seen = len(results_of(subscriber.messages)) + 1  # one may have been in flight
        return results_of(subscriber.wait_for(lambda m: len(results_of(m)) > seen))[-1]

    with listening(broker, device) as (subscriber, plant):
        with running(device, plant, parts_per_min=1200):
            first = next_result(subscriber)
            assert first.authority == {"scratch": "demo_reject"}
            thresholds: dict[str, object] = {"bundleId": first.bundle.id, "types": {"scratch": 0.0}}
            assert plant.ask("threshold", thresholds).reason is Refusal.SIGNATURE
            assert plant.ask("threshold", thresholds, sign=True, valid_s=-1).reason is Refusal.EXPIRED
            assert next_result(subscriber).thresholds == first.thresholds
            assert plant.ask("threshold", thresholds, sign=True).outcome == "done"
            changed = next_result(subscriber)
            assert (changed.verdict, changed.authority) == (Verdict.REVIEW, {"scratch": "review"})
            assert changed.thresholds.types == {"scratch": 0.0}
            assert changed.internal_configuration_id != first.internal_configuration_id
            assert plant.ask("disarm", sign=True).outcome == "done"
            assert next_result(subscriber).not_inspected is NotInspected.DISARMED
            assert "disarmed" in plant.ask("snapshot").text
        with running(device, plant):
            report = plant.ask("status").report
            assert report is not None
            assert not report.armed
            assert FaultId.DISARMED in report.faults
            assert next_result(subscriber).not_inspected is NotInspected.DISARMED
            assert plant.ask("arm", sign=True).outcome == "done"
            assert next_result(subscriber).thresholds.types == {"scratch": 0.0}
        results = results_of(subscriber.wait_for(lambda m: payloads(m, "status")[-1].count(b'"stopped"') == 1))
        assert [r.seq for r in results] == list(range(1, len(results) + 1))
        assert [event.command.name for event in refusals(subscriber.messages) if event.command] == [
            *("threshold", "threshold", "snapshot")
        ]
        states = [Status.model_validate_json(payload).state for payload in payloads(subscriber.messages, "status")]
        assert list(dict.fromkeys(states)) == ["starting", "running", "stopped"]


def labels_stored(device: Device) -> dict[str, list[str]]:
    """The labels of each pinned frame, oldest first, by its result's number."""
    files = (device.folder / "state/frames/pinned").glob("*.json")
    records = [json.loads(path.read_text()) for path in files]
    return {r["result_id"].partition("-")[2]: [entry["label"] for entry in r["label_history"]] for r in records}


def test_a_stored_defect_becomes_good_by_a_signed_label_alone_and_misspelt_types_are_asked_about(
    device: Device, broker: Broker
) -> None:
    key, labels = str(device.folder / "demo-key.pem"), device.folder / "labels.csv"

    def label(rows: str, *options: str) -> str:
        labels.write_text(f"part_id,label\n{rows}")
        outcome = CliRunner().invoke(cli, ["label", str(labels), "--config", str(device.config), *options])
        assert outcome.exit_code == 0, outcome.exception
        return outcome.output

    with listening(broker, device) as (subscriber, plant), running(device, plant):
        subscriber.wait_for(lambda m: len(results_of(m)) == PARTS)
        for wrong in ("scrach", "Scratch", "scratches", "skratch"):
            reply = plant.ask("label", {"label": wrong, "partId": "00003.png"})
            assert reply.reason is Refusal.IMPOSSIBLE
            assert "did you mean 'scratch'?" in reply.text
        assert (
            "did you mean 'good'?" in plant.ask("label", {"label": "Good", "partId": "00003.png", "newType": True}).text
        )
        assert labels_stored(device) == {}

        assert label("00003.png,scratch\n00004.png,porosity\n", "--by", "quality-2").startswith("1 of 2 labels")
        assert label("00004.png,porosity\n", "--new-type", "porosity").startswith("1 of 1 labels")
        refused = plant.ask("label", {"label": "good", "partId": "00003.png"})
        assert (refused.outcome, refused.reason) == ("refused", Refusal.SIGNATURE)
        assert "only a signed label" in label("00003.png,good\n00005.png,good\n")
        assert labels_stored(device) == {"4": ["scratch"], "5": ["porosity"], "6": ["good"]}
        corrected = label("00003.png,good\n00004.png,good\n", "--key", key, "--by", "m.huber")
        assert corrected.startswith("2 of 2 labels")
        assert labels_stored(device) == {"4": ["scratch", "good"], "5": ["porosity", "good"], "6": ["good"]}
        assert plant.ask("disarm", sign=True).reason is Refusal.SUPERSEDED  # the labels were signed in between
        plant.wait_for_device()
        assert plant.ask("disarm", sign=True).outcome == "done"


def counter_in_status(messages: list[Received]) -> int | None:
    return Status.model_validate_json(payloads(messages, "status")[-1]).command_counter


def test_a_disarm_that_arrives_after_a_newer_arm_is_superseded_even_after_the_loss_of_the_outbox(
    device: Device, broker: Broker
) -> None:
    with listening(broker, device) as (subscriber, plant):
        with running(device, plant):
            disarm, arm = plant.envelope("disarm", sign=True), plant.envelope("arm", sign=True)
            assert plant.ask_with("arm", arm).outcome == "done"
            late = plant.ask_with("disarm", disarm)
            assert (late.outcome, late.reason) == ("refused", Refusal.SUPERSEDED)
            assert plant.ask_with("arm", arm).reason is Refusal.DUPLICATE
            report = plant.ask("status").report
            assert report is not None
            assert report.armed
            assert (report.status.state_id, report.status.command_counter) == (plant.state_id, 2)
            subscriber.wait_for(lambda m: counter_in_status(m) == 2)
        for path in (device.folder / "state").glob("outbox.db*"):
            path.unlink()
        with running(device, plant):
            assert plant.ask_with("arm", arm).reason is Refusal.SUPERSEDED
            assert plant.ask_with("disarm", disarm).reason is Refusal.SUPERSEDED
            sign = ["command", "sign", "disarm", "--config", str(device.config)]
            signed = CliRunner().invoke(cli, [*sign, "--key", str(device.folder / "demo-key.pem")])
            assert plant.ask_with("disarm", json.loads(signed.stdout)).outcome == "done"


def test_a_command_for_a_device_is_not_carried_out_by_another_one_with_the_same_topics(
    device: Device, broker: Broker
) -> None:
    with listening(broker, device) as (subscriber, plant):
        with running(device, plant):
            disarm = plant.envelope("disarm", sign=True)
            here = plant.state_id
        (device.folder / "state").rename(device.folder / "state of the other device")
        with running(device, plant):
            assert plant.state_id not in (here, None)
            assert plant.ask_with("disarm", disarm).reason is Refusal.SUPERSEDED
            assert (
                f"signed for the state {here}" in refusals(subscriber.wait_for(lambda m: bool(refusals(m))))[-1].detail
            )


def test_an_order_put_into_the_file_by_hand_is_dropped_and_reported(device: Device, broker: Broker) -> None:
    orders = device.folder / "state/orders.json"
    with listening(broker, device) as (subscriber, plant):
        with running(device, plant):
            assert plant.ask("arm", sign=True).outcome == "done"
            expired = plant.envelope("disarm", sign=True, valid_s=-3600)
        data = json.loads(orders.read_text())
        orders.write_text(json.dumps({**data, "orders": [{"name": "disarm", "command": expired}]}))
        with running(device, plant):
            report = plant.ask("status").report
            assert report is not None
            assert report.armed
            dropped = [e for e in events_of(subscriber.messages) if e.fault is FaultId.ORDER_DROPPED]
            assert "orders.json was changed, not by this device" in dropped[0].detail


def test_a_retained_and_a_disallowed_command_are_refused_and_reported(device: Device, broker: Broker) -> None:
    device.sections["commands"] = {"allowed": ["status"]}
    command = '{"cmdId": "kept", "args": {}}'
    publish.single(f"{ROOT}/cmd/snapshot", command, 1, True, broker.host, broker.port)
    with listening(broker, device) as (subscriber, plant), running(device, plant):
        assert plant.ask("snapshot").reason is Refusal.NOT_ALLOWED
        refused = refusals(subscriber.wait_for(lambda m: len(refusals(m)) == 2))
        assert "retained" in refused[0].detail


def test_a_missing_part_id_affects_no_other_part(
    device: Device, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, dropped = 200, 57
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    device.sections["camera"] = {"kind": "scripted", "steps": ["gate", *range(1, parts + 1)]}
    device.write_settings()

    def send_part_ids() -> None:
        plant.wait_for_device()
        for counter in range(1, parts + 1):
            if counter != dropped:
                plant.send("part-id", {"partId": f"P{counter}", "counter": counter})
                time.sleep(0.006)  # more than 200 per second are a flood
        subscriber.wait_for(lambda m: len(payloads(m, "cmd/part-id/reply/plant")) == parts - 1)
        ScriptedCamera.gate.set()

    with listening(broker, device) as (subscriber, plant):
        sender = threading.Thread(target=send_part_ids, daemon=True)
        sender.start()
        assert run_daemon(settings_from_file(device.config)) == 0
        sender.join(40)
        messages = subscriber.wait_for(lambda m: len(results_of(m)) == parts)
    replies = payloads(messages, "cmd/part-id/reply/plant")
    assert {CommandReply.model_validate_json(reply).outcome for reply in replies} == {"done"}
    expected = {n: f"P{n}" if n != dropped else None for n in range(1, parts + 1)}
    assert {r.counter: r.part_id for r in results_of(messages)} == expected
    unbound = [event.detail for event in events_of(messages) if event.fault is FaultId.PART_ID_UNBOUND]
    assert unbound == [f"no part id arrived for counter {dropped} before its result was made"]
