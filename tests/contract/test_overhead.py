"""What the product adds to the bare ONNX Runtime call: frame in memory to verdict, blocks alternating in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import onnxruntime as ort

from edge.anomaly import folded_rows
from edge.bundle.keys import trusted_key_from_file
from edge.bundle.reader import open_bundle
from edge.engine.ort import OrtEngine
from edge.messages import Frame, Trigger
from edge.pipeline import inspect_part
from edge.policy import policy_from_manifest
from edge.preprocess import tensor_from_pixels
from edge.recipe import recipe_from_bundle
from edge.system.clock import utc_now
from tests.support.tiny_bundle import build_tiny_bundle, good_image

BLOCKS, CALLS = 10, 20


def block_ms(call: Callable[[], object]) -> list[float]:
    times_ms = []
    for _ in range(CALLS):
        started_ns = time.perf_counter_ns()
        call()
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    return times_ms


def test_frame_to_verdict_costs_little_more_than_the_graph(tmp_path: Path) -> None:
    tiny = build_tiny_bundle(tmp_path)
    bundle = open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))
    geometry = bundle.manifest.geometry
    engine = OrtEngine(bundle.graphs(), bundle.bank(), threads=1)
    recipe = recipe_from_bundle(bundle, policy_from_manifest(bundle.manifest, demo_key=True), engine)
    pixels = good_image(0)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.graphs()[0].read_bytes(), options, providers=["CPUExecutionProvider"])
    feeds = {"image": tensor_from_pixels(pixels, geometry), "bank": folded_rows(bundle.bank())}

    def inspect() -> None:
        now_ns = time.monotonic_ns()
        frame = Frame("1", None, 1, utc_now(), now_ns, pixels)
        inspect_part(Trigger(1, "1", None, 1, utc_now(), now_ns, frame), recipe, audit_draw=0.5)

    bare_ms: list[float] = []
    whole_ms: list[float] = []
    for _ in range(BLOCKS):
        bare_ms += block_ms(lambda: session.run(None, feeds))
        whole_ms += block_ms(inspect)
    engine.close()
    bare, whole = median(bare_ms), median(whole_ms)
    assert whole - bare <= max(5.0, 0.1 * bare), f"bare {bare:.3f} ms, frame to verdict {whole:.3f} ms"
