#!/usr/bin/env bash
# Set up what is missing, then train on MNIST: `bash scripts/train.sh [flags of train]`; see scripts/train.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
printf 'Takes about 2 minutes on 2 cores the first time, then 7 seconds without flags.\n' >&2
python=$(bash "$root/scripts/setup.sh")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/scripts/train.py" "$@"
