"""Networks from the user's own files: trained, resumed, tested, moved; a changed file is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torture import QUICK, differences, kills, metrics

from snn_mnist.__main__ import main
from snn_mnist.core import neuron
from snn_mnist.data.datasets import load_dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.network.network import load_network
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint
from snn_mnist.training.console import Interruption
from snn_mnist.training.loop import train
from tests.conftest import ROOT
from tests.training.test_resume import StopAfter, resumed

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SMALL = {"dataset": "digits", "T": 4, "b": 16, "limit_batches": 4, "figures": False, "epochs": 2, "j": 1}

SINGLE = """
from torch import nn
from snn_mnist.core import layer, neuron, surrogate

def make(settings):
    linear = layer.Linear(784, 10 * settings.votes, bias=False, step_mode="m")
    node = neuron.LIFNode(settings.tau, surrogate_function=surrogate.ATan(), step_mode="m")
    return nn.Sequential(linear, node)
"""
MAKES = """
import torch
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.kept, self.random = layer.Linear(784, 10), 0, torch.rand(784)
    def forward(self, x):
        y = {}
        return self.body(y)
make = Net
"""
DEEP = """
from torch import nn
from snn_mnist.core import functional, layer, neuron, surrogate

class Net(nn.Module):
    def __init__(self, settings):
        super().__init__()
        atan = surrogate.ATan()
        self.body = nn.Sequential(
            layer.Conv2d(1, 2, 5, stride=3, bias=False), layer.BatchNorm2d(2), neuron.LIFNode(settings.tau, surrogate_function=atan),
            layer.Flatten(), nn.Dropout(0.2), layer.Linear(128, 10), neuron.ParametricLIFNode(surrogate_function=atan),
        )
        functional.set_step_mode(self.body, "m")

    def forward(self, spikes):
        return self.body(spikes.unflatten(-1, (1, 28, 28)))

    def parameter_groups(self):
        tau = [self.body[-1].w]
        return [{"params": [p for p in self.parameters() if p is not tau[0]]}, {"params": tau, "lr_factor": 10.0}]
