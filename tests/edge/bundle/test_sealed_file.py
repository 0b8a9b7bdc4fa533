"""What is verified is what is used: files exchanged after opening, links, pipes; and graphs that are never sealed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from edge.bank.evidence import evidence_from_bundle
from edge.bank.frames import PatchesGraph
from edge.bundle.keys import trusted_key_from_file
from edge.bundle.manifest import BANK, CALIBRATION, GOLDEN, HELD_OUT, MANIFEST, PATCHES_GRAPH, SIGNATURE, graph_files
from edge.bundle.reader import Bundle, manifest_bytes_from_manifest, open_bundle, open_without_signature_check
from edge.bundle.sealed_file import SealedFile
from edge.bundle.sealing import seal
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle, write_demo_key
from tests.support.tiny_graph import write_tiny_graph

(MODEL,) = graph_files()
DEFECT = "golden/defect-0.png"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    return build_tiny_bundle(tmp_path_factory.mktemp("pristine"), grows=True)


@pytest.fixture
def tiny(pristine: TinyBundle, tmp_path: Path) -> TinyBundle:
    copy = Path(shutil.copytree(pristine.path.parent, tmp_path / "copy"))
    return TinyBundle(copy / "bundle", copy / "demo-key.pub", copy / "demo-key.pem")


@pytest.fixture
def bundle(tiny: TinyBundle) -> Bundle:
    return open_bundle(tiny.path, (trusted_key_from_file(tiny.public_key, demo=True),))


def gate(bundle: Bundle) -> object:
    return check_golden(bundle, OrtEngine(bundle.graphs(), bundle.bank(), threads=1))


@pytest.mark.parametrize(
    ("name", "use"),
    [
        (MODEL, lambda b: OrtEngine(b.graphs(), b.bank(), threads=1)),
        (BANK, lambda b: b.bank()),
        (GOLDEN, lambda b: b.golden()),
        (DEFECT, gate),
        (CALIBRATION, lambda b: b.calibration()),
        (PATCHES_GRAPH, PatchesGraph),
        (HELD_OUT, evidence_from_bundle),
    ],
)
def test_a_file_exchanged_after_the_bundle_was_verified_is_not_used(
    bundle: Bundle, name: str, use: Callable[[Bundle], object]
) -> None:
    """The other file is as long as the one that was signed."""
    use(bundle)
    path = bundle.path / name
    other = bytearray(path.read_bytes())
    other[-1] ^= 1
    path.unlink()
    path.write_bytes(other)
    with pytest.raises(
        ProcunitError, match=r"not what was signed \(sha256 differs\)\. Copy the bundle again"
    ) as caught:
        use(bundle)
    assert caught.value.where == str(path)


def test_a_graph_exchanged_between_hashing_and_loading_is_not_loaded(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes at the worst moment: after its hash was taken; the engine computes with the bytes hashed."""
    path = bundle.path / MODEL
    write_tiny_graph(tmp_path / "other.onnx", 2)
    check = SealedFile._check

    def exchange(file: SealedFile, sha256: str, size_bytes: int) -> None:
        check(file, sha256, size_bytes)
        if file.name == MODEL:
            os.replace(tmp_path / "other.onnx", path)

    monkeypatch.setattr(SealedFile, "_check", exchange)
    graphs = bundle.graphs()
    engine = OrtEngine(graphs, bundle.bank(), threads=1)
    monkeypatch.undo()
    assert check_golden(bundle, engine).passed
    with pytest.raises(ProcunitError, match="instead of"):
        graphs[0].read_bytes()


def test_a_link_below_the_bundle_is_not_followed_after_opening_either(bundle: Bundle, tmp_path: Path) -> None:
    """With the right content: whoever can exchange what the link leads to could exchange the file later."""
    (bundle.path / MODEL).rename(tmp_path / "model.onnx")
    (bundle.path / MODEL).symlink_to(tmp_path / "model.onnx")
    with pytest.raises(ProcunitError, match="not a plain file"):
        bundle.graphs()[0].read_bytes()
    (bundle.path / "golden").rename(tmp_path / "golden")
    (bundle.path / "golden").symlink_to(tmp_path / "golden")
    with pytest.raises(ProcunitError, match="not a plain file") as caught:
        bundle.golden()
    assert caught.value.where == str(bundle.path / GOLDEN)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tiny: TinyBundle, bundle: Bundle) -> None:
    for name in (MANIFEST, SIGNATURE, MODEL):
        (tiny.path / name).unlink()
        os.mkfifo(tiny.path / name)
    with pytest.raises(ProcunitError, match="not a plain file"):
        bundle.graphs()[0].read_bytes()
    with pytest.raises(ProcunitError, match="not a plain file"):
        open_without_signature_check(tiny.path)


def test_a_bundle_may_itself_be_reached_by_a_link(tiny: TinyBundle, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tiny.path)
    bundle = open_without_signature_check(tmp_path / "current")
    assert bundle.graphs()[0].read_bytes() == (tiny.path / MODEL).read_bytes()


def test_opening_reads_each_file_once(tiny: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = os.open

    def count(path: str, *arguments: int, **more: int) -> int:
        if "dir_fd" in more:
            opened.append(str(path))
        return original(path, *arguments, **more)

    monkeypatch.setattr(os, "open", count)
    bundle = open_without_signature_check(tiny.path)
    files = [name.rpartition("/")[2] for name in bundle.manifest.files]
    assert sorted(name for name in opened if name not in ("golden", MANIFEST)) == sorted(files)


def _control_flow(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))


def _external(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../../secret")


@pytest.mark.parametrize("name", [MODEL, "model.int8.onnx", PATCHES_GRAPH])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_control_flow, "a graph inside an operator"),
        (_external, "external data"),
        (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "operators of the domain com.microsoft"),
    ],
)
def test_sealing_signs_no_graph_that_does_more_and_opening_refuses_one_that_is_signed(
    tiny: TinyBundle, name: str, change: Callable[[onnx.ModelProto], object], text: str
) -> None:
    key, body = write_demo_key(tiny.path.parent), open_without_signature_check(tiny.path).manifest
    shutil.copy(tiny.path / MODEL, tiny.path / "model.int8.onnx")
    sealed = seal(tiny.path, body, key)
    signature = (tiny.path / SIGNATURE).read_bytes()
    model = onnx.load(tiny.path / name)
    change(model)
    onnx.save(model, tiny.path / name)
    with pytest.raises(ProcunitError, match=text) as caught:
        seal(tiny.path, body, key)
    assert caught.value.where == str(tiny.path / name)
    assert (tiny.path / SIGNATURE).read_bytes() == signature
    data = (tiny.path / name).read_bytes()
    entry = sealed.manifest.files[name].model_copy(
        update={"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    )
    manifest = sealed.manifest.model_copy(update={"files": {**sealed.manifest.files, name: entry}})
    manifest_bytes = manifest_bytes_from_manifest(manifest)
    (tiny.path / MANIFEST).write_bytes(manifest_bytes)
    (tiny.path / SIGNATURE).write_bytes(key.key.sign(manifest_bytes))
    with pytest.raises(ProcunitError, match=re.escape(text)) as caught:
        open_bundle(tiny.path, (key.trusted,))
    assert caught.value.where == str(tiny.path / name)
