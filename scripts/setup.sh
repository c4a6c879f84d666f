#!/usr/bin/env bash
# Make the virtual environment and install snn_mnist into it, with the extras named as arguments. Prints the path of its
# Python on stdout, all else on stderr; returns at once when nothing changed.
#   SNN_MNIST_EXTRAS  more extras, such as "cuda12 nir"
#   SNN_MNIST_VENV    the virtual environment (default: .venv in the project)
#   SNN_MNIST_PYTHON  the Python to make it with (default: the first of python3.13, 3.12, 3.11, python3)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SNN_MNIST_VENV:-$root/.venv} more=${SNN_MNIST_EXTRAS:-}
case $venv in /* | ?:*) ;; *) venv=$PWD/$venv ;; esac
case ${OSTYPE:-} in msys* | cygwin*) bin=$venv/Scripts ;; *) bin=$venv/bin ;; esac
python=$bin/python stamp=$venv/.snn_mnist # the stamp: checksum of pyproject.toml, then the extras installed
cd "$root"
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
{ read -r _ _ before <"$stamp"; } 2>/dev/null || before=
extras=$(echo $(printf '%s\n' "$@" ${more//,/ } $before | sort -u)) # those installed stay
known=$(sed -n '/^\[project.opt/,/^\[/p' pyproject.toml)
for extra in $extras; do grep -q -- "^$extra = " <<<"$known" || die "pyproject.toml has no extra $extra"; done
case $extras in *cuda12*cuda13*) die "cuda12 and cuda13 exclude each other; to change, delete $venv" ;; esac
wanted="$(cksum <pyproject.toml) $extras"
exit_if_done() { [ "$(cat "$stamp" 2>&1)" != "$wanted" ] || ! "$python" -c '' || { echo "$python"; exit; }; }
exit_if_done; mkdir -p "$(dirname "$venv")"
if command -v flock >/dev/null && exec 9>"$venv.lock" && ! flock -n 9; then
    say "another set-up of $venv is running: waiting for it"; flock 9; exit_if_done
fi

uv=$(command -v uv) || uv=
if ! "$python" -c '' 2>/dev/null; then
    [ ! -e "$venv" ] || [ -f "$venv/pyvenv.cfg" ] || rmdir "$venv" || die "$venv is no virtual environment"
    for base in "${SNN_MNIST_PYTHON:-python3.13}" python3.12 python3.11 python3 ''; do
        ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
        [ -z "${SNN_MNIST_PYTHON:-}" ] || die "SNN_MNIST_PYTHON=$base is no Python 3.11 or newer"
    done
    [ -n "$base" ] && rm -rf "$venv" || die "no Python 3.11 or newer found; install one, or set SNN_MNIST_PYTHON"
    if [ -n "$uv" ]; then "$uv" venv -q --seed --python "$base" "$venv" >&2; else "$base" -m venv "$venv" >&2; fi ||
        { rm -rf "$venv"; die "no environment can be made (see above); on Debian: apt install ${base##*/}-venv"; }
fi
[ -n "$uv" ] || ! "$python" -m pip install -q --disable-pip-version-check uv 2>/dev/null || uv=$bin/uv
backend= # PyTorch's own index has builds without CUDA and for older CUDA releases, the package index has one
if [ -n "$uv" ] && [[ $extras != *cuda* ]]; then
    backend=--torch-backend=auto
    UV_HTTP_RETRIES=0 UV_HTTP_TIMEOUT=5 "$uv" pip compile -q --no-deps $backend - <<<torch >/dev/null 2>&1 ||
        { backend=; say "PyTorch's index can't be reached: taking the package index's build (on Linux for CUDA: 3 GB)"; }
fi
install() { # by pip where uv fails: mirrors and certificates are settings of their own
    if [ -n "$uv" ] && "$uv" pip install -q --python "$python" --compile-bytecode $backend "$@" >&2; then return; fi
    [ -z "$uv" ] || say "uv failed (see above): trying pip"
    "$python" -m pip install -q --disable-pip-version-check "$@" >&2 || die "the packages can't be installed (see above)"
}
project=(--editable ".${extras:+[${extras// /,}]}") cuda=$(sed -n 's/.*cuda\(1.\).*/\1/p' <<<"$extras")
fit() { "$python" -c "import torch, torchvision; assert '$cuda' in str(torch.version.cuda), torch.version.cuda" >&2; }
say "installing snn_mnist${project[1]#.}: a while, once" && install "${project[@]}"
if ! fit; then
    say "torch, torchvision${cuda:+ and CUDA $cuda} do not fit together (see above): installing all anew"
    PIP_FIND_LINKS=/none install --force-reinstall "${project[@]}" # without local wheels, which mix builds
    fit || die "torch and torchvision still do not fit together (see above); delete $venv and try again"
fi
echo "$wanted" >"$stamp"
say "done; in your terminal, first: source $bin/activate" && echo "$python"
