"""`procunit watch` as a process with a real broker, and its view with hostile messages."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console

from edge.cli import watch_view
from edge.cli.watch_view import WatchView, line_from_result
from edge.contract.payloads import (
    BundleRef,
    ProcessingTimes,
    Result,
    ResultEvaluation,
    ResultState,
    ScoreSet,
    Status,
    WhyPayload,
    bytes_from_payload,
    event_from_fault,
)
from edge.faults import FaultId
from edge.messages import Verdict
from edge.plain_text import plain
from tests.contract.examples import example
from tests.doubles.scripted_broker import ScriptedBroker
from tests.support.broker import HOST, Broker, free_port

REPOSITORY = Path(__file__).parents[3]
ROOT = "works/line-1/edge-1/v1"
WATCH = [sys.executable, "-c", "from edge.cli.main import main; main()", "watch"]


def result_of(seq: int, verdict: Verdict = Verdict.PASS, **changes: object) -> Result:
    """A result as the device sends it."""
    why = () if verdict is Verdict.PASS else (reason_of("scratch: 0.930 >= 0.500; may reject"),)
    result = Result(
        result_id=f"abc-{seq}",
        device="edge-1",
        epoch="abc",
        seq=seq,
        counter=seq,
        frame_id=f"f{seq}",
        part_id=f"part-{seq}",
        trigger_time="2026-01-01T00:00:00Z",
        creation_time="2026-01-01T00:00:00Z",
        processing_times=ProcessingTimes(queue_ms=0, preprocess_ms=1, engine_ms=11.3, decide_ms=0, inspect_ms=12.3),
        result_state=ResultState.COMPLETED,
        result_evaluation=ResultEvaluation.OK,
        verdict=verdict,
        not_inspected=None,
        is_simulated=False,
        review_action="divert" if verdict is Verdict.REVIEW else None,
        audit=False,
        why=why,
        scores=ScoreSet(types={"scratch": 0.93, "dent": 0.01}, anomaly=12.5),
        thresholds=ScoreSet(types={"scratch": 0.5, "dent": 0.5}, anomaly=30.0),
        authority={"scratch": "reject", "dent": "review"},
        bundle=BundleRef(id="b", product="bracket", version=1),
        image=None,
    )
    return result.model_copy(update=changes)


def reason_of(text: str) -> WhyPayload:
    """A reason with this text."""
    return WhyPayload(scorer="head", defect_type="scratch", score=0.93, threshold=0.5, authority="reject", text=text)


def status_of(state: str, device: str = "edge-1") -> bytes:
    """A status message."""
    status = {"device": device, "epoch": "abc", "state": state, "time": None, "version": "0.1.0"}
    return bytes_from_payload(Status.model_validate(status))


def take(view: WatchView, result: Result, now_s: float = 0.0) -> Result | None:
    """Pass a result to the view."""
    return view.take(f"{ROOT}/result", bytes_from_payload(result), retained=False, now_monotonic_s=now_s)


def shown(view: WatchView, now_s: float = 0.0) -> str:
    """The view as plain text."""
    console = Console(file=io.StringIO(), width=160, height=60, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(view.rendered(now_s))
    return capture.get()


@contextmanager
def sending(broker: Broker) -> Iterator[mqtt.Client]:
    """A connected client that publishes in place of a device."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def send(client: mqtt.Client, suffix: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish below the device's root and wait for the PUBACK."""
    client.publish(f"{ROOT}/{suffix}", payload, qos=1, retain=retain).wait_for_publish(5)


