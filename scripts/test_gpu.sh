#!/usr/bin/env bash
# Every test that needs a GPU, then compute-sanitizer where it is installed; ends with a short table.
#
#   bash scripts/test_gpu.sh [flags of pytest]
#
#   SNN_MNIST_GPU_PYTHON  a Python that has torch, CuPy and pytest (default: the environment of scripts/setup.sh)
#   SNN_MNIST_EXTRAS      the CuPy to install there: cuda13 (default) or cuda12
#
# The exit code is 0 when tests ran, none failed, and the sanitizer found nothing.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${SNN_MNIST_GPU_PYTHON:-}
if [ -z "$python" ]; then
    extra=cuda13
    case " ${SNN_MNIST_EXTRAS:-} " in *" cuda12 "*) extra=cuda12 ;; esac
    python=$(bash "$root/scripts/setup.sh" dev "$extra") || exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$python" -m pytest -m gpu --junitxml="$folder/tests.xml" "$@" || true

# Two small tests, one launch of each kernel, under the checkers of memory and of races in shared memory.
small=(
    tests/test_cuda_gpu.py::test_start_up_check
    "tests/test_cuda_gpu.py::test_multi_step_module_beyond_a_block[129]"
)
for tool in memcheck racecheck; do
    if ! command -v compute-sanitizer >/dev/null; then
        printf '%s\tnot run: compute-sanitizer is not installed\n' "$tool"
    elif compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
        "$python" -m pytest -q -p no:cacheprovider "${small[@]}" >"$folder/$tool.log" 2>&1 &&
        grep -q '^2 passed' "$folder/$tool.log"; then
        printf '%s\tclean\n' "$tool"
    else
        printf '%s\tFAILED: %s\n' "$tool" "$(grep -E 'ERROR SUMMARY|Error|passed|failed' "$folder/$tool.log" | tail -n 1)"
        cp "$folder/$tool.log" "$root/sanitizer-$tool.log"
    fi
done >"$folder/sanitizer.txt"

"$python" "$root/scripts/gpu_table.py" "$folder/tests.xml" "$folder/sanitizer.txt"
