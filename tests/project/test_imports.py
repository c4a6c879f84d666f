"""Imports run one way through the rooms of the package, also lazily and for type checkers alone."""

import os
import subprocess
import sys

import pytest
import rooms

from tests.conftest import ROOT

LIGHT = [  # modules that import the standard library only, so that `--help` is instant
    "snn_mnist.errors", "snn_mnist.kernels.formulas", "snn_mnist.kernels", "snn_mnist.settings.config",
    "snn_mnist.storage.directory", "snn_mnist.storage.atomic_files", "snn_mnist.cli.main",
]  # fmt: skip


def test_imports_run_one_way_and_in_no_circle():
    files = rooms.modules(ROOT)
    assert rooms.problems({module: rooms.imports(module, files) for module in files}) == []


def test_the_table_itself_runs_one_way():
    order = [*rooms.ALLOWED]
    for room, below in rooms.ALLOWED.items():
        assert all(order.index(room) < order.index(other) for other in below), room


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_the_standard_library_only(module: str):
    code = f"import sys, {module}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    loaded = set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())
    empty = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True
    )
    foreign = loaded - set(sys.stdlib_module_names) - {m.partition(".")[0] for m in empty.stdout.split()}
    assert foreign == {"snn_mnist"}


def test_the_top_of_the_package_is_a_dozen_names():
    names = {path.name for path in (ROOT / "snn_mnist").iterdir() if path.name != "__pycache__"}
    assert names <= {f"{name}.py" for name in ("__init__", "__main__", "errors", "terminal")} | {"py.typed"} | (
        {name for name in rooms.ALLOWED if (ROOT / "snn_mnist" / name).is_dir()}
    )
    assert len(names) <= 17
