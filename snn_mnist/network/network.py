"""The network of the tutorial, new or from a checkpoint.

image k/255 → Poisson spikes S_in[t] → X[t] = W S_in[t] → LIF → S[t] → rate = mean over t of S[t]

With `votes` a class has several neurons, and its score is the mean of their rates. Other encodings than Poisson spikes:
network/poisson.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snn_mnist.core import functional, layer, neuron, surrogate
from snn_mnist.settings.config import Config
from snn_mnist.storage import checkpoint

PIXELS, CLASSES = 784, 10


class SNN(nn.Module):
    """Flatten → Linear(784, 10 votes, bias=False) → LIF (or IF) → VotingLayer(votes) if there are several.

    Input [N, 784] or [T, N, 784] to spikes [.., N, 10], or shares of the votes. The neurons of a class are neighbours.
    """

    def __init__(
        self,
        tau: float = 2.0,
        *,
        neuron_type: str = "lif",
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_name: str = "atan",
        alpha: float | None = None,
        step_mode: str = "s",
        votes: int = 1,
        encoding: str = "poisson",
    ) -> None:
        super().__init__()
        gradient = surrogate.SURROGATES[surrogate_name](**({} if alpha is None else {"alpha": alpha}))
        if neuron_type == "if":
            spiking: neuron.BaseNode = neuron.IFNode(v_threshold, v_reset, gradient)
        else:
            spiking = neuron.LIFNode(tau, True, v_threshold, v_reset, gradient)
        self.layer = nn.Sequential(layer.Flatten(), layer.Linear(PIXELS, CLASSES * votes, bias=False), spiking)
        if votes > 1:
            self.layer.append(layer.VotingLayer(votes))
        self.votes, self.encoding = votes, encoding
        functional.set_step_mode(self, step_mode)

    @classmethod
    def from_config(cls, config: Config) -> SNN:
        """Return the network that these settings describe, with torch's initial weights."""
        return cls(
            config.tau,
            neuron_type=config.neuron,
            v_threshold=config.v_threshold,
            v_reset=config.v_reset,
            surrogate_name=config.surrogate,
            alpha=config.alpha,
            step_mode=config.step_mode,
            votes=config.votes,
            encoding=config.encoding,
        )

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


@dataclass(frozen=True)
class SavedNetwork:
    """A network with trained weights, and the settings it was trained with."""

    path: Path
    config: Config
    net: SNN
    has_settings: bool  # False for a checkpoint of another program: then they are the tutorial's
    epochs: int  # finished
    trained_on: str = ""  # data set, "" where it is not known


def load_network(path: str, **changes: Any) -> SavedNetwork:
    """Return the network of a checkpoint; `changes` that are not None replace its settings."""
    file = checkpoint.find_checkpoint(path)
    state = checkpoint.load(file)
    saved = state.get("config", {"votes": checkpoint.votes(state)})
    given = {name: value for name, value in changes.items() if value is not None}
    config = Config.from_mapping(saved | given, str(file))
    net = SNN.from_config(config)
    net.load_state_dict(state["net"])
    return SavedNetwork(
        file, config, net, "config" in state, checkpoint.Position.of(state).epochs, saved.get("dataset", "")
    )
