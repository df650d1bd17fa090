#!/bin/sh
# Usage: tools/venv.sh FOLDER: make FOLDER a virtual environment with commcli and its tools in it.
# Safe to repeat. Says in one line what is missing; never needs root.
set -u
venv=$1
log=$venv/install.log

fail() {
    echo "commcli: $1" >&2
    exit 1
}

# A name on PATH is not yet a Python that runs (version managers put shims there), so ask each for its version.
find_python() {
    for candidate in python3.13 python3.12 python3.11 python3.14 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    python=$(find_python) || fail "Python 3.11 or newer is missing: install python3.11 (or newer) and put it on PATH."
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks the venv module: install its package (Debian, Ubuntu: python3-venv)."
    echo "Setting up $venv with $("$python" --version) ..." >&2
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "could not create $venv with $python (is the disk full, the folder read-only?)."
fi

echo "Installing commcli's dependencies into $venv (log: $log) ..." >&2
if ! "$venv/bin/python" -m pip install --disable-pip-version-check -e '.[dev]' >"$log" 2>&1; then
    grep -E '^ERROR' "$log" | tail -n 3 >&2
    fail "pip could not install the dependencies (is a package index within reach?); the whole log is in $log."
fi
