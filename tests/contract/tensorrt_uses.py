"""What the product's code uses of TensorRT's Python bindings, read from its syntax trees.

Classes are followed from `library.module` through calls and the bindings' own signatures. What variables hold, and what
those signatures do not tell, is said here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Api = Mapping[str, Mapping[str, str]]
"""Class -> member -> signature, `prop`, or the class of a value."""

RETURNS = {
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "OnnxParser.get_error": "ParserError",
    "INetworkDefinition.get_input": "ITensor",
    "ITimingCache.serialize": "IHostMemory",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "Builder.build_serialized_network": "IHostMemory",
}
"""Where the bindings say no more than `*args, **kwargs`."""
NAMES: dict[str, dict[str, str]] = {
    "edge/engine/trt_plans.py": {"trt": "(module)", "engine": "ICudaEngine", "context": "IExecutionContext"},
    "edge/engine/trt.py": {"engine": "ICudaEngine", "context": "IExecutionContext"},
    "edge/engine/trt_library.py": {"module": "(module)"},
    "export/engines/bare_engine.py": {"engine": "ICudaEngine", "_context": "IExecutionContext"},
    "export/engines/build_monitor.py": {"trt": "(module)"},
    "export/engines/engine_from_onnx.py": {
        "trt": "(module)",
        "builder": "Builder",
        "network": "INetworkDefinition",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
        "tensor": "ITensor",
        "cache": "ITimingCache",
    },
}
"""Parameters, variables and attributes of the modules that handle TensorRT's objects, and what they hold."""
NOT_TENSORRT = {("(module)", "__version__"), ("ParserError", "strerror")}
"""A version has no class; an OSError is called `error` too."""
OVERRIDDEN = (
    ("ILogger", "log", 2),
    ("IProgressMonitor", "phase_start", 3),
    ("IProgressMonitor", "step_complete", 2),
    ("IProgressMonitor", "phase_finish", 1),
)
"""Methods that the product gives to TensorRT, with their arguments."""
PROTOCOLS = "edge/engine/trt_types.py"


@dataclass(frozen=True, order=True)
class Use:
    """A member of a class that is used, or a class itself; where it is called, with how many arguments."""

    owner: str
    member: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    where: str = ""


def product_uses(root: Path, api: Api) -> set[Use]:
    """Every use in `edge` and `export`, and every member of the protocols that stand for TensorRT's objects."""
    uses = {Use(owner, member, arguments, (), "overridden") for owner, member, arguments in OVERRIDDEN}
    for path in sorted([*(root / "edge").rglob("*.py"), *(root / "export").rglob("*.py")]):
        text = path.read_text(encoding="utf-8")
        if path == root / PROTOCOLS:
            uses |= _protocol_uses(ast.parse(text))
        else:
            uses |= _Reader(api, path.relative_to(root).as_posix()).read(ast.parse(text))
    return uses


def _protocol_uses(tree: ast.Module) -> set[Use]:
    uses = set()
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                arguments = len(item.args.args) + len(item.args.posonlyargs) - 1
                uses.add(Use(node.name, item.name, arguments, (), PROTOCOLS))
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                uses.add(Use(node.name, item.target.id, None, (), PROTOCOLS))
    return uses


class _Reader:
    def __init__(self, api: Api, file: str) -> None:
        self._api, self._file, self._names = api, file, NAMES.get(file, {})

    def read(self, tree: ast.Module) -> set[Use]:
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        uses = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute):
                continue
            owner = self._class_of(node.value)
            if owner is None or (owner, node.attr) in NOT_TENSORRT:
                continue
            call = calls.get(id(node))
            where = f"{self._file}:{node.lineno}"
            if owner == "(module)":
                owner, member = node.attr, "__init__" if call is not None else ""
            else:
                member = node.attr
            if call is None:
                uses.add(Use(owner, member, None, (), where))
            else:
                starred = any(isinstance(argument, ast.Starred) for argument in call.args)
                keywords = tuple(keyword.arg or "**" for keyword in call.keywords)
                uses.add(Use(owner, member, None if starred else len(call.args), keywords, where))
        return uses

    def _class_of(self, node: ast.expr) -> str | None:
        """The class of an expression's value, or of the class that it names; None if it is not TensorRT's."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute):
            if node.attr == "module":
                return "(module)"
            owner = self._class_of(node.value)
            return node.attr if owner == "(module)" else self._names.get(node.attr) if owner is None else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self._class_of(node.func.value)
            return node.func.attr if owner == "(module)" else self._returned(owner, node.func.attr)
        return None

    def _returned(self, owner: str | None, member: str) -> str | None:
        if owner is None:
            return None
        said = re.search(r"-> T\.(\w+)", self._api.get(owner, {}).get(member, ""))
        return RETURNS.get(f"{owner}.{member}") or (said[1] if said else None)
