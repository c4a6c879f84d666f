r"""LIF neurons that learn their membrane time constant: each layer starts at settings.tau and finds its own.

    python -m snn_mnist train -net examples/learnable_tau.py:make -tau 10 -T 8 -encoding constant \
        -b 128 -epochs 5 -lr 5e-3 -schedule cosine

With tau 10 an input counts a tenth, and T = 8 steps are short for so slow a neuron. Both layers learn a tau near 2.
"""

from torch import nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.network.own import surrogate_of


class LearnableTau(nn.Sequential):
    def __init__(self, settings):
        def lif():
            return neuron.ParametricLIFNode(settings.tau, surrogate_function=surrogate_of(settings))

        super().__init__(layer.Linear(784, 200), lif(), layer.Linear(200, 10 * settings.votes), lif())
        functional.set_step_mode(self, "m")

    def parameter_groups(self):
        """The parameter w of a neuron, 1/tau = sigmoid(w), learns ten times as fast as the weights."""
        taus = [node.w for node in self if isinstance(node, neuron.ParametricLIFNode)]
        weights = [p for linear in self if isinstance(linear, layer.Linear) for p in linear.parameters()]
        return [{"params": weights}, {"params": taus, "lr_factor": 10.0}]


def make(settings):
    return LearnableTau(settings)
