"""Power cuts: the outbox writes to an ext4 on a loop device, whose content is copied at any moment and started from.

What the file system had not yet given to the device is lost, as in a power cut. Needs root; with mkfs.xfs the copy is
one instant (reflink), otherwise the writer is paused for it.

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

from edge.messages import Trigger
from edge.outbox.outbox import Outbox
from edge.system.clock import utc_now

DISK_MB, HOST_MB = 1024, 4096
LONGEST_RUN_S = 0.6


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """A file system's image on a loop device."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def place_for_images(folder: Path) -> Iterator[tuple[Path, bool]]:
    """A folder for images, and whether it copies them in an instant."""
    if shutil.which("mkfs.xfs") is None:
        yield folder, False
        return
    host = folder / "host.img"
    with host.open("wb") as stream:
        stream.truncate(HOST_MB << 20)
    subprocess.run(["mkfs.xfs", "-q", str(host)], check=True)
    with mounted(host, folder / "host") as place:
        yield place, True


def write_for_ever(path: Path, seed: int) -> None:
    """The victim: triggers, results and acknowledgements; says after each commit what is surely stored."""
    draw = random.Random(seed)  # noqa: S311
    outbox = Outbox(path)
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


def run_and_cut(disk: Path, cut: Path, folder: Path, seed: int, *, at_once: bool) -> int:
    """Let the victim write on a disk and copy the disk's content meanwhile; the highest number it had promised."""
    said = folder / "said"
    with mounted(disk, folder / "disk") as place, said.open("wb") as stream:
        victim = subprocess.Popen(
            [sys.executable, "-m", "tools.drills.power", "--victim", str(place / "outbox.db"), "--seed", str(seed)],
            stdout=stream,
        )
        try:
            while not said.stat().st_size:
                if victim.poll() is not None:
                    raise click.ClickException("the writer ended")
                time.sleep(0.005)
            time.sleep(random.Random(seed).uniform(0, LONGEST_RUN_S))  # noqa: S311
            if not at_once:
                victim.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
            promised = int(said.read_bytes().split(b"\n")[-2])
            how = "always" if at_once else "never"
            subprocess.run(["cp", f"--reflink={how}", "--sparse=auto", str(disk), str(cut)], check=True)
        finally:
            victim.kill()
            victim.wait()
    return promised


def lost_after(cut: Path, folder: Path, promised: int) -> int:
    """Start from what the cut left; how many promised results are missing."""
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
        raise click.ClickException("a trigger is neither open nor has it exactly one result")
    return len(set(range(1, promised + 1)) - stored)


@click.command()
@click.option("--cycles", default=200, help="Power cuts.")
@click.option("--seed", default=1, help="Draws the moments.")
@click.option("--victim", type=click.Path(path_type=Path), hidden=True)
def drill(cycles: int, seed: int, victim: Path | None) -> None:
    """Cut the power many times; exits with 1 if a committed result is lost."""
    if victim is not None:
        write_for_ever(victim, seed)
    if os.geteuid() != 0:
        raise click.ClickException("only root can mount")
    folder = Path(tempfile.mkdtemp(prefix="drill-power-"))
    lost = promised = 0
    started_s = time.monotonic()
    try:
        with place_for_images(folder) as (place, at_once):
            disk, cut = place / "disk.img", place / "cut.img"
            with disk.open("wb") as stream:
                stream.truncate(DISK_MB << 20)
            subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
            for cycle in range(cycles):
                promised = run_and_cut(disk, cut, folder, seed + cycle, at_once=at_once)
                lost += lost_after(cut, folder, promised)
                cut.replace(disk)
            print(f"power cuts: {cycles} in {time.monotonic() - started_s:.0f} s, at once: {at_once}")
            print(f"power cuts: {promised} results promised, {lost} lost")
    finally:
        shutil.rmtree(folder)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    drill()
