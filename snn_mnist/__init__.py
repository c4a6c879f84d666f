"""A spiking neural network learns MNIST: one layer of LIF neurons trained by surrogate gradients.

Run `python -m snn_mnist --help`; import the spiking core from `snn_mnist.core`.
"""

__version__ = "0.1.0"
