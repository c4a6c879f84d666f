#!/usr/bin/env bash
# Make the virtual environment and install snn_mnist into it, with the extras named as arguments.
# Prints the path of its Python on stdout, all else on stderr; returns at once when nothing changed.
#
#   SNN_MNIST_VENV       the virtual environment (default: .venv in the project)
#   SNN_MNIST_EXTRAS     more extras to install, such as "cuda13 nir"
#   SNN_MNIST_PYTHON     the Python to make it with (default: the first of python3.13 … 3.11, python3)
#   SNN_MNIST_INSTALLER  uv or pip (default: uv where it is there or pip can install it, else pip)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${SNN_MNIST_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
stamp=$venv/.snn_mnist
here=$PWD
wanted="$* $(printf '%s' "${SNN_MNIST_EXTRAS:-}" | tr ',' ' ')"

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: error: $*"; exit 1; }
venv_python() {
    local windows=$venv/Scripts/python.exe
    if [ -x "$windows" ]; then printf '%s' "$windows"; else printf '%s' "$venv/bin/python"; fi
}
runs() { "$@" >/dev/null 2>&1; }

# ---- the extras asked for: pyproject.toml has them, and those for CUDA 12 and 13 exclude each other
known=$(sed -n '/^\[project.optional-dependencies\]/,/^\[/s/^\([a-z0-9_]*\) = .*/\1/p' "$root/pyproject.toml" |
    tr '\n' ' ')
for extra in $wanted; do
    case " $known" in
        *" $extra "*) ;;
        *) die "there is no extra $extra; give some of: $known" ;;
    esac
done
other= # the CUDA release whose packages go
case " $wanted " in
    *12\ *13\ * | *13\ *12\ *) die "extras for CUDA 12 and 13 exclude each other; give those of one of them" ;;
    *12\ *) other=13 sanitizer=nvidia-cuda-sanitizer-api ;;
    *13\ *) other=12 sanitizer=nvidia-cuda-sanitizer-api-cu12 ;;
esac

# ---- nothing changed? The stamp holds the checksum of pyproject.toml, then the extras installed.
checksum=$(cksum <"$root/pyproject.toml")
up_to_date() {
    [ -f "$stamp" ] && runs "$(venv_python)" -c '' || return 1
    [ "$(head -n 1 "$stamp")" = "$checksum" ] || return 1
    for extra in $wanted; do grep -qx -- "$extra" "$stamp" || return 1; done
}
finish() { venv_python; echo; exit 0; }
if up_to_date; then finish; fi

mkdir -p "$(dirname "$venv")"
if command -v flock >/dev/null; then # two scripts started at once: the second waits for the first
    exec 9>"$venv.lock"
    flock 9
    if up_to_date; then finish; fi
fi

# ---- a Python and an installer
fits='import sys; sys.exit(not (3, 11) <= sys.version_info < (4,) or sys.maxsize < 2**32)'
base=
for candidate in ${SNN_MNIST_PYTHON:+"$SNN_MNIST_PYTHON"} python3.13 python3.12 python3.11 python3 python; do
    if runs "$candidate" -c "$fits"; then base=$candidate; break; fi
    [ "$candidate" != "${SNN_MNIST_PYTHON:-}" ] || die "SNN_MNIST_PYTHON=$candidate is no Python 3.11 or newer"
done
installer=${SNN_MNIST_INSTALLER:-}
case $installer in '' | uv | pip) ;; *) die "SNN_MNIST_INSTALLER=$installer; give uv or pip" ;; esac
uv=
if [ "$installer" != pip ] && runs uv --version; then uv=uv; fi
[ -n "$base$uv" ] || die "no Python 3.11 or newer found (tried python3.13, python3.12, python3.11, python3);" \
    "install one from your system's packages or https://www.python.org, or name it by SNN_MNIST_PYTHON"

