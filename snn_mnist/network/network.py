"""The network of the tutorial, new or from a checkpoint.

image k/255 → Poisson spikes S_in[t] → X[t] = W S_in[t] → LIF → S[t] → rate = mean over t of S[t]

With `votes` a class has several neurons, and its score is the mean of their rates. Other encodings than Poisson spikes:
network/poisson.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.errors import UsageError
from snn_mnist.network.own import OwnNetwork, surrogate_of, with_copies
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint

PIXELS, CLASSES = 784, 10


class SNN(nn.Module):
    """Flatten → Linear(784, 10 votes, bias=False) → LIF (or IF) → VotingLayer(votes) if there are several.

    Input [N, 784] or [T, N, 784] to spikes [.., N, 10], or shares of the votes. The neurons of a class are neighbours.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        gradient, levels = surrogate_of(config), (config.v_threshold, config.v_reset)
        if config.neuron == "if":
            spiking: neuron.BaseNode = neuron.IFNode(*levels, gradient)
        else:
            spiking = neuron.LIFNode(config.tau, True, *levels, gradient)
        self.layer = nn.Sequential(layer.Flatten(), layer.Linear(PIXELS, CLASSES * config.votes, bias=False), spiking)
        if config.votes > 1:
            self.layer.append(layer.VotingLayer(config.votes))
        self.votes, self.encoding = config.votes, config.encoding
        functional.set_step_mode(self, config.step_mode)

    @property
    def weight(self) -> Tensor:
        """[10 votes, 784]"""
        return next(m.weight for m in self.layer if isinstance(m, layer.Linear))

    @property
    def spiking(self) -> neuron.BaseNode:
        """The output neurons, ten for each vote."""
        return next(m for m in reversed(list(self.layer)) if isinstance(m, neuron.BaseNode))

    def forward(self, spikes: Tensor) -> Tensor:
        return self.layer(spikes)

    def respond(self, inputs: Tensor, steps: int) -> Tensor:
        """Return the spikes [T, N, 10 votes] for inputs [T, N, 784], or [1, N, 784] if each step is the same."""
        node, linear = self.spiking, self.layer[:2]
        if node.step_mode == "m":
            return node(linear(inputs).expand(steps, -1, -1))
        return torch.stack([node(linear(step)) for step in inputs.expand(steps, -1, -1)])


def vote(each: Tensor) -> Tensor:
    """Return the means over the neurons of a class: [.., 10 votes] to [.., 10]."""
    return each.unflatten(-1, (CLASSES, -1)).mean(-1)


def network_of(config: Config) -> SNN | OwnNetwork:
    """Return the network of these settings, with initial weights."""
    return SNN(config) if config.net is None else OwnNetwork(config)


@dataclass(frozen=True)
class SavedNetwork:
    """A network with trained weights, and the settings it was trained with."""

    path: Path
    config: Config
    net: Any  # SNN or OwnNetwork
    has_settings: bool  # False for a checkpoint of another program: then they are the tutorial's
    epochs: int  # finished
    trained_on: str = ""  # data set, "" where it is not known


def load_network(path: str, **changes: Any) -> SavedNetwork:
    """Return the network of a checkpoint; `changes` that are not None replace its settings."""
    file = checkpoint.find_checkpoint(path)
    state = checkpoint.load(file)
    saved: dict[str, Any] = state["config"] if "config" in state else {"votes": checkpoint.votes(state)}
    given = {name: value for name, value in changes.items() if value is not None}
    config = Config.from_mapping(saved | {"step_mode": "m"} | given, str(file))
    config = replace(config, surrogate="atan", alpha=None, flags=frozenset(given))  # nothing is differentiated
    config, changed = with_copies(config, state, file.parent)
    if changed and "net" not in given:
        raise UsageError(f"{', '.join(changed)} has changed since {file} was trained; restore it, or give -net")
    torch.manual_seed(saved.get("seed", 0))  # as in training, for what a network of the user's own draws
    net = network_of(config)
    net.load_state_dict(state["net"])
    return SavedNetwork(
        file, config, net, "config" in state, checkpoint.Position.of(state).epochs, saved.get("dataset", "")
    )
