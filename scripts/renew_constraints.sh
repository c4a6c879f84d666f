#!/usr/bin/env bash
# Write constraints.txt: the newest versions, for every Python and system, that CI and contributors test with.
# Needs uv. Run the checks on them (`bash scripts/test.sh`) before you commit the file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
compile=(uv pip compile --quiet --universal --upgrade --no-header --no-annotate --no-emit-index-url --extra dev)
UV_CONSTRAINT='' UV_FIND_LINKS='' "${compile[@]}" pyproject.toml --output-file constraints.txt
printf 'constraints.txt: %s packages\n' "$(wc -l <constraints.txt)"
