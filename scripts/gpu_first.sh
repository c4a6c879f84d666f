#!/usr/bin/env bash
# What to learn first on a new GPU, in under nine minutes; each part has its own time limit, so that a failure leaves the
# rest: `bash scripts/gpu_first.sh OUT`. Writes OUT/NN-name.txt for each part and prints a line a part; exit code 1 if one
# failed. After it: scripts/test_gpu.sh (every GPU test), scripts/gpu_marks.py (the marks of the documentation).
#   SNN_MNIST_GPU_PYTHON  a Python with torch, CuPy, numba and pytest (default: python3)
#   SNN_MNIST_DATA        the directory that contains MNIST/raw
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:?usage: bash scripts/gpu_first.sh OUT}
mkdir -p "$out" && out=$(cd "$out" && pwd)
cd "$root" || exit 1
python=${SNN_MNIST_GPU_PYTHON:-python3}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
gpu_tests="tests/network tests/kernels"
failed=0 number=0
part() { # part NAME SECONDS COMMAND…
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    number=$((number + 1))
    local file
    file=$(printf '%s/%02d-%s.txt' "$out" "$number" "$name")
    timeout -k 5 "$limit" bash -c '"$@"' - "$@" >"$file" 2>&1
    local code=$?
    [ $code = 0 ] || failed=1
    printf '%-12s exit code %3d  %3d s  %s\n' "$name" $code $((SECONDS - started)) "$(grep -v '^ *$' "$file" | tail -n 1)"
}
tests() { "$python" -m pytest -q -p no:cacheprovider -m gpu $gpu_tests "$@"; }
train() { "$python" -m snn_mnist train -device cuda -backend cupy -out-dir "$out/runs" -no-figures "$@"; }
sanitized() { compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all "$python" -m pytest -q \
    -p no:cacheprovider tests/network/test_cuda_gpu.py::test_start_up_check; }
export -f tests train sanitized
export python out gpu_tests
part versions 40 "$python" -m snn_mnist info
CUDA_LAUNCH_BLOCKING=1 part start-up 60 tests -k test_start_up_check
part bits 70 tests -k "bit_for_bit or circumstances or chunks"
part speed 60 "$python" -m snn_mnist bench -device cuda
part ten 40 train -epochs 10
part ten-amp 40 train -epochs 10 -amp
part racecheck 50 sanitized racecheck
part memcheck 50 sanitized memcheck
part hundred 60 train -epochs 100
part resume 40 tests -k "resumed and not amp"
exit $failed
