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
profile() { # microseconds of each kernel of replayed training steps, and the gaps between them
    "$python" - <<'PYTHON'
import torch
from torch.profiler import ProfilerActivity, profile

from snn_mnist.network.fused_steps import FusedSteps
from snn_mnist.network.poisson import SpikeKey
from tests.network.test_cuda_gpu import digits_like, on_device
from tests.support.kernel_checks import spec_of, training_of

steps, weight = 512, torch.nn.Parameter(0.03 * torch.randn(10, 784, device="cuda"))
adam = torch.optim.Adam([weight], fused=True, capturable=True)
training = training_of(weight, adam, steps, 64, 100, torch.amp.GradScaler("cuda", enabled=False))
labels = torch.eye(10, device="cuda")[torch.arange(steps * 64) % 10]
run = FusedSteps(weight, on_device(digits_like(steps * 64)), labels, spec_of(), training)
for epoch in range(3):
    run.begin(SpikeKey(0, 0, epoch), torch.randperm(steps * 64), [1e-3] * steps)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run.run(0, steps)
        torch.cuda.synchronize()
events = [event for event in seen.events() if event.device_type.name == "CUDA"]
busy = sum(event.time_range.elapsed_us() for event in events)
span = max(event.time_range.end for event in events) - min(event.time_range.start for event in events)
print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=20))
print(f"a step: {span / steps:.1f} us, of which kernels {busy / steps:.1f} and gaps {(span - busy) / steps:.1f}")
PYTHON
}

export -f tests train sanitized profile
export python out gpu_tests
part versions 40 "$python" -m snn_mnist info
CUDA_LAUNCH_BLOCKING=1 part start-up 60 tests -k test_start_up_check
part bits 70 tests -k "bit_for_bit or circumstances or chunks"
part speed 40 tests -rP -k test_speed
part profile 40 profile
part ten 40 train -epochs 10
part ten-amp 40 train -epochs 10 -amp
part racecheck 50 sanitized racecheck
part memcheck 50 sanitized memcheck
part hundred 60 train -epochs 100
part resume 40 tests -k "resumed and not amp"
exit $failed
