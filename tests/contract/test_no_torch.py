"""The daemon, whole and at work, where torch and the offline rooms cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.broker import Broker, Subscriber
from tests.support.device import REPOSITORY, new_device, results_of

PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "sklearn", "scipy", "pytest")
ROOMS = ("training", "export", "calibration", "tools", "tests")
FORBIDDEN = PACKAGES + ROOMS

WITHOUT = f"""
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"forbidden on the device: {{name}}", name=name)

sys.meta_path.insert(0, Forbidden())
"""


def run_without(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which they cannot be imported."""
    command = [sys.executable, "-c", f"{WITHOUT}\n{code}"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


def test_the_daemon_judges_parts_without_them(tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path / "device", broker.port, 10)
    code = f"{WITHOUT}\nfrom edge.cli.main import main\nmain()\nprint('loaded', *sorted(sys.modules))"
    with Subscriber(broker) as subscriber:
        process = device.start(sys.executable, "-c", code)
        try:
            assert process.wait(60) == 0, device.log_text
        finally:
            process.kill()
            process.wait()
        messages = subscriber.wait_for(lambda m: len(results_of(m)) == 10)
    assert [r.seq for r in results_of(messages)] == list(range(1, 11))
    loaded = {name.partition(".")[0] for name in device.log_text.split("loaded ")[-1].split()}
    assert "onnxruntime" in loaded
    assert not loaded & set(FORBIDDEN)


def test_every_module_of_the_device_imports_without_them() -> None:
    files = (path.relative_to(REPOSITORY).with_suffix("") for path in (REPOSITORY / "edge").rglob("*.py"))
    modules = sorted(".".join(file.parts).removesuffix(".__init__") for file in files)
    assert len(modules) > 30
    imported = run_without("; ".join(f"import {module}" for module in modules))
    assert imported.returncode == 0, imported.stderr


@pytest.mark.parametrize("module", ["torch", "training", "calibration"])
def test_the_prohibition_holds(module: str) -> None:
    refused = run_without(f"import {module}")
    assert refused.returncode != 0
    assert "forbidden on the device" in refused.stderr
