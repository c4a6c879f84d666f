"""The spiking core: neurons, surrogate gradients, step-mode layers, monitors, encoders, STDP and conversion of ANNs."""

from snn_mnist.core import base, conversion, encoding, functional, layer, learning, monitor, neuron, surrogate

__all__ = ["base", "conversion", "encoding", "functional", "layer", "learning", "monitor", "neuron", "surrogate"]
