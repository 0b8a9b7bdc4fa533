"""Which operators an ONNX file has, and whether a bundle may have it: read from its bytes, without the package onnx.

A bundle's graph is a chain of tensor operators. Everything by which an ONNX file can do more is refused: files beside
it (external data), control flow and other subgraphs, functions, operators of other domains, and anything unknown.
The walk reads the protobuf wire format of onnx.proto (IR version 12 and before) from `_MODEL` down, which has no
recursion, and counts every field that it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge.errors import ProcunitError

GRAPH_SUFFIX = ".onnx"
MAX_GRAPH_BYTES = (2 << 30) - 1
"""The size limit of a protobuf message."""
MAX_FIELDS = 1_000_000
"""Fields of a graph; exported ones have some 20 000. A second of reading."""

_NAMES = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape
Conv ConvTranspose CumSum DepthToSpace DequantizeLinear Div Elu Equal Erf Exp Expand Flatten Floor Gather
GatherElements Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization
HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log
MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range Reciprocal
ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round
Selu Shape Sigmoid Sign Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile
TopK Transpose Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
"""Operators of ONNX's own domain that a graph may use: those that export writes (heads, search, quantisation) and those
of timm's convolutional backbones. Each computes tensors from tensors; none has a subgraph, a state or a file."""
DOMAINS = frozenset({"", "ai.onnx"})
"""Two names of ONNX's own domain."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_TAG_BYTES, _MAX_VARINT_BYTES = 5, 10
_MAX_NAME_BYTES = 200
_ORT_FORMAT = b"ORTM"
"""At byte 4: the mark of ONNX Runtime's own format, which it loads in place of ONNX and which this walk cannot read."""
_EXPORT_AGAIN = "Export the run again with `procunit export`, and build the bundle again"


@dataclass(frozen=True)
class _Message:
    """A message type of onnx.proto: its plain fields, and those that are read further. Other fields are refused."""

    name: str
    plain: frozenset[int]
    messages: Mapping[int, _Message] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    numbers: Mapping[int, str] = field(default_factory=dict)


_TENSOR = _Message(
    "TensorProto",
    plain=frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16}),
    refused={13: "data outside the file (external data)"},
    numbers={14: "data outside the file (external data)"},
)
_SPARSE_TENSOR = _Message("SparseTensorProto", plain=frozenset({3}), messages={1: _TENSOR, 2: _TENSOR})
_ATTRIBUTE = _Message(
    "AttributeProto",
    plain=frozenset({1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20}),
    messages={5: _TENSOR, 10: _TENSOR, 22: _SPARSE_TENSOR, 23: _SPARSE_TENSOR},
    refused={
        6: "a graph inside an operator (control flow)",
        11: "a graph inside an operator (control flow)",
        21: "an attribute of a function",
    },
)
_NODE = _Message(
    "NodeProto",
    plain=frozenset({1, 2, 3, 6, 9}),
    messages={5: _ATTRIBUTE},
    names={4: "operator", 7: "domain"},
    refused={8: "an overloaded function", 10: "a choice of devices"},
)
_GRAPH = _Message(
    "GraphProto",
    plain=frozenset({2, 10, 11, 12, 13, 14, 16}),
    messages={1: _NODE, 5: _TENSOR, 15: _SPARSE_TENSOR},
)
_OPSET = _Message("OperatorSetIdProto", plain=frozenset({2}), names={1: "domain"})
_MODEL = _Message(
    "ModelProto",
    plain=frozenset({1, 2, 3, 4, 5, 6, 14}),
    messages={7: _GRAPH, 8: _OPSET},
    refused={20: "a graph for training", 25: "a function", 26: "a choice of devices"},
)
_ONCE = {("ModelProto", 7), ("NodeProto", 4), ("NodeProto", 7), ("OperatorSetIdProto", 1)}
"""Fields of which readers take the last, or merge all: more than one is refused."""


def check_graph(data: bytes, where: str) -> None:
    """Refuse an ONNX file that uses anything but the allowed operators on tensors that it contains itself.

    Raises:
        ProcunitError: it does, it is damaged, or it is no ONNX file; the text names `where`.
    """
    for operator in sorted(set(operators_of_graph(data, where)) - OPERATORS):
        raise _refused(f"the operator {operator}", where)


