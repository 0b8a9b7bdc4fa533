"""A run's figures as sentences that a reader who is not a data scientist can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.bundle.manifest import GOOD
from edge.policy import MIN_IMAGES, MIN_PARTS
from training.data.run_files import TrainRecord
from training.findings import CurvePoint, Findings
from training.part_scores import (
    FALSE_ALARM_RATES,
    OperatingPoint,
    Part,
    Roc,
    TypeScores,
    operating_point,
    roc_of_type,
    scores_of_type,
)
from training.validation import PartAuc

WIDE_INTERVAL = 0.1
"""A wider confidence interval of the AUC is reported as a shortcoming."""
WELL_FROM, FAIRLY_FROM, CHANCE = 0.95, 0.8, 0.5
"""Lower ends of the AUC's interval from which a type is recognized well and fairly well; the AUC of guessing."""
RISING_BY = 0.01
"""A learning curve is still rising if its last step gains more than this."""
PARTS_NAMED = 8


@dataclass(frozen=True)
class TypeResult:
    """All that the page shows of one type; without cross-validated scores `roc` is None and `points` are empty.

    `images`, `parts` and `unmasked` (images without a mask) count the training data.
    """

    name: str
    scores: TypeScores
    roc: Roc | None
    points: tuple[OperatingPoint, ...]
    accuracy: PartAuc | None
    curve: tuple[CurvePoint, ...]
    images: int
    parts: int
    unmasked: int

    @property
    def threshold(self) -> float | None:
        """The threshold (a logit) of the default operating point."""
        return self.points[0].threshold if self.points else None

    @property
    def others_name(self) -> str:
        """The parts that the type is compared with."""
        return "parts of other types" if self.scores.against_other_types else "good parts"


def result_of_type(record: TrainRecord, findings: Findings, name: str) -> TypeResult:
    """One type's figures; the training data are those of the record."""
    scores = scores_of_type(findings, name)
    roc = roc_of_type(scores)
    trained_on = [photo for photo in record.photos if photo.label == name and photo.role == "train"]
    return TypeResult(
        name=name,
        scores=scores,
        roc=roc,
        points=tuple(operating_point(scores, roc, rate) for rate in FALSE_ALARM_RATES) if roc else (),
        accuracy=findings.accuracy.get(name),
        curve=tuple(findings.curves.get(name, ())),
        images=len(trained_on),
        parts=len({photo.part_id for photo in trained_on}),
        unmasked=sum(photo.mask is None for photo in trained_on),
    )


def result_in_words(result: TypeResult) -> str:
    """How well a type is recognized, and what that would mean at the default operating point."""
    if not result.points:
        return f"not measurable yet: {_why_not_measured(result)}."
    return f"{_verdict(result.accuracy)}. {caught_in_words(result, result.points[0])}"


def caught_in_words(result: TypeResult, point: OperatingPoint) -> str:
    """The share of the type's parts that would be caught at an operating point."""
    low, high = point.interval
    caught = (
        f"Of 100 parts with this defect, about {_of_100(point.caught / point.own)} would be caught "
        f"({_of_100(low)} to {_of_100(high)})"
    )
    rate = f"{point.rate * 100:g} false alarm{'' if point.rate == 0.01 else 's'} per 100 {result.others_name}"
    if point.is_measured:
        return f"{caught} with at most {rate}."
    return f"{caught} without a false alarm among {point.others} {result.others_name}, too few to measure {rate}."


def auc_in_words(result: TypeResult) -> str:
    """The ROC AUC with its confidence interval, and what it means."""
    if result.accuracy is None:
        return "The area under the curve was not measured."
    found, name, others = result.accuracy, result.name, result.others_name
    return (
        f"Area under the curve (AUC) {found.auc:.3f}, 95% confidence interval {found.low:.3f} to {found.high:.3f}, "
        f"from {_parts(len(result.scores.own))} with {name} and {len(result.scores.others)} {others}. It is "
        f"the probability that a part with {name} scores higher than one of the {others}; the dashed line is guessing."
    )


