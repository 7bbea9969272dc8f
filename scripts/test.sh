#!/usr/bin/env bash
# Set up a virtual environment and pass everything: format, lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install --quiet --constraint scripts/constraints.txt --editable ".[dev]"

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/pytest "$@"
