#!/usr/bin/env bash
# Writes a CycloneDX bill of materials of what a device installs: an environment is made from the lock, hashes checked,
# and read by cyclonedx-py. It describes this machine's architecture and Python version.
# usage: tools/open_source/sbom.sh VENV OUTPUT     (VENV: the development environment)
set -euo pipefail
venv=$1 output=$2
device=build/device-env
rm -rf "$device"
mkdir -p "$(dirname "$output")"
"$venv/bin/python" -m venv --without-pip "$device"
"$venv/bin/python" -m pip --python "$device/bin/python" install --quiet --disable-pip-version-check \
    --require-hashes --only-binary=:all: --requirement requirements/device.lock
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s) \
    "$venv/bin/cyclonedx-py" environment "$device/bin/python" --pyproject pyproject.toml --mc-type application \
    --output-reproducible --spec-version 1.6 --output-format JSON --output-file "$output"
echo "$output: $(grep -c '"purl"' "$output") packages"
