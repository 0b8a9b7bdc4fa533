"""A real, signed bundle around the graph of `tests.support.tiny_graph`.

A `defect_image` of a type is flagged by the score of that type and by the anomaly score, a `stained_image` by the
anomaly score alone, a `good_image` by none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edge.anomaly import distances_to_rows
from edge.bundle.keys import DEMO_MARK, SigningKey
from edge.bundle.manifest import (
    BANK,
    BANK_KEY,
    CALIBRATION,
    COUNTED_KEY,
    DEFECT_COUNTED_KEY,
    DEFECT_DISTANCES_KEY,
    DEFECT_PATCHES_KEY,
    DISTANCES_KEY,
    GOLDEN,
    GOOD,
    HELD_OUT,
    PATCHES_GRAPH,
    PATCHES_KEY,
    Budget,
    DefectType,
    GoldenFrame,
    GoldenSet,
    ImagingBaseline,
    ManifestBody,
    Precision,
    Provenance,
    ScoreLimit,
    SeededResult,
    graph_files,
)
from edge.bundle.records import CalibrationRecord, PhotoScores
from edge.bundle.sealing import seal
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.geometry import Geometry
from edge.messages import Scores, of_main_view
from edge.policy import decide, logit, policy_without_authority, sigmoid
from edge.preprocess import PATCH_PX, tensor_from_pixels
from edge.system.files import new_directory
from tests.support.tiny_graph import (
    CENTER,
    COUNTED,
    FEATURES,
    GRID,
    SIDE_PX,
    write_tiny_graph,
    write_tiny_patches_graph,
)

TINY_GEOMETRY = Geometry(input_height_px=SIDE_PX, input_width_px=SIDE_PX, channels=1)
_MARGIN_SPREADS = 6.0
_NEIGHBOURS = 9
_BANK_SEEDS, _LIMIT_SEEDS, _DEFECT_SEEDS = range(1000, 1008), range(2000, 2020), range(3000, 3003)


@dataclass(frozen=True)
class TinyBundle:
    """The paths of the bundle and of the demo key pair that signs it."""

    path: Path
    public_key: Path
    private_key: Path


def good_image(seed: int) -> NDArray[np.uint8]:
    """A plain grey part with grain: uint8 [128, 128]."""
    grain = np.random.default_rng(seed).normal(120, 4, (SIDE_PX, SIDE_PX))
    return np.clip(np.rint(grain), 0, 255).astype(np.uint8)


def defect_image(seed: int, type_index: int = 0) -> NDArray[np.uint8]:
    """A good part with a line across it, dark for even type indices and bright for odd ones: uint8 [128, 128]."""
    image = good_image(seed)
    ends = np.random.default_rng(seed + 1).integers(8, SIDE_PX - 8, 2)
    grey = 10.0 if type_index % 2 == 0 else 245.0
    return np.asarray(cv2.line(image, (8, int(ends[0])), (SIDE_PX - 8, int(ends[1])), grey, 2), np.uint8)


def stained_image(seed: int) -> NDArray[np.uint8]:
    """A good part with a smooth stain: unlike good parts, but of no defect type. uint8 [128, 128]."""
    image = good_image(seed)
    stain = slice(SIDE_PX // 4, SIDE_PX * 3 // 4)
    image[stain, stain] = np.linspace(108, 120, SIDE_PX // 2).astype(np.uint8)
    return image


def build_tiny_bundle(
    directory: Path,
    types: tuple[str, ...] = ("scratch",),
    rejecting: tuple[str, ...] = (),
    version: int = 1,
    precisions: tuple[Precision, ...] = ("fp32",),
    grows: bool = False,
) -> TinyBundle:
    """Build `directory`/bundle and the demo key pair beside it.

    Types in `rejecting` have evidence and a simulated seeded run, so that they may reject if the key is trusted as a
    demo key. Each precision has its own graph file; they differ only in a comment. A bundle that `grows` has the files
    for growing its memory bank, with three photographs of a scratch.
    """
    key = write_demo_key(directory)
    tiny = TinyBundle(directory / "bundle", directory / "demo-key.pub", directory / "demo-key.pem")
    with new_directory(tiny.path, replace=False) as partial:
        for precision in precisions:
            write_tiny_graph(partial / graph_files(precision)[0], len(types), comment=precision)
        save_file({BANK_KEY: tiny_bank()}, partial / BANK)
        engine = OrtEngine([partial / graph_files()[0]], tiny_bank(), threads=1)
        scores = [score_pixels(good_image(seed), TINY_GEOMETRY, engine)[0] for seed in _LIMIT_SEEDS]
        anomaly = _limit([s.anomaly_score for s in scores])
        defects = tuple(_defect_type(name, i, scores, name in rejecting) for i, name in enumerate(types))
        _write_golden(partial, engine, defects, anomaly)
        if grows:
            _write_growth(partial, engine, scores, defects, anomaly)
        engine.close()
        seal(partial, _body(defects, anomaly, version), key)
    return tiny


def write_demo_key(directory: Path) -> SigningKey:
    """Write a demo key pair, always the same, as `demo-key.pem` and `demo-key.pub`."""
    directory.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "demo-key.pem").write_bytes(DEMO_MARK + private)
    (directory / "demo-key.pem").chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "demo-key.pub").write_bytes(DEMO_MARK + public)
    return SigningKey(key, "demo-key.pem", demo=True)


def tiny_bank() -> NDArray[np.float32]:
    """Patches of good parts, with their reach as last number: float32 [512, 4]."""
    patches = np.concatenate([tiny_patches(good_image(seed)) for seed in _BANK_SEEDS])
    apart = np.sort(np.linalg.norm(patches[:, np.newaxis] - patches, axis=2), axis=1)
    return np.column_stack([patches, apart[:, 1 : 1 + _NEIGHBOURS].mean(axis=1)]).astype(np.float32)


def tiny_patches(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The patches of an image, float32 [64, 3], as the graph computes them."""
    tile = tensor_from_pixels(image, TINY_GEOMETRY)[0, :, :, 0].astype(np.float32) / 255
    patches = tile.reshape(GRID, PATCH_PX, GRID, PATCH_PX).swapaxes(1, 2)
    features = np.stack([1 - patches.min((2, 3)), patches.max((2, 3)), patches.mean((2, 3))], axis=-1)
    return features.reshape(-1, FEATURES).astype(np.float32) - CENTER


