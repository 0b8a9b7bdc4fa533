"""The library is imported on first use and keeps its last errors; if it is missing, the error has a remedy."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from edge.engine import trt_library
from edge.engine.settings import EngineKind
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError


def test_the_library_keeps_the_last_errors_it_logged() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    library = library_from_kind("tensorrt_rtx")
    assert library_from_kind("tensorrt_rtx") is library
    assert library.version.split(".")[0].isdigit()
    runtime = library.module.Runtime(library.logger)
    library.clear_messages()
    for _ in range(30):
        assert runtime.deserialize_cuda_engine(b"no engine") is None
    assert any("readHeader" in line for line in library.messages())
    assert len(library.messages()) == 20
    assert library.recent_errors_suffix() == "".join(f"; {line}" for line in library.messages()[-3:])
    library.clear_messages()
    assert library.messages() == ()
    assert library.recent_errors_suffix() == ""


@pytest.mark.parametrize(("kind", "remedy"), [("tensorrt", "apt install"), ("tensorrt_rtx", "pip install")])
def test_a_library_that_is_not_installed(kind: EngineKind, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    trt_library._library.cache_clear()
    with pytest.raises(ProcunitError, match=f"not installed.*{remedy}"):
        library_from_kind(kind)


def test_a_missing_shared_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvinfer.so.10: cannot open shared object file: No such file or directory')\n"
    )
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProcunitError, match=r"libnvinfer\.so\.10.*python3-libnvinfer.*--system-site-packages"):
        library_from_kind("tensorrt")


def test_an_old_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    vars(old)["__version__"] = "8.6.2"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(ProcunitError, match=r"8\.6\.2 is too old.*JetPack to 6\.1"):
        library_from_kind("tensorrt")


def test_onnx_runtime_is_not_a_tensorrt_library() -> None:
    with pytest.raises(ProcunitError, match="tensorrt_rtx"):
        library_from_kind("ort")
