"""scripts/rooms.py finds an import wherever it stands, and prints the rooms of a small package as they are."""

from itertools import pairwise

import pytest
import rooms

TREE = {
    "__init__": "", "errors": "", "core/__init__": "",
    "kernels/__init__": "", "kernels/formulas": "import snn_mnist.errors\n",
    "network/__init__": "", "network/engine": "from snn_mnist.kernels import formulas\n",
}  # fmt: skip


def rows(root, tree, capsys):
    """The exit code, and what is printed of a package with these files."""
    for name, text in tree.items():
        file = root / "snn_mnist" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    code = rooms.main(root)
    return code, capsys.readouterr().out.splitlines()


def test_rooms_are_printed_with_their_arrows(tmp_path, capsys):
    code, lines = rows(tmp_path, TREE, capsys)
    assert code == 0
    words = [line.split() for line in lines]
    assert ["network", "2", "files", "1", "lines", "─►", "kernels", "1"] in words
    assert ["kernels", "2", "files", "1", "lines", "─►", "errors", "1"] in words
    assert ["core", "1", "files", "0", "lines"] in words
    assert lines[-2:] == ["2 arrows between rooms, of 2 imports", "no arrow upwards, no circle"]


IMPORTS_OF_THE_ENGINE = [
    "from snn_mnist.network import engine",
    "from snn_mnist.network.engine import numba_engine",
    "import snn_mnist.network.engine as engine",
    "def later():\n    from snn_mnist.network import engine",
    "if TYPE_CHECKING:\n    from snn_mnist.network.engine import Engine",
    "ENGINE = 'snn_mnist.network.engine'",
    "ENGINE = 'snn_mnist.network.engine:numba_engine'",
]


@pytest.mark.parametrize("line", IMPORTS_OF_THE_ENGINE)
def test_an_import_upwards_is_found_wherever_it_stands(tmp_path, capsys, line):
    code, lines = rows(tmp_path, TREE | {"core/neuron": line}, capsys)
    assert code == 1
    assert lines[-1] == "upwards: snn_mnist.core.neuron → snn_mnist.network.engine"


@pytest.mark.parametrize("line", IMPORTS_OF_THE_ENGINE)
def test_a_circle_within_a_room_is_found(tmp_path, capsys, line):
    circle = {"network/network": "from snn_mnist.network import device", "network/device": line}
    code, lines = rows(tmp_path, TREE | circle | {"network/engine": "import snn_mnist.network.network"}, capsys)
    assert code == 1
    kind, _, path = lines[-1].partition(": snn_mnist.network.")
    assert kind == "circle"
    names = path.split(" → snn_mnist.network.")
    assert dict(pairwise(names)) == {"network": "device", "device": "engine", "engine": "network"}


def test_a_folder_that_gathers_its_modules_is_no_circle(tmp_path, capsys):
    gathered = {
        "network/__init__": "from snn_mnist.network.engine import run",
        "network/engine": "import snn_mnist.network",
    }
    assert rows(tmp_path, TREE | gathered, capsys)[0] == 0