def _limit(values: list[float]) -> ScoreLimit:
    center, spread = float(np.median(values)), max(float(np.std(values)), 1e-3)
    return ScoreLimit(threshold=center + _MARGIN_SPREADS * spread, center=center, spread=spread)


def _defect_type(name: str, index: int, good: list[Scores], rejecting: bool) -> DefectType:
    limit = _limit([logit(s.type_scores[index]) for s in good])
    limit = limit.model_copy(update={"threshold": sigmoid(limit.threshold)})
    seeded = SeededResult(
        simulated=True,
        parts=15,
        detected=15,
        good_parts=100,
        false_rejects=0,
        target_detection=0.7,
        target_false_reject=0.05,
        confidence=0.95,
        ran_at_utc="2026-01-01T00:00:00.000Z",
    )
    return DefectType(
        name=name,
        images=60,
        parts=40,
        limit=limit,
        seeded=seeded if rejecting else None,
        authority="demo_reject" if rejecting else "review",
    )


def _write_golden(partial: Path, engine: OrtEngine, types: tuple[DefectType, ...], anomaly: ScoreLimit) -> None:
    images = {"good-0": good_image(0), "good-1": good_image(1)}
    images |= {f"defect-{index}": defect_image(0, index) for index in range(max(len(types), 1))}
    policy = policy_without_authority(types, anomaly)
    (partial / GOLDEN).parent.mkdir()
    frames = []
    for name, image in images.items():
        file = f"golden/{name}.png"
        cv2.imwrite(str(partial / file), image)
        scores, _ = score_pixels(image, TINY_GEOMETRY, engine)
        frames.append(
            GoldenFrame(
                file=file,
                type_scores=scores.type_scores,
                anomaly_score=scores.anomaly_score,
                verdict=decide(of_main_view(scores), policy, audit_draw=1.0).verdict,
            )
        )
    golden = GoldenSet(tolerance=0.1, frames=tuple(frames))
    (partial / GOLDEN).write_text(golden.model_dump_json(indent=1), encoding="utf-8")


