"""Faults in the user's files of networks, each one line; surrogates from the user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torture import metrics

from snn_mnist.__main__ import main
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.storage import checkpoint
from snn_mnist.training.console import Interruption
from snn_mnist.training.loop import train
from tests.training.test_own_network import MAKES, SINGLE, run
from tests.training.test_resume import resumed

# ---------------------------------------------------------------------------- faults of the user's file

FAULTS = {
    "there is no such": (None, 2, "can't be read"),
    "no function": ("x = 1", 2, "defines no function or class make"),
    "no module": ("def make(): return 3", 2, "returned a int; it must return a torch.nn.Module"),
    "syntax": ("def make(:", 1, "raised SyntaxError"),
    "in make": ("def make(settings):\n    return settings.nothing", 1, "raised AttributeError"),
    "in forward": (SINGLE.replace("784, 10", "700, 10"), 1, "raised RuntimeError"),
    "shape": (SINGLE.replace("10 * settings.votes", "12"), 2, "to [4, 3, 12]; it must give [T, N, 10]"),
    "output": (SINGLE + "\nmake = lambda: nn.LSTM(784, 10)", 2, "to a tuple; it must give [T, N, 10]"),
    "no parameter": (SINGLE + "\nmake = lambda: nn.AvgPool1d(76, stride=78)", 2, "no parameter that learns"),
    "nothing learns": (
        SINGLE.replace("return ", "linear.requires_grad_(False); return "),
        2,
        "no parameter that learns",
    ),
    "step mode": (SINGLE.replace(', step_mode="m"', ""), 2, "in step mode 's' got the sequence"),
    "its input": (SINGLE + MAKES.format("x.sub_(0.1)"), 2, "changes its input in place"),
    "state": (
        SINGLE + MAKES.format("x + self.kept; self.kept = y.detach().sum() + 1"),
        2,
        "state that reset_net does not",
    ),
    "steps of training": (
        SINGLE + MAKES.format("x + 0 * x; self.kept += self.training; y = y * (1 + self.kept)"),
        2,
        "state that reset_net does not reset",
    ),
    "a random constant": (
        SINGLE + MAKES.format("x * self.random"),
        2,
        "makes two networks that differ, with the same state_dict",
    ),
    "a learning rate": (
        SINGLE + MAKES.format("x") + "make.parameter_groups = lambda net: [{'params': net.parameters(), 'lr': 1}]",
        2,
        "give lr_factor",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(tmp_path: Path, code: Any, capsys: Any, fault: str):
    text, exit_code, message = FAULTS[fault]
    net = code(text) if text else str(tmp_path / "missing.py:make")
    train = ["train", "-dataset", "digits", "-T", "4", "-epochs", "1", "-limit-batches", "2", "-j", "1", "-no-figures"]
    assert main([*train, "-net", net, "-out-dir", str(tmp_path / "logs")]) == exit_code
    *before, last = capsys.readouterr().err.splitlines()
    assert message in last and not (tmp_path / "logs").exists()
    frames = [line for line in before if line.startswith("  File")]
    assert bool(frames) == (exit_code == 1) and not any("own.py" in line for line in frames)
    assert not frames or "my_net.py" in frames[0] or fault == "in forward"  # of PyTorch's own modules


@pytest.mark.parametrize("votes", [1, 3])
def test_an_output_that_is_no_spike_train_is_said(tmp_path: Path, code: Any, capsys: Any, votes: int):
    folder = run(tmp_path / "logs", net=code(SINGLE.replace("nn.Sequential(linear, node)", "linear")), votes=votes)
    assert "is no spike train" in capsys.readouterr().err and metrics(folder)
    assert main(["eval", "-resume", str(folder), "-repeats", "1"]) == 0
    assert "output per neuron and image" in capsys.readouterr().out
    assert main(["trace", "-resume", str(folder)]) == 1
    assert "its output is not the spikes" in capsys.readouterr().err


def test_bad_names_of_code(capsys: Any):
    assert main(["train", "-net", "my_net.py"]) == 2 and "my_net.py:make" in capsys.readouterr().err
    assert main(["train", "-surrogate", "my.py:"]) == 2 and "FILE.py:NAME" in capsys.readouterr().err


# ---------------------------------------------------------------------------- surrogates

SURROGATES = """
import torch
from snn_mnist.core.surrogate import SurrogateFunctionBase, atan

class Tri(SurrogateFunctionBase):
    def __init__(self, alpha=2.0, spiking=True):
        super().__init__(alpha, spiking)

    spiking_function = staticmethod(atan.apply)
    primitive_function = staticmethod(atan.primitive)

def gradient(x, alpha=2.0):
    return alpha / 2 / (1 + (torch.pi * alpha * x / 2) ** 2)

def other():
    return 1
class Wrong: pass
"""


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_own_surrogates_learn_like_the_built_in_one(tmp_path: Path, code: Any, alpha: float | None):
    builtin = run(tmp_path / "builtin", backend="torch", alpha=alpha)
    tri = run(tmp_path / "class", surrogate=code(SURROGATES, "Tri"), alpha=alpha)
    function = run(tmp_path / "function", surrogate=code(SURROGATES, "gradient"), alpha=alpha)
    first, second, third = (checkpoint.load(folder)["net"]["layer.1.weight"] for folder in (builtin, tri, function))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, third, rtol=1e-5, atol=1e-7)
    assert main(["eval", "-resume", str(tri), "-repeats", "1"]) == 0
    (tmp_path / "my_net.py").unlink()
    assert train(resumed(tri, epochs=3), Interruption()) == tri and (tri / "surrogate.py").exists()


def test_own_surrogates_that_are_refused(tmp_path: Path, code: Any, capsys: Any):
    with pytest.raises(UsageError, match=r"numba.* its kernels do not compute surrogate .*my_net\.py:Tri"):
        run(tmp_path / "logs", surrogate=code(SURROGATES, "Tri"), backend="numba")
    with pytest.raises(UsageError, match="is neither a SurrogateFunctionBase"):
        run(tmp_path / "logs", surrogate=code(SURROGATES, "Wrong"))
    with pytest.raises(SNNError, match="raised TypeError"):
        run(tmp_path / "logs", surrogate=code(SURROGATES, "other"))
