"""A line as the daemon constructs it, without starting it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge.bundle.keys import trusted_keys_from_files
from edge.bundle.reader import open_bundle
from edge.engine.choice import open_engine
from edge.fault_board import FaultBoard
from edge.frames.store import FrameStore
from edge.line.line import Line, line_from_settings
from edge.outbox.outbox import Outbox
from edge.state_dir import FRAMES_FOLDER, OUTBOX_FILE
from tests.support.device import Device, settings_of


@contextmanager
def constructed_line(device: Device) -> Iterator[Line]:
    """The line of a device; outbox and frame store run, nothing else does."""
    settings = settings_of(device)
    keys = trusted_keys_from_files(settings.bundle.trusted_keys, settings.bundle.demo_keys, settings.bundle.bank_keys)
    bundle = open_bundle(settings.bundle.path, keys)
    with (
        Outbox(settings.state_dir / OUTBOX_FILE) as outbox,
        FrameStore(settings.state_dir / FRAMES_FOLDER, 1 << 20) as frames,
    ):
        board = FaultBoard(outbox, settings.device.device)
        yield line_from_settings(settings, bundle, keys, outbox, frames, board, open_engine)
