#!/usr/bin/env bash
# Parses and builds every form of the graph with TensorRT for RTX 1.4, which has the API of TensorRT 10, like a Jetson.
# The development environment has 1.7, with the API of TensorRT 11. Both are named `tensorrt_rtx`, so each needs its own
# environment.
# usage: tools/environments/test_rtx14.sh VENV     (VENV: the development environment, which exports the graphs)
set -euo pipefail
venv=$1 venv14=${RTX14_VENV:-.venv-rtx14} graphs=work/rtx14-graphs

[ "$(uname -m)" = x86_64 ] || { echo "test-rtx14: skipped, because TensorRT for RTX has wheels only for x86-64"; exit 0; }
stamp="$venv14/.procunit-$(sha256sum pyproject.toml | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    python3 -m venv "$venv14"
    "$venv14/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[ort,opencv,device-tests]' 'tensorrt-rtx>=1.4,<1.5'
    touch "$stamp"
fi
rm -rf "$graphs"
"$venv/bin/python" -m tools.environments.graph_builds write "$graphs"
"$venv14/bin/python" -m tools.environments.graph_builds build "$graphs"
"$venv14/bin/python" -m pytest tests/export/engines/test_engine_from_onnx.py tests/contract/test_tensorrt_names.py tests/edge/engine/test_trt_library.py
