#!/usr/bin/env bash
# Pass the fast tests with other versions than those of scripts/constraints.txt; further arguments go to pytest.
#   bash scripts/test_versions.sh lowest   every dependency of pyproject.toml at its lower bound
#   bash scripts/test_versions.sh newest   everything at its newest
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    lowest) resolution=lowest-direct ;;
    newest) resolution=highest ;;
    *) echo "usage: bash scripts/test_versions.sh lowest|newest [pytest's arguments]" >&2; exit 2 ;;
esac
environment=.venvs/$1
shift

if [ ! -x .venv/bin/uv ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --constraint scripts/constraints.txt uv
fi
.venv/bin/uv venv --quiet --clear --python .venv/bin/python "$environment"
.venv/bin/uv pip install --quiet --python "$environment" --resolution "$resolution" --editable ".[dev]"
if [ "$resolution" = lowest-direct ]; then
    "$environment/bin/python" scripts/check_bounds.py
fi
"$environment/bin/pytest" "$@"
