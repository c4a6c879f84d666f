#!/usr/bin/env bash
# Run the tests with the lowest versions that pyproject.toml allows: `bash scripts/lowest_versions.sh [flags of pytest]`.
# Needs uv and Python 3.11; makes the environment .venv-lowest (about 5 GB), which may be deleted afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD UV_CONSTRAINT='' UV_RESOLUTION=lowest-direct
uv venv --quiet --clear --python 3.11 .venv-lowest
uv pip install --quiet --python .venv-lowest --editable '.[dev]'
exec .venv-lowest/bin/python -m pytest -n 2 "$@"