def _write_growth(
    partial: Path, engine: OrtEngine, good: list[Scores], types: tuple[DefectType, ...], anomaly: ScoreLimit
) -> None:
    """Write the graph of patch features, the calibration record, and the farthest patches of its photographs."""
    write_tiny_patches_graph(partial / PATCHES_GRAPH)
    defects = [score_pixels(defect_image(seed), TINY_GEOMETRY, engine)[0] for seed in _DEFECT_SEEDS]
    photos = [_photo(seed, GOOD, scores) for seed, scores in zip(_LIMIT_SEEDS, good, strict=True)]
    photos += [_photo(seed, "scratch", scores) for seed, scores in zip(_DEFECT_SEEDS, defects, strict=True)]
    limits = {defect_type.name: defect_type.limit for defect_type in types}
    record = CalibrationRecord(types=limits, anomaly=anomaly, budget=None, imaging=None, scores=tuple(photos))
    (partial / CALIBRATION).write_text(record.model_dump_json(), encoding="utf-8")
    good_patches, good_distances = _farthest([good_image(seed) for seed in _LIMIT_SEEDS])
    defect_patches, defect_distances = _farthest([defect_image(seed) for seed in _DEFECT_SEEDS])
    tensors = {
        PATCHES_KEY: good_patches,
        DISTANCES_KEY: good_distances,
        COUNTED_KEY: np.full(len(good), COUNTED, np.int32),
        DEFECT_PATCHES_KEY: defect_patches,
        DEFECT_DISTANCES_KEY: defect_distances,
        DEFECT_COUNTED_KEY: np.full(len(defects), COUNTED, np.int32),
    }
    save_file(tensors, partial / HELD_OUT)


def _farthest(images: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The patches of each image farthest from the bank, float32 [n, K, 3], and their distances, float32 [n, K]."""
    patches = np.stack([tiny_patches(image) for image in images])
    distances = distances_to_rows(patches, tiny_bank())
    order = np.argsort(-distances, axis=1)[:, : 2 * COUNTED]
    return (
        np.take_along_axis(patches, order[:, :, np.newaxis], axis=1),
        np.take_along_axis(distances, order, axis=1),
    )


def _photo(seed: int, label: str, scores: Scores) -> PhotoScores:
    return PhotoScores(
        sha256=f"{seed:064x}",
        part_id=f"{label}-{seed}",
        label=label,
        type_scores=scores.type_scores,
        anomaly_score=scores.anomaly_score,
    )


def _body(types: tuple[DefectType, ...], anomaly: ScoreLimit, version: int) -> ManifestBody:
    return ManifestBody(
        product="tiny",
        version=version,
        created_at_utc="2026-01-01T00:00:00.000Z",
        geometry=TINY_GEOMETRY,
        types=types,
        anomaly=anomaly,
        budget=Budget(false_alarm_rate=0.14, confidence=0.95, good_parts=20, flagged_parts=0),
        imaging=ImagingBaseline(brightness=120, brightness_spread=1, sharpness=300, sharpness_spread=30),
        provenance=Provenance(
            dataset_sha256="0" * 64, code_version="0.1.0", seed=0, backbone="tiny", weights="none", packages={}
        ),
    )