@contextmanager
def watching(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The running command, without a terminal."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*WATCH, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def error_line(process: subprocess.Popen[str], containing: str) -> str:
    """The first line on standard error that contains this text."""
    assert process.stderr is not None
    for line in process.stderr:
        if containing in line:
            return line
    raise AssertionError(f"it ended without printing {containing!r}")


def test_without_a_terminal_it_prints_one_line_per_result_and_ends_after_the_count(broker: Broker) -> None:
    with watching("--port", str(broker.port), "--count", "3") as process, sending(broker) as client:
        error_line(process, "connected to the broker")
        for result in (result_of(1), result_of(1), result_of(2, Verdict.REJECT), result_of(3, Verdict.REVIEW)):
            send(client, "result", bytes_from_payload(result))
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out.splitlines() == [
        "1  part-1  PASS  anomaly 12.5  scratch 0.93  dent 0.01  12.3 ms",
        "2  part-2  REJECT  scratch: 0.930 >= 0.500; may reject  anomaly 12.5  scratch 0.93  dent 0.01  12.3 ms",
        "3  part-3  REVIEW (divert)  scratch: 0.930 >= 0.500; may reject  anomaly 12.5  scratch 0.93  dent 0.01  "
        "12.3 ms",
    ]


def test_until_stopped_ends_with_this_run_and_ignores_the_retained_status_of_the_last_one(broker: Broker) -> None:
    with sending(broker) as client:
        send(client, "status", status_of("stopped"), retain=True)
        with watching("--port", str(broker.port), "--root", ROOT, "--until-stopped") as process:
            error_line(process, "connected to the broker")
            for state in ("running", "stopped"):
                assert process.poll() is None
                time.sleep(0.3)
                send(client, "result", bytes_from_payload(result_of(1)))
                send(client, "status", status_of(state), retain=True)
            out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(out.splitlines()) == 1


def test_without_a_broker_it_reports_this_and_waits_for_one(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    with watching("--port", str(broker.port), "--count", "1") as process:
        assert "trying again" in error_line(process, "no connection to the broker")
        broker.start()
        try:
            error_line(process, "connected to the broker")
            with sending(broker) as client:
                send(client, "result", bytes_from_payload(result_of(1)))
            out, _ = process.communicate(timeout=120)
        finally:
            broker.kill()
    assert process.returncode == 0
    assert "part-1" in out


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_traceback(signal_number: signal.Signals) -> None:
    with watching("--port", str(free_port())) as process:
        error_line(process, "no connection to the broker")
        process.send_signal(signal_number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_refused_subscription_is_reported() -> None:
    with (
        ScriptedBroker(lambda _: 0, suback_reason=0x87) as broker,
        watching("--port", str(broker.port)) as process,
    ):
        assert "refuses the subscription: Not authorized" in error_line(process, "no connection to the broker: the")


def test_a_refused_connection_is_reported_once() -> None:
    with (
        ScriptedBroker(lambda _: 0, connack_reason=0x87) as broker,
        watching("--port", str(broker.port)) as process,
    ):
        error_line(process, "no connection to the broker: the broker refused the connection: Not authorized")
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert err.strip() == "procunit: stopped"


def test_it_ends_when_the_reader_of_its_output_closes_the_pipe(broker: Broker) -> None:
    with watching("--port", str(broker.port)) as process, sending(broker) as client:
        error_line(process, "connected to the broker")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        for seq in (1, 2):
            send(client, "result", bytes_from_payload(result_of(seq)))
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("arguments", [["--host", "no such host"], ["--root", "works/#"], ["--count", "0"]])
def test_bad_arguments_are_usage_errors(arguments: list[str]) -> None:
    with watching(*arguments) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert arguments[0] in err
    assert "Traceback" not in err


def test_malformed_messages_are_reported_and_do_no_harm(broker: Broker) -> None:
    with watching("--port", str(broker.port), "--count", "1") as process, sending(broker) as client:
        error_line(process, "connected to the broker")
        for payload in (b"\xff\xfe", b"[" * 5000, b"x" * 100_000, b'{"seq": "\x1b[31m"}'):
            send(client, "result", payload)
        send(client, "result", bytes_from_payload(result_of(1, part_id="[red]\x1b[31mx")))
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out.startswith("1  [red]?[31mx  PASS")
    assert err.count("malformed message") == 4
    assert "\x1b" not in out + err


def test_in_a_terminal_it_shows_a_table_with_words_and_colours(broker: Broker) -> None:
    main_side, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "30"}
    process = subprocess.Popen(
        [*WATCH, "--port", str(broker.port), "--until-stopped"],
        cwd=REPOSITORY,
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    screen = ""
    try:
        with sending(broker) as client:
            while "connected to the broker" not in screen:
                screen += os.read(main_side, 65536).decode()
            send(client, "status", status_of("running"), retain=True)
            send(client, "result", bytes_from_payload(result_of(1)))
            send(client, "result", bytes_from_payload(result_of(2, Verdict.REJECT, part_id="[red]\x1b]0;x\x07")))
            send(client, "status", status_of("stopped"), retain=True)
            screen += read_to_the_end(main_side)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main_side)
    assert "\x1b[1;31mREJECT" in screen
    assert "\x1b[1;32mPASS" in screen
    assert "[red]?]0;x?" in screen
    assert "\x1b]0" not in screen
    assert screen.rstrip().endswith("\x1b[?25h"), "the cursor is back"
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).rpartition("PASS 1")[2]
    assert "REJECT 1" in last
    assert "edge-1 stopped" in last
    assert "part-1" in last


def test_config_gives_the_broker_and_the_topics_of_a_device(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "key.pub").write_text("any")
    (tmp_path / "line.csv").write_text("file,part_id\n")
    settings_file = tmp_path / "line.yaml"
    settings_file.write_text(
        "device: {enterprise: works, line: line-1, device: edge-1}\n"
        "bundle: {path: bundle, trusted_keys: [key.pub]}\n"
        "camera: {kind: replay, path: line.csv}\n"
        f"mqtt: {{host: {HOST}, port: {broker.port}}}\n"
        "state_dir: state\n"
    )
    with watching("--config", str(settings_file), "--count", "1") as process, sending(broker) as client:
        error_line(process, "connected to the broker")
        other_device = bytes_from_payload(result_of(1, device="edge-2"))
        client.publish("works/line-1/edge-2/v1/result", other_device, qos=1).wait_for_publish(5)
        send(client, "result", bytes_from_payload(result_of(2)))
        out, _ = process.communicate(timeout=120)
    assert [line.split()[0] for line in out.splitlines()] == ["2"]
    with watching("--config", str(settings_file), "--host", HOST) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "leave out --host and --port" in err


def test_counts_rate_devices_and_connection_are_in_the_header() -> None:
    view = WatchView(10)
    assert "no connection to the broker: connecting" in shown(view)
    view.link = ""
    for seq, verdict in enumerate((Verdict.PASS, Verdict.PASS, Verdict.REJECT, Verdict.NOT_INSPECTED), start=1):
        take(view, result_of(seq, verdict), now_s=seq * 0.5)
    fails = status_of("running").replace(b'"faults":[]', b'"faults":["outbox_failed","disk_low"]')
    view.take(f"{ROOT}/status", fails, retained=True, now_monotonic_s=2.0)
    assert "edge-1 running outbox_failed, disk_low   connected" in shown(view, now_s=2.0)
    view.take(f"{ROOT}/status", status_of("offline"), retained=True, now_monotonic_s=2.0)
    text = shown(view, now_s=2.0)
    assert "PASS 2   REJECT 1   REVIEW 0   NOT INSPECTED 1   120 parts/min" in text
    assert "edge-1 offline   connected to the broker" in text
    assert "0 parts/min" in shown(view, now_s=100.0)


def test_only_the_newest_parts_are_in_the_table_newest_first() -> None:
    view = WatchView(3)
    for seq in range(1, 8):
        take(view, result_of(seq))
    text = shown(view)
    assert re.findall(r"part-(\d)", text) == ["7", "6", "5"]


def test_a_repetition_is_recognised_by_device_epoch_and_number() -> None:
    view = WatchView(10)
    assert take(view, result_of(1)) is not None
    assert take(view, result_of(1)) is None
    assert take(view, result_of(1, epoch="def")) is not None
    assert take(view, result_of(1, device="edge-2")) is not None
    assert (view.counts[Verdict.PASS], view.repeated) == (3, 1)
    assert "1 repeated" in shown(view)


def test_the_memory_of_known_results_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_view, "REMEMBERED_RESULTS", 5)
    view = WatchView(10)
    for seq in range(1, 8):
        take(view, result_of(seq))
    assert take(view, result_of(3)) is None
    assert take(view, result_of(1)) is not None


