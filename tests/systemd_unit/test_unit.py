"""The unit and its user and directories, checked by systemd's own tools without a running systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.broker import free_port
from tests.support.device import new_device
from tests.support.lines import constructed_line

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "procunit-edge@.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here; everything else is as it is installed."""
    text = UNIT.read_text()
    program = shutil.which("true")
    assert program is not None
    assert text.count("/opt/procunit-edge/bin/procunit") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/procunit-edge/bin/procunit", program))
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_systemd_understands_every_line(unit: Path) -> None:
    verified = analyze("verify", str(unit))
    assert verified.stderr == ""
    assert verified.returncode == 0


def test_a_mistyped_key_would_be_seen(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("WatchdogSec", "WatchdogSecs"))
    assert "WatchdogSecs" in analyze("verify", str(unit)).stderr


def test_the_exposure_is_at_most_two_of_ten(unit: Path) -> None:
    judged = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(unit))
    assert judged.returncode == 0, judged.stdout[-200:]
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0


def test_what_only_a_running_systemd_would_show() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert settings["Type"] == "notify"
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["StartLimitIntervalSec"] == "0"
    assert int(settings["WatchdogSec"]) > 0
    assert settings["DevicePolicy"] == "closed"
    assert settings["StateDirectory"] == "procunit-edge/%i"
    assert settings["ExecStart"].endswith("run --config /etc/procunit-edge/%i.yaml")
    assert "AF_NETLINK" in settings["RestrictAddressFamilies"]
    assert settings["Environment"] == "ORT_DISABLE_TELEMETRY=1"
    assert not {"PrivateDevices", "MemoryDenyWriteExecute"} & set(settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own what it creates")
def test_user_and_directories_are_created_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for program, file in [
        (["systemd-sysusers"], "procunit-edge.sysusers"),
        (["systemd-tmpfiles", "--create"], "procunit-edge.tmpfiles"),
    ]:
        command = [*program, f"--root={tmp_path}", str(SYSTEMD / file)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert made.returncode == 0, made.stderr
    groups = (tmp_path / "etc/group").read_text()
    for group in ("video", "render"):
        assert re.search(rf"^{group}:.*procunit-edge$", groups, re.MULTILINE)
    uid = int(re.findall(r"^procunit-edge:[^:]*:(\d+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)[0])
    for directory, owner in [("etc/procunit-edge", 0), ("var/lib/procunit-edge/bundles", uid)]:
        created = (tmp_path / directory).stat()
        assert (created.st_mode & 0o777, created.st_uid) == (0o750, owner)


def test_the_longest_stop_of_a_line_fits_the_time_that_systemd_allows(tmp_path: Path) -> None:
    timeout_s = float(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)[0])
    with constructed_line(new_device(tmp_path / "device", free_port(), 1)) as line:
        stops_s = {worker.name: worker.stop_s for worker in line.workers}
        assert line.stop_s == sum(stops_s.values())
    assert min(stops_s.values()) > 0
    assert timeout_s >= line.stop_s + 5  # the files are closed, and Python ends
