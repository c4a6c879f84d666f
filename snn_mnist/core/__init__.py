"""The spiking core: neurons, surrogate gradients, step-mode layers, monitors and encoders."""

from snn_mnist.core import base, encoding, functional, layer, monitor, neuron, surrogate

__all__ = ["base", "encoding", "functional", "layer", "monitor", "neuron", "surrogate"]