def test_a_run_has_ended_when_a_device_stopped_and_none_is_running() -> None:
    view = WatchView(10)

    def all_stopped_after(state: str, device: str, *, retained: bool = False) -> bool:
        view.take(f"{device}/v1/status", status_of(state, device), retained=retained, now_monotonic_s=0.0)
        return view.all_stopped

    assert not all_stopped_after("stopped", "edge-1", retained=True)
    assert not all_stopped_after("running", "edge-1")
    assert not all_stopped_after("running", "edge-2")
    assert not all_stopped_after("stopped", "edge-1")
    assert all_stopped_after("offline", "edge-2")
    assert not all_stopped_after("running", "edge-2")
    assert all_stopped_after("stopped", "edge-2", retained=True)


def test_events_are_shown_with_their_text_and_detail() -> None:
    view = WatchView(10)
    event = event_from_fault(FaultId.OVERLOAD, "12 parts", device="edge-1", epoch="abc", created_at_utc="now")
    view.take(f"{ROOT}/event", bytes_from_payload(event), retained=False, now_monotonic_s=0.0)
    assert "edge-1: error: Parts arrive faster" in shown(view)
    assert "12 parts" in shown(view)


def test_a_part_with_several_views_is_one_line_that_names_the_view_that_decides() -> None:
    view = WatchView(5)
    result = take(view, Result.model_validate(example("result.two-views")))
    assert result is not None
    assert "dent in view left: 0.913" in line_from_result(result)
    assert "dent in view left: 0.913" in shown(view)
    assert (view.counts.total(), view.malformed) == (1, 0)


