#!/usr/bin/env bash
# Build the sdist, from it the wheel, install the wheel alone with pip and run every verb of it in another directory.
#
#   bash scripts/check_wheel.sh [FOLDER]   works in FOLDER, which must be empty or absent (default: a temporary one)
#   SNN_MNIST_PYTHON                       the Python whose pip installs the wheel (default: python3)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
builder=$(bash "$root/scripts/setup.sh" dev)
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
[ -z "$(ls -A "$folder")" ] || { printf 'check_wheel: error: %s is not empty\n' "$folder" >&2; exit 1; }
[ $# -gt 0 ] || trap 'rm -rf "$folder"' EXIT
folder=$(cd "$folder" && pwd)
unset PYTHONPATH

(cd "$root" && "$builder" -m hatchling build --target sdist --directory "$folder/dist")
tar -xzf "$folder"/dist/*.tar.gz -C "$folder"
(cd "$folder"/snn_mnist-*/ && "$builder" -m hatchling build --target wheel --directory "$folder/dist")
"${SNN_MNIST_PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" --version
"$folder/env/bin/pip" install --quiet "$folder"/dist/*.whl
"$folder/env/bin/pip" check
du -sm "$folder/env"

mkdir "$folder/elsewhere"
cd "$folder/elsewhere"
run() { # run WORDS…: a verb of the installed program, quietly when all is well
    printf 'snn_mnist %s\n' "$*"
    "$folder/env/bin/snn_mnist" "$@" >output.txt 2>&1 || { cat output.txt; exit 1; }
}
network=logs/digits
run --help
run info
run train -config digits -epochs 2 -name digits
run train -config best -dataset digits -epochs 1 -limit-batches 2
run train -resume "$network" -epochs 3
run eval -resume "$network" -repeats 2 -json eval.json
run trace -resume "$network" -index 0
run plot "$network"
run convert -dataset digits -epochs 2 -lr 5e-3 -name converted
run runs
"$folder/env/bin/python" -c 'import json; print("accuracy", json.load(open("eval.json"))["accuracy"])'
"$folder/env/bin/python" - <<'PYTHON'
from PIL import Image, ImageDraw
picture = Image.new("L", (60, 80), 255)
ImageDraw.Draw(picture).line((30, 10, 30, 70), fill=0, width=8)
picture.save("one.png")
PYTHON
run predict one.png -resume "$network"
for format in hardware html; do run export -resume "$network" -format "$format" -no-report; done
"$folder/env/bin/pip" install --quiet 'nir>=1.0.7'
run export -resume "$network" -format nir -out digits.nir -verify
run import digits.nir -out back.pth
run eval -resume back.pth -dataset digits -repeats 1
"$folder/env/bin/pip" install --quiet "optuna>=4.9"
run sweep -dataset digits -tau 1.1,2 -trials 2 -epochs 2 -val 200
run bench -dataset digits -repeats 2
printf 'the wheel works: every verb ran\n'
