"""Every name and argument count that `edge.engine.cuda` uses of pycuda is in the real one; the double has no others.

Names, not behaviour. `pycuda_names.json` was read from pycuda 2026.1, compiled from its sdist.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from tests.doubles import pycuda_double
from tests.doubles.cuda_double import CudaDouble

ROOT = Path(__file__).parents[2]
NAMES: dict[str, str] = json.loads((Path(__file__).parent / "pycuda_names.json").read_text())["names"]
OBJECTS = {
    "driver": "",
    "self._driver": "",
    "device": "Device.",
    "self._context": "Context.",
    "self._stream": "Stream.",
    "host.base": "PagelockedHostAllocation.",
    "driver.device_attribute": "device_attribute.",
    "self._driver.host_alloc_flags": "host_alloc_flags.",
}
"""What an expression in `edge/engine/cuda.py` holds, as a prefix of the names."""
THROUGH_A_PROTOCOL = {"DeviceAllocation.free", "DeviceAllocation.__int__", "PagelockedHostAllocation.free"}
CLASSES_OF_ERRORS = {"MemoryError", "LogicError", "LaunchError", "RuntimeError"}


def uses() -> dict[str, ast.Call | None]:
    tree = ast.parse((ROOT / "edge/engine/cuda.py").read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found: dict[str, ast.Call | None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in OBJECTS:
            found[OBJECTS[ast.unparse(node.value)] + node.attr] = calls.get(id(node))
    return found


def test_every_use_of_pycuda_is_real() -> None:
    found = {name: call for name, call in uses().items() if name not in ("device_attribute", "host_alloc_flags")}
    assert set(found) | THROUGH_A_PROTOCOL | CLASSES_OF_ERRORS == set(NAMES)
    for name, call in found.items():
        if call is not None:
            parameters = re.findall(r"\(\w+\)\s*(\w+)(=)?", NAMES[name].partition("->")[0])
            own = min(1, len(parameters)) if "." in name or name in ("Device", "Stream") else 0  # self
            required = [p for p, default in parameters[own:] if not default]
            given = len(call.args) + len(call.keywords)
            assert len(required) <= given <= len(parameters) - own, (name, NAMES[name])
            assert {keyword.arg for keyword in call.keywords} <= {p for p, _ in parameters}, name


def test_the_double_has_what_is_used_and_no_more() -> None:
    module = vars(pycuda_double.pycuda_over(CudaDouble()))
    assert {name for name in module if not name.startswith("__")} == {
        name.partition(".")[0]
        for name in uses()
        if not name.startswith(("Device.", "Context.", "Stream.", "Pagelocked"))
    }
    for name in NAMES:
        owner, _, member = name.partition(".")
        if member and owner in ("Device", "Context", "DeviceAllocation", "PagelockedHostAllocation"):
            assert hasattr(getattr(pycuda_double, owner), member), name
