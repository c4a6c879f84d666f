#!/usr/bin/env bash
# Set up what is missing, then train on MNIST: `bash scripts/train.sh [flags of train]`.
# Without flags it runs configs/quick.yaml. Where MNIST is neither found nor can be downloaded, and no data set
# was asked for, it says so and trains on the bundled digits.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$root/scripts/setup.sh")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

names() { # names FLAG ARGUMENTS…: is -FLAG among the arguments?
    local flag=$1 argument
    shift
    for argument in "$@"; do
        case $argument in "-$flag" | "--$flag" | "-$flag="* | "--$flag="*) return 0 ;; esac
    done
    return 1
}

if names config "$@" || names resume "$@"; then # these bring their own settings
    exec "$python" -m snn_mnist train "$@"
fi
settings=$root/configs/quick.yaml
if ! names dataset "$@" && ! names help "$@" && ! names h "$@"; then
    found=0
    "$python" - "$@" <<'PYTHON' || found=$?
import sys

from snn_mnist.cli.parser import read_options
from snn_mnist.data import idx
from snn_mnist.errors import SNNError
from snn_mnist.runs.config import Config

try:
    idx.ensure("mnist", read_options(Config, sys.argv[1:]).data_dir)
except idx.DataMissing as fault:
    print(f"\n{fault}", file=sys.stderr)
    sys.exit(3)
except SNNError:
    pass  # train says what is wrong
PYTHON
    if [ "$found" = 3 ]; then
        printf '\nTraining on the bundled digits instead: real handwriting, but 1,437 small images, not MNIST.\n\n' >&2
        settings=$root/configs/digits.yaml
    fi
fi
exec "$python" -m snn_mnist train -config "$settings" "$@"
