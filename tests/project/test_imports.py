"""Imports run one way through the rooms of the package, also lazily and for type checkers alone."""

import subprocess
import sys

import pytest
import rooms  # of scripts/, which conftest.py has put on the path

from tests.conftest import ROOT

LIGHT = ["errors", "kernels", "kernels.formulas", "settings.config", "storage.checkpoint", "storage.atomic_files"]
LIGHT += ["__main__"]  # import the standard library only, so that `--help` is instant


def test_imports_run_one_way_and_in_no_circle():
    files = rooms.modules(ROOT)
    assert rooms.problems({module: rooms.imports(module, files) for module in files}) == []
    order = [*rooms.ALLOWED]
    for room, below in rooms.ALLOWED.items():
        assert all(order.index(room) < order.index(other) for other in below), room


def test_light_modules_import_the_standard_library_only():
    names = ", ".join(f"snn_mnist.{module}" for module in LIGHT)
    code = f"import sys; before = {{*sys.modules}}; sys.path.insert(0, {str(ROOT)!r}); import {names}\n"
    code += "print(*{m.partition('.')[0] for m in {*sys.modules} - before})"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) - set(sys.stdlib_module_names) == {"snn_mnist"}


def test_the_top_of_the_package_is_a_dozen_names():
    names = {path.name for path in (ROOT / "snn_mnist").iterdir() if path.name != "__pycache__"}
    assert names <= {f"{name}.py" for name in ("__init__", "__main__", "errors", "terminal")} | {"py.typed"} | (
        {name for name in rooms.ALLOWED if (ROOT / "snn_mnist" / name).is_dir()}
    )
    assert len(names) <= 17


# ---- scripts/rooms.py on a small package ----

TREE = {"__init__": "", "errors": "", "core/__init__": "", "network/__init__": "", "kernels/__init__": ""}
TREE |= {"kernels/formulas": "import snn_mnist.errors", "network/engine": "from snn_mnist.kernels import formulas"}


def printed(root, tree, capsys):
    """The exit code, and what is printed of a package with these files."""
    for name, text in tree.items():
        file = root / "snn_mnist" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    code = rooms.main(root)
    return code, capsys.readouterr().out.splitlines()


def test_rooms_are_printed_with_their_arrows(tmp_path, capsys):
    code, lines = printed(tmp_path, TREE, capsys)
    words = [line.split() for line in lines]
    assert code == 0 and ["network", "2", "files", "1", "lines", "─►", "kernels", "1"] in words
    assert ["core", "1", "files", "0", "lines"] in words
    assert lines[-2:] == ["2 arrows between rooms, of 2 imports", "no arrow upwards, no circle"]


@pytest.mark.parametrize(
    "line",
    [
        "import snn_mnist.network.engine as engine",
        "def later():\n    from snn_mnist.network import engine",
        "if TYPE_CHECKING:\n    from snn_mnist.network.engine import Engine",
        "ENGINE = 'snn_mnist.network.engine:numba_engine'",
    ],
)
def test_an_import_upwards_or_in_a_circle_is_found_wherever_it_stands(tmp_path, capsys, line):
    code, lines = printed(tmp_path, TREE | {"core/neuron": line}, capsys)
    assert code == 1 and lines[-1] == "upwards: snn_mnist.core.neuron → snn_mnist.network.engine"
    circle = {"core/neuron": "", "network/device": line, "network/engine": "import snn_mnist.network.device"}
    code, lines = printed(tmp_path, TREE | circle, capsys)
    names = lines[-1].removeprefix("circle: snn_mnist.network.").split(" → snn_mnist.network.")
    assert code == 1 and len(names) == 3 and {*names} == {"device", "engine"}


def test_a_folder_that_gathers_its_modules_is_no_circle(tmp_path, capsys):
    gathered = {"network/__init__": "from snn_mnist.network.engine import run"}
    assert printed(tmp_path, TREE | gathered | {"network/engine": "import snn_mnist.network"}, capsys)[0] == 0
