#!/usr/bin/env bash
# Runs the device's tests on Python 3.10 (that of JetPack 6). If there is no such interpreter, it checks types and syntax
# for 3.10 instead, and prints which of the two was done.
# usage: tools/environments/test_py310.sh VENV
set -euo pipefail
venv=$1

find_python310() {
    local candidate
    for candidate in "${PYTHON310:-}" python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

python310=$(find_python310)
if [ -z "$python310" ]; then
    echo "test-py310: no Python 3.10 found (set PYTHON310=PATH); checking only types and syntax for it"
    "$venv/bin/mypy" --python-version 3.10 -p edge
    "$venv/bin/ruff" check --target-version py310 edge
    exit
fi
echo "test-py310: running the device's tests on $("$python310" --version)"
if [ ! -e .venv310/.done ]; then
    "$python310" -m venv .venv310
    .venv310/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[ort,opencv,device-tests]'
    touch .venv310/.done
fi
.venv310/bin/python -m pytest tests/edge tests/faults tests/systemd_unit tests/contract
