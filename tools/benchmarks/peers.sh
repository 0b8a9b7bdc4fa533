#!/usr/bin/env bash
# Compares our PatchCore with anomalib's, which runs in its own virtual environment with our versions of torch and timm.
# usage: tools/benchmarks/peers.sh VENV DATA [FOLDS]     (VENV: the development environment)
set -euo pipefail
venv=$1 data=$2 folds=${3:-5} peers=.venv-peers

mapfile -t same < <("$venv/bin/python" -c 'from importlib.metadata import version
for name in ("torch", "torchvision", "timm", "numpy", "safetensors"): print(f"{name}=={version(name)}")')
stamp="$peers/.procunit-$(printf '%s\n' "${same[@]}" | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    "$venv/bin/python" -m venv "$peers"
    "$peers/bin/python" -m pip install --quiet --disable-pip-version-check 'anomalib==2.7.*' "${same[@]}"
    touch "$stamp"
fi
"$venv/bin/python" -m tools.benchmarks.peers coreset
"$venv/bin/python" -m tools.benchmarks.peers accuracy --data "$data" --folds "$folds"
