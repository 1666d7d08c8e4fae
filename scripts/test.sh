#!/bin/sh
# Run the tests; a full run also demands full branch coverage of the core.  Usage: test.sh VENV [PYTEST ARGUMENTS …]
set -eu

venv=$1
shift
if [ $# -gt 0 ]; then # a part of the tests says nothing about coverage
    exec "$venv/bin/python" -m pytest "$@"
fi
"$venv/bin/python" -m pytest --numprocesses=auto --cov=dmimad/core --cov-report=
"$venv/bin/python" -m coverage report --include='dmimad/core/*' --fail-under=100