"""  # noqa: E501


def run(out: Path, interruption: Interruption | None = None, **given: Any) -> Path:
    return train(Config(**SMALL | {"out_dir": str(out)} | given), interruption or Interruption())


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"votes": 3, "loss": "ce", "encoding": "constant", "dropout": 0.25, "ema": 0.9, "opt": "sgd", "val": 100},
        {"encoding": "latency", "amp": True, "schedule": "cosine"},
    ],
    ids=str,
)
def test_the_single_layer_from_a_file_is_the_single_layer(tmp_path: Path, code: Any, more: dict[str, Any]):
    """Weights and metrics, bit by bit."""
    builtin, own = (run(tmp_path / name, backend="torch", **more, **net) for name, net in
                    (("builtin", {}), ("own", {"net": code(SINGLE)})))  # fmt: skip
    first, second = (checkpoint.load(folder) for folder in (builtin, own))
    for part in ("net", "raw") if "ema" in more else ("net",):
        assert torch.equal(first[part]["layer.1.weight"], second[part]["0.weight"])
    assert metrics(builtin) == metrics(own)


def test_resumed_within_an_epoch_equals_undisturbed(tmp_path: Path, code: Any):
    """Batch normalisation, nn.Dropout, a learned time constant with its own learning rate, bit by bit."""
    state = undisturbed_and_resumed(tmp_path, code(DEEP, "Net"), ema=0.9, val=100, amp=True)
    assert state["net"]["body.1.num_batches_tracked"] == 8 and state["net"]["body.6.w"] != 0
    first, second = state["optimizer"]["param_groups"]
    assert second["lr"] == 10 * first["lr"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_resumed_exactly(tmp_path: Path, example: Path):
    shutil.copy(example, tmp_path / "my_net.py")
    undisturbed_and_resumed(
        tmp_path, f"{tmp_path / 'my_net.py'}:make", opt="sgd", encoding="constant", b=8, test=False, val=20
    )


def undisturbed_and_resumed(folder: Path, net: str, **more: Any) -> dict[str, Any]:
    """Train without and with two stops within an epoch; return the checkpoint. The second has only its own copy."""
    undisturbed = run(folder / "whole", net=net, **more)
    parts = run(folder / "parts", StopAfter(2), net=net, **more)
    assert checkpoint.load(parts)["step"]
    Path(net.rpartition(":")[0]).unlink()
    for looks in (3, 1000):
        assert train(resumed(parts, j=1), StopAfter(looks)) == parts
    assert differences(undisturbed, parts) == []
    return checkpoint.load(parts)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_killed_and_resumed_equals_a_run_nobody_killed(nursery: Any, tmp_path: Path, example: Path):
    kills(nursery, tmp_path / "runs", 1, flags=[*QUICK, "-net", f"{example}:make"])


def test_neurons_compute_on_the_fused_kernels(tmp_path: Path, code: Any, monkeypatch: Any):
    used, original = [], neuron.BaseNode.multi_step_forward
    monkeypatch.setattr(neuron.BaseNode, "multi_step_forward", lambda n, x: used.append(n.backend) or original(n, x))
    for backend, expected in (("auto", "numba"), ("torch", "torch")):
        run(tmp_path / backend, net=code(DEEP, "Net"), epochs=1, backend=backend)
        assert used[-2:] == [expected, "torch"]  # LIF, and the parametric LIF neurons


def test_what_the_page_says_to_write_is_trained(tmp_path: Path, code: Any):
    page = (ROOT / "docs" / "your-own-network.md").read_text(encoding="utf-8")
    network, *_, triangle = re.findall(r"(?ms)^```python\n(.*?)^```", page)
    tri = code(triangle, "triangle", "my_surrogate.py")
    folder = run(tmp_path / "logs", net=code(network), surrogate=tri, votes=2, encoding="constant")
    assert {file.name for file in folder.glob("*.py")} == {"net.py", "surrogate.py"} and metrics(folder)


# ---------------------------------------------------------------------------- what needs only the run


def test_a_moved_run_is_tested_traced_and_drawn_without_the_file(tmp_path: Path, code: Any, capsys: Any):
    folder = run(tmp_path / "logs", net=code(SINGLE), T=20, lr=0.05, epochs=3, limit_batches=None, encoding="constant")
    accuracy = metrics(folder)[-1]["test_acc"]
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    (tmp_path / "my_net.py").unlink()
    capsys.readouterr()
    assert main(["eval", "-resume", str(moved), "-repeats", "1"]) == 0
    printed = capsys.readouterr()
    assert f"running {moved / 'net.py'}" in printed.err and "nJ" not in printed.out
    assert f"accuracy  {100 * accuracy:.2f} %" in printed.out  # of the last epoch; the encoding is always the same
    for command in (["trace", "-index", "3"], ["predict", str(picture(tmp_path))], ["export", "-format", "nir"]):
        assert main([*command, "-resume", str(moved)]) == 0
    assert main(["plot", str(moved)]) == 0 and not (moved / "weights.png").exists()
    for kind in ("html", "hardware"):
        assert main(["export", "-resume", str(moved), "-format", kind]) == 2
    shutil.copy(moved / checkpoint.LATEST, tmp_path / "alone.pth")
    capsys.readouterr()
    assert main(["eval", "-resume", str(tmp_path / "alone.pth")]) == 2
    assert "-net FILE.py:make" in capsys.readouterr().err
    given = ["-net", f"{moved / 'net.py'}:make"]
    assert main(["eval", "-resume", str(tmp_path / "alone.pth"), "-repeats", "1", *given]) == 0


def picture(folder: Path) -> Path:
    from PIL import Image

    pixels = load_dataset("digits", ".").test.images[0].view(28, 28).numpy()
    Image.fromarray(255 - pixels).resize((280, 280)).save(folder / "digit.png")
    return folder / "digit.png"


def test_a_trace_is_the_output_neurons(tmp_path: Path, code: Any):
    """X, H, V and S of the second layer against equations written here."""
    two = SINGLE.replace("return nn.Sequential(", "hidden = [layer.Linear(784, 30), neuron.IFNode(step_mode='m')]\n"
                         "    linear = layer.Linear(30, 10)\n    return nn.Sequential(*hidden, ")  # fmt: skip
    folder = run(tmp_path / "logs", net=code(two), tau=3.0, T=20, lr=0.05)
    assert main(["trace", "-resume", str(folder), "-index", "5"]) == 0
    found = np.load(folder / "trace_5" / "trace.npz")
    state = {name: tensor.double() for name, tensor in checkpoint.load(folder)["net"].items()}
    image = load_dataset("digits", ".").test.images[5:6]
    spikes = poisson_encode(image, torch.tensor([5]), 0, 20, SpikeKey(0, Stream.TRACE, 0))[:, 0].double()
    u, v = torch.zeros(30, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    for t in range(20):
        u = u + state["0.weight"] @ spikes[t] + state["0.bias"]
        fired = (u >= 1).double()
        u = u * (1 - fired)
        x = state["2.weight"] @ fired + state["2.bias"]
        h = v + (x - v) / 3
        s = (h >= 1).double()
        v = h * (1 - s)
        for name, expected in (("x", x), ("h", h), ("v", v), ("s", s)):
            np.testing.assert_allclose(found[f"{name}_t_array"][t], expected, atol=1e-5)


def test_a_changed_file_is_named_on_resume(tmp_path: Path, code: Any):
    net = code(SINGLE)
    folder = run(tmp_path / "logs", net=net)
    same = code(SINGLE, file="renamed.py")
    assert train(resumed(folder, net=same, epochs=3), Interruption()) == folder
    changed = code(SINGLE.replace("bias=False", "bias=True"))
    with pytest.raises(UsageError, match=r"my_net\.py \(its content\) changes the result"):
        resume_with(folder, net=changed, epochs=4)
    with pytest.raises(SNNError, match="another network"):
        resume_with(folder, net=changed, epochs=4, force=True)
    slower = code(SINGLE.replace("settings.tau", "2 * settings.tau"))
    assert resume_with(folder, net=slower, epochs=4, force=True) != folder
    (folder / "net.py").write_text(SINGLE + "\n# a word\n")
    with pytest.raises(UsageError, match=r"net\.py \(its content\)"):
        resume_with(folder, epochs=4)
    with pytest.raises(UsageError, match="has changed since"):
        load_network(str(folder))
    assert load_network(str(folder), net=net).config.net == net
    with pytest.raises(UsageError, match="net none →"):
        resume_with(run(tmp_path / "single"), net=net, epochs=3)


def resume_with(folder: Path, **given: Any) -> Path:
    return train(resumed(folder, **given), Interruption())


def test_what_a_network_draws_and_never_learns(tmp_path: Path, code: Any):
    """An infinite mask, and a fixed random one, are the same in training, in the average and in `eval`."""
    text = (
        MAKES.format("(x * self.mask).masked_fill(self.none.isinf(), 0)")
        + """
