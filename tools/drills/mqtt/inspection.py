"""Does the broker affect inspection? Frame-to-verdict time with a healthy, a dead, a slow and a flooding broker."""

from __future__ import annotations

import json
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from edge.state_dir import OUTBOX_FILE
from tests.support.broker import HOST, free_port, running_broker
from tests.support.device import PATIENT, new_device
from tests.support.tcp_proxy import TcpProxy
from tools.drills.mqtt.count import Figure

BLOCKS = 5
ALLOWED_SHARE, ALLOWED_MS = 0.10, 2.0
_FLOOD_TOPIC = b"demo/edge-1/v1/cmd/status"


def inspection(folder: Path, short: bool) -> list[Figure]:
    """Run the daemon in alternating blocks, one for each kind of broker."""
    parts = 60 if short else 400
    p99_ms: dict[str, list[float]] = {kind: [] for kind in ("healthy", "dead", "slow", "flooding")}
    for block in range(2 if short else BLOCKS):
        for kind, found in p99_ms.items():
            place = folder / f"{kind}-{block}"
            place.mkdir()
            with _broker(kind, place) as port:
                found.append(_p99_ms(place, port, parts))
    medians = {kind: statistics.median(found) for kind, found in p99_ms.items()}
    healthy = medians["healthy"]
    allowed = max(healthy * (1 + ALLOWED_SHARE), healthy + ALLOWED_MS)
    return [
        Figure("inspection", f"broker {kind}: p99 {median:.2f} ms (allowed {allowed:.2f})", median <= allowed)
        for kind, median in medians.items()
    ]


def _p99_ms(folder: Path, port: int, parts: int) -> float:
    device = new_device(folder / "device", port, parts)
    device.camera["parts_per_min"] = 1200
    device.sections["inspection"] = PATIENT
    device.write_settings()
    daemon = device.start()
    try:
        times_ms = _inspect_ms(device.folder / "state" / OUTBOX_FILE, parts, 60 + parts / 10)
    finally:
        daemon.kill()  # results not yet sent to a slow broker do not matter here
        daemon.wait()
    if len(times_ms) != parts:
        raise RuntimeError(f"{len(times_ms)} of {parts} parts were inspected:\n{device.log_text}")
    return float(np.quantile(times_ms, 0.99))


def _inspect_ms(outbox: Path, parts: int, timeout_s: float) -> list[float]:
    """The parts' inspection times, as soon as all results are in the outbox."""
    deadline_s = time.monotonic() + timeout_s
    rows: list[tuple[bytes]] = []
    while len(rows) < parts and time.monotonic() < deadline_s:
        time.sleep(1.0)
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT payload FROM messages WHERE kind = 'result'").fetchall()
    return [json.loads(row[0])["processingTimes"]["inspectMs"] for row in rows]


@contextmanager
def _broker(kind: str, folder: Path) -> Iterator[int]:
    if kind == "dead":
        yield free_port()
    elif kind == "flooding":
        with _flooding_broker() as port:
            yield port
    else:
        with running_broker(folder) as broker, TcpProxy(broker.port) as proxy:
            proxy.delay_s = 0.2 if kind == "slow" else 0.0
            yield broker.port if kind == "healthy" else proxy.port


@contextmanager
def _flooding_broker() -> Iterator[int]:
    """A process that accepts every CONNECT and then sends messages without end."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tools.drills.mqtt.inspection", str(port)])
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _flood(port: int) -> None:
    body = len(_FLOOD_TOPIC).to_bytes(2, "big") + _FLOOD_TOPIC + b"\x00{}"
    packets = (bytes([0x30, len(body)]) + body) * 1000
    listener = socket.create_server((HOST, port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_pour, args=(connection, packets), daemon=True).start()


def _pour(connection: socket.socket, packets: bytes) -> None:
    with connection, suppress(OSError):
        connection.recv(4096)
        connection.sendall(b"\x20\x03\x00\x00\x00")
        while True:
            connection.sendall(packets)


if __name__ == "__main__":
    _flood(int(sys.argv[1]))
