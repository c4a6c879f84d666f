"""Prints the rooms of the package and the imports between them; fails where an import goes upwards or in a circle.

    python scripts/rooms.py

An import counts wherever it stands: at the top of a module, in a function, under TYPE_CHECKING, or as the name of a
module in a string. tests/project/test_imports.py checks the same table.
"""

import ast
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {  # room -> the rooms it may import besides itself and errors, all of them further down in this table
    "__main__": {"cli"},
    "cli": {"search", "training", "export", "visualizing", "network", "data", "storage", "core", "settings", "kernels"},
    "search": {"training", "visualizing", "network", "data", "storage", "core", "settings", "kernels"},
    "training": {"visualizing", "network", "data", "storage", "core", "settings", "kernels"},
    "export": {"visualizing", "network", "data", "storage", "core", "settings", "kernels"},
    "visualizing": {"network", "data", "storage", "core", "settings", "kernels"},
    "network": {"data", "storage", "core", "settings", "kernels"},
    "data": {"settings"},
    "storage": {"settings", "kernels"},
    "core": {"kernels"},
    "settings": {"kernels"},
    "kernels": set(),
    "errors": set(),
    "terminal": set(),
    "__init__": set(),
}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    files = {path.relative_to(root).with_suffix("").parts: path for path in sorted((root / "snn_mnist").rglob("*.py"))}
    return {".".join(parts).removesuffix(".__init__"): path for parts, path in files.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str, files: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports; the __init__ of the folders it lies in do not count."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(files[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write the whole name of the module"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in files else node.module or "" for name in names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.partition(":")[0])  # importlib's "package.module", or "package.module:function"
    return {name for name in found if name in files and not f"{module}.".startswith(f"{name}.")}


def problems(graph: dict[str, set[str]]) -> list[str]:
    """The imports of a room that the table does not allow, and the first circle of modules."""
    found = [f"upwards: {module} → {target}" for module, targets in graph.items() for target in sorted(targets)
             if room(target) not in {room(module), "errors", "terminal", *ALLOWED.get(room(module), ())}]  # fmt: skip
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"circle: {' → '.join(reversed(error.args[1]))}")
    return found


def main(root: Path = ROOT) -> int:
    files = modules(root)
    graph = {module: imports(module, files) for module in files}
    lines = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in files.items()}
    arrows = Counter((room(a), room(b)) for a, targets in graph.items() for b in targets if room(a) != room(b))
    for name in ALLOWED:
        own = [lines[module] for module in files if room(module) == name]
        below = ", ".join(f"{other} {arrows[name, other]}" for other in ALLOWED if arrows[name, other])
        print(f"{name:11} {len(own):3} files {sum(own):6,} lines  {'─► ' if below else ''}{below}".rstrip())
    longest = max(files, key=lambda module: lines[module])
    print(f"{'together':11} {len(files):3} files {sum(lines.values()):6,} lines, at most {lines[longest]} ({longest})")
    print(f"{len(arrows)} arrows between rooms, of {arrows.total()} imports")
    print("\n".join(found := problems(graph)) or "no arrow upwards, no circle")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
