r"""A convolutional spiking network: 28×28 → 16 channels of 14×14 → 32 channels of 7×7 → 10 classes.

    python -m snn_mnist train -net examples/convolution.py:make -T 2 -votes 10 -encoding constant \
        -b 128 -epochs 10 -lr 5e-3 -schedule cosine -dropout 0.1

Each block is a convolution, batch normalisation, max pooling and LIF neurons. Max pooling stands before the neurons,
so that a quarter of them is enough. A constant input is the same in every time step: what comes before the first
neurons is computed once. With -dataset fashion the same network learns Fashion-MNIST.
"""

from torch import nn

from snn_mnist.core import functional, layer, neuron, surrogate


class ConvolutionalNetwork(nn.Module):
    def __init__(self, settings):
        super().__init__()

        def lif():
            return neuron.LIFNode(settings.tau, surrogate_function=surrogate.SURROGATES[settings.surrogate]())

        self.layers = nn.Sequential(
            layer.Conv2d(1, 16, kernel_size=5, padding=2, bias=False),
            layer.BatchNorm2d(16),
            layer.MaxPool2d(2),
            lif(),  # [T, N, 16, 14, 14]
            layer.Conv2d(16, 32, kernel_size=5, padding=2, bias=False),
            layer.BatchNorm2d(32),
            layer.MaxPool2d(2),
            lif(),  # [T, N, 32, 7, 7]
            layer.Flatten(),
            layer.Dropout(0.2),  # other neurons for each image, the same ones in all its time steps
            layer.Linear(32 * 7 * 7, 10 * settings.votes, bias=False),
            lif(),  # [T, N, 10 votes]
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.layers(x.unflatten(-1, (1, 28, 28)))  # [T, N, 784] -> [T, N, 10 votes]


def make(settings):
    return ConvolutionalNetwork(settings)
