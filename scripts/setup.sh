#!/usr/bin/env bash
# Make the virtual environment and install snn_mnist into it, with the extras named as arguments. Prints the path of its
# Python on stdout, all else on stderr; returns at once when nothing changed. An environment is made anew when its set-up
# was interrupted, when it was made in another place (a moved or copied checkout), or when its Python does not run.
#   SNN_MNIST_EXTRAS  more extras, such as "cuda12 nir"
#   SNN_MNIST_VENV    the virtual environment (default: .venv in the project)
#   SNN_MNIST_PYTHON  the Python to make it with (default: the first of python3.13, 3.12, 3.11, python3)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${SNN_MNIST_VENV:-$root/.venv} more=${SNN_MNIST_EXTRAS:-}
case $venv in /* | ?:*) ;; *) venv=$PWD/$venv ;; esac
case ${OSTYPE:-} in msys* | cygwin*) bin=$venv/Scripts ;; *) bin=$venv/bin ;; esac
python=$bin/python lock=$venv.lock # the lock is empty, except from the start of a set-up to its end
stamp=$venv/.snn_mnist             # lines: checksum of pyproject.toml and extras installed; environment; project
cd "$root"
say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
{ read -r _ _ before <"$stamp"; } 2>/dev/null || before=
extras=$(echo $(printf '%s\n' "$@" ${more//,/ } $before | sort -u)) # those installed stay
trap "exit 130" INT # a child that handles Ctrl-C itself, as pip does, would let the set-up go on
known=$(sed -n '/^\[project.opt/,/^\[/p' pyproject.toml)
for extra in $extras; do grep -q -- "^$extra = " <<<"$known" || die "pyproject.toml has no extra $extra"; done
case $extras in *cuda12*cuda13*) die "cuda12 and cuda13 exclude each other; to change, delete $venv" ;; esac
system=$(uname -sm)
case "$system $extras" in
    Linux*x86_64*cuda* | Linux*aarch64*cuda13* | MINGW*cuda* | MSYS*cuda* | CYGWIN*cuda*) ;;
    *cuda*) die "no CUDA for $system (extras $extras); leave the extra out" ;;
    Darwin\ x86_64*) die "PyTorch 2.6 and newer are not made for Macs with Intel processors" ;;
esac
wanted="$(cksum <pyproject.toml) $extras"$'\n'"$venv"$'\n'"$root"
runs() { "$python" -c '' 2>/dev/null; }
exit_if_done() { if [ "$(cat "$stamp" 2>&1)" = "$wanted" ] && [ ! -s "$lock" ] && runs; then echo "$python"; exit; fi; }
exit_if_done
mkdir -p "$(dirname "$venv")" && exec 9>>"$lock"
if command -v flock >/dev/null && ! flock -n 9; then
    say "another set-up of $venv is running: waiting for it"
    flock 9
    exit_if_done
fi
[ ! -e "$venv" ] || [ -f "$venv/pyvenv.cfg" ] || [ -s "$lock" ] || rmdir "$venv" || die "$venv is no virtual environment"
made_in=$(sed -n 2p "$stamp" 2>/dev/null) || made_in=$venv # not by this script: it is used as it is
anew=
if [ -s "$lock" ]; then
    anew='the last set-up was interrupted'
elif [ -e "$venv" ] && [ "$made_in" != "$venv" ]; then
    anew='it was made in another place'
elif ! runs; then
    anew='its Python does not run'
fi
uv=$(command -v uv) || uv=
cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}
{ mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null || export UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
if [ -n "$anew" ]; then
    for base in "${SNN_MNIST_PYTHON:-python3.13}" python3.12 python3.11 python3 ''; do
        ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
        [ -z "${SNN_MNIST_PYTHON:-}" ] || die "SNN_MNIST_PYTHON=$base is no Python 3.11 or newer"
    done
    [ -n "$base" ] || die "no Python 3.11 or newer; install one, or set SNN_MNIST_PYTHON"
    [ ! -e "$venv" ] || say "making $venv anew: $anew"
    echo 'being set up, or interrupted' >"$lock"
    rm -rf "$venv"
    if [ -n "$uv" ]; then "$uv" venv -q --seed --python "$base" "$venv" >&2; else "$base" -m venv "$venv" >&2; fi ||
        { rm -rf "$venv"; die "no environment made (see above); on Debian: apt install ${base##*/}-venv"; }
fi
echo 'being set up, or interrupted' >"$lock"
[ -n "$uv" ] || ! "$python" -m pip install -q --disable-pip-version-check uv 2>/dev/null || uv=$bin/uv

# PyTorch's own index has builds without CUDA and for older CUDA releases; the package index has one.
index=https://download.pytorch.org/whl/cpu
for_uv=--torch-backend=auto for_pip=--extra-index-url=$index
probe='import sys, urllib.request as web; web.urlopen(web.Request(sys.argv[1], method="HEAD"), timeout=5)'
if [[ $extras == *cuda* ]]; then
    for_uv='' for_pip=''
elif ! "$python" -c "$probe" $index/torch/ 2>/dev/null; then
    for_uv='' for_pip=''
    say "PyTorch's own server can't be reached; installing from PyPI instead"
    say "(on Linux the CUDA build, a download of 3 GB)"
elif [ -e /proc/driver/nvidia/version ]; then
    for_pip=''
fi
install() { # by pip where uv fails: mirrors and certificates are settings of their own
    if [ -n "$uv" ] && "$uv" pip install -q --python "$python" --compile-bytecode $for_uv "$@" >&2; then return; fi
    [ -z "$uv" ] || say "uv failed (see above): trying pip"
    "$python" -m pip install -q --disable-pip-version-check $for_pip "$@" >&2 && return
    [ ! -e "$stamp" ] || : >"$lock" # nothing was added to an environment that worked
    die "the packages can't be installed (see above)"
}
project=(--editable ".${extras:+[${extras// /,}]}") cuda=$(sed -n 's/.*cuda\(1.\).*/\1/p' <<<"$extras")
fit() { "$python" -c "import torch, torchvision; assert '$cuda' in str(torch.version.cuda), torch.version.cuda" >&2; }
say "installing snn_mnist${project[1]#.}: a while, once" && install "${project[@]}"
if ! fit; then
    say "torch, torchvision${cuda:+, CUDA $cuda} do not match (see above): reinstalling"
    PIP_FIND_LINKS=/none install --force-reinstall "${project[@]}" # without local wheels, which mix builds
    fit || die "torch and torchvision still do not match (see above); delete $venv and try again"
fi
echo "$wanted" >"$stamp"
: >"$lock"
say "done; in your terminal, first: source '${bin//\'/\'\\\'\'}/activate'" && echo "$python"
