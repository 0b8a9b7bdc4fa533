"""What the tests of the whole daemon start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.broker import free_port
from tests.device import Device, new_device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A device with 20 photographs and no broker."""
    return new_device(tmp_path / "device", free_port(), 20)


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker nobody is waited for at the end."""
    monkeypatch.setattr("edge.daemon.STALLED_S", 0.0)
    monkeypatch.setattr("edge.daemon.PUBLISH_STOP_S", 0.0)
    monkeypatch.setattr("edge.capture._FIRST_PAUSE_S", 0.02)
