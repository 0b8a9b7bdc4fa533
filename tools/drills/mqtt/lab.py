"""A test network: the broker runs in a network namespace, and its link to the device can be disturbed.

Needs root, iproute2 and nftables. The subscriber has a second link, which is never disturbed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.broker import Subscriber

NAMESPACE = "procunit-drill"
BROKER, WATCHER = "10.213.7.2", "10.213.8.2"
PORT = 1883


class Lab:
    """A broker at BROKER:PORT; the device's end of the link is the interface `pcd0`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._broker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lab:
        self._clean()
        _run("ip", "netns", "add", NAMESPACE)
        for number, net in enumerate(("10.213.7", "10.213.8")):
            _run("ip", "link", "add", f"pcd{number}", "type", "veth", "peer", "name", f"pcb{number}")
            _run("ip", "link", "set", f"pcb{number}", "netns", NAMESPACE)
            _run("ip", "addr", "add", f"{net}.1/24", "dev", f"pcd{number}")
            _run("ip", "link", "set", f"pcd{number}", "up")
            _inside("ip", "addr", "add", f"{net}.2/24", "dev", f"pcb{number}")
            _inside("ip", "link", "set", f"pcb{number}", "up")
        _inside("ip", "link", "set", "lo", "up")
        _inside("nft", "add table inet drill")
        for chain, hook in (("from_device", "input"), ("to_device", "output")):
            _inside("nft", f"add chain inet drill {chain} {{ type filter hook {hook} priority 0 ; }}")
        config = self._folder / "lab.conf"
        config.write_text(
            f"listener {PORT}\nuser root\nallow_anonymous true\nmax_queued_messages 1000000\nmax_inflight_messages 0\n"
        )
        self._broker = subprocess.Popen(
            ["ip", "netns", "exec", NAMESPACE, "mosquitto", "-c", str(config)], stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        if self._broker is not None:
            self._broker.kill()
            self._broker.wait()
        self._clean()

    def subscriber(self) -> Subscriber:
        """A receiver on the undisturbed link."""
        return Subscriber(_Address(WATCHER, PORT))

    def drop(self) -> None:
        """Drop all packets in both directions."""
        self._rule("from_device", 'iifname "pcb0" drop')
        self._rule("to_device", 'oifname "pcb0" drop')

    def black_hole(self) -> None:
        """Let packets from the device pass, but drop all answers."""
        self._rule("to_device", 'oifname "pcb0" drop')

    def reset(self) -> None:
        """Answer every packet of the device with a TCP reset."""
        self._rule("from_device", 'iifname "pcb0" tcp dport 1883 reject with tcp reset')

    def lose(self, percent: int) -> None:
        """Lose this percentage of packets in each direction."""
        self._rule("from_device", f'iifname "pcb0" numgen random mod 100 < {percent} drop')
        self._rule("to_device", f'oifname "pcb0" numgen random mod 100 < {percent} drop')

    def unplug(self) -> None:
        """Take the link down on the broker's side."""
        _inside("ip", "link", "set", "pcb0", "down")

    def slow(self, rate: str) -> None:
        """Limit packets from the device to this rate."""
        _run("tc", "qdisc", "add", "dev", "pcd0", "root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms")

    def heal(self) -> None:
        """Let everything pass again."""
        for chain in ("from_device", "to_device"):
            _inside("nft", f"flush chain inet drill {chain}")
        _inside("ip", "link", "set", "pcb0", "up")

    def _rule(self, chain: str, rule: str) -> None:
        _inside("nft", f"add rule inet drill {chain} {rule}")

    def _clean(self) -> None:
        for command in (f"netns del {NAMESPACE}", "link del pcd0", "link del pcd1"):
            subprocess.run(["ip", *command.split()], check=False, stderr=subprocess.DEVNULL)


def lab_missing() -> str:
    """What is missing for the test network, as text; empty if nothing is."""
    tools = [name for name in ("ip", "nft", "tc", "mosquitto") if shutil.which(name) is None]
    needs = (["root"] if os.geteuid() else []) + tools
    return ", ".join(needs)


@dataclass(frozen=True)
class _Address:
    host: str
    port: int


def _inside(*command: str) -> None:
    _run("ip", "netns", "exec", NAMESPACE, *command)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
