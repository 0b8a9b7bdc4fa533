"""A real, signed bundle around a graph of a few nodes, for tests of everything but the network itself.

The graph keeps the bundle's contract. Each of the 8 x 8 cells of a 64 x 64 tile has three features: how dark its
darkest pixel is, how bright its brightest, and its mean. Types in even places look for dark, in odd places for bright,
so a `defect_image` of a type is flagged by that type's score and by its distance from the bank; a `good_image` by none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from edge.engine_ort import OrtEngine
from edge.manifest import (
    BANK,
    BANK_KEY,
    GOLDEN,
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
from edge.messages import Scores
from edge.pipeline import score_pixels
from edge.policy import decide, logit, policy_without_authority, sigmoid
from edge.preprocess import Geometry, tensor_from_pixels
from edge.sealing import DEMO_MARK, SigningKey, new_directory, seal

TINY_GEOMETRY = Geometry(input_height_px=64, input_width_px=64, channels=1)
SIDE_PX = 64
CELL_PX = 8
FEATURES = 3
_HEAD_GAIN, _HEAD_OFFSET = 24.0, -6.0
_MARGIN_SPREADS = 6.0
_BANK_SEEDS, _LIMIT_SEEDS = range(1000, 1008), range(2000, 2020)


@dataclass(frozen=True)
class TinyBundle:
    """Where the bundle and the demo key pair that seals it lie."""

    path: Path
    public_key: Path
    private_key: Path


def good_image(seed: int) -> NDArray[np.uint8]:
    """A plain grey part with grain: uint8 [64, 64]."""
    grain = np.random.default_rng(seed).normal(120, 4, (SIDE_PX, SIDE_PX))
    return np.clip(np.rint(grain), 0, 255).astype(np.uint8)


def defect_image(seed: int, type_index: int = 0) -> NDArray[np.uint8]:
    """A good part with a line across it, dark for types in even places and bright in odd ones: uint8 [64, 64]."""
    image = good_image(seed)
    ends = np.random.default_rng(seed + 1).integers(8, SIDE_PX - 8, 2)
    grey = 10.0 if type_index % 2 == 0 else 245.0
    return np.asarray(cv2.line(image, (8, int(ends[0])), (SIDE_PX - 8, int(ends[1])), grey, 2), np.uint8)


def build_tiny_bundle(
    directory: Path,
    types: tuple[str, ...] = ("scratch",),
    rejecting: tuple[str, ...] = (),
    version: int = 1,
    precisions: tuple[Precision, ...] = ("fp32",),
) -> TinyBundle:
    """Build `directory`/bundle and the demo key pair beside it.

    Types in `rejecting` carry evidence and a simulated seeded run, so that they may reject where the key is trusted as
    a demo key. Every precision has a graph of its own name, all of the same content but for a comment.
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
        engine.close()
        seal(partial, _body(defects, anomaly, version), key)
    return tiny


def write_demo_key(directory: Path) -> SigningKey:
    """The same demo key pair each time, as `demo-key.pem` and `demo-key.pub`."""
    directory.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "demo-key.pem").write_bytes(DEMO_MARK + private)
    (directory / "demo-key.pem").chmod(0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "demo-key.pub").write_bytes(DEMO_MARK + public)
    return SigningKey(key, "demo-key.pem", demo=True)


def tiny_bank() -> NDArray[np.float32]:
    """Features of good parts, float32 [512, 3], as the graph computes them."""
    rows = []
    for seed in _BANK_SEEDS:
        tile = tensor_from_pixels(good_image(seed), TINY_GEOMETRY)[0, :, :, 0].astype(np.float32) / 255
        cells = tile.reshape(SIDE_PX // CELL_PX, CELL_PX, SIDE_PX // CELL_PX, CELL_PX).swapaxes(1, 2)
        rows.append(np.stack([1 - cells.min((2, 3)), cells.max((2, 3)), cells.mean((2, 3))], axis=-1))
    return np.concatenate(rows).reshape(-1, FEATURES).astype(np.float32)


def write_tiny_graph(path: Path, types: int, comment: str = "") -> None:
    """A graph of the bundle's contract for `types` defect types; without types it has no head."""
    nodes = [
        helper.make_node("Cast", ["image"], ["image_f32"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_f32"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["nchw", "full_scale"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        _pool("MaxPool", "dark", "darkest"),
        _pool("MaxPool", "bright", "brightest"),
        _pool("AveragePool", "bright", "mean"),
        helper.make_node("Concat", ["darkest", "brightest", "mean"], ["features"], axis=1),
        *_anomaly_nodes(),
    ]
    constants: dict[str, np.generic | NDArray[np.float32] | NDArray[np.int64]] = {
        "full_scale": np.float32(255),
        "one": np.float32(1),
        "zero": np.float32(0),
        "minus_two": np.float32(-2),
        "last": np.array([-1], np.int64),
        "first": np.array([1], np.int64),
    }
    outputs = [_float("anomaly_map", ["N", "h", "w"]), _float("anomaly_score", ["N"])]
    if types:
        nodes += [
            helper.make_node("Conv", ["features", "weight", "offset"], ["defect_maps"]),
            helper.make_node("GlobalMaxPool", ["defect_maps"], ["strongest"]),
            helper.make_node("Flatten", ["strongest"], ["logits"]),
        ]
        weight = np.zeros((types, FEATURES, 1, 1), np.float32)
        weight[np.arange(types), np.arange(types) % 2] = _HEAD_GAIN
        constants["weight"] = weight
        constants["offset"] = np.full(types, _HEAD_OFFSET - _HEAD_GAIN / 2, np.float32)
        outputs += [_float("logits", ["N", types]), _float("defect_maps", ["N", types, "h", "w"])]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 1])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [image, _float("bank", ["M", FEATURES])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, doc_string=comment)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _anomaly_nodes() -> list[onnx.NodeProto]:
    """Euclidean distance of each cell's features from the nearest row of the bank."""
    return [
        helper.make_node("Transpose", ["features"], ["queries"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["bank"], ["bank_columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["queries", "bank_columns"], ["products"]),
        helper.make_node("Mul", ["products", "minus_two"], ["cross"]),
        helper.make_node("ReduceSumSquare", ["queries"], ["query_norms"], axes=[-1], keepdims=1),
        helper.make_node("ReduceSumSquare", ["bank"], ["bank_norms"], axes=[1], keepdims=0),
        helper.make_node("Add", ["cross", "query_norms"], ["partly"]),
        helper.make_node("Add", ["partly", "bank_norms"], ["squared"]),
        helper.make_node("ReduceMin", ["squared"], ["nearest"], axes=[-1], keepdims=0),
        helper.make_node("Max", ["nearest", "zero"], ["not_negative"]),
        helper.make_node("Sqrt", ["not_negative"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map"], ["anomaly_score"], axes=[1, 2], keepdims=0),
    ]


def _pool(kind: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(kind, [source], [result], kernel_shape=[CELL_PX] * 2, strides=[CELL_PX] * 2)


def _float(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


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
                verdict=decide(scores, policy, audit_draw=1.0).verdict,
            )
        )
    golden = GoldenSet(tolerance=0.1, frames=tuple(frames))
    (partial / GOLDEN).write_text(golden.model_dump_json(indent=1), encoding="utf-8")


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
