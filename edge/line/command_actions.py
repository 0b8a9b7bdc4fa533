"""What the daemon does for each command: connects the command table to the objects of a running line."""

from __future__ import annotations

from edge.commands.rules_in_force import RulesInForce
from edge.commands.table import DeviceActions
from edge.contract.commands import DeviceReport, LabelArgs
from edge.contract.results import bundle_of_recipe, threshold_set_from_policy
from edge.errors import ProcunitError
from edge.fault_board import FaultBoard
from edge.frames.labels import Labeller, known_label
from edge.frames.store import FrameStore
from edge.line.inspector import Inspector
from edge.line.metrics import DeviceMetrics
from edge.line.part_ids import PartIds
from edge.messages import PinAnswer
from edge.mqtt.publisher import Publisher
from edge.outbox.outbox import Outbox


def actions_of_line(
    *,
    outbox: Outbox,
    frames: FrameStore,
    board: FaultBoard,
    inspector: Inspector,
    publisher: Publisher,
    rules_in_force: RulesInForce,
    part_ids: PartIds,
    metrics: DeviceMetrics,
) -> DeviceActions:
    """The actions of one line; each is called by the commands thread while the line runs."""

    def report() -> DeviceReport:
        rules = rules_in_force.rules
        return DeviceReport(
            status=publisher.status,
            armed=rules.armed,
            faults=board.active(),
            bundle=bundle_of_recipe(rules.recipe),
            thresholds=threshold_set_from_policy(rules.recipe.policy),
            metrics=metrics.read(),
        )

    def snapshot() -> None:
        if not rules_in_force.rules.armed:
            raise ProcunitError("the device is disarmed: no part is photographed", remedy="Send `arm` first")
        inspector.show_next()

    def label(args: LabelArgs, labeller: Labeller) -> PinAnswer:
        types = tuple(rule.name for rule in rules_in_force.rules.recipe.policy.types)
        name = known_label(args.label, types, new_type=args.new_type)
        if args.part_id is not None:
            return frames.pin_part(args.part_id, name, labeller)
        return frames.pin_result(args.result_id or "", name, labeller)  # the schema requires one of the two

    return DeviceActions(
        report=report,
        replay=outbox.replays.ask,
        snapshot=snapshot,
        resend_frame=frames.resend,
        claim_part_id=part_ids.claim,
        label=label,
        order=rules_in_force.add,
    )
