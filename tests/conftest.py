"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import edge  # noqa: F401  (turns the dependencies' usage reports off before a test module imports one of them)
from tests.support.broker import Broker, running_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real mosquitto of its own for one test."""
    with running_broker(tmp_path) as running:
        yield running
