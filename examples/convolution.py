r"""A convolutional spiking network: 28×28 → 32 channels of 14×14 → 64 channels of 7×7 → 10 classes.

python -m snn_mnist train -net examples/convolution.py:make -T 2 -votes 10 -encoding constant -amp -b 128 \
    -epochs 10 -lr 5e-3 -schedule cosine -ema 0.999 -val 5000

Each block is a convolution, max pooling, batch normalisation and LIF neurons. A constant input is the same in every
time step: what comes before the first batch normalisation is computed once. With -dataset fashion the same network
learns Fashion-MNIST.
"""

from torch import nn

from snn_mnist.core import functional, layer, neuron
from snn_mnist.network.own import surrogate_of


class ConvolutionalNetwork(nn.Module):
    def __init__(self, settings):
        super().__init__()

        def lif():
            return neuron.LIFNode(settings.tau, surrogate_function=surrogate_of(settings))

        self.layers = nn.Sequential(
            layer.Conv2d(1, 32, kernel_size=5, padding=2, bias=False),
            layer.MaxPool2d(2),
            layer.BatchNorm2d(32),
            lif(),  # [T, N, 32, 14, 14]
            layer.Conv2d(32, 64, kernel_size=3, padding=1, bias=False),
            layer.MaxPool2d(2),
            layer.BatchNorm2d(64),
            lif(),  # [T, N, 64, 7, 7]
            layer.Flatten(),
            layer.Dropout(0.2),  # other neurons for each image, the same ones in all its time steps
            layer.Linear(64 * 7 * 7, 10 * settings.votes, bias=False),
            lif(),  # [T, N, 10 votes]
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.layers(x.unflatten(-1, (1, 28, 28)))  # [T, N, 784] -> [T, N, 10 votes]


def make(settings):
    return ConvolutionalNetwork(settings)
