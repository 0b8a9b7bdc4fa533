"""The manifest and the other records of a bundle: their fields and the values that are allowed.

Strings that may be shown to a person are single lines without control characters: a bundle cannot control a terminal.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from edge.binomial import MAX_TRIALS
from edge.geometry import Geometry
from edge.messages import MAIN_VIEW, Authority, Verdict
from edge.record import Record
from edge.system.files import size_in_words

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
BANK, GOLDEN, KNOWN = "bank.safetensors", "golden/golden.json", "known.json"
CALIBRATION, REPORT = "calibration.json", "report.html"
PATCHES_GRAPH, HELD_OUT = "patches.onnx", "held-out.safetensors"
"""Files for growing the bank on the device: a graph that computes patch features, and patches of held-out good parts
and of defects; docs/decisions/0016. The bank of a bundle without them cannot grow."""
BANK_KEY = "bank"
PATCHES_KEY, DISTANCES_KEY = "patches", "distances"
DEFECT_PATCHES_KEY, DEFECT_DISTANCES_KEY = "defect_patches", "defect_distances"
COUNTED_KEY, DEFECT_COUNTED_KEY = "counted", "defect_counted"
"""Tensors in `HELD_OUT`, for n photographs: the K patches farthest from the bank, float32 [n, K, D]; their distances,
float32 [n, K], descending; and how many patches the score averages, int32 [n], at most K. For a good photograph the
patches are from all its tiles and the count is the smallest of any tile; for a defect they are from the tile with the
highest score."""
MAX_FILES = 256
MAX_TYPES, MAX_GOLDEN_FRAMES, MAX_PHOTOS = 64, 64, 200_000
MAX_TOTAL_BYTES = 4 << 30
_MAX_BYTES_OF_KIND = {
    "json": 32 << 20,
    "html": 64 << 20,
    "png": 256 << 20,
    "safetensors": 1 << 30,
    "onnx": 1 << 30,
}
"""The largest file of each kind; other kinds may be as large as the smallest of these."""
_MAX_MEASURE = 1e9
_MIN_SPREAD = 1e-9

GOOD = "good"
"""The label of good parts, and the name of their folder in a dataset."""
MASKS = "masks"
"""The folder of defect masks in a dataset; no defect type may have this name."""

Precision = Literal["fp32", "fp16", "int8"]
"""The arithmetic of a graph, except for the bank search, which is always FP32; every bundle has fp32, the reference."""
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")
"""The fastest first; if an engine of one fails the golden gate, the next is tried."""

_FILE_NAME = re.compile(r"(?:[a-z0-9][a-z0-9_-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$"
"""Names of products and of defect types; the latter are also the names of class folders."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Measure = Annotated[float, Field(ge=-_MAX_MEASURE, le=_MAX_MEASURE, allow_inf_nan=False)]
"""A score, a limit or a grey level: so far from a float's extremes that no difference or quotient of two overflows."""
Spread = Annotated[float, Field(ge=_MIN_SPREAD, le=_MAX_MEASURE, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=MAX_TRIALS)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OneLine = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def graph_files(precision: Precision = "fp32", *, separate: bool = False) -> tuple[str, ...]:
    """The graph files that together have all outputs of the contract: one fused, or a classifier and an extractor."""
    suffix = "" if precision == "fp32" else f".{precision}"
    return tuple(f"{name}{suffix}.onnx" for name in (("classifier", "extractor") if separate else ("model",)))


class FileEntry(Record):
    """Size and hash of one file of the bundle."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, le=4 << 30)]


class ScoreLimit(Record):
    """A score's threshold, and its `center` and `spread` on good parts: logits for a type, distances for the anomaly.

    The `threshold` of a type is a sigmoid, as is its score.
    """

    threshold: Measure
    center: Measure
    spread: Spread


class SeededResult(Record):
    """A type's seeded run, counted in parts: the outcome, and the targets that it had to meet."""

    simulated: bool
    parts: Count
    detected: Count
    good_parts: Count
    false_rejects: Count
    target_detection: Share
    target_false_reject: Share
    confidence: Share
    ran_at_utc: OneLine

    @model_validator(mode="after")
    def _counts_agree(self) -> SeededResult:
        if self.detected > self.parts:
            raise ValueError(f"{self.detected} of {self.parts} seeded parts detected: the counts contradict each other")
        if self.false_rejects > self.good_parts:
            raise ValueError(f"{self.false_rejects} of {self.good_parts} good parts rejected: a contradiction")
        return self


class DefectType(Record):
    """One taught defect type: its evidence (images and distinct parts), its limit, and the authority that it claims."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    images: Count
    parts: Count
    limit: ScoreLimit
    seeded: SeededResult | None = None
    authority: Authority = "review"

    @model_validator(mode="after")
    def _counts_agree(self) -> DefectType:
        if self.parts > self.images:
            raise ValueError(f"{self.images} images of {self.parts} parts: the counts contradict each other")
        if not 0.0 <= self.limit.threshold <= 1.0:
            raise ValueError(f"the threshold {self.limit.threshold:g} of a type is not within 0 and 1")
        return self


class Budget(Record):
    """The bound on the share of good parts that all scores together flag, and the parts that it is estimated from."""

    false_alarm_rate: Share
    confidence: Share
    good_parts: Count
    flagged_parts: Count

    @model_validator(mode="after")
    def _counts_agree(self) -> Budget:
        if self.flagged_parts > self.good_parts:
            raise ValueError(f"{self.flagged_parts} of {self.good_parts} good parts flagged: a contradiction")
        return self

    def in_words(self) -> str:
        """The bound and the number of parts that it is estimated from, in one line."""
        return (
            f"at most {self.false_alarm_rate:.2%} of good parts flagged by all scores together, with "
            f"{self.confidence:.0%} confidence ({self.flagged_parts} of {self.good_parts} held-out good parts flagged)"
        )


NO_BUDGET = "no claim: no good parts were held out, and types are flagged from the middle of their score on"
"""Shown in place of the budget of a bundle that has none."""


class ImagingBaseline(Record):
    """Grey level and sharpness (variance of the Laplacian) of good photographs: medians and robust spreads."""

    brightness: Measure
    brightness_spread: Measure
    sharpness: Measure
    sharpness_spread: Measure


class Provenance(Record):
    """Where the bundle came from."""

    dataset_sha256: OneLine
    code_version: OneLine
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    backbone: OneLine
    weights: OneLine
    packages: Annotated[dict[OneLine, OneLine], Field(max_length=1000)]


class ManifestBody(Record):
    """Everything that the device needs to inspect the product: the manifest without its list of files."""

    schema_version: Literal[1] = 1
    product: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[int, Field(ge=1, lt=2**31)]
    created_at_utc: OneLine
    geometry: Geometry
    types: Annotated[tuple[DefectType, ...], Field(max_length=MAX_TYPES)]
    anomaly: ScoreLimit | None
    budget: Budget | None
    imaging: ImagingBaseline | None
    provenance: Provenance

    @field_validator("types")
    @classmethod
    def _distinct(cls, types: tuple[DefectType, ...]) -> tuple[DefectType, ...]:
        if len({t.name for t in types}) != len(types):
            raise ValueError("two defect types have the same name")
        return types

    @property
    def geometries(self) -> dict[str, Geometry]:
        """The geometry of each view of a part, by the view's name; today bundles have a single view."""
        return {MAIN_VIEW: self.geometry}


class Manifest(ManifestBody):
    """`manifest.json`: the body, and size and hash of every other file of the bundle."""

    files: Annotated[dict[str, FileEntry], Field(max_length=MAX_FILES)]

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            if not _FILE_NAME.fullmatch(name) or ".." in name or name in (MANIFEST, SIGNATURE):
                raise ValueError(f"the file name {name!r} is not allowed")
        _refuse_sizes(files)
        missing = {BANK, GOLDEN} - set(files)
        if not set(graph_files(separate=True)) <= set(files):
            missing |= set(graph_files()) - set(files)
        if missing:
            raise ValueError(f"the manifest lists no {', '.join(sorted(missing))}")
        return files


def _refuse_sizes(files: dict[str, FileEntry]) -> None:
    """Refuse a file that is larger than its kind ever is: whatever reads it later reads no more than this."""
    for name, entry in files.items():
        limit = _MAX_BYTES_OF_KIND.get(name.rpartition(".")[2], min(_MAX_BYTES_OF_KIND.values()))
        if entry.size_bytes > limit:
            raise ValueError(f"{name} has {entry.size_bytes} bytes; such a file has at most {size_in_words(limit)}")
    total = sum(entry.size_bytes for entry in files.values())
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"all files together have {total} bytes; at most {size_in_words(MAX_TOTAL_BYTES)} are read")


class GoldenFrame(Record):
    """A lossless frame of the bundle with the scores and verdict of the reference engine.

    `verdict` is `pass` or `review`, from `edge.policy.policy_without_authority`: it depends neither on the authority
    that a seeded run gives the types nor on the keys that the device trusts.
    """

    file: OneLine
    type_scores: Annotated[tuple[Measure, ...], Field(max_length=MAX_TYPES)]
    anomaly_score: Measure
    verdict: Verdict


class GoldenSet(Record):
    """The golden frames, and how far a score may differ from its reference: `tolerance`, in spreads on good parts."""

    tolerance: Annotated[float, Field(gt=0, le=1)]
    frames: Annotated[tuple[GoldenFrame, ...], Field(max_length=MAX_GOLDEN_FRAMES)]


class KnownPhoto(Record):
    """A photograph that the bundle was made from, identified by its hash."""

    sha256: OneLine
    part_id: OneLine
    label: OneLine
    role: Literal["train", "calibrate", "seed"]


class KnownPhotos(Record):
    """Every photograph of the dataset that the bundle was made from."""

    photos: Annotated[tuple[KnownPhoto, ...], Field(max_length=MAX_PHOTOS)]
