"""A convolutional spiking network: two blocks of convolution, batch normalisation, max pooling and LIF neurons.

python -m snn_mnist train -net examples/convolution.py:make
"""

from torch import Tensor, nn

from snn_mnist.core import functional, layer, neuron, surrogate


class ConvolutionalNetwork(nn.Module):
    def __init__(self, settings):
        super().__init__()

        def lif():
            return neuron.LIFNode(settings.tau, surrogate_function=surrogate.SURROGATES[settings.surrogate]())

        # A constant input is the same in each time step, so everything before the first LIF is computed once.
        self.layers = nn.Sequential(
            layer.Conv2d(1, 32, 3, padding=1, bias=False),
            layer.BatchNorm2d(32),
            layer.MaxPool2d(2),
            lif(),  # [T, N, 32, 14, 14]
            layer.Conv2d(32, 64, 3, padding=1, bias=False),
            layer.BatchNorm2d(64),
            layer.MaxPool2d(2),
            lif(),  # [T, N, 64, 7, 7]
            layer.Flatten(),
            layer.Dropout(0.5),
            layer.Linear(64 * 7 * 7, 10 * settings.votes, bias=False),
            lif(),  # [T, N, 10 votes]
        )
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.unflatten(-1, (1, 28, 28)))  # [T, N, 784] -> [T, N, 10 votes]


def make(settings):
    return ConvolutionalNetwork(settings)