class Net(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", (torch.rand(784) < 0.5).float())
        self.register_buffer("none", torch.zeros(784))
        self.none[:9] = -torch.inf
make = Net
"""
    )
    folder = run(tmp_path / "logs", net=code(SINGLE + text), ema=0.9, epochs=2, limit_batches=None, lr=0.01)
    loaded = load_network(str(folder))
    assert torch.equal(loaded.net.state_dict()["mask"], checkpoint.load(folder)["raw"]["mask"])
    assert torch.isinf(loaded.net.state_dict()["none"]).sum() == 9 and metrics(folder)[-1]["test_acc"] > 0.5


def test_no_file_is_run_that_only_a_checkpoint_or_seeds_json_names(tmp_path: Path, code: Any, capsys: Any):
    evil = code(f"open({str(tmp_path / 'ran')!r}, 'w')", file="evil.py")
    folder = run(tmp_path / "logs", net=code(SINGLE))
    state = checkpoint.load(folder)
    group = tmp_path / "group"
    group.mkdir()
    for name, setting in (("net", {"net": evil}), ("surrogate", {"net": None, "surrogate": evil})):
        changed = state | {"config": state["config"] | setting}
        checkpoint.save(tmp_path / "elsewhere.pth", {key: changed[key] for key in changed if key != "code"})
        (group / "seeds.json").write_text(json.dumps({"settings": Config(**SMALL, seeds=2).to_mapping() | setting}))
        main(["eval", "-resume", str(tmp_path / "elsewhere.pth"), "-repeats", "1"])
        for verb in (
            ["train", "-resume", str(tmp_path / "elsewhere.pth"), "-epochs", "9"],
            ["train", "-resume", str(group)],
        ):
            assert main([*verb, "-out-dir", str(tmp_path / name)]) > 0 and not (tmp_path / "ran").exists()


def test_a_group_of_seeds_and_a_sweep(tmp_path: Path, code: Any):
    net, small = code(SINGLE), ["-dataset", "digits", "-T", "4", "-limit-batches", "4", "-epochs", "1", "-j", "1"]
    assert main(["train", "-net", net, *small, "-seeds", "2", "-no-figures", "-out-dir", str(tmp_path / "seeds")]) == 0
    (group,) = (tmp_path / "seeds").iterdir()
    (tmp_path / "my_net.py").rename(tmp_path / "moved.py")
    assert main(["train", "-resume", str(group), "-seeds", "3", "-j", "1"]) == 0, "a new seed takes the runs' own copy"
    assert len({checkpoint.load(run)["code"]["net.py"] for run in group.glob("seed?")}) == 1
    study = ["-tau", "1.5,3", "-lr", "1e-3:1e-1:log", "-trials", "3", "-val", "100", "-workers", "1", "-repeats", "1"]
    moved = net.replace("my_net", "moved")
    assert main(["sweep", "-net", moved, *study, *small, "-out-dir", str(tmp_path / "study")]) == 0
    runs = [*(tmp_path / "study" / "sweep").glob("*/net.py")]
    (tmp_path / "moved.py").write_text(SINGLE + "\n# changed\n")
    assert main(["sweep", "-net", moved, *study, *small, "-out-dir", str(tmp_path / "study")]) == 2, "another network"
    assert len(runs) == 3 and len({Config.from_yaml(run.with_name("config.yaml")).lr for run in runs}) == 3
