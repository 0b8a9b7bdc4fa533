"""The sample receiver with a real broker over TLS: every result once, gaps reported, also after its restart."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from tests.contract.examples import example
from tests.support.broker import Broker, running_broker
from tests.support.certificates import Authority
from tools.mes_subscriber import Numbers

ROOT = "acme/graz/line-1/edge-1/v1"
PROGRAM = Path(__file__).parents[2] / "tools/mes_subscriber.py"


@given(st.lists(st.integers(1, 30)))
def test_each_number_is_new_once_and_gaps_are_the_missing_numbers(numbers: list[int]) -> None:
    known, expected = Numbers(), set()
    for number in numbers:
        assert known.add(number) == (number not in expected)
        expected.add(number)
    missing = {n for first, last in known.gaps() for n in range(first, last + 1)}
    assert missing == (set(range(min(expected), max(expected) + 1)) - expected if expected else set())


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Ends what a failed test has left running."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait(10)


class Receiving:
    """The running program."""

    def __init__(
        self, broker: Broker, folder: Path, *, program: Path = PROGRAM, out: Path | None = None, tls: bool = True
    ) -> None:
        self._folder = folder
        self._out = (out or folder / "out").open("ab")
        self._stderr = (folder / "stderr_text").open("ab")
        before = self.stderr_text.count("receiving")
        options = ["--ids", str(folder / "ids" / "ids.json"), *(["--ca", str(folder / "plant-ca.pem")] if tls else [])]
        address = ["--host", broker.host, "--port", str(broker.port), "--root", ROOT]
        (folder / "ids").mkdir(exist_ok=True)
        command = [sys.executable, str(program), *address, *options]
        self._process = subprocess.Popen(command, stdout=self._out, stderr=self._stderr)
        STARTED.append(self._process)
        self.wait(lambda: self.stderr_text.count("receiving") > before)

    @property
    def stderr_text(self) -> str:
        return (self._folder / "stderr_text").read_text()

    @property
    def seqs(self) -> list[int]:
        return [json.loads(line)["seq"] for line in (self._folder / "out").read_text().splitlines()]

    def wait(self, condition) -> None:  # type: ignore[no-untyped-def]
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.stderr_text
            time.sleep(0.02)

    @property
    def remembered(self) -> str:
        file = self._folder / "ids" / "ids.json"
        return file.read_text() if file.exists() else ""

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._out.close()
        self._stderr.close()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0
        self._out.close()
        self._stderr.close()


def test_every_result_once_and_gaps_reported_over_tls_and_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("broker")
    extra = f"certfile {certificate}\nkeyfile {key}\ntls_version tlsv1.2"
    with running_broker(tmp_path, extra) as broker:
        device = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        device.tls_set(str(authority.ca_file))
        device.connect(broker.host, broker.port)
        device.loop_start()

        def publish(*seqs: int) -> None:
            for seq in seqs:
                payload = json.dumps({**example("result.two-views" if seq % 2 else "result.pass"), "seq": seq})
                device.publish(f"{ROOT}/result", payload, qos=1).wait_for_publish(10)

        receiving = Receiving(broker, tmp_path)
        device.publish(f"{ROOT}/result", b"nonsense", qos=1)
        publish(1, 2, 2, 5, 1)
        receiving.wait(lambda: receiving.seqs == [1, 2, 5])
        receiving.stop()
        assert "malformed result" in receiving.stderr_text
        assert "missing before 5: (3, 4)" in receiving.stderr_text
        assert "3 results; missing: 3 to 4" in receiving.stderr_text
        publish(5, 6)  # kept by the broker while the program is not running
        receiving = Receiving(broker, tmp_path)
        publish(3, 4)
        receiving.wait(lambda: receiving.seqs == [1, 2, 5, 6, 3, 4])
        receiving.stop()
        assert "6 results; missing: nothing" in receiving.stderr_text
        device.disconnect()
        device.loop_stop()


class Publish(Protocol):
    """Publishes a result by its number, or any bytes."""

    def __call__(self, message: bytes | int, suffix: str = "result") -> None: ...


@contextmanager
def publishing(broker: Broker) -> Iterator[Publish]:
    """Publishes in place of a device; the broker acknowledges each message."""
    device = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    device.connect(broker.host, broker.port)
    device.loop_start()

    def publish(message: bytes | int, suffix: str = "result") -> None:
        payload = message if isinstance(message, bytes) else json.dumps({**example("result.pass"), "seq": message})
        device.publish(f"{ROOT}/{suffix}", payload, qos=1).wait_for_publish(10)

    try:
        yield publish
    finally:
        device.disconnect()
        device.loop_stop()


def program_with_own_handling(folder: Path) -> Path:
    """The program as an engineer copies it: handling stores into a file, and fails while the file `down` exists."""
    source = PROGRAM.read_text(encoding="utf-8")
    own = (
        "def handle(result: dict[str, Any]) -> None:\n"
        f"    if Path({str(folder / 'down')!r}).exists():\n"
        "        raise RuntimeError('the database is down')\n"
        f"    with open({str(folder / 'out')!r}, 'a') as stream:\n"
        "        print(json.dumps(result), file=stream, flush=True)\n\n\n"
    )
    before, _, rest = source.partition("def handle(")
    copy = folder / "own_receiver.py"
    copy.write_text(before + own + rest[rest.index("class Numbers") :])
    return copy


def test_a_result_whose_handling_fails_is_tried_again_and_not_lost_with_the_program(tmp_path: Path) -> None:
    program = program_with_own_handling(tmp_path)
    (tmp_path / "down").touch()
    with running_broker(tmp_path) as broker, publishing(broker) as publish:
        receiving = Receiving(broker, tmp_path, program=program, tls=False)
        for seq in (1, 2, 3):
            publish(seq)
        receiving.wait(lambda: "RuntimeError('the database is down')" in receiving.stderr_text)
        assert "failed, trying again in 1 s" in receiving.stderr_text
        assert receiving.remembered == ""
        receiving.kill()  # nothing was handled, so nothing may count as handled
        receiving = Receiving(broker, tmp_path, program=program, tls=False)
        receiving.wait(lambda: receiving.stderr_text.count("database is down") > 1)
        assert receiving.seqs == []
        (tmp_path / "down").unlink()
        receiving.wait(lambda: receiving.seqs == [1, 2, 3])
        receiving.wait(lambda: "[[1, 3]]" in receiving.remembered)
        receiving.stop()


def test_a_full_disk_behind_stdout_loses_no_result(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker, publishing(broker) as publish:
        receiving = Receiving(broker, tmp_path, out=Path("/dev/full"), tls=False)
        publish(1)
        receiving.wait(lambda: "failed, trying again" in receiving.stderr_text)
        assert "No space left on device" in receiving.stderr_text
        receiving.stop()
        assert "results; missing" not in receiving.stderr_text
        (tmp_path / "out").touch()
        receiving = Receiving(broker, tmp_path, tls=False)
        receiving.wait(lambda: receiving.seqs == [1])
        receiving.stop()


def test_a_number_that_cannot_be_stored_is_stored_later_and_its_result_handled_once(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with running_broker(tmp_path) as broker, publishing(broker) as publish:
        receiving = Receiving(broker, tmp_path, tls=False)
        (tmp_path / "ids").rmdir()
        publish(1)
        receiving.wait(lambda: "failed, trying again" in receiving.stderr_text)
        (tmp_path / "ids").mkdir()
        receiving.wait(lambda: "[[1, 1]]" in receiving.remembered)
        publish(2)
        receiving.wait(lambda: receiving.seqs == [1, 2])
        receiving.stop()


def test_a_restart_of_the_broker_while_handling_fails_repeats_nothing(tmp_path: Path) -> None:
    program = program_with_own_handling(tmp_path)
    (tmp_path / "down").touch()
    (tmp_path / "out").touch()
    with running_broker(tmp_path) as broker:
        with publishing(broker) as publish:
            receiving = Receiving(broker, tmp_path, program=program, tls=False)
            for seq in (1, 2, 3):
                publish(seq)
            receiving.wait(lambda: "database is down" in receiving.stderr_text)
        broker.stop()
        broker.start()
        receiving.wait(lambda: receiving.stderr_text.count("receiving") > 1)
        (tmp_path / "down").unlink()
        receiving.wait(lambda: receiving.seqs == [1, 2, 3])
        with publishing(broker) as publish:
            publish(4)
        receiving.wait(lambda: receiving.seqs == [1, 2, 3, 4])
        receiving.stop()


def test_what_is_missing_before_the_first_number_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with running_broker(tmp_path) as broker, publishing(broker) as publish:
        receiving = Receiving(broker, tmp_path, tls=False)
        publish(4)
        publish(5)
        receiving.wait(lambda: receiving.seqs == [4, 5])
        assert (
            "the first result is 4; 1 to 3 are missing, unless they came before this receiver" in receiving.stderr_text
        )
        publish(2)
        receiving.wait(lambda: receiving.seqs == [4, 5, 2])
        receiving.stop()
    assert receiving.stderr_text.count("the first result is") == 1
    assert "3 results; missing: 3 to 3; 1 to 1 are missing, unless" in receiving.stderr_text


def test_empty_messages_are_ignored_quietly_and_malformed_ones_in_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    hostile = json.dumps({"device": "\x1b[2J\nFORGED", "epoch": "e", "seq": 9}).encode()
    with running_broker(tmp_path) as broker, publishing(broker) as publish:
        receiving = Receiving(broker, tmp_path, tls=False)
        before = receiving.stderr_text
        publish(b"")
        publish(b"", "status")
        publish(1)
        receiving.wait(lambda: receiving.seqs == [1])
        assert receiving.stderr_text == before
        malformed = (b"[" * 100_000, b"[1]", b"null", b'{"device": "d", "epoch": "e", "seq": true}')
        for payload in (*malformed, b'{"device": "d", "epoch": "e", "seq": "5"}', hostile):
            publish(payload)
        receiving.wait(lambda: receiving.seqs == [1, 9])
        receiving.stop()
    assert receiving.stderr_text.count("malformed result") == len(malformed) + 1
    assert "\x1b" not in receiving.stderr_text
    assert "\nFORGED" not in receiving.stderr_text


def test_a_damaged_file_of_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("{")
    command = [sys.executable, str(PROGRAM), "--host", "x", "--root", ROOT, "--ids", str(tmp_path / "ids.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == 2
    assert "ids.json cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
