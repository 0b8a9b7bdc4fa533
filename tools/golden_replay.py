"""One replay through a daemon, recorded so that two versions of the code can be held against each other byte by byte.

    python -m tools.golden_replay record --bundle work/demo/bundle --key work/demo/run/demo-key.pub \\
        --parts work/demo/line/line.csv --out before.jsonl
    python -m tools.golden_replay compare before.jsonl after.jsonl

`record` runs `procunit run` (another checkout's with --procunit) without a broker and reads what lies in its outbox:
every result with its topic and payload, in order, then every event (whether an event comes before or after a result
depends on the machine's speed). Only what differs between any two runs is replaced: random
ids, times and durations. The audit draw is random, so no part is audited.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import yaml

from edge.cli.program import run_program
from edge.terminal import echo, echo_lines

_RUN_LIMIT_S = 600
_SHOWN_DIFFERENCES, _SHOWN_CHARACTERS = 20, 400
_VARYING = (
    (re.compile(rb"[0-9a-f]{16}-(?=\d+[\"/])"), b"EPOCH-"),
    (re.compile(rb'"(epoch|eventId|stateId)":"[0-9a-f]+"'), rb'"\1":"ID"'),
    (re.compile(rb'"(\w+Time)":"\d{4}-[^"]+Z"'), rb'"\1":"TIME"'),
    (re.compile(rb'"(\w+Ms)":[0-9.e-]+'), rb'"\1":MS'),
)
"""Patterns of a payload's bytes that no two runs share, and what is recorded for them."""


@click.group(help=__doc__)
def main() -> None:
    """Record a replay or compare two records."""


@main.command()
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), required=True, help="The bundle to run.")
@click.option("--key", type=click.Path(path_type=Path, exists=True), required=True, help="Its demonstration key (PEM).")
@click.option("--parts", type=click.Path(path_type=Path, exists=True), required=True, help="Folder or CSV to replay.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write, one message per line.")
@click.option("--procunit", default="", help="Command to run instead of this environment's `procunit`.")
def record(bundle: Path, key: Path, parts: Path, out: Path, procunit: str) -> None:
    """Run the daemon over the parts and write its messages."""
    command = shlex.split(procunit) or [str(Path(sys.executable).with_name("procunit"))]
    with TemporaryDirectory(prefix="golden-replay-") as folder:
        lines = _messages_of_run(command, Path(folder), bundle.resolve(), key.resolve(), parts.resolve())
    out.write_bytes(b"".join(line + b"\n" for line in lines))
    echo(f"{out}: {len(lines)} messages")


@main.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True))
@click.argument("after", type=click.Path(path_type=Path, exists=True))
def compare(before: Path, after: Path) -> None:
    """Compare two records; exit code 1 if a byte differs."""
    old, new = (path.read_text(encoding="utf-8").splitlines() for path in (before, after))
    differences = list(unified_diff(old, new, str(before), str(after), n=0, lineterm=""))
    for line in differences[:_SHOWN_DIFFERENCES]:
        echo(line[:_SHOWN_CHARACTERS])
    echo(f"{len(old)} and {len(new)} messages: {'different' if differences else 'the same'}")
    sys.exit(1 if differences else 0)


def _messages_of_run(command: list[str], folder: Path, bundle: Path, key: Path, parts: Path) -> list[bytes]:
    settings = {
        "device": {"enterprise": "works", "line": "line-1", "device": "edge-1"},
        "bundle": {"path": str(bundle), "demo_keys": [str(key)]},
        "camera": {"kind": "replay", "path": str(parts), "parts_per_min": "max", "at_end": "stop"},
        "mqtt": {"host": "127.0.0.1", "port": _free_port()},
        "policy": {"audit_rate": 0.0},
        "state_dir": str(folder / "state"),
    }
    (folder / "line.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = subprocess.run(
        [*command, "run", "--config", str(folder / "line.yaml")],
        capture_output=True,
        text=True,
        timeout=_RUN_LIMIT_S,
        check=False,
    )
    if run.returncode != 0:
        echo_lines(run.stderr[-2000:], err=True)
        raise click.ClickException(f"the daemon ended with exit code {run.returncode}; its log is above")
    with closing(sqlite3.connect(folder / "state" / "outbox.db")) as db:
        rows = db.execute("SELECT kind, topic, payload FROM messages ORDER BY kind <> 'result', message_id").fetchall()
    return [
        json.dumps([kind, topic]).encode() + b" " + _without_varying(bytes(payload)) for kind, topic, payload in rows
    ]


def _without_varying(payload: bytes) -> bytes:
    for pattern, replacement in _VARYING:
        payload = pattern.sub(replacement, payload)
    return payload


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    run_program(main, "golden_replay")