def learning_in_words(points: Sequence[CurvePoint]) -> str:
    """Whether more photographs would help, from the curve's last step."""
    if len(points) < 2:
        return "Too few parts for a learning curve: it is not known whether more photographs would help."
    before, last = points[-2], points[-1]
    gain = last.auc - before.auc
    step = (
        f"From {before.photos} to {last.photos} photographs ({before.parts} to {last.parts} parts) the AUC went from "
        f"{before.auc:.3f} to {last.auc:.3f} (95% confidence interval {last.low:.3f} to {last.high:.3f})"
    )
    if gain > RISING_BY:
        return f"Still rising: more parts will probably help. {step}."
    if gain < -RISING_BY:
        return f"Uneven: the parts are too few or too different to predict the effect of more parts. {step}."
    if last.auc >= WELL_FROM:
        return f"Flat, and high: more photographs of this kind would change little. {step}."
    return (
        f"Flat: more photographs of this kind would help little; check the misses below, the labels, masks, light and "
        f"sharpness. {step}."
    )


def shortcomings(result: TypeResult) -> list[str]:
    """What a type still needs, the most important first; empty if this run finds nothing."""
    found = []
    evidence = evidence_missing(result)
    if evidence:
        found.append(
            f"{evidence} needed before it may reject (trained on {result.images} of {MIN_IMAGES} images, "
            f"{result.parts} of {MIN_PARTS} parts). Some of the new parts will be held out, so add more."
        )
    if not result.points:
        found.append(f"Not known how well it is recognized: {_why_not_measured(result)}.")
    if result.scores.not_scored:
        found.append(f"{_parts(result.scores.not_scored)} could not be scored in cross-validation.")
    if result.accuracy is not None and result.accuracy.high - result.accuracy.low > WIDE_INTERVAL:
        found.append(
            f"The confidence interval of the AUC, {result.accuracy.low:.2f} to {result.accuracy.high:.2f}, is wide. "
            "More parts make it narrower; more photographs of the same parts do not."
        )
    if result.threshold is not None:
        contradictory = [part.part_id for part in result.scores.own if part.contradicts_itself(result.threshold)]
        if contradictory:
            found.append(
                f"Photographs of the same part contradict each other (some are flagged, some are not): "
                f"{_named(contradictory)}. If a photograph does not show the defect, label it {GOOD}."
            )
    if result.unmasked:
        found.append(
            f"{result.unmasked} of {result.images} images have no mask; masks show in training where the defect is."
        )
    return found


def evidence_missing(result: TypeResult) -> str:
    """How many more images and parts a type needs before it may reject; empty if it has enough."""
    missing = ((MIN_IMAGES - result.images, "image"), (MIN_PARTS - result.parts, "part"))
    wanted = [f"{count} more {noun}{'' if count == 1 else 's'}" for count, noun in missing if count > 0]
    return " and ".join(wanted)


def agreement_in_words(result: TypeResult) -> str:
    """For how many parts with several photographs all of them get the same result at the default operating point."""
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
        return "No part has several photographs, so their agreement could not be measured."
    return f"All photographs of a part get the same result for {' and '.join(shares)} with several photographs."


def next_steps(results: Sequence[TypeResult], notes: Sequence[str]) -> list[str]:
    """What the reader should do now, in this order."""
    steps = []
    if notes:
        steps.append(
            "Read the warnings below; each of these problems can make all figures on this page too good or too bad."
        )
    imperfect = [
        result.name
        for result in results
        if result.points and (result.points[0].caught < result.points[0].own or result.points[0].flagged)
    ]
    if imperfect:
        steps.append(
            f"Look at the pictures of {_named(imperfect)}. If a label is wrong, move the photograph into the right "
            "folder and train again; this is the cheapest improvement."
        )
    steps += [f"Photograph {result.name}: {wanted}." for result in results if (wanted := evidence_missing(result))]
    if any(result.scores.against_other_types for result in results):
        steps.append("Photograph good parts: without them, false alarms cannot be counted.")
    return [*steps, "If the pictures look right, continue with procunit export."]


def _verdict(accuracy: PartAuc | None) -> str:
    if accuracy is None:
        return "not measured"
    if accuracy.low >= WELL_FROM:
        return "recognized well"
    if accuracy.low >= FAIRLY_FROM:
        return "recognized fairly well"
    if accuracy.high >= WELL_FROM:
        return "promising, but too few parts to be sure"
    return "recognized poorly" if accuracy.low > CHANCE else "not recognized"


def _why_not_measured(result: TypeResult) -> str:
    if not result.scores.own:
        return "no part of this type could be scored in cross-validation; at least two parts are needed"
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
