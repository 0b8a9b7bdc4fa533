"""Simulated power cuts: the outbox writes to ext4 on a loop device, whose image is copied at a random moment.

Data that the file system has not yet written to the device is missing in the copy, as after a power cut. The outbox is
then opened on the copy. Needs root. With mkfs.xfs the copy is instantaneous (reflink), otherwise the writer is paused.

python -m tools.drills.power --cycles 200
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edge.cli.program import run_program
from edge.messages import Trigger
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now
from edge.terminal import echo

DISK_MB, HOST_MB = 1024, 4096
LONGEST_RUN_S = 0.6


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount a file system image through a loop device."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def image_folder(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A folder for the images, and whether copies in it are instantaneous."""
    if shutil.which("mkfs.xfs") is None:
        yield folder, False
        return
    host = folder / "host.img"
    with host.open("wb") as stream:
        stream.truncate(HOST_MB << 20)
    subprocess.run(["mkfs.xfs", "-q", str(host)], check=True)
    with mounted(host, folder / "host") as place:
        yield place, True


def write_until_killed(path: Path, seed: int) -> None:
    """The victim process: stores triggers, results and acknowledgements; prints the last stored number."""
    draw = random.Random(seed)  # noqa: S311
    outbox = Outbox(path)
    outbox.start()
    for left in outbox.open_triggers():
        outbox.close_trigger(left.seq, b"restart")
    seq = outbox.next_seq()
    while True:
        for _ in range(draw.randrange(1, 20)):
            outbox.open_trigger(Trigger(seq, f"f{seq}", None, seq, utc_now(), 0, None))
            outbox.close_trigger(seq, draw.randbytes(draw.randrange(100, 3000)))
            seq += 1
        if draw.random() < 0.2:
            outbox.acknowledge([message.message_id for message in outbox.unacknowledged(0, 50)])
        if outbox.flush(10):
            os.write(1, f"{seq - 1}\n".encode())
        if draw.random() < 0.05:
            time.sleep(0.02)


def run_and_cut(disk: Path, cut: Path, folder: Path, seed: int, *, instantaneous: bool) -> int:
    """Copy the disk image while the victim writes to it; returns the highest number reported as stored."""
    output = folder / "output"
    with mounted(disk, folder / "disk") as place, output.open("wb") as stream:
        victim = subprocess.Popen(
            [sys.executable, "-m", "tools.drills.power", "--victim", str(place / "outbox.db"), "--seed", str(seed)],
            stdout=stream,
        )
        try:
            while not output.stat().st_size:
                if victim.poll() is not None:
                    raise click.ClickException("the writing process ended unexpectedly; see its error output above")
                time.sleep(0.005)
            time.sleep(random.Random(seed).uniform(0, LONGEST_RUN_S))  # noqa: S311
            if not instantaneous:
                victim.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
            promised = int(output.read_bytes().split(b"\n")[-2])
            how = "always" if instantaneous else "never"
            subprocess.run(["cp", f"--reflink={how}", "--sparse=auto", str(disk), str(cut)], check=True)
        finally:
            victim.kill()
            victim.wait()
    return promised


def lost_after(cut: Path, folder: Path, promised: int) -> int:
    """Open the outbox on the copied image; returns how many results reported as stored are missing."""
    with mounted(cut, folder / "cut") as place:
        path = place / "outbox.db"
        with Outbox(path) as outbox:
            if outbox.set_aside is not None:
                return promised
            open_now = {left.seq for left in outbox.open_triggers()}
        with sqlite3.connect(path) as db:
            stored = {seq for (seq,) in db.execute("SELECT seq FROM messages WHERE kind = 'result'")}
            last = int(db.execute("SELECT last_seq FROM journal").fetchone()[0])
        db.close()
    if stored & open_now or stored | open_now != set(range(1, last + 1)):
        raise click.ClickException("a trigger has neither exactly one result nor is it still open")
    return len(set(range(1, promised + 1)) - stored)


@click.command()
@click.option("--cycles", default=200, help="Number of power cuts.")
@click.option("--seed", default=1, help="Seed of the random moments.")
@click.option("--victim", type=click.Path(path_type=Path), hidden=True)
def drill(cycles: int, seed: int, victim: Path | None) -> None:
    """Cut the power many times; exit with 1 if a stored result is lost."""
    if victim is not None:
        write_until_killed(victim, seed)
    if os.geteuid() != 0:
        raise click.ClickException("this drill mounts a file system and needs root. Run it with sudo")
    folder = Path(tempfile.mkdtemp(prefix="drill-power-"))
    lost = promised = 0
    started_s = time.monotonic()
    try:
        with image_folder(folder) as (place, instantaneous):
            disk, cut = place / "disk.img", place / "cut.img"
            with disk.open("wb") as stream:
                stream.truncate(DISK_MB << 20)
            subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
            for cycle in range(cycles):
                promised = run_and_cut(disk, cut, folder, seed + cycle, instantaneous=instantaneous)
                lost += lost_after(cut, folder, promised)
                cut.replace(disk)
            echo(f"power cuts: {cycles} in {time.monotonic() - started_s:.0f} s, instantaneous copies: {instantaneous}")
            echo(f"power cuts: {promised} results promised, {lost} lost")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    run_program(drill, "power")
