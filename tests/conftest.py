"""What all tests share: who runs where when workers run in parallel, and a broker.

The tests run in two worker processes (`make unit`). All tests of a file run in the same worker, in order, so that what
a module's fixtures made is made once. Files that start from the same expensive session fixture share a worker, too.
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

SHARED_FIXTURES = frozenset({"trained", "exported"})
"""Session fixtures that take long to make: their users run in one worker."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Name the group of each test for xdist's `--dist loadgroup`."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    sharing = {item.path for item in items if SHARED_FIXTURES & set(getattr(item, "fixturenames", ()))}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("shared run" if item.path in sharing else str(item.path)))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A real mosquitto of its own for one test."""
    with running_broker(tmp_path) as running:
        yield running
