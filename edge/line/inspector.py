"""The inspect thread: owns the engine, takes triggers in order, gives each part with its verdict to the sinks."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from dataclasses import replace

from edge.commands.rules_in_force import RulesInForce
from edge.contract.payloads import bytes_from_payload
from edge.contract.results import ResultContext, result_from_inspection
from edge.engine.build_progress import BuildCancelledError
from edge.engine.choice import EngineUnavailableError
from edge.engine.protocol import EngineLostError
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.line.engine_keeper import Activity, EngineKeeper
from edge.line.latencies import Latencies
from edge.line.part_ids import PartIds
from edge.line.trigger_queue import Closed, TriggerQueue
from edge.messages import Decision, NotInspected, Trigger, Verdict
from edge.outbox.outbox import OpenTrigger
from edge.pipeline import inspect_part
from edge.recipe import BankInUse, Recipe
from edge.system.service_manager import Heartbeat
from edge.verdict_sink import FinishedPart, VerdictSink
from edge.worker import Problems, WorkerState

_POLL_S = 0.2
_logger = logging.getLogger(__name__)

_FAULT_OF_REASON = {
    NotInspected.OVERLOAD: FaultId.OVERLOAD,
    NotInspected.BAD_FRAME: FaultId.BAD_FRAME,
    NotInspected.ENGINE: FaultId.ENGINE_FAILED,
}


class Inspector:
    """Inspects triggers one after the other, each by the recipe in force, whose engine is `keeper`.

    `verdicts` counts the decisions since the start, `latencies` has the timings of inspected parts, `result_bytes` is
    the size of the newest result. If it failed for lack of an engine, `unavailable` is the error.
    """

    name = "inspect"
    stop_s = 10.0
    """When the daemon stops: how long the inspection of the triggers still in the queue may take."""

    def __init__(
        self,
        keeper: EngineKeeper,
        context: ResultContext,
        trigger_queue: TriggerQueue,
        sinks: tuple[VerdictSink, ...],
        board: FaultBoard,
        heartbeat: Heartbeat,
        *,
        rules_in_force: RulesInForce,
        part_ids: PartIds,
    ) -> None:
        self._keeper = keeper
        self._context = context
        self._trigger_queue = trigger_queue
        self._sinks = sinks
        self._board = board
        self._rules_in_force = rules_in_force
        self._part_ids = part_ids
        self._bank_in_engine: BankInUse | None = None
        self._snapshot = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._failed = False
        self._ready = False
        self.heartbeat = heartbeat
        self.verdicts: Counter[Verdict] = Counter()
        self.latencies = Latencies()
        self.result_bytes = 0
        self.unavailable: EngineUnavailableError | None = None

    def start(self) -> None:
        """Start the thread: it opens the engine, and ends when the trigger queue is closed and empty."""
        self._thread.start()

    def stop(self) -> bool:
        """Inspect what waits in the closed queue, and end; False if that takes longer than `stop_s`."""
        self._keeper.cancel()
        if self._thread.ident is not None:
            self._thread.join(self.stop_s)
        if self._thread.is_alive():
            _logger.error(
                "inspection did not end within %.0f s; open parts become `not_inspected: restart`", self.stop_s
            )
        return not self._thread.is_alive()

    @property
    def state(self) -> WorkerState:
        """ENDED once the queue is closed and every part in it has its verdict."""
        if self._thread.is_alive():  # asked first: a thread that fails says so before it ends
            return WorkerState.RUNNING
        if self._thread.ident is None:
            return WorkerState.WAITING
        return WorkerState.FAILED if self._failed else WorkerState.ENDED

    def problems(self) -> Problems:
        """None of its own: what goes wrong on a part is reported when it happens."""
        return {}

    @property
    def activity(self) -> Activity | None:
        """What is being done until the engine has passed the golden frames; None from then on."""
        return None if self._ready else self._keeper.activity

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
            part = Trigger(
                trigger.seq,
                trigger.frame_id,
                trigger.part_id,
                trigger.counter,
                trigger.triggered_at_utc,
                time.monotonic_ns(),
                frame=None,
                not_inspected=NotInspected.RESTART,
            )
            self._finish(part, self._rules_in_force.rules.recipe)

    def _run(self) -> None:
        try:
            self._open_and_inspect()
        except BuildCancelledError:
            _logger.info("stopping: the engine build was cancelled")
        except EngineUnavailableError as error:
            self._failed, self.unavailable = True, error
        except Exception as error:
            self._failed = True
            _logger.exception("the inspect thread failed")
            self._board.report(FaultId.THREAD_FAILED, f"{self.name}: {type(error).__name__}: {error}")

    def _open_and_inspect(self) -> None:
        try:
            self._keeper.open()
            self._ready = True
            self._inspect_all()
        finally:
            self._keeper.close()

    def _inspect_all(self) -> None:
        while True:
            self.heartbeat.beat()
            try:
                trigger = self._trigger_queue.take(_POLL_S)
            except Closed:
                return
            if trigger is not None:
                self._inspect_under_rules(trigger)
            if self._keeper.lost:
                self._keeper.renew()
                self._bank_in_engine = None

    def _inspect_under_rules(self, trigger: Trigger) -> None:
        """Inspect a part under the rules in force; rules change only between two parts."""
        rules, missed = self._rules_in_force.rules, trigger.not_inspected is NotInspected.DEVICE_DOWN
        binding = self._part_ids.bind(trigger.counter, None if missed else trigger.triggered_at_utc)
        if trigger.part_id is None:
            trigger = replace(trigger, part_id=binding.part_id)
            if binding.problem is not None:
                self._board.report(FaultId.PART_ID_UNBOUND, binding.problem)
        if not rules.armed and not missed:
            trigger = replace(trigger, frame=None, not_inspected=NotInspected.DISARMED)
        elif trigger.frame is not None and not self._load_bank(rules.recipe):
            trigger = replace(trigger, frame=None, not_inspected=NotInspected.ENGINE)
        self._finish(trigger, rules.recipe)

    def _load_bank(self, recipe: Recipe) -> bool:
        """Load the memory bank of the recipe into the engine, if it has another; False if the accelerator fails."""
        if recipe.bank is None or recipe.bank is self._bank_in_engine:
            return True
        try:
            recipe.engine.swap_bank(recipe.bank.rows)
        except EngineLostError:  # reported; `renew` follows, and no part is inspected with another bank meanwhile
            return False
        self._bank_in_engine = recipe.bank
        return True

    def _finish(self, trigger: Trigger, recipe: Recipe) -> None:
        inspection = inspect_part(trigger, recipe, random.random())  # noqa: S311  (which passes a person looks at again)
        snapshot = trigger.frame is not None and self._snapshot.is_set()
        if snapshot:
            self._snapshot.clear()
        result = result_from_inspection(inspection, recipe, self._context, snapshot=snapshot)
        payload = bytes_from_payload(result)
        self.verdicts[inspection.decision.verdict] += 1
        part = FinishedPart(inspection, recipe, result, payload, snapshot)
        for sink in self._sinks:
            sink.put(part)
        self.result_bytes = len(payload)
        if inspection.scores is not None:
            self.latencies.add(inspection.timings)
        self._report_fault(inspection.decision)

    def _report_fault(self, decision: Decision) -> None:
        if decision.not_inspected in _FAULT_OF_REASON and not self._keeper.lost:
            self._board.report(_FAULT_OF_REASON[decision.not_inspected], decision.why[0].text)