def test_an_audit_and_a_part_without_id_are_marked() -> None:
    assert line_from_result(result_of(1, audit=True)).startswith("1  part-1  PASS (audit)")
    assert line_from_result(result_of(1, part_id=None)).startswith("1  frame f1  PASS")


hostile_text = st.text(st.characters(), max_size=300) | st.sampled_from(
    ["\x1b[2J", "[bold red]x[/]", "\x9b31m", "\u202eabc", "a\r\nb", "\x07", "[link=file:///x]y[/link]"]
)


@settings(max_examples=60, deadline=None)
@given(part=hostile_text, text=hostile_text, device=hostile_text, type_name=hostile_text, seq=st.integers())
def test_no_received_control_character_reaches_the_terminal(
    part: str, text: str, device: str, type_name: str, seq: int
) -> None:
    view = WatchView(10)
    view.link = text
    why = reason_of(text[:256].encode(errors="replace").decode())  # a device's own text has no lone surrogates
    result = result_of(seq, Verdict.REJECT, part_id=part[:256], device=device, why=(why,))
    result = result.model_copy(update={"scores": ScoreSet(types={type_name: 1e300}, anomaly=1e300)})
    try:
        payload = result.model_dump_json(by_alias=True).encode()
    except ValueError:
        payload = b"lone surrogates cannot be sent"
    view.take(f"{text}/v1/result", payload, retained=False, now_monotonic_s=0.0)
    for output in (shown(view), line_from_result(result) + "\n"):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output)
        output.encode()


@given(payload=st.binary(min_size=1, max_size=300), kind=st.sampled_from(["result", "status", "event", "other"]))
def test_no_payload_breaks_the_view(payload: bytes, kind: str) -> None:
    view = WatchView(10)
    assert view.take(f"x/v1/{kind}", payload, retained=False, now_monotonic_s=0.0) is None
    assert view.malformed == (kind != "other")
    assert ("malformed message on x/v1/" in shown(view)) == (kind != "other")


def test_results_that_did_not_come_are_told_of_but_not_those_before_the_first() -> None:
    view = WatchView(10)
    take(view, result_of(5))
    assert view.note == ""
    take(view, result_of(8))
    assert view.note == "edge-1: results 6 to 7 did not reach this view"
    view.note = ""
    for result in (result_of(7), result_of(6), result_of(9), result_of(1, epoch="def"), result_of(3, device="edge-2")):
        take(view, result)
    assert view.note == ""
    take(view, result_of(4, epoch="def"))
    assert view.note == "edge-1: results 2 to 3 did not reach this view"


@pytest.mark.parametrize("kind", ["result", "status", "event"])
def test_an_empty_message_is_ignored_quietly(kind: str) -> None:
    view = WatchView(10)
    before = shown(view)
    assert view.take(f"x/v1/{kind}", b"", retained=False, now_monotonic_s=0.0) is None
    assert (view.malformed, view.note, shown(view)) == (0, "", before)


def test_plain_cuts_a_text_and_replaces_control_characters() -> None:
    assert plain("abcdef", 6) == "abcdef"
    assert plain("abcdefg", 6) == "abcde…"
    assert plain("a\tb\u200bc", 10) == "a?b?c"


def read_to_the_end(descriptor: int) -> str:
    """Everything that a process writes to its terminal until it closes it."""
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux reports a closed terminal as an I/O error
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()
