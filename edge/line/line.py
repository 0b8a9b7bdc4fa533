"""Constructs everything that runs between start and stop from the settings, and connects it."""

from __future__ import annotations

from dataclasses import dataclass

from edge.bank.delta import keys_for_bank
from edge.bank.store import BankStore
from edge.bundle.keys import TrustedKey, keys_for_commands
from edge.bundle.reader import Bundle
from edge.camera.driver import Driver
from edge.camera.source import CAMERAS, Camera
from edge.commands.audit import AuditLog
from edge.commands.command_state import CommandState
from edge.commands.desk import CommandDesk
from edge.commands.rules_in_force import RulesInForce
from edge.config.settings import Settings
from edge.contract.results import ResultContext
from edge.contract.topics import root_from_device
from edge.engine.choice import OpenEngine
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.frames.store import FrameStore
from edge.line.bank_watch import BankWatch
from edge.line.capture import Capture
from edge.line.command_actions import actions_of_line
from edge.line.engine_keeper import EngineKeeper
from edge.line.inspector import Inspector
from edge.line.metrics import DeviceMetrics
from edge.line.part_ids import PartIds
from edge.line.sinks import FrameSink, OutboxSink
from edge.line.trigger_queue import TriggerQueue
from edge.messages import MAIN_VIEW
from edge.mqtt.inlet import CommandInlet, Incoming
from edge.mqtt.publisher import Publisher
from edge.outbox.outbox import Outbox
from edge.outputs.output import OUTPUTS
from edge.outputs.worker import OutputWorker
from edge.policy import policy_from_manifest
from edge.recipe import recipe_from_bundle
from edge.state_dir import COMMAND_STATE_FILE, ENGINES_FOLDER, ORDERS_FILE
from edge.system.service_manager import Heartbeat
from edge.worker import Watched, Worker


@dataclass(frozen=True)
class Line:
    """Everything that runs between start and stop."""

    outbox: Outbox
    frames: FrameStore
    board: FaultBoard
    capture: Capture
    inspector: Inspector
    outputs: tuple[OutputWorker, ...]
    commands: CommandInlet
    publisher: Publisher
    rules_in_force: RulesInForce
    metrics: DeviceMetrics
    bank_watch: BankWatch | None

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Every thread but the main one, in the order of the data, in which they stop; they start in reverse."""
        inspected: tuple[Worker, ...] = self.capture, self.inspector, *self.outputs
        return *inspected, self.commands, self.publisher, self.frames, self.outbox

    @property
    def watched(self) -> tuple[Watched, ...]:
        """Everything whose problems become faults."""
        return *self.workers, self.rules_in_force, *((self.bank_watch,) if self.bank_watch is not None else ())

    @property
    def stop_s(self) -> float:
        """The longest stop, every worker at its limit; the unit's TimeoutStopSec is longer."""
        return sum(worker.stop_s for worker in self.workers)


def line_from_settings(
    settings: Settings,
    bundle: Bundle,
    keys: tuple[TrustedKey, ...],
    outbox: Outbox,
    frames: FrameStore,
    board: FaultBoard,
    engine_opener: OpenEngine,
) -> Line:
    """Construct a line without starting it; `keys` are all keys that the device trusts for bundles.

    Raises:
        ProcunitError: the kind of camera or of an output does not exist, an output cannot work with its settings, or a
            bank key cannot be read.
    """
    camera_type = CAMERAS.load(settings.camera.kind)
    device, root, manifest = settings.device.device, root_from_device(settings.device), bundle.manifest
    context = ResultContext(
        device=device,
        epoch=outbox.epoch,
        root=root,
        review_action=settings.policy.review_action,
        simulated=camera_type.simulated,
    )
    trigger_queue, heartbeat = TriggerQueue(settings.inspection.frame_slots), Heartbeat()
    cache_dir = settings.state_dir / ENGINES_FOLDER
    keeper = EngineKeeper(bundle, settings.engine, cache_dir, board, engine_opener, heartbeat.beat)
    policy = policy_from_manifest(manifest, demo_key=bundle.signed_by.demo, audit_rate=settings.policy.audit_rate)
    recipe = recipe_from_bundle(bundle, policy, keeper)
    command_keys = keys_for_commands(keys, demo_bundle=bundle.signed_by.demo)
    command_state = CommandState(settings.state_dir / COMMAND_STATE_FILE)
    orders_path = settings.state_dir / ORDERS_FILE
    rules_in_force = RulesInForce(orders_path, root, command_keys, recipe, command_state)
    if rules_in_force.dropped:
        board.report(FaultId.ORDER_DROPPED, "; ".join(rules_in_force.dropped))
    bank_watch = _bank_watch(settings, bundle, keys, rules_in_force, board)
    part_ids = PartIds(outbox.last_counter())
    outputs = _outputs(settings)
    inspector = Inspector(
        keeper,
        context,
        trigger_queue,
        (OutboxSink(outbox), *outputs, FrameSink(frames)),
        board,
        heartbeat,
        rules_in_force=rules_in_force,
        part_ids=part_ids,
    )

    def on_command(incoming: Incoming) -> None:
        reply = desk.handle(incoming)
        publish_position()
        if reply is not None:
            publisher.reply(reply.topic, reply.payload, reply.correlation)

    def publish_position() -> None:
        position = command_state.position
        publisher.set_command_position(position.state_id, position.counter)

    commands = CommandInlet(on_command)
    publisher = Publisher(outbox, frames, settings.mqtt, settings.device, commands, board.active_problems)
    publish_position()
    metrics = DeviceMetrics(device, outbox, frames, inspector, publisher, settings.state_dir)
    desk = CommandDesk(
        root,
        device,
        allowed=settings.commands.allowed,
        keys=command_keys,
        memory=outbox.command_memory,
        order=command_state,
        actions=actions_of_line(
            outbox=outbox,
            frames=frames,
            board=board,
            inspector=inspector,
            publisher=publisher,
            rules_in_force=rules_in_force,
            part_ids=part_ids,
            metrics=metrics,
        ),
        audit=AuditLog(outbox.put_event, device=device, epoch=outbox.epoch),
    )
    camera: Driver[Camera] = Driver(lambda after_counter: camera_type(settings.camera, after_counter=after_counter))
    capture = Capture(
        camera,
        {MAIN_VIEW: camera},
        outbox,
        trigger_queue,
        board,
        settings.inspection.deadline_s,
    )
    return Line(
        outbox,
        frames,
        board,
        capture,
        inspector,
        outputs,
        commands,
        publisher,
        rules_in_force,
        metrics,
        bank_watch,
    )


def _outputs(settings: Settings) -> tuple[OutputWorker, ...]:
    """The outputs in the order of the settings, each on a thread of its own."""
    deadline_s = settings.inspection.deadline_s
    return tuple(
        OutputWorker(f"{number} ({section.kind})", OUTPUTS.load(section.kind)(section), deadline_s)
        for number, section in enumerate(settings.outputs, start=1)
    )


def _bank_watch(
    settings: Settings, bundle: Bundle, keys: tuple[TrustedKey, ...], rules_in_force: RulesInForce, board: FaultBoard
) -> BankWatch | None:
    """The watch over the grown memory bank, after its first look; None if the bundle has no memory bank."""
    bank_keys = keys_for_bank(settings.bundle.bank_keys, keys, demo_bundle=bundle.signed_by.demo)
    if bundle.manifest.anomaly is None:
        return None
    watch = BankWatch(BankStore(settings.state_dir, bundle, bank_keys), rules_in_force, board)
    watch.look()
    return watch
