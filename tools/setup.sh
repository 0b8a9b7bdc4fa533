#!/usr/bin/env bash
# Installs what `make demo` and `make test` need; a second call finds the stamp file and returns at once.
# usage: tools/setup.sh VENV EXTRA
set -euo pipefail
venv=$1 extra=$2
stamp="$venv/.procunit-$(sha256sum pyproject.toml | cut -c1-16)"   # -dev includes everything of -offline
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }

install_from_apt() {
    command -v apt-get >/dev/null || { echo "setup: $* is missing and there is no apt-get; please install it by hand" >&2; exit 2; }
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    say "installing with apt: $*"
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

export PATH="$PATH:/usr/sbin:/usr/local/sbin"   # where Debian puts mosquitto
command -v mosquitto >/dev/null || install_from_apt mosquitto
# the tests of the systemd unit use systemd-analyze and systemd-sysusers
[ "$extra" != dev ] || command -v systemd-analyze >/dev/null || install_from_apt systemd

if [ ! -e "$stamp-$extra" ] && [ ! -e "$stamp-dev" ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "setup: Python 3.10 or newer is needed, but python3 is $(python3 --version)" >&2; exit 2; }
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_from_apt python3-venv
    say "creating the virtual environment $venv and installing its packages (PyTorch has several GB; takes a few minutes)"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --progress-bar on --editable ".[$extra]"
    touch "$stamp-$extra"
    say "done"
fi
