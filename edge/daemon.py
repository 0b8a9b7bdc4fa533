"""The daemon: in which order its parts start, and in which order they stop.

Threads: the workers of the line (`Line.workers`), and the main thread, which supervises. They start from the end of the
data to its beginning: the publisher before the engine is made, so that the plant can follow an engine build that takes
minutes, and the camera last. Stopping follows the data, capture first and the outbox last, so that every trigger
accepted gets its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from edge.bundle.consistency import check_records
from edge.bundle.keys import TrustedKey, trusted_keys_from_files
from edge.bundle.reader import Bundle, open_bundle
from edge.config.settings import BundleSettings, Settings
from edge.contract.topics import RESULT, root_from_device
from edge.engine.choice import OpenEngine, open_engine
from edge.errors import ProcunitError
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.line.line import Line, line_from_settings
from edge.line.supervisor import Reason, Supervisor
from edge.outbox.outbox import Outbox
from edge.state_dir import FRAMES_FOLDER, OUTBOX_FILE
from edge.system.access import who_may_change
from edge.system.service_manager import ServiceNotifier
from edge.system.stop_signals import StopSignals
from edge.worker import WorkerState

FLUSH_S = 5.0
"""At the end of a replay: how long the disk may take for what waits."""
STALLED_S = 5.0
"""At the end of a replay the daemon gives up sending after this long without an acknowledgement by the broker."""
_SHOWN_FILES = 3
"""How many open files the fault names."""

_logger = logging.getLogger(__name__)


def run_daemon(
    settings: Settings, engine_opener: OpenEngine = open_engine, *, settings_file: Path | None = None
) -> int:
    """Inspect until a signal or the end of a replay; returns the exit code, 1 after a failure.

    Call it from the main thread: it handles SIGTERM and SIGINT. `settings_file` is the file that the settings come
    from, if its permissions are to be checked.

    Raises:
        ProcunitError: it cannot start until a person corrects something.
    """
    notifier = ServiceNotifier()
    with ExitStack() as stack:
        notifier.status("opening the outbox")
        outbox = stack.enter_context(Outbox(settings.state_dir / OUTBOX_FILE))
        board = FaultBoard(outbox, settings.device.device)
        if outbox.set_aside is not None:
            board.report(FaultId.OUTBOX_SET_ASIDE, str(outbox.set_aside))
        _report_access(settings, settings_file, board)
        notifier.status("checking the bundle")
        bundle, keys = _bundle_or_event(settings.bundle, board)
        folder, quota_bytes = settings.state_dir / FRAMES_FOLDER, settings.frames.quota_mb << 20
        frames = stack.enter_context(FrameStore(folder, quota_bytes))
        line = line_from_settings(settings, bundle, keys, outbox, frames, board, engine_opener)
        line.inspector.close_interrupted(outbox.open_triggers())
        signals = stack.enter_context(StopSignals())
        reason = Reason.FAILURE
        try:
            reason = _run(line, notifier, signals, root_from_device(settings.device))
            _logger.info("stopping: %s", reason.value)
            notifier.stopping()
            if reason is Reason.END_OF_REPLAY or line.inspector.unavailable is not None:
                _wait_until_sent(line, signals, notifier)
        except ProcunitError:
            raise
        except Exception as error:
            board.report(FaultId.THREAD_FAILED, f"main: {type(error).__name__}: {error}")
            raise
        finally:
            finished = _stop(line)
        return 0 if finished and reason is not Reason.FAILURE and line.inspector.state is not WorkerState.FAILED else 1


def _run(line: Line, notifier: ServiceNotifier, signals: StopSignals, root: str) -> Reason:
    """Start the line, the camera last, and supervise it until it must stop.

    Raises:
        ProcunitError: the camera cannot work with its settings.
    """
    supervisor = Supervisor(line, notifier)
    line.publisher.set_activity("starting")  # before it connects: without an activity the status is `running`
    for worker in reversed(line.workers):
        if worker is not line.capture and worker.state is WorkerState.WAITING:
            worker.start()
    reason = supervisor.wait_for_engine(signals)
    if reason is not None:
        if line.inspector.unavailable is not None:
            supervisor.wait_before_retry(signals, line.inspector.unavailable.what)
        return reason
    line.capture.open()
    line.capture.start()
    _logger.info("inspecting; results go to %s", RESULT.at(root))
    notifier.ready("inspecting")
    return supervisor.run(signals)


def _bundle_or_event(settings: BundleSettings, board: FaultBoard) -> tuple[Bundle, tuple[TrustedKey, ...]]:
    """Open the bundle; returns it with every key that the device trusts, or reports BUNDLE_REFUSED and raises."""
    try:
        keys = trusted_keys_from_files(settings.trusted_keys, settings.demo_keys, settings.bank_keys)
        misnamed = [path for path, key in zip(settings.trusted_keys, keys, strict=False) if key.demo]
        if misnamed:
            board.report(FaultId.DEMO_KEY, ", ".join(map(str, misnamed)))
        bundle = open_bundle(settings.path, keys)
        check_records(bundle)
    except ProcunitError as error:
        board.report(FaultId.BUNDLE_REFUSED, str(error))
        raise
    except Exception as error:  # whatever a bundle causes, a restart would cause it again
        refused = ProcunitError(f"{type(error).__name__}: {error}", where=str(settings.path))
        board.report(FaultId.BUNDLE_REFUSED, str(refused))
        raise refused from error
    _logger.info(
        "bundle %s version %d (%s), signed with %s%s",
        bundle.manifest.product,
        bundle.manifest.version,
        bundle.bundle_id[:12],
        bundle.signed_by.name,
        " (demonstration key)" if bundle.signed_by.demo else "",
    )
    return bundle, keys


def _report_access(settings: Settings, settings_file: Path | None, board: FaultBoard) -> None:
    """Report OPEN_TO_OTHERS if others than root and this user may change what decides about parts."""
    problems = list(dict.fromkeys(filter(None, map(who_may_change, _decisive_files(settings, settings_file)))))
    if problems:
        more = f"; and {len(problems) - _SHOWN_FILES} more" if len(problems) > _SHOWN_FILES else ""
        board.report(FaultId.OPEN_TO_OTHERS, "; ".join(problems[:_SHOWN_FILES]) + more)


def _decisive_files(settings: Settings, settings_file: Path | None) -> Iterator[Path]:
    if settings_file is not None:
        yield settings_file
    bundle = settings.bundle
    yield from (*bundle.trusted_keys, *bundle.demo_keys, *bundle.bank_keys)
    if settings.mqtt.tls_ca_file is not None:
        yield settings.mqtt.tls_ca_file
    for folder in (bundle.path, settings.state_dir):
        yield folder
        with suppress(OSError):  # whoever opens it says what is wrong with it
            yield from sorted(folder.iterdir())


def _wait_until_sent(line: Line, signals: StopSignals, notifier: ServiceNotifier) -> None:
    notifier.extend("sending what waits", line.stop_s + 2 * FLUSH_S + STALLED_S)
    line.outbox.flush(FLUSH_S)
    line.frames.flush(FLUSH_S)
    sent, since_s = -1, time.monotonic()
    while line.outbox.backlog() or line.frames.next_unsent() is not None:
        link = line.publisher.link
        if link.sent + link.frames_sent != sent:
            sent, since_s = link.sent + link.frames_sent, time.monotonic()
            notifier.extend("sending what waits", line.stop_s + STALLED_S)
        if time.monotonic() - since_s > STALLED_S or signals.wait(0.1):
            return


def _stop(line: Line) -> bool:
    """Stop in the order of the data; False if a part may be left without its verdict in the outbox."""
    unfinished = {worker.name for worker in line.workers if not worker.stop()}
    _log_summary(line)
    return line.inspector.name not in unfinished and not line.outbox.unstored


def _log_summary(line: Line) -> None:
    """Log what became of the parts; call it after the workers have stopped: what is not stored by then is lost."""
    verdicts, lost, left = line.inspector.verdicts, line.outbox.unstored, line.outbox.backlog()
    counts = ", ".join(f"{count} {verdict.value}" for verdict, count in sorted(verdicts.items())) or "none"
    ends = [f"{lost} verdicts could not be stored and are lost"] if lost else []
    if left:
        ends.append(f"{left} messages are kept and sent after the next start")
    if line.outbox.error is not None:
        ends.append("the outbox failed, and its last events are lost")
    elif not lost and not left:
        ends.append("all messages were sent")
    if line.frames.dropped:
        ends.append(f"{line.frames.dropped} frames were not kept, as the disk was too slow")
    level = logging.ERROR if lost else logging.INFO
    _logger.log(level, "stopped after %d parts (%s); %s", sum(verdicts.values()), counts, "; ".join(ends))
