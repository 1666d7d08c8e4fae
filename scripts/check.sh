#!/bin/sh
# Lint, format and types, and the shell scripts where shellcheck is installed.  Usage: check.sh VENV
set -eu

venv=$1
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
if command -v shellcheck >/dev/null 2>&1; then
    shellcheck scripts/*.sh .ci/run tests/vm/init.sh
fi
