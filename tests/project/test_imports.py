"""Imports run one way through the rooms of the package, also lazily and for type checkers alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {  # room -> the rooms it may import, besides itself
    "cli": {"training", "visualizing", "export", "model", "data", "runs", "core", "kernels"},
    "training": {"visualizing", "model", "data", "runs", "core", "kernels"},
    "export": {"model", "data", "runs", "core", "kernels"},
    "visualizing": {"model", "data", "runs", "core", "kernels"},
    "model": {"data", "runs", "core", "kernels"},
    "data": set(),
    "runs": {"kernels"},
    "core": {"kernels"},
    "kernels": set(),
    "errors": set(),
    "__main__": {"cli"},
    "__init__": set(),
}
EVERYWHERE = {"errors", "__init__"}  # the error classes, and the version in snn_mnist/__init__.py
LIGHT = [  # modules that import the standard library only, so that `--help` is instant
    "snn_mnist.errors", "snn_mnist.kernels.formulas", "snn_mnist.kernels.backends", "snn_mnist.runs.config",
    "snn_mnist.runs.directory", "snn_mnist.runs.atomic_files", "snn_mnist.cli.main",
]  # fmt: skip
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "snn_mnist").rglob("*.py"))
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str) -> set[str]:
    """What of the package a module imports: at its top, in functions, under TYPE_CHECKING or by name in a string."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else node.module or "" for name in inner.values())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
            found.add(node.value)  # imported by importlib
    return {name for name in found if name in MODULES} - {module}


GRAPH = {module: imports(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_a_room_above_its_own(module: str):
    own = room(module)
    upwards = {name for name in GRAPH[module] if room(name) not in {own, *ALLOWED[own], *EVERYWHERE}}
    assert not upwards, f"{module} imports {', '.join(upwards)}"


def test_no_circle_between_modules():
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for target in GRAPH[module]:
                if not module.startswith(f"{target}."):  # a package's __init__ may gather its modules
                    walk(target, (*path, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())


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
    assert names <= {f"{name}.py" for name in ("__init__", "__main__", "errors")} | {"py.typed"} | (
        {name for name in ALLOWED if Path(ROOT / "snn_mnist" / name).is_dir()}
    )
    assert len(names) <= 13
