"""A run's figures in words that a person who is no data scientist can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.bundle.manifest import GOOD
from edge.policy import MIN_IMAGES, MIN_PARTS
from training.data.run_files import TrainRecord
from training.findings import CurvePoint, Findings
from training.part_scores import (
    FALSE_ALARM_RATES,
    Part,
    Roc,
    TypeScores,
    WorkingPoint,
    roc_of_type,
    scores_of_type,
    working_point,
)
from training.validation import PartAuc

WIDE_INTERVAL = 0.1
"""An interval of the AUC that is wider does not tell much."""
WELL_FROM, FAIRLY_FROM, CHANCE = 0.95, 0.8, 0.5
"""Lower ends of the AUC's interval from which a type is told apart well, and fairly well."""
RISING_BY = 0.01
"""A learning curve whose last step gains more is still rising."""
PARTS_NAMED = 8


@dataclass(frozen=True)
class TypeResult:
    """All that the page tells of one type; `roc` is None and `points` are empty where it cannot be told.

    `images`, `parts` and `unmasked` (images without a mask) count what was taught.
    """

    name: str
    scores: TypeScores
    roc: Roc | None
    points: tuple[WorkingPoint, ...]
    accuracy: PartAuc | None
    curve: tuple[CurvePoint, ...]
    images: int
    parts: int
    unmasked: int

    @property
    def threshold(self) -> float | None:
        """The logit of the usual working point."""
        return self.points[0].threshold if self.points else None

    @property
    def others_name(self) -> str:
        """What the type is told from."""
        return "parts of other types" if self.scores.stand_in else "good parts"


def result_of_type(record: TrainRecord, findings: Findings, name: str) -> TypeResult:
    """One type's figures; what was taught is the record's."""
    scores = scores_of_type(findings, name)
    roc = roc_of_type(scores)
    taught = [photo for photo in record.photos if photo.label == name and photo.role == "train"]
    return TypeResult(
        name=name,
        scores=scores,
        roc=roc,
        points=tuple(working_point(scores, roc, rate) for rate in FALSE_ALARM_RATES) if roc else (),
        accuracy=findings.accuracy.get(name),
        curve=tuple(findings.curves.get(name, ())),
        images=len(taught),
        parts=len({photo.part_id for photo in taught}),
        unmasked=sum(photo.mask is None for photo in taught),
    )


def result_in_words(result: TypeResult) -> str:
    """How well a type is told apart, and what that would mean at the usual working point."""
    if not result.points:
        return f"cannot be told yet: {_why_not(result)}."
    return f"{_verdict(result.accuracy)}. {caught_in_words(result, result.points[0])}"


def caught_in_words(result: TypeResult, point: WorkingPoint) -> str:
    """What share of the type's parts would be caught at a working point."""
    low, high = point.interval
    caught = (
        f"Of 100 parts with it about {_of_100(point.caught / point.own)} would be caught "
        f"({_of_100(low)} to {_of_100(high)})"
    )
    rate = f"{point.rate * 100:g} false alarm{'' if point.rate == 0.01 else 's'} in 100 {result.others_name}"
    if point.is_measured:
        return f"{caught} at no more than {rate}."
    return (
        f"{caught} with no false alarm among {point.others} {result.others_name}; they are too few to measure {rate}."
    )


def auc_in_words(result: TypeResult) -> str:
    """The area under the ROC curve with its interval, and what it means."""
    if result.accuracy is None:
        return "The area under the curve is not known."
    found, name, others = result.accuracy, result.name, result.others_name
    return (
        f"Area under the curve {found.auc:.3f}, 95% interval {found.low:.3f} to {found.high:.3f}, from "
        f"{_parts(len(result.scores.own))} with {name} and {len(result.scores.others)} {others}. It is the chance "
        f"that a part with {name} scores higher than one of the {others}; the dashed line is guessing."
    )


def learning_in_words(points: Sequence[CurvePoint]) -> str:
    """What more photographs would buy, from the curve's last step."""
    if len(points) < 2:
        return "Too few parts for a learning curve: whether more photographs would help cannot be told."
    before, last = points[-2], points[-1]
    gain = last.auc - before.auc
    step = (
        f"From {before.photos} to {last.photos} photographs ({before.parts} to {last.parts} parts) it went from "
        f"{before.auc:.3f} to {last.auc:.3f} (95% interval {last.low:.3f} to {last.high:.3f})"
    )
    if gain > RISING_BY:
        return f"Still rising: more parts will most likely help. {step}."
    if gain < -RISING_BY:
        return f"Uneven: the parts are too few or too unlike each other to tell what more would bring. {step}."
    if last.auc >= WELL_FROM:
        return f"Flat, and high: more photographs of this kind would change little. {step}."
    return (
        f"Flat: more photographs of the same kind would help little; look at the misses below, at labels, masks, light "
        f"and sharpness. {step}."
    )


