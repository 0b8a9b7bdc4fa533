"""Commands in a real terminal with file names, keys, columns and replies that try to command it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.broker import Broker, free_port
from tests.support.device import ROOT, new_device
from tests.support.terminal import FORGED, HOSTILE, SHOWN, assert_harmless, shown_by
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle, good_image
from tests.support.tiny_run import build_tiny_run

_NO_DEFECTS = ("--scratch", "0", "--dent", "0", "--edge-crack", "0", "--coating-skip", "0")
PROCUNIT = ("-c", "from edge.cli.main import main; main()")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A bundle below a folder with a hostile name; the key's name is hostile, too."""
    tiny = build_tiny_bundle(tmp_path_factory.mktemp("x") / HOSTILE, ("scratch",), rejecting=("scratch",), grows=True)
    key = tiny.public_key.rename(tiny.public_key.with_name(f"{HOSTILE}.pub"))
    return TinyBundle(tiny.path, key, tiny.private_key)


def test_the_names_of_this_test_would_be_noticed() -> None:
    for name in (HOSTILE, "\x1b]0;x\x07", "\x9b31m", f"x\n{FORGED}", "\u202ex", "\u200b"):
        _, screen = shown_by(("-c", f"print({name!r})"))
        with pytest.raises(AssertionError):
            assert_harmless(screen)


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        ("bundle", f"--{HOSTILE}"),
        ("bundle", "show"),
        ("bundle", "show", "a", HOSTILE),
        ("bundle", "verify", f"{HOSTILE}/bundle", "--trust", f"{HOSTILE}.pub"),
        ("check-config", f"{HOSTILE}.yaml"),
        ("run", "--config", f"{HOSTILE}.yaml"),
        ("label", f"{HOSTILE}.csv", "--config", f"{HOSTILE}.yaml"),
        ("mqtt", "check", "--config", f"{HOSTILE}.yaml"),
        ("watch", "--host", HOSTILE),
        ("watch", "--count", HOSTILE),
        ("command", "sign", HOSTILE, "--root", "a/v1", "--key", "k"),
        ("command", "sign", "arm", "--root", HOSTILE, "--key", "k"),
        ("calibrate", HOSTILE),
        ("engine", "build", HOSTILE),
        ("engine", "bench", HOSTILE, "--kind", HOSTILE),
        ("evaluate", HOSTILE, "--data", HOSTILE),
    ],
    ids=lambda arguments: " ".join(arguments).replace(HOSTILE, "X"),
)
def test_wrong_arguments(arguments: tuple[str, ...], tmp_path: Path) -> None:
    status, screen = shown_by((*PROCUNIT, *arguments), tmp_path)
    assert status != 0
    assert_harmless(screen)
    assert "Traceback" not in screen
    assert SHOWN in screen or arguments == ("bundle", "show") or "\\x1b" in screen


def test_a_bundle_and_its_key(hostile: TinyBundle) -> None:
    for command in (("bundle", "show"), ("bundle", "verify")):
        status, screen = shown_by((*PROCUNIT, *command, hostile.path, "--demo-trust", hostile.public_key))
        assert status == 0, screen
        assert f"verified by {SHOWN}" in screen
        assert_harmless(screen)


def test_keys_and_values_of_a_settings_file(tmp_path: Path) -> None:
    escaped = json.dumps(HOSTILE)
    file = tmp_path / f"{HOSTILE}.yaml"
    file.write_text(f"{escaped}: 1\nmqtt: {{host: {escaped}, {escaped}: 2}}\ncamera: {{kind: {escaped}}}\n")
    for command in (("check-config",), ("run", "--config")):
        status, screen = shown_by((*PROCUNIT, *command, file))
        assert status == 2
        assert screen.count(SHOWN) >= 3
        assert_harmless(screen)


def test_columns_and_cells_of_a_csv_file(tmp_path: Path) -> None:
    device = new_device(tmp_path, free_port(), 1)
    for text in (f'part_id,label,"{HOSTILE}"\nP1,good,x\n', f'part_id,label\nP1,"{HOSTILE}"\n', f'"{HOSTILE}",label\n'):
        csv = tmp_path / "labels.csv"
        csv.write_text(text, newline="")
        status, screen = shown_by((*PROCUNIT, "label", csv, "--config", device.config))
        assert status == 2
        assert_harmless(screen)