# ---- the environment
if [ -e "$venv" ] && [ -n "$(ls -A "$venv")" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
    die "$venv exists and is no virtual environment; name another by SNN_MNIST_VENV"
fi
if ! runs "$(venv_python)" -c "$fits"; then
    say "setup: making $venv"
    rm -rf "$venv" # empty, or an environment whose Python is gone
    if [ -n "$uv" ]; then
        uv venv --quiet --seed --python "${base:-3.12}" "$venv" >&2 ||
            die "uv can't make $venv (see above)"
    else
        "$base" -m venv "$venv" >&2 ||
            die "$base can't make $venv (see above); on Debian and Ubuntu: apt install python3-venv"
    fi
fi
python=$(venv_python)
if [ -z "$uv" ] && [ "$installer" != pip ]; then
    runs "$python" -m uv --version || runs "$python" -m pip install --quiet uv || true
    if runs "$python" -m uv --version; then uv=own; elif [ "$installer" = uv ]; then die "pip can't install uv"; fi
fi
runs "$python" -m pip --version || [ -n "$uv" ] || die "$venv has no pip; delete it and run this again"

with_uv() {
    if [ "$uv" = own ]; then "$python" -m uv "$@"; else uv "$@"; fi
}
packages() { # install or uninstall in the environment
    local verb=$1
    shift
    if [ -n "$uv" ]; then # compiled once here, not at the first import of everything
        if [ "$verb" = install ]; then set -- --compile-bytecode "$@"; fi
        with_uv pip "$verb" --quiet --python "$python" "$@" >&2
    elif [ "$verb" = uninstall ]; then
        "$python" -m pip uninstall --quiet --yes "$@" >&2
    else
        "$python" -m pip "$verb" --quiet --disable-pip-version-check "$@" >&2
    fi
}

# ---- the packages
if [ -f "$stamp" ]; then
    before=$(tail -n +2 "$stamp")
    if [ -n "$other" ]; then before=$(printf '%s\n' "$before" | grep -v "$other\$" || true); fi
    wanted="$wanted $(printf '%s' "$before" | tr '\n' ' ')"
fi
if [ -n "$other" ]; then # however they came there
    packages uninstall "cupy-cuda${other}x" "$sanitizer" 2>/dev/null || true
fi
extras=$(printf '%s\n' $wanted | sort -u)
target=".${extras:+[$(printf '%s' "$extras" | tr '\n' ',')]}"
runs "$python" -c 'import torch' || say "setup: PyTorch is large: this takes a while, once"
say "setup: installing snn_mnist${target#.} with $([ -n "$uv" ] && echo uv || echo pip)"
cd "$root"
rm -f "$stamp"
packages install --editable "$target" || die "the packages can't be installed (see above)"

# ---- torch and torchvision must be of one build: a CPU torch under a CUDA torchvision fails at import
pair_fault() { "$python" -c 'import torch, torchvision' 2>&1 >/dev/null | tail -n 1; }
fault=$(pair_fault) || true
if ! runs "$python" -c 'import torch, torchvision'; then
    say "setup: torch and torchvision do not fit together ($fault); installing both from one index"
    packages uninstall torch torchvision
    nowhere=$(mktemp -d)
    # Wheels from a local folder (find-links) are what mixes builds: look at an empty one instead.
    PIP_FIND_LINKS=$nowhere UV_FIND_LINKS=$nowhere packages install torch torchvision || true
    rmdir "$nowhere"
    if ! runs "$python" -c 'import torch, torchvision'; then
        packages uninstall torch torchvision || true
        packages install torch torchvision --index-url https://download.pytorch.org/whl/cpu || true
    fi
    runs "$python" -c 'import torch, torchvision' ||
        die "torch and torchvision still do not fit together ($(pair_fault)); delete $venv and try again," \
            "or install a matching pair into it by hand (https://pytorch.org/get-started/locally)"
fi
printf '%s\n' "$checksum" $extras >"$stamp"
activate=$(dirname "$python")/activate
say "setup: done; in your terminal, first: source $(printf '%q' "${activate#"$here/"}")"
finish
