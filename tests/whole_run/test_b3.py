"""EfficientNet-B3, the product's network, from photographs to verdicts on a broker, by the product's own commands.

Its weights are random, from a file that the test makes: the test is that every stage fits the next one.
Each fixture is one command; a test that needs a stage runs what comes before it, once.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from edge.bundle.keys import trusted_key_from_file
from edge.bundle.manifest import graph_files
from edge.bundle.reader import open_bundle
from edge.bundle.records import CalibrationRecord
from edge.messages import Verdict
from export.bank.space import FEATURES
from tests.calibration.test_evaluate import PROMISED_KEYS
from tests.support.broker import Broker, Subscriber
from tests.support.device import PROCUNIT, REPOSITORY
from tests.support.rtx import built_engine_bytes
from training.data.dataset import dataset_from_folder
from training.data.run_files import CALIBRATION_FILE, EXPORT_FILE, TRAIN_FILE, ExportRecord, TrainRecord, read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
"""A fixture is a whole command of the product, and a trace of its network takes long where cores are shared."""
INPUT_PX = 128
GOOD, SCRATCHES = 20, 8


def command(*arguments: str | Path) -> str:
    """Run a command of the product; its output."""
    finished = subprocess.run(
        [*PROCUNIT, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "parts"
    counts = [
        "--good",
        str(GOOD),
        "--scratch",
        str(SCRATCHES),
        "--dent",
        "0",
        "--edge-crack",
        "0",
        "--coating-skip",
        "0",
    ]
    subprocess.run(
        [sys.executable, "-m", "tools.line_simulator", "dataset", "--out", folder, *counts],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "b3.safetensors"
    save_file(timm.create_model("efficientnet_b3", pretrained=False).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(data: Path, weights: Path) -> Path:
    run = data.with_name("run")
    options: list[str | Path] = ["--backbone", "efficientnet_b3", "--weights", weights, "--input-px", str(INPUT_PX)]
    command("train", "--data", data, "--out", run, *options)
    return run


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    command("export", trained, "--bank-rows", "256")
    return trained


@pytest.fixture(scope="module")
def calibrated(exported: Path) -> Path:
    command("calibrate", exported)
    return exported


@pytest.fixture(scope="module")
def bundle(calibrated: Path, data: Path) -> Path:
    path = calibrated.with_name("bundle")
    command("bundle", "build", calibrated, "--out", path)
    command("seed", "run", path, "--data", data, "--key", calibrated / "demo-key.pem")
    return path


def test_training_keeps_parts_apart(trained: Path) -> None:
    record = read_record(trained, TRAIN_FILE, TrainRecord)
    assert record.backbone == "efficientnet_b3"
    sides = [(photo.label, photo.role) for photo in record.photos]
    assert sides.count(("scratch", "seed")) == 5
    assert sides.count(("scratch", "calibrate")) == 0
    assert {side for label, side in sides if label == "good"} == {"train", "calibrate", "seed"}
    assert len({photo.sha256 for photo in record.photos}) == GOOD + SCRATCHES


def test_the_exported_graph_equals_torch(exported: Path) -> None:
    record = read_record(exported, EXPORT_FILE, ExportRecord)
    assert record.feature_size == FEATURES
    assert record.parity_frames >= 8
    assert record.differences["fp32"].logits < 1e-3
    assert record.differences["fp32"].distances < 1e-3


def test_tensorrt_builds_the_exported_graphs_and_half_precision_halves_them(exported: Path) -> None:
    fp32, fp16 = (built_engine_bytes(exported / graph_files(precision)[0]) for precision in ("fp32", "fp16"))
    assert fp32 > 40_000_000
    assert fp16 < 0.6 * fp32


def test_the_budget_is_what_the_parts_that_it_flags_support(calibrated: Path) -> None:
    record = read_record(calibrated, CALIBRATION_FILE, CalibrationRecord)
    assert record.budget is not None
    assert record.anomaly is not None
    limit, (scratch,) = record.anomaly.threshold, record.types.values()
    good = [photo for photo in record.scores if photo.label == "good"]
    flagged = [x.part_id for x in good if x.anomaly_score >= limit or x.type_scores[0] >= scratch.threshold]
    assert record.budget.good_parts == len({photo.part_id for photo in good})
    assert record.budget.flagged_parts == len(set(flagged)) <= 1, "all but what the limit drawn without it lets by"
    rate, parts = record.budget.false_alarm_rate, record.budget.good_parts
    as_few = sum(math.comb(parts, k) * rate**k * (1 - rate) ** (parts - k) for k in range(len(set(flagged)) + 1))
    assert 1 - as_few == pytest.approx(record.budget.confidence, abs=1e-3), "Clopper-Pearson's upper bound"


def test_the_bundle_claims_no_more_than_it_proved(bundle: Path) -> None:
    key = trusted_key_from_file(bundle.with_name("run") / "demo-key.pub", demo=True)
    opened = open_bundle(bundle, (key,))
    (scratch,) = opened.manifest.types
    assert scratch.authority == "review"
    assert scratch.seeded is not None
    assert scratch.seeded.simulated
    assert opened.golden().frames


def test_every_part_of_the_line_has_one_result_at_a_subscriber(bundle: Path, data: Path, broker: Broker) -> None:
    folder = bundle.parent
    settings = {
        "device": {"device": "edge-1"},
        "bundle": {"path": "bundle", "demo_keys": ["run/demo-key.pub"]},
        "camera": {"kind": "replay", "path": "parts/scratch", "parts_per_min": "max", "at_end": "stop"},
        "mqtt": {"host": broker.host, "port": broker.port},
        "state_dir": "state",
    }
    (folder / "line.yaml").write_text(yaml.safe_dump(settings))
    with Subscriber(broker, "+/v1/result") as subscriber:
        command("run", "--config", folder / "line.yaml")
        received = subscriber.wait_for(lambda messages: len(messages) >= SCRATCHES)
    results = [json.loads(message.payload) for message in received]
    assert [result["seq"] for result in results] == list(range(1, SCRATCHES + 1))
    assert {result["verdict"] for result in results} <= {Verdict.PASS, Verdict.REVIEW}


def test_evaluation_leaves_out_what_the_bundle_knows(bundle: Path, data: Path) -> None:
    figures = bundle.with_name("figures.json")
    command("evaluate", bundle, "--data", data, "--json", figures)
    evaluation = json.loads(figures.read_text())
    assert set(evaluation) == set(PROMISED_KEYS)
    assert evaluation["images"] + evaluation["skipped_images"] == len(dataset_from_folder(data).photos)
    assert evaluation["types"]["scratch"]["parts"] == 5
    assert set(evaluation["at_false_alarm"]) == {"0.01", "0.05"}
