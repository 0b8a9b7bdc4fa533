"""The walk over ONNX bytes: it reads graphs as onnx does, refuses all but operators on tensors, never crashes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.bundle.onnx_walk import MAX_FIELDS, check_graph, operators_of_graph
from edge.errors import ProcunitError
from tests.support.tiny_graph import write_tiny_graph, write_tiny_patches_graph


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    write_tiny_graph(path, 2)
    return path.read_bytes()


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def chunk(number: int, content: bytes) -> bytes:
    """A field with bytes: a text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def refused(data: bytes, text: str) -> None:
    with pytest.raises(ProcunitError, match=text) as caught:
        check_graph(data, "bundle/model.onnx")
    assert caught.value.where == "bundle/model.onnx"
    assert caught.value.remedy


def test_the_operators_are_those_that_onnx_reads(tiny: bytes, tmp_path: Path) -> None:
    write_tiny_patches_graph(tmp_path / "patches.onnx")
    for data in (tiny, (tmp_path / "patches.onnx").read_bytes()):
        check_graph(data, "model.onnx")
        assert operators_of_graph(data, "") == [node.op_type for node in onnx.load_from_string(data).graph.node]


def _if(model: onnx.ModelProto) -> None:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [])
    inner = helper.make_node("Constant", [], ["inner"], value_float=1.0)
    branch = helper.make_graph([inner], "branch", [], [output])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))


def _loop_without_body(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["m"], ["d"]))


def _graph_in_a_harmless_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))


def _list_of_graphs(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("bodies", [helper.make_graph([], "g", [], [])]))


def _function(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "Relu", [], [], [helper.make_node("If", ["c"], ["d"])], opsets))


def _training(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.CopyFrom(helper.make_graph([], "g", [], []))


def _external_initializer(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/shadow")


def _location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def _entries_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="weights")


def _external_constant(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    tensor.external_data.add(key="location", value="weights")
    model.graph.node.append(helper.make_node("Constant", [], ["t"], value=tensor))


def _external_in_a_list(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    tensor.data_location = TensorProto.EXTERNAL
    model.graph.node[0].attribute.append(helper.make_attribute("tensors", [tensor]))


def _external_sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    values.external_data.add(key="location", value="weights")
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def _external_indices_of_a_sparse_attribute(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    indices.external_data.add(key="location", value="weights")
    sparse = helper.make_sparse_tensor(values, indices, [3])
    model.graph.node.append(helper.make_node("Constant", [], ["t"], sparse_value=sparse))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_if, "a graph inside an operator"),
        (_loop_without_body, "the operator Loop"),
        (_graph_in_a_harmless_operator, "a graph inside an operator"),
        (_list_of_graphs, "a graph inside an operator"),
        (_function, "a function"),
        (_training, "a graph for training"),
        (_external_initializer, "external data"),
        (_location_alone, "external data"),
        (_entries_alone, "external data"),
        (_external_constant, "external data"),
        (_external_in_a_list, "external data"),
        (_external_sparse, "external data"),
        (_external_indices_of_a_sparse_attribute, "external data"),
        (lambda m: m.graph.node.append(helper.make_node("Scan", ["a"], ["b"])), "the operator Scan"),
        (lambda m: m.graph.node.append(helper.make_node("SequenceMap", ["a"], ["b"])), "the operator SequenceMap"),
        (lambda m: m.graph.node.append(helper.make_node("relu", ["a"], ["b"])), "the operator relu"),
        (lambda m: m.graph.node.append(helper.make_node("Reluü\x1b[2J", ["a"], ["b"])), r"the operator Relu\S+\[2J,"),
        (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "operators of the domain com.microsoft"),
        (lambda m: m.opset_import.add(domain="evil", version=1), "operators of the domain evil"),
        (lambda m: m.graph.ClearField("node") or m.ClearField("graph"), "it contains no graph"),
    ],
)
def test_what_runs_more_than_tensors_is_refused(
    tiny: bytes, change: Callable[[onnx.ModelProto], object], text: str
) -> None:
    model = onnx.load_from_string(tiny)
    change(model)
    refused(model.SerializeToString(), text)


def test_data_in_another_file_is_refused_and_onnx_runtime_would_follow_it(tmp_path: Path) -> None:
    """Why the walk looks for it: given the path, ONNX Runtime opens the file that the graph names."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4096], np.ones(4096, np.float32).tobytes(), raw=True)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096]) for name in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "w"], ["b"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    check_graph(model.SerializeToString(), "model.onnx")
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights")
    providers = ["CPUExecutionProvider"]
    assert onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=providers).get_inputs()
    refused((tmp_path / "m.onnx").read_bytes(), "external data")


def test_a_graph_in_onnx_runtimes_own_format_is_refused(tiny: bytes) -> None:
    """Valid ONNX whose producer's name carries the mark by which ONNX Runtime tells its own format."""
    model = onnx.load_from_string(tiny)
    model.ClearField("ir_version")
    data = chunk(2, b"..ORTM") + model.SerializeToString()
    assert data[4:8] == b"ORTM"
    onnx.load_from_string(data)
    refused(data, "own format")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it contains no graph"),
        (chunk(7, chunk(1, chunk(4, b"Relu") + chunk(4, b"If"))), "appears twice"),
        (chunk(7, b"") + chunk(7, b""), "appears twice"),
        (chunk(7, chunk(1, b"")), "a node has no operator"),
        (chunk(7, b"") + chunk(99, b""), "the unknown field 99 in a ModelProto"),
        (varint(7 << 3) + b"\x01", "the unknown field 7 in a ModelProto"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends outside its message"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x80" * 12, "a number does not end"),
        (chunk(0, b"") + chunk(7, b""), "outside its message"),
        (chunk(7, chunk(1, chunk(4, b"A" * 100_000))), "the operator A"),
    ],
)
def test_damaged_and_contradictory_bytes_are_refused(data: bytes, text: str) -> None:
    refused(data, text)


def test_the_work_is_bounded() -> None:
    started_s = time.monotonic()
    refused(chunk(7, b"\x0a\x00" * (MAX_FIELDS + 1)), "no operator|more than")
    refused(chunk(7, chunk(5, b"\x08\x00" * (MAX_FIELDS + 1))), f"more than {MAX_FIELDS} fields")
    nested = b""
    for _ in range(2000):
        nested = chunk(7, nested)
    refused(nested, "the unknown field 7 in a GraphProto")
    assert time.monotonic() - started_s < 15


def mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The bytes with pieces cut out and put in."""
    for place, cut, piece in edits:
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + cut :]
    return data


EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 40), st.binary(max_size=12)), max_size=4)


@settings(max_examples=400, deadline=None)
@given(edits=EDITS)
@example(edits=[])
def test_mutated_graphs_are_refused_or_read_as_onnx_reads_them(
    tiny: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    """Never another exception; and a graph that passes has for onnx the same operators, and nothing that is refused."""
    data = mutated(tiny, edits)
    try:
        operators = operators_of_graph(data, "model.onnx")
    except ProcunitError:
        return
    try:
        model = onnx.load_from_string(data)
    except DecodeError:
        return  # a text that is not UTF-8, for example; ONNX Runtime refuses it too
    assert [node.op_type for node in model.graph.node] == operators
    assert not model.functions
    assert not model.training_info
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    assert not any(attribute.HasField("g") or attribute.graphs for attribute in attributes)
    tensors = [*model.graph.initializer, *(t for a in attributes for t in (a.t, *a.tensors))]
    assert not any(tensor.external_data or tensor.data_location for tensor in tensors)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        assert isinstance(operators_of_graph(data, "x"), list)
    except ProcunitError:
        return
