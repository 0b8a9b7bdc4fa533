"""Every name that the product uses of TensorRT, with as many arguments, is in 10.3, 10.13, 10.16 and 11.4.

Names, not behaviour: that a call with these arguments exists, not what it does. The files in `tensorrt_names` were read
from the real bindings (classes that the product uses, each with its members); TensorRT for RTX is asked itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.contract.tensorrt_uses import NAMES, PROTOCOLS, Api, Use, product_uses

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "tensorrt_names"
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")


def stored_api(version: str) -> Api:
    api: dict[str, dict[str, str]] = json.loads((STORED / f"{version}.json").read_text())["classes"]
    return api


USES = product_uses(ROOT, stored_api("10.3.0"))


def problem(use: Use, api: Api) -> str | None:
    """Why a use does not fit the bindings; None if it does."""
    if use.owner not in api:
        return f"no class {use.owner} ({use.where})"
    if not use.member:
        return None
    if use.member not in api[use.owner]:
        return f"no {use.owner}.{use.member} ({use.where})"
    signature = api[use.owner][use.member]
    if use.positional is None or "(" not in signature or "*args" in signature:
        return None
    names, required = _parameters(signature)
    given = names[: use.positional] + list(use.keywords)
    if use.positional > len(names) or not set(required) <= set(given) <= set(names):
        return f"{use.owner}.{use.member} takes {names}, {use.where} gives {use.positional} and {use.keywords}"
    return None


def _parameters(signature: str) -> tuple[list[str], list[str]]:
    """Names of the parameters after `self`, and those without a default."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    parts = re.split(r",\s*(?=\w+\s*:|\w+\s*=|\w+$)", re.sub(r"\[[^\[\]]*\]|<[^<>]*>", "", inside))
    names = [re.split(r"[:=]", part)[0].strip() for part in parts if part.strip()]
    required = [name for name, part in zip(names, parts, strict=True) if "=" not in part]
    return [n for n in names if n != "self"], [n for n in required if n != "self"]


def test_the_uses_are_found() -> None:
    found = {(use.owner, use.member) for use in USES}
    assert {
        ("Runtime", "__init__"),
        ("Runtime", "deserialize_cuda_engine"),
        ("DataType", "UINT8"),
        ("TensorIOMode", "INPUT"),
        ("ILogger", "ERROR"),
        ("IExecutionContext", "execute_async_v3"),
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "progress_monitor"),
        ("OnnxParser", "get_error"),
        ("IProgressMonitor", ""),
    } <= found, sorted(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_use_is_in(version: str) -> None:
    api = stored_api(version)
    assert [found for use in sorted(USES, key=str) if (found := problem(use, api))] == []


def test_every_use_is_in_the_installed_tensorrt_for_rtx() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    assert [found for use in sorted(USES, key=str) if (found := problem(use, _api_of(module)))] == []


def _api_of(module: Any) -> Api:
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {
        name: {member: (getattr(value, member).__doc__ or "").split("\n")[0] for member in dir(value)}
        for name, value in classes.items()
    }


@pytest.mark.parametrize(
    ("use", "fits_10_3", "fits_11_4"),
    [
        (Use("BuilderFlag", "FP16"), True, False),
        (Use("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"), True, False),
        (Use("IExecutionContext", "execute_async_v2", 2), False, False),
        (Use("IExecutionContext", "execute_async_v3", 2), False, False),
        (Use("IExecutionContext", "execute_async_v3", 1), True, True),
        (Use("ICudaEngine", "get_tensor_profile_shape", 1, ("profile_index",)), True, True),
        (Use("ICudaEngine", "get_tensor_profile_shape", 1, ("profile",)), False, False),
        (Use("Builder", "build_engine", 2), False, False),
        (Use("Builder", "create_network", 0), True, True),
    ],
)
def test_the_check_can_fail(use: Use, fits_10_3: bool, fits_11_4: bool) -> None:
    assert (problem(use, stored_api("10.3.0")) is None) is fits_10_3
    assert (problem(use, stored_api("11.4.0.106")) is None) is fits_11_4


def test_every_module_that_handles_its_objects_is_declared() -> None:
    """Whoever loads, builds or runs an engine; an untyped parameter beside the library is TensorRT's too."""
    for path in [*(ROOT / "edge").rglob("*.py"), *(ROOT / "export").rglob("*.py")]:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if name == PROTOCOLS:
            continue
        if re.search(r"ICudaEngine|IExecutionContext|(?<!\.)\btrt\b|deserialize_cuda_engine|execute_async", text):
            assert name in NAMES, f"{name} handles TensorRT's objects"
        if "trt_library" in text and (found := set(re.findall(r"(\w+): Any\b", text))):
            assert found <= set(NAMES.get(name, {})), f"{name} has untyped names {found}"
