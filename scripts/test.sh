#!/usr/bin/env bash
# Set up what is missing, then run every check: `bash scripts/test.sh [flags of pytest]`.
# All of them run, whatever the others say; the exit code is 0 when all pass. The versions are those of constraints.txt;
# with UV_CONSTRAINT= PIP_CONSTRAINT= (empty) before it, the newest. `bash scripts/renew_constraints.sh` renews the file.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
export UV_CONSTRAINT="${UV_CONSTRAINT-constraints.txt}" PIP_CONSTRAINT="${PIP_CONSTRAINT-constraints.txt}"
python=$(bash scripts/setup.sh dev) || exit 1
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