def shortcomings(result: TypeResult) -> list[str]:
    """What keeps a type from being trusted, the most important first; empty where this run finds nothing."""
    found = []
    evidence = evidence_missing(result)
    if evidence:
        found.append(
            f"{evidence} until it may reject ({result.images} of {MIN_IMAGES} images, {result.parts} of {MIN_PARTS} "
            "parts taught). Of new parts some are set aside, so bring more."
        )
    if not result.points:
        found.append(f"It cannot be told how well it is found: {_why_not(result)}.")
    if result.scores.not_judged:
        found.append(f"{_parts(result.scores.not_judged)} could not be judged by a head that had not seen them.")
    if result.accuracy is not None and result.accuracy.high - result.accuracy.low > WIDE_INTERVAL:
        found.append(
            f"The interval of {result.accuracy.low:.2f} to {result.accuracy.high:.2f} is wide. More parts make it "
            "narrower; more photographs of the same parts do not."
        )
    if result.threshold is not None:
        contradictory = [part.part_id for part in result.scores.own if part.contradicts_itself(result.threshold)]
        if contradictory:
            found.append(
                f"Photographs of the same part contradict each other (some are flagged, some are not): "
                f"{_named(contradictory)}. Where a photograph does not show the defect, label it {GOOD}."
            )
    if result.unmasked:
        found.append(f"{result.unmasked} of {result.images} images have no mask; masks teach where the defect is.")
    return found


def evidence_missing(result: TypeResult) -> str:
    """How many more images and parts a type needs before it may reject; nothing where it has enough."""
    missing = ((MIN_IMAGES - result.images, "image"), (MIN_PARTS - result.parts, "part"))
    wanted = [f"{count} more {noun}{'' if count == 1 else 's'}" for count, noun in missing if count > 0]
    return " and ".join(wanted)


def agreement_in_words(result: TypeResult) -> str:
    """For how many parts with several photographs all of them get the same answer at the usual working point."""
    if result.threshold is None:
        return ""
    shares = [
        f"{agreeing} of {several} {name}"
        for name, parts in (
            (f"parts with {result.name}", result.scores.own),
            (result.others_name, result.scores.others),
        )
        for agreeing, several in (_agreeing(parts, result.threshold),)
        if several
    ]
    if not shares:
        return "No part has several photographs, so that nothing tells whether they would get the same answer."
    return f"All photographs of a part get the same answer for {' and '.join(shares)} that have several."


def next_steps(results: Sequence[TypeResult], notes: Sequence[str]) -> list[str]:
    """What a person should do now, in this order."""
    steps = []
    if notes:
        steps.append("Read the warnings below; what they name may make every figure of this page too good or too bad.")
    doubtful = [
        result.name
        for result in results
        if result.points and (result.points[0].caught < result.points[0].own or result.points[0].flagged)
    ]
    if doubtful:
        steps.append(
            f"Look at the pictures of {_named(doubtful)}. Where the label is wrong, move the photograph into the right "
            "folder and train again; that is the cheapest gain."
        )
    steps += [f"Photograph {result.name}: {wanted}." for result in results if (wanted := evidence_missing(result))]
    if any(result.scores.stand_in for result in results):
        steps.append("Photograph good parts: without them no false alarms can be counted.")
    return [*steps, "When the pictures look right, go on with procunit export."]


def _verdict(accuracy: PartAuc | None) -> str:
    if accuracy is None:
        return "not measured"
    if accuracy.low >= WELL_FROM:
        return "told apart well"
    if accuracy.low >= FAIRLY_FROM:
        return "told apart fairly well"
    if accuracy.high >= WELL_FROM:
        return "looks promising, but too few parts to be sure"
    return "told apart poorly" if accuracy.low > CHANCE else "not told apart"


def _why_not(result: TypeResult) -> str:
    if not result.scores.own:
        return "no part with it is left that its head had not seen; at least two parts are needed"
    return "there are no other parts to compare with; add good parts"


def _agreeing(parts: Sequence[Part], threshold: float) -> tuple[int, int]:
    several = [part for part in parts if len(part.logits) > 1]
    return sum(not part.contradicts_itself(threshold) for part in several), len(several)


def _of_100(share: float) -> int:
    return round(100 * share)


def _parts(count: int) -> str:
    return "1 part" if count == 1 else f"{count} parts"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - PARTS_NAMED} more" if len(names) > PARTS_NAMED else ""
    return ", ".join(names[:PARTS_NAMED]) + more