def operators_of_graph(data: bytes, where: str) -> list[str]:
    """The operator of each node, in the file's order.

    Raises:
        ProcunitError: it is damaged, no ONNX file, or has what no bundle may have; the text names `where`.
    """
    if len(data) > MAX_GRAPH_BYTES:
        raise ProcunitError(f"larger than {MAX_GRAPH_BYTES} bytes", where=where, remedy=_EXPORT_AGAIN)
    if data[4:8] == _ORT_FORMAT:
        raise _refused("ONNX Runtime's own format in place of ONNX", where)
    walk = _Walk(data, where)
    walk.read(_MODEL, 0, len(data))
    if not walk.has_graph:
        raise _damaged("it contains no graph", where)
    return walk.operators


class _Walk:
    """One reading of the file's bytes."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data, self._where = data, where
        self._fields_read = 0
        self.operators: list[str] = []
        self.has_graph = False

    def read(self, message: _Message, start: int, end: int) -> None:
        """Read the fields of one message; the depth of the calls is that of the tables above."""
        seen: set[int] = set()
        for number, kind, value, stop in self._fields(start, end):
            if (message.name, number) in _ONCE:
                if number in seen:
                    raise _damaged(f"field {number} of a {message.name} appears twice", self._where)
                seen.add(number)
            if number in message.plain:
                continue
            if number in message.refused:
                raise _refused(message.refused[number], self._where)
            if number in message.numbers and kind == _VARINT:
                if value:
                    raise _refused(message.numbers[number], self._where)
            elif number in message.messages and kind == _BYTES:
                self.has_graph = self.has_graph or message.messages[number] is _GRAPH
                self.read(message.messages[number], value, stop)
            elif number in message.names and kind == _BYTES:
                self._take_name(message.names[number], value, stop)
            else:
                raise _refused(f"the unknown field {number} in a {message.name}", self._where)
        if message is _NODE and 4 not in seen:
            raise _damaged("a node has no operator", self._where)

    def _take_name(self, what: str, start: int, end: int) -> None:
        name = self._data[start : min(end, start + _MAX_NAME_BYTES)].decode("ascii", "replace")
        shown = "".join(c if c.isprintable() else "?" for c in name)
        if what == "operator":
            self.operators.append(shown)
        elif name not in DOMAINS:
            raise _refused(f"operators of the domain {shown}", self._where)

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and for a varint its value, else start and end of the content."""
        at = start
        while at < end:
            self._fields_read += 1
            if self._fields_read > MAX_FIELDS:
                raise _refused(f"more than {MAX_FIELDS} fields", self._where)
            tag, at = self._varint(at, end, _MAX_TAG_BYTES)
            number, kind = tag >> 3, tag & 7
            value, stop = at, at
            if kind == _VARINT:
                value, stop = self._varint(at, end, _MAX_VARINT_BYTES)
            elif kind == _BYTES:
                size, value = self._varint(at, end, _MAX_VARINT_BYTES)
                stop = value + size
            elif kind in (_FIXED32, _FIXED64):
                stop = at + (4 if kind == _FIXED32 else 8)
            else:
                raise _damaged(f"wire type {kind} at byte {at}", self._where)
            if number == 0 or stop > end:
                raise _damaged(f"a field ends outside its message at byte {at}", self._where)
            yield number, kind, value, stop
            at = stop

    def _varint(self, at: int, end: int, longest: int) -> tuple[int, int]:
        value = 0
        for place in range(longest):
            if at + place >= end:
                break
            byte = self._data[at + place]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value, at + place + 1
        raise _damaged(f"a number does not end at byte {at}", self._where)


def _refused(what: str, where: str) -> ProcunitError:
    return ProcunitError(f"the graph has {what}, which no bundle may have", where=where, remedy=_EXPORT_AGAIN)


def _damaged(what: str, where: str) -> ProcunitError:
    return ProcunitError(f"not a complete ONNX file: {what}", where=where, remedy="Copy the bundle again")
