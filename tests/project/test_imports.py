"""Imports run one way: cli → verbs → the program's parts → core → kernels, and nothing back."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snn_mnist.cli.main import VERBS
from tests.conftest import ROOT

PACKAGE = ROOT / "snn_mnist"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
HANDLERS = {verb.handler.partition(":")[0] for verb in VERBS.values()}
LIGHT = [  # they import neither torch nor numpy
    "snn_mnist", "snn_mnist.kernels.formulas", *(f"snn_mnist.{name}" for name in (
        "errors", "options", "flags", "config", "verb_options", "cli", "idx", "files", "run_directory",
    )),
]  # fmt: skip


def imports(name: str, lazy: bool) -> set[str]:
    """The modules of ours that a module imports, type checking aside; with `lazy` in functions too."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef) and not lazy:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module or "")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return {module for module in found if module in MODULES} - {name}


GRAPH = {name: imports(name, lazy=True) for name in MODULES}
AT_ONCE = {name: imports(name, lazy=False) for name in MODULES}


def within(name: str, *places: str) -> bool:
    return any(name == f"snn_mnist.{place}" or name.startswith(f"snn_mnist.{place}.") for place in places)


@pytest.mark.parametrize("name", MODULES)
def test_the_direction(name: str):
    for target in GRAPH[name]:
        allowed = True
        if within(name, "kernels"):
            allowed = within(target, "kernels")
        elif within(name, "core"):
            allowed = within(target, "core", "kernels")
        elif within(name, "visualizing", "drawing"):
            allowed = within(target, "drawing")
        elif within(name, "errors"):
            allowed = False
        elif within(name, "options", "idx"):
            allowed = within(target, "errors")
        elif within(name, "flags"):
            allowed = within(target, "options")
        elif within(name, "config"):
            allowed = target == "snn_mnist" or within(target, "flags", "options", "errors", "kernels.formulas")
        elif within(name, "verb_options"):
            allowed = within(target, "flags", "options")
        elif within(name, "data"):
            allowed = within(target, "idx", "errors", "core")
        elif within(target, "cli"):
            allowed = within(name, "__main__")
        elif target in HANDLERS:  # no verb builds on another
            allowed = False
        assert allowed, f"{name} imports {target}"


def test_no_circle():
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for target in AT_ONCE[name]:
                # a package's own front page may gather its modules
                if not name.startswith(f"{target}."):
                    walk(target, (*path, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize("name", LIGHT)
def test_the_light_modules_import_the_standard_library_only(name: str):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    code = f"import sys, {name}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    loaded = set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())
    empty = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True
    )
    foreign = loaded - set(sys.stdlib_module_names) - {m.partition(".")[0] for m in empty.stdout.split()}
    assert foreign == {"snn_mnist"}


def test_every_handler_exists():
    for verb in VERBS.values():
        module, _, function = verb.handler.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin and f"def {function}(" in Path(spec.origin).read_text(encoding="utf-8")
