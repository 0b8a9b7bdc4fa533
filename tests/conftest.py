"""What all tests share: settings for three workers on a busy machine, and a broker.

The tests run in three worker processes (`make unit`, xdist's `--dist loadfile`): all tests of a file run in one worker,
in order, so that what a module's fixtures make is made once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: each worker has one core

import edge  # noqa: F401  (turns the dependencies' usage reports off before a test module imports one of them)
from tests.support.broker import Broker, running_broker

hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
"""A busy machine makes no example a failure; each test still has pytest's time limit."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real mosquitto of its own for one test."""
    with running_broker(tmp_path) as running:
        yield running
