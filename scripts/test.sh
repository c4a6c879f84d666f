#!/usr/bin/env bash
# Set up what is missing, then run every check: `bash scripts/test.sh [flags of pytest]`.
# All of them run, whatever the others say; the exit code is 0 when all pass.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$root/scripts/setup.sh" dev) || exit 1
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

failed=
check() { # check NAME COMMAND…
    local name=$1
    shift
    printf '== %s\n' "$name"
    if "$@"; then printf '== %s: passed\n\n' "$name"; else printf '== %s: FAILED\n\n' "$name"; failed="$failed $name"; fi
}
check ruff "$python" -m ruff check .
check format "$python" -m ruff format --check .
check mypy "$python" -m mypy
check pytest "$python" -m pytest -n 2 "$@"
if [ -n "$failed" ]; then
    printf 'failed:%s\n' "$failed"
    exit 1
fi
printf 'all checks passed\n'
