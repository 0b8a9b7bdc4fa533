"""The inspect thread: opens and owns the engine, takes triggers in order, stores the result of each in the outbox."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import replace

from edge.bank.store import BankInUse
from edge.commands.rules_in_force import RulesInForce
from edge.contract.payloads import bytes_from_payload
from edge.contract.results import ResultContext, result_from_inspection
from edge.engine.build_progress import BuildCancelledError
from edge.engine.choice import EngineUnavailableError
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.line.engine_keeper import EngineKeeper
from edge.line.latencies import Latencies
from edge.line.part_ids import PartIds
from edge.line.trigger_queue import Closed, TriggerQueue
from edge.messages import Inspection, NotInspected, Trigger, Verdict
from edge.outbox.outbox import OpenTrigger, Outbox
from edge.pipeline import Pipeline
from edge.system.service_manager import Heartbeat

_POLL_S = 0.2
_logger = logging.getLogger(__name__)

_FAULT_OF_REASON = {
    NotInspected.OVERLOAD: FaultId.OVERLOAD,
    NotInspected.BAD_FRAME: FaultId.BAD_FRAME,
    NotInspected.CAMERA: FaultId.BAD_FRAME,
    NotInspected.ENGINE: FaultId.ENGINE_FAILED,
}


class Inspector:
    """Inspects triggers one after the other; the engine of `pipeline` is `keeper`.

    `ready` is true once the engine has passed the golden frames. `verdicts` counts the decisions since the start,
    `latencies` has the timings of inspected parts, `result_bytes` is the size of the newest result.
    `failed` is true if the thread ended unexpectedly; if that was for lack of an engine, `unavailable` is the error.
    """

    def __init__(
        self,
        keeper: EngineKeeper,
        pipeline: Pipeline,
        context: ResultContext,
        trigger_queue: TriggerQueue,
        outbox: Outbox,
        frames: FrameStore,
        board: FaultBoard,
        heartbeat: Heartbeat,
        *,
        rules_in_force: RulesInForce,
        part_ids: PartIds,
    ) -> None:
        self.keeper = keeper
        self._pipeline = pipeline
        self._context = context
        self._trigger_queue = trigger_queue
        self._outbox = outbox
        self._frames = frames
        self._board = board
        self._rules_in_force = rules_in_force
        self._part_ids = part_ids
        self._bank: BankInUse | None = None
        self._snapshot = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inspect", daemon=True)
        self.heartbeat = heartbeat
        self.verdicts: Counter[Verdict] = Counter()
        self.latencies = Latencies()
        self.result_bytes = 0
        self.ready = False
        self.failed = False
        self.unavailable: EngineUnavailableError | None = None

    def start(self) -> None:
        """Start the thread: it opens the engine, and ends when the trigger queue is closed and empty."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it still runs after `timeout_s`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self.running

    def show_next(self) -> None:
        """Publish the frame of the next part whatever its verdict; any thread may call."""
        self._snapshot.set()

    def close_interrupted(self, interrupted: list[OpenTrigger]) -> None:
        """Give triggers that a crash left open their result `not_inspected: restart`; call it before `start`."""
        if not interrupted:
            return
        self._board.report(
            FaultId.RESTARTED, f"{len(interrupted)} parts from {interrupted[0].seq} to {interrupted[-1].seq}"
        )
        for trigger in interrupted:
            self._close(
                Trigger(
                    trigger.seq,
                    trigger.frame_id,
                    trigger.part_id,
                    trigger.counter,
                    trigger.triggered_at_utc,
                    time.monotonic_ns(),
                    not_inspected=NotInspected.RESTART,
                )
            )

    def _run(self) -> None:
        try:
            self._open_and_inspect()
        except BuildCancelledError:
            _logger.info("stopping: the engine build was cancelled")
        except EngineUnavailableError as error:
            self.failed, self.unavailable = True, error
        except Exception as error:
            self.failed = True
            _logger.exception("the inspect thread failed")
            self._board.report(FaultId.THREAD_FAILED, f"inspect: {type(error).__name__}: {error}")

    def _open_and_inspect(self) -> None:
        try:
            self.keeper.open()
            self.ready = True
            self._inspect_all()
        finally:
            self.keeper.close()

    def _inspect_all(self) -> None:
        while True:
            self.heartbeat.beat()
            try:
                trigger = self._trigger_queue.take(_POLL_S)
            except Closed:
                return
            if trigger is not None:
                self._inspect_under_rules(trigger)
            if self.keeper.lost:
                self.keeper.renew()

    def _inspect_under_rules(self, trigger: Trigger) -> None:
        """Close a trigger under the rules in force; rules change only between two parts."""
        rules, missed = self._rules_in_force.rules, trigger.not_inspected is NotInspected.DEVICE_DOWN
        if rules.bank is not None and rules.bank is not self._bank:
            self._swap_bank(rules.bank)
        if rules.policy is not self._context.policy:
            self._pipeline = replace(self._pipeline, policy=rules.policy)
            self._context = replace(self._context, policy=rules.policy)
        binding = self._part_ids.bind(trigger.counter, None if missed else trigger.triggered_at_utc)
        if trigger.part_id is None:
            trigger = replace(trigger, part_id=binding.part_id)
            if binding.problem is not None:
                self._board.report(FaultId.PART_ID_UNBOUND, binding.problem)
        if not rules.armed and not missed:
            trigger = trigger.refused(NotInspected.DISARMED)
        self._close(trigger)

    def _swap_bank(self, bank: BankInUse) -> None:
        self.keeper.swap_bank(bank.rows)
        self._bank = bank
        bundle = self._context.bundle.model_copy(update={"bank_version": bank.version})
        self._context = replace(self._context, bundle=bundle)

    def _close(self, trigger: Trigger) -> None:
        inspection = self._pipeline.inspect(trigger)
        snapshot = bool(trigger.views) and self._snapshot.is_set()
        if snapshot:
            self._snapshot.clear()
        result = result_from_inspection(inspection, self._context, snapshot=snapshot)
        payload = bytes_from_payload(result)
        self.verdicts[inspection.decision.verdict] += 1
        self._outbox.close_trigger(trigger.seq, payload)
        self._frames.put(inspection, result.result_id, snapshot=snapshot)
        self.result_bytes = len(payload)
        if inspection.scores:
            self.latencies.add(inspection.timings)
        self._report_fault(inspection)

    def _report_fault(self, inspection: Inspection) -> None:
        decision, reason = inspection.decision, inspection.decision.not_inspected
        if reason is NotInspected.CAMERA and not inspection.trigger.views:
            return  # the capture thread has reported it
        if reason in _FAULT_OF_REASON and not self.keeper.lost:
            self._board.report(_FAULT_OF_REASON[reason], decision.why[0].text)
