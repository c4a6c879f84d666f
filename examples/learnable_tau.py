"""Two layers of LIF neurons that learn their time constants: each layer starts at settings.tau and finds its own.

python -m snn_mnist train -net examples/learnable_tau.py:make -tau 10
"""

from torch import nn

from snn_mnist.core import functional, layer, neuron, surrogate


class LearnableTau(nn.Sequential):
    def __init__(self, settings):
        def lif():
            gradient = surrogate.SURROGATES[settings.surrogate]()
            return neuron.ParametricLIFNode(settings.tau, surrogate_function=gradient)

        super().__init__(layer.Linear(784, 200), lif(), layer.Linear(200, 10 * settings.votes), lif())
        functional.set_step_mode(self, "m")

    def parameter_groups(self):
        """Each neuron's parameter w, of which 1/tau = sigmoid(w), learns ten times as fast as the weights."""
        weights = [p for name, p in self.named_parameters() if not name.endswith(".w")]
        taus = [p for name, p in self.named_parameters() if name.endswith(".w")]
        return [{"params": weights}, {"params": taus, "lr_factor": 10.0}]


def make(settings):
    return LearnableTau(settings)
