#!/usr/bin/env bash
# Write scripts/constraints.txt anew: the newest versions that pyproject.toml allows, for every supported Python.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/uv ]; then
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --constraint scripts/constraints.txt uv
fi
# pip also obeys the constraints that it is configured with, and could not install a file that goes against them.
read -ra configured <<< "$(.venv/bin/pip config list | sed -n "s/^\(global\|install\|:env:\)\.constraint='\(.*\)'$/\2/p" | xargs)"
# Versions only: no hashes, and no address of an index, whatever the settings of this machine are.
.venv/bin/uv pip compile --quiet --upgrade --universal --all-extras --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command "bash scripts/renew_constraints.sh" \
    "${configured[@]/#/--constraint=}" --output-file scripts/constraints.txt pyproject.toml
