"""Runs the code blocks of SpikingJelly's tutorials twice: with SpikingJelly, and with snn_mnist.core under its names.

    python -m pip install --no-deps --target /tmp/sj spikingjelly==2.0.0     # and its dependency loguru
    git clone https://github.com/fangwei123456/spikingjelly /tmp/repository
    python scripts/spikingjelly_tutorials.py --spikingjelly /tmp/sj --docs /tmp/repository/docs/source/tutorials/en

The blocks of a page run in order in one namespace and process. A block counts as equal when both print the same and
leave equal tensors in the variables that it changed (random numbers start from the same seed in each block). Prints a
line per block that fails in either run or differs, with the reason, then the counts. Pages outside the program's
topics (neuromorphic data, ANN conversion, Lava, reinforcement learning …) are left out.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import warnings
from pathlib import Path
from typing import Any

PAGES = (
    "basic_concept", "neuron", "surrogate", "monitor", "container", "lif_fc_mnist", "conv_fashion_mnist",
    "recurrent_connection_and_stateful_synapse", "train_large_scale_snn", "migrate_from_legacy",
    "0_neuron", "2_encoding", "10_propagation_pattern",
)  # fmt: skip
PRELUDE = """
import time, torch, torch.nn as nn, torch.nn.functional as F, numpy as np
from matplotlib import pyplot as plt
from tqdm import tqdm
from spikingjelly.activation_based import base, encoding, functional, layer, monitor, neuron, surrogate
"""  # what a page takes for imported
LEFT_OUT = {  # by the English page, given in the Chinese one
    "monitor": """
net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.IFNode())
for param in net.parameters():
    param.data.abs_()
functional.set_step_mode(net, 'm')
"""
}
SHIM = {"spikingjelly.activation_based": "snn_mnist.core", "spikingjelly.visualizing": "snn_mnist.visualizing"}


def blocks(page: Path) -> list[str]:
    """The Python code blocks of a page, without those that show an interactive session."""
    found = re.findall(r"^( *)\.\. code-block:: python\n((?:\1[ \t]+.*\n|[ \t]*\n)+)", page.read_text() + "\n", re.M)
    code = [re.sub(r"\A(\s*:[\w-]+:.*\n)+", "", textwrap.dedent(text)) for _, text in found]
    return [text for text in map(textwrap.dedent, code) if not text.lstrip().startswith(">>>")]


class Shim(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives our modules SpikingJelly's names."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        ours = self._ours(name)
        if ours is None and name != "spikingjelly":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        ours = self._ours(spec.name)
        if ours is None:
            return None
        try:
            return importlib.import_module(ours)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"snn_mnist has no {spec.name}") from error

    def exec_module(self, module: Any) -> None:
        pass

    def _ours(self, name: str) -> str | None:
        return next((name.replace(a, b, 1) for a, b in SHIM.items() if name == a or name.startswith(a + ".")), None)


def digest(value: Any) -> Any:
    """Something comparable of a tensor or a list of them; None for anything else."""
    import torch

    if isinstance(value, torch.Tensor):
        rounded = (value.detach().double() * 1e4).round().nan_to_num() + 0.0
        return [list(value.shape), hashlib.sha256(rounded.cpu().numpy().tobytes()).hexdigest()]
    if isinstance(value, list | tuple) and value and all(isinstance(v, torch.Tensor) for v in value):
        return [digest(v) for v in value]
    return value if isinstance(value, int | float | str | bool) else None


def run_page(page: Path) -> list[dict[str, Any]]:
    import torch

    warnings.filterwarnings("ignore")
    os.environ["MPLBACKEND"] = "Agg"
    scope: dict[str, Any] = {"__name__": "tutorial"}
    torch.manual_seed(0)
    exec(PRELUDE + LEFT_OUT.get(page.stem, ""), scope)
    results = []
    for code in blocks(page):
        torch.manual_seed(0)
        before, printed = dict(scope), io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page.name, "exec"), scope)
            error = None
        except BaseException as raised:
            error = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"[:150]
        changed = {k: digest(v) for k, v in scope.items() if before.get(k) is not v and k[0] != "_"}
        changed = {k: v for k, v in changed.items() if v is not None}
        results.append({"error": error, "printed": printed.getvalue(), "values": changed})
    return results


def in_a_process(page: Path, path: str, shim: bool) -> list[dict[str, Any]]:
    repository = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": f"{repository}:{path}" if shim else path}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--page", str(page), *(["--shim"] if shim else [])]
        out = Path(folder) / "out.json"
        try:
            subprocess.run([*command, "--out", out], env=environment, cwd=folder, capture_output=True, timeout=300)
        except subprocess.TimeoutExpired:
            return []
        return json.loads(out.read_text()) if out.exists() else []


def compare(docs: Path, spikingjelly: str) -> None:
    counts = {"equal": 0, "only ours runs": 0, "neither runs": 0, "only SpikingJelly runs": 0}
    counts |= {"other print": 0, "other values": 0}
    for page in sorted(docs.glob("*.rst")):
        if page.stem not in PAGES:
            continue
        theirs, ours = in_a_process(page, spikingjelly, False), in_a_process(page, spikingjelly, True)
        if len(theirs) != len(ours) or not ours:
            print(f"{page.stem}: no result ({len(theirs)} and {len(ours)} blocks)")
            continue
        for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            if a["error"] or b["error"]:
                if a["error"] and b["error"]:
                    kind = "neither runs"
                else:
                    kind = "only ours runs" if a["error"] else "only SpikingJelly runs"
                reason = b["error"] or a["error"]
            else:
                differing = [k for k in a["values"] if a["values"][k] != b["values"].get(k)]
                same_print = a["printed"] == b["printed"]
                kind = "equal" if not differing and same_print else "other values" if differing else "other print"
                lines = [
                    y for x, y in zip(a["printed"].splitlines(), b["printed"].splitlines(), strict=False) if x != y
                ]
                reason = f"variables {differing}" if differing else f"printed {lines[:1]}"
            counts[kind] += 1
            if kind != "equal":
                print(f"{page.stem} block {i}: {kind}: {reason}")
    print(f"{sum(counts.values())} blocks: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder of the tutorials' .rst files")
    parser.add_argument("--spikingjelly", default="", help="PYTHONPATH on which SpikingJelly is found")
    parser.add_argument("--page", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shim", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.page is None:
        if args.docs is None or not args.docs.is_dir():
            parser.error(
                f"--docs {args.docs}: no such folder; give docs/source/tutorials/en of SpikingJelly's repository"
            )
        compare(args.docs, args.spikingjelly)
        return
    if args.shim:
        sys.meta_path.insert(0, Shim())
    args.out.write_text(json.dumps(run_page(args.page)))


if __name__ == "__main__":
    main()
