"""What a child process connects to: Python's audit events, its sockets in /proc, counters of a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.system.telemetry import SWITCHES
from tests.support.device import REPOSITORY

_WATCHED = Path(__file__).with_name("watched")
_POLL_S = 0.005
_TCP_LISTEN = "0A"
_COUNTED = {
    "tcp": ("Tcp", "ActiveOpens"),
    "udp": ("Udp", "OutDatagrams"),
    "no_route": ("Ip", "OutNoRoutes"),
}
_COUNTED_V6 = {"udp6": "Udp6OutDatagrams", "no_route6": "Ip6OutNoRoutes"}


class WatchedChild:
    """The environment of a child process that writes down its imports and connections, with an empty home directory.

    The reports of the dependencies are switched on in it, so that only the product's own code can switch them off.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "watched.jsonl"
        self._home = folder / "home"
        self._home.mkdir()
        self.environment = {
            **{switch.variable: "1" if switch.value == "0" else "0" for switch in SWITCHES},
            "PYTHONPATH": f"{_WATCHED}{os.pathsep}{REPOSITORY}",
            "WATCH_FILE": str(self._file),
            "HOME": str(self._home),
            "XDG_CACHE_HOME": str(self._home / ".cache"),
        }

    def events(self, *names: str) -> list[list[Any]]:
        """The arguments of the audit events with these names, in order."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [line[1:] for line in map(json.loads, lines) if line[0] in names]

    @property
    def imports(self) -> dict[str, set[str | None]]:
        """Package to the values that ORT_DISABLE_TELEMETRY had when it was imported."""
        found: dict[str, set[str | None]] = {}
        for package, value in self.events("import"):
            found.setdefault(package, set()).add(value)
        return found

    @property
    def addresses(self) -> list[Any]:
        """Addresses of every connection and datagram, as Python's socket calls received them."""
        return [line[0] for line in self.events("socket.connect", "socket.sendto", "socket.sendmsg")]

    @property
    def names_resolved(self) -> set[Any]:
        """Host names and addresses that were looked up."""
        return {line[0] for line in self.events("socket.getaddrinfo", "socket.gethostbyname")}

    @property
    def device_ids(self) -> list[Path]:
        """Files of ONNX Runtime's uploader, which it creates before it sends anything."""
        return list(self._home.rglob("*onnxruntime*"))


class SocketPoller:
    """The TCP and UDP connections of a process, native code's too: (local, remote) as /proc/net writes them.

    A socket that is open for less than 5 ms can be missed: the counters of `outgoing` miss none.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._connections: set[tuple[str, str]] = set()

    @property
    def remotes(self) -> set[str]:
        """Remote ends, without those that belong to the process itself."""
        return {remote for local, remote in self._connections if (remote, local) not in self._connections}

    @property
    def to_itself(self) -> set[str]:
        """Both ends of connections within the process."""
        return {remote for local, remote in self._connections if (remote, local) in self._connections}

    def __enter__(self) -> SocketPoller:
        self._thread.start()
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._ended.wait(_POLL_S):
            try:
                self._connections |= _connections(self._pid)
            except OSError:  # the process ended
                continue


def _connections(pid: int) -> set[tuple[str, str]]:
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = row.split()
            if rest[5] in inodes and state != _TCP_LISTEN:
                found.add((local, remote))
    return found


def hexadecimal(host: str, port: int) -> str:
    """An IPv4 endpoint as /proc/net/tcp writes it on a little-endian machine."""
    return f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"


def namespace_problem() -> str | None:
    """Why no network namespace can be made here; None if one can."""
    if not all(map(shutil.which, ("unshare", "ip"))):
        return "needs unshare (util-linux) and ip (iproute2)"
    tried = subprocess.run([*_UNSHARE, *_SET_UP, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no network namespace can be made here: {tried.stderr.strip()}"


_UNSHARE = ("unshare", "--map-root-user", "--net", "--")
_SET_UP = (
    "sh",
    "-ec",
    # Every address is this machine's, so that each attempt to reach any of them becomes a counted connection.
    "ip link set lo up; ip route add local default dev lo; ip -6 route add local ::/0 dev lo 2>/dev/null || true; "
    'exec "$@"',
    "sh",
)


def outgoing(folder: Path, module: str, *arguments: str, environment: dict[str, str]) -> dict[str, int]:
    """Run `python -m MODULE FOLDER ARGUMENTS` in a network of its own; returns the counts that it prints as JSON."""
    command = [*_UNSHARE, *_SET_UP, sys.executable, "-m", module, str(folder), *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


@contextmanager
def counting(counts: dict[str, int]) -> Iterator[None]:
    """Add to `counts` the connections and datagrams that this network namespace sent within the block."""
    before = _counters()
    yield
    counts.update({name: value - before[name] for name, value in _counters().items()})


def _counters() -> dict[str, int]:
    rows: dict[str, list[str]] = {}
    found = {}
    for line in Path("/proc/self/net/snmp").read_text().splitlines():
        protocol, _, values = line.partition(": ")
        if protocol in rows:
            found[protocol] = dict(zip(rows[protocol], map(int, values.split()), strict=True))
        rows[protocol] = values.split()
    counted = {name: found[protocol][field] for name, (protocol, field) in _COUNTED.items()}
    v6 = Path("/proc/self/net/snmp6")
    values6 = dict(line.split() for line in v6.read_text().splitlines()) if v6.exists() else {}
    return counted | {name: int(values6.get(field, 0)) for name, field in _COUNTED_V6.items()}
