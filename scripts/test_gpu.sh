#!/usr/bin/env bash
# Every test that needs a GPU, then compute-sanitizer where it is installed.
#
#   bash scripts/test_gpu.sh [flags of pytest]
#
#   SNN_MNIST_GPU_PYTHON  a Python that has CuPy, pytest and what the program needs (default: the environment of
#                         scripts/setup.sh)
#   SNN_MNIST_EXTRAS      the CuPy to install there: cuda13 or cuda12 (default: the one that is there, else cuda13);
#                         compute-sanitizer comes with it
#
# Times and accuracy are measured by `python scripts/gpu_marks.py OUT_DIR`.
# The exit code is 0 when tests ran, none failed, and the sanitizer found nothing.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${SNN_MNIST_GPU_PYTHON:-}
if [ -z "$python" ]; then
    if [ ! -e /proc/driver/nvidia/version ] && ! command -v nvidia-smi >/dev/null; then
        printf 'GPU tests: nothing was tested: no NVIDIA driver here\n'
        exit 1
    fi
    cuda=13
    if grep -qw cuda12 "${SNN_MNIST_VENV:-$root/.venv}/.snn_mnist" 2>/dev/null; then cuda=12; fi # what is there already
    case " $(printf '%s' "${SNN_MNIST_EXTRAS:-}" | tr ',' ' ') " in *" cuda12 "*) cuda=12 ;; *" cuda13 "*) cuda=13 ;; esac
    python=$(bash "$root/scripts/setup.sh" dev "cuda$cuda" "sanitizer$cuda") || exit 1
fi
sanitizer=$(command -v compute-sanitizer) || sanitizer=$("$python" - <<'PYTHON'
import glob, importlib.util
package = importlib.util.find_spec("nvidia")
for folder in (package.submodule_search_locations or []) if package else []:
    print(*glob.glob(f"{folder}/*/bin/compute-sanitizer")[:1])
PYTHON
)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

failed=0
"$python" -m pytest -m gpu tests/network tests/kernels -rsP --durations=10 "$@" | tee "$folder/tests.txt" || failed=1
grep -q ' passed' "$folder/tests.txt" || { printf 'GPU tests: nothing was tested\n' && failed=1; }

# Two small tests, one launch of each kernel, under the checkers of memory, of races in shared memory and of barriers;
# the last two look at our kernels alone.
small=(
    tests/network/test_cuda_gpu.py::test_start_up_check
    "tests/kernels/test_parity.py::test_multi_step_neurons_beyond_a_block[gpu-129]"
)
ours=()
for kernel in fused contract encode_spikes forward backward; do ours+=(--kernel-name "kns=$kernel"); done
why_not=
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || why_not='no CUDA device'
[ -n "$sanitizer" ] || why_not='compute-sanitizer is not installed (pip install nvidia-cuda-sanitizer-api, or -cu12)'
for tool in memcheck racecheck synccheck; do
    checks=("${ours[@]}")
    # All kernels, but not what torch and CuPy try and handle themselves: they look up functions that a driver lacks.
    if [ "$tool" = memcheck ]; then checks=(--report-api-errors no); fi
    if [ -n "$why_not" ]; then
        printf '%s: not run: %s\n' "$tool" "$why_not"
    elif "$sanitizer" --tool "$tool" "${checks[@]}" --error-exitcode 9 --target-processes all \
        "$python" -m pytest -q -p no:cacheprovider "${small[@]}" >"$folder/$tool.log" 2>&1 &&
        grep -q '^2 passed' "$folder/$tool.log"; then
        printf '%s: clean\n' "$tool"
    else
        last=$(grep -E 'ERROR SUMMARY|Error|passed|failed' "$folder/$tool.log" | tail -n 1)
        failed=1
        printf '%s: FAILED: %s\n' "$tool" "$last"
        cp "$folder/$tool.log" "$root/sanitizer-$tool.log"
    fi
done
exit $failed
