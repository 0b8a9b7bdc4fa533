"""Runs a program where connections are counted (see `tests.support.network.outgoing`); prints the counts as JSON.

python -m tests.support.counted_network FOLDER daemon          the device of FOLDER, with a broker of its own
python -m tests.support.counted_network FOLDER ARGUMENT ...    `procunit ARGUMENT ...`
python -m tests.support.counted_network FOLDER python CODE     a Python program
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.broker import running_broker
from tests.support.device import PROCUNIT, Device
from tests.support.network import counting


def _run_daemon(folder: Path, counts: dict[str, int]) -> int:
    with running_broker(folder) as broker:
        device = Device(folder, broker.port)
        device.write_settings()
        with counting(counts):
            code = device.run()
    print(device.log_text, file=sys.stderr)
    return code


def main(folder: str, *arguments: str) -> int:
    """Returns the exit code of the program."""
    counts: dict[str, int] = {}
    if arguments == ("daemon",):
        code = _run_daemon(Path(folder), counts)
    else:
        command = [sys.executable, "-c", arguments[1]] if arguments[0] == "python" else [*PROCUNIT, *arguments]
        with counting(counts):
            code = subprocess.run(command, stdout=sys.stderr, cwd=folder, check=False).returncode
    print(json.dumps(counts))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
