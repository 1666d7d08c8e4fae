#!/bin/sh
# Make a virtual environment with dmimad in it (editable).  Usage: [PYTHON=…] venv.sh DIRECTORY EXTRA
set -eu

directory=$1
extra=$2
oldest='(3, 11)'

suitable() {
    "$1" -c "import sys; sys.exit(sys.version_info < $oldest)" >/dev/null 2>&1
}

choose_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11; do
        if suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "dmimad needs Python 3.11 or later and found none; name one: make PYTHON=/path/to/python3 …" >&2
    exit 1
}

# Debian splits the module that makes environments from Python itself.
need_venv_module() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    sh "$(dirname "$0")/debian-packages.sh" "$package:$package" 2>/dev/null # it is no program: judged below
    if ! "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$1 cannot make virtual environments: install the package $package" >&2
        exit 1
    fi
}

if ! suitable "$directory/bin/python" || ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(choose_python)
    need_venv_module "$python"
    echo "Making $directory with $("$python" --version) …"
    "$python" -m venv --clear "$directory"
fi
echo "Installing dmimad[$extra] into $directory …"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
