#!/usr/bin/env bash
# Set up what is missing, then run every check: `bash scripts/test.sh [-quick] [-strict] [flags of pytest]`.
#   -quick    about a minute: without the tests of verbs, studies, documents and CUDA, and those that start programs
#   -strict   fail where a test is skipped for a reason that tests/support/skips.py does not accept; so does CI=true
#   -missing  only print the Debian packages of the programs that are missing here
# All checks run, whatever the others say; the exit code is 0 when all pass. The versions are those of constraints.txt;
# with UV_CONSTRAINT= PIP_CONSTRAINT= (empty) before it, the newest. `bash scripts/versions.sh renew` renews the file.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root" || exit 1

missing='' apt='' brew=''
need() { # need 'PROGRAM OTHER_NAME…' DEBIAN_PACKAGE BREW_PACKAGE WHAT_IT_TESTS
    local program
    for program in $1; do if command -v "$program" >/dev/null; then return; fi; done
    missing+="  ${1%% *}: $4"$'\n' apt+=" $2"
    [[ " $brew " == *" $3 "* ]] || brew+=" $3"
}
need g++ g++ gcc 'the CUDA kernels, compiled for the CPU'
need 'gcc cc' gcc gcc 'the C reference of the hardware export, surrogates in C'
need node nodejs node 'the arithmetic of the web page'
need "${CHROMIUM:-chromium} chromium-browser google-chrome chrome" chromium google-chrome 'the web page in a browser'
# Debian does not put initdb on the PATH.
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || need initdb postgresql postgresql 'studies on a server'

flags=() quick='' strict=''
if [ "${CI:-}" = true ]; then strict=1; fi
for flag in "$@"; do
    case $flag in
        -quick | --quick) quick=1 ;;
        -strict | --strict) strict=1 ;;
        -missing | --missing) printf '%s\n' "$apt" && exit ;;
        *) flags+=("$flag") ;;
    esac
done
if [ -n "$quick" ]; then
    flags=(-m 'not slow and not not_quick' ${flags[@]+"${flags[@]}"})
    printf 'Takes about a minute on two cores. Left out: tests of verbs, studies, documents\n'
    printf 'and CUDA, and those that start programs.\n'
else
    printf 'Takes about four minutes on two cores; -quick takes about one.\n'
fi
if [ -n "$missing" ]; then
    printf 'Not installed here, with what is not tested therefore%s:\n%s' "${strict:+, which fails the run}" "$missing"
    printf 'To install them: apt-get install%s\n             or: brew install%s\n' "$apt" "$brew"
fi
printf '\n'

export UV_CONSTRAINT="${UV_CONSTRAINT-constraints.txt}" PIP_CONSTRAINT="${PIP_CONSTRAINT-constraints.txt}"
python=$(bash scripts/setup.sh dev) || exit 1
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" SNN_MNIST_STRICT=$strict

failed=
check() { # check NAME COMMAND…
    local name=$1
    shift
    printf '== %s\n' "$name"
    if "$@"; then printf '== %s: passed\n\n' "$name"; else printf '== %s: FAILED\n\n' "$name"; failed="$failed $name"; fi
}
check ruff "$python" -m ruff check .
check format "$python" -m ruff format --check .
check mypy "$python" -m mypy
check pytest "$python" -m pytest -n 2 ${flags[@]+"${flags[@]}"}
if [ -n "$failed" ]; then
    printf 'failed:%s\n' "$failed"
    exit 1
fi
printf 'all checks passed\n'
