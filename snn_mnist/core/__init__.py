"""The spiking core: neurons, surrogate gradients, step-mode layers, monitors and encoders."""

from snn_mnist.core import base, functional, layer, neuron, surrogate

__all__ = ["base", "functional", "layer", "neuron", "surrogate"]