@contextmanager
def _impostor(broker: Broker, text: str) -> Iterator[None]:
    """Somebody who answers commands in place of the device."""
    subscribed = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def answer(client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        cmd_id = json.loads(message.payload)["cmdId"]
        reply = {"name": "label", "cmdId": cmd_id, "device": "edge-1", "time": "2026-01-01T00:00:00.000Z"}
        reply |= {"outcome": "refused", "reason": "impossible", "text": text}
        client.publish(f"{message.topic}/reply", json.dumps(reply), qos=1)

    client.on_message = answer
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(broker.host, broker.port)
    client.subscribe(f"{ROOT}/cmd/label", qos=1)
    client.loop_start()
    try:
        assert subscribed.wait(10)
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_reply_to_a_command_and_a_part_id(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path, broker.port, 1)
    csv = tmp_path / "labels.csv"
    csv.write_text("part_id,label\n[red]P1,good\n")
    with _impostor(broker, HOSTILE):
        status, screen = shown_by((*PROCUNIT, "label", csv, "--config", device.config))
    assert status == 0
    assert f"[red]P1: {SHOWN}" in screen
    assert_harmless(screen)


def test_frames_added_to_a_memory_bank(hostile: TinyBundle, tmp_path: Path) -> None:
    folder = hostile.path.parent
    (tmp_path / "photos").mkdir()
    frame = tmp_path / "photos" / f"{HOSTILE}.png"
    (tmp_path / "plain.png").write_bytes(cv2.imencode(".png", good_image(7))[1].tobytes())
    (tmp_path / "plain.png").rename(frame)
    config = tmp_path / "line.yaml"
    paths = {"path": str(hostile.path), "demo_keys": [str(hostile.public_key)], "bank_keys": [str(hostile.public_key)]}
    sections = {
        "device": {"device": "edge-1"},
        "bundle": paths,
        "camera": {"kind": "replay", "path": "photos"},
        "mqtt": {"host": "127.0.0.1"},
        "state_dir": str(tmp_path / HOSTILE),
    }
    config.write_text(json.dumps(sections))
    add = ("bank", "add", "--config", config, "--key", folder / "demo-key.pem", "--yes", frame)
    for command in (add, ("bank", "show", "--config", config), ("check-config", config)):
        _, screen = shown_by((*PROCUNIT, *command))
        assert SHOWN in screen, screen
        assert_harmless(screen)
        assert "Traceback" not in screen


def test_the_log_of_a_daemon(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path, broker.port, 1)
    (device.photos / f"{HOSTILE}.png").write_bytes(b"no image")
    device.camera = {"at_end": "stop"}
    device.write_settings()
    status, screen = shown_by((*PROCUNIT, "run", "--config", device.config))
    assert status == 0
    assert SHOWN in screen
    assert_harmless(screen)


def test_a_traceback_a_warning_and_a_library_s_log_line() -> None:
    program = (
        "import click, logging, warnings, threading\n"
        "from edge.cli.program import run_program\n"
        f"hostile = {HOSTILE!r}\n"
        "def fail(): raise ValueError(hostile)\n"
        "@click.command()\n"
        "def command():\n"
        "    warnings.warn(hostile)\n"
        "    logging.getLogger('x').warning('%s', hostile)\n"
        "    thread = threading.Thread(target=fail, name=hostile); thread.start(); thread.join()\n"
        "    fail()\n"
        "run_program(command, 'x')\n"
    )
    status, screen = shown_by(("-c", program))
    assert status == 1
    assert screen.count(SHOWN) >= 4
    assert_harmless(screen.replace(f"\n{FORGED} [bold]", ""))  # a break of the exception's own text stays a break


def test_a_tool(tmp_path: Path) -> None:
    out = tmp_path / HOSTILE
    command = ("-m", "tools.line_simulator", "dataset", "--out", out, "--good", "1")
    for expected in (0, 1):  # the second time the folder exists
        status, screen = shown_by((*command, *_NO_DEFECTS), timeout_s=30)
        assert status == expected, screen
        assert SHOWN in screen
        assert_harmless(screen)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "calibrate", "bundle build"])
def test_an_offline_command(command: str, tmp_path: Path) -> None:
    arguments: tuple[str | Path, ...]
    if command == "train":
        (tmp_path / "photos.csv").write_text(f'file,label\n"{HOSTILE}.png",good\n', newline="")
        arguments = ("--data", tmp_path / "photos.csv", "--out", tmp_path / "out")
    else:
        arguments = (build_tiny_run(tmp_path / HOSTILE).path,)
    if command == "bundle build":
        arguments += ("--out", tmp_path / f"{HOSTILE}-bundle")
        assert shown_by((*PROCUNIT, "calibrate", arguments[0]))[0] == 0
    status, screen = shown_by((*PROCUNIT, *command.split(), *arguments))
    assert status == (2 if command == "train" else 0), screen
    assert_harmless(screen)
    assert SHOWN in screen or command == "calibrate"
