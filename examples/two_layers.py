r"""Two layers of LIF neurons, 784 → 800 → 10.

python -m snn_mnist train -net examples/two_layers.py:make -encoding constant -T 4 -b 128 -epochs 15 \
    -lr 5e-3 -schedule cosine -dropout 0.2 -val 5000
"""

from torch import nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.network.own import surrogate_of


def make(settings):
    def lif():
        return neuron.LIFNode(settings.tau, surrogate_function=surrogate_of(settings))

    net = nn.Sequential(
        layer.Linear(784, 800),
        lif(),
        layer.Dropout(0.2),  # other neurons for each image, the same ones in all its time steps
        layer.Linear(800, 10 * settings.votes),
        lif(),
    )
    functional.set_step_mode(net, "m")
    return net
