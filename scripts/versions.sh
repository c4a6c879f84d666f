#!/usr/bin/env bash
# The versions of the packages, by uv:
#   bash scripts/versions.sh renew                     write constraints.txt: the newest for every Python and system, which
#                                                      CI and contributors test with; run scripts/test.sh before you commit
#   bash scripts/versions.sh lowest [flags of pytest]  run the tests with the lowest that pyproject.toml allows, on Python
#                                                      3.11, in .venv-lowest (about 5 GB), which may be deleted afterwards
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export UV_CONSTRAINT='' UV_FIND_LINKS=''
case ${1:-} in
    renew)
        uv pip compile -q --universal --upgrade --no-header --no-annotate --no-emit-index-url --extra dev pyproject.toml \
            --output-file constraints.txt
        printf 'constraints.txt: %s packages\n' "$(wc -l <constraints.txt)"
        ;;
    lowest)
        uv venv --quiet --clear --python 3.11 .venv-lowest
        uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[dev]'
        PYTHONPATH=$PWD exec .venv-lowest/bin/python -m pytest -n 2 "${@:2}"
        ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
