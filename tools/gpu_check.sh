#!/usr/bin/env bash
# All checks that need a GPU, in one command: installs what is missing, runs the tests marked `gpu`, compares the
# bundle's variants, benchmarks against the bare backbone, and prints the figures as Markdown for docs/measurements.md.
# usage: tools/gpu_check.sh [BUNDLE [BARE.onnx]]
#   BUNDLE     a bundle with its graphs (`procunit bundle build`); without it the tests use a small one
#   BARE.onnx  the bare backbone at the bundle's input size (`procunit engine bare`)
# environment: VENV (default .venv-gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=${1:-} bare=${2:-} venv=${VENV:-.venv-gpu}
say() { printf '[gpu-check] %s\n' "$*" >&2; }

python3 - <<'PYTHON' || { say "no CUDA GPU found by libcuda; nothing was measured"; exit 3; }
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit(1)
count = ctypes.c_int()
sys.exit(not (cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0))
PYTHON

if [ ! -x "$venv/bin/python" ]; then
    say "creating the virtual environment $venv (with the system's packages, because TensorRT comes with JetPack)"
    python3 -m venv --system-site-packages "$venv"
    "$venv/bin/python" -m pip install --quiet --editable '.[ort,opencv,device-tests]'
fi
has() { "$venv/bin/python" -c "import $1" 2>/dev/null; }
has tensorrt || has tensorrt_rtx || {
    [ "$(uname -m)" = x86_64 ] || { say "TensorRT is not installed. Run: sudo apt install python3-libnvinfer"; exit 2; }
    say "TensorRT is not installed; installing TensorRT for RTX instead"
    "$venv/bin/python" -m pip install --quiet 'tensorrt-rtx>=1.7,<1.8'
}
has pycuda.driver || {
    say "compiling pycuda (a few minutes; needs the CUDA headers and a C++ compiler)"
    PATH="/usr/local/cuda/bin:$PATH" "$venv/bin/python" -m pip install --quiet pycuda
}

figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
status=0
PROCUNIT_GPU_BUNDLE=$bundle PROCUNIT_GPU_FIGURES=$figures \
    "$venv/bin/python" -m pytest tests/gpu -m gpu -p no:cacheprovider 1>&2 || status=1

echo "### On a GPU"
echo
"$venv/bin/python" -m tests.gpu.device_line
echo
echo "| what | figure |"
echo "|---|---|"
cat "$figures"
if [ -n "$bundle" ]; then
    echo
    echo '```'
    "$venv/bin/procunit" engine compare "$bundle" || status=1
    "$venv/bin/procunit" engine bench "$bundle" ${bare:+--bare "$bare"} --bank-rows 1024,4096,16384 || status=1
    echo '```'
fi
exit "$status"
