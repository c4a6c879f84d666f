"""Figures of spikes, voltages, feature maps and surrogates, under the names of `spikingjelly.visualizing`."""

from snn_mnist.visualizing.plots import (
    plot_1d_spikes,
    plot_2d_bar_in_3d,
    plot_2d_feature_map,
    plot_2d_heatmap,
    plot_curves,
    plot_one_neuron_v_s,
    plot_surrogate_function,
)

__all__ = [
    "plot_1d_spikes",
    "plot_2d_bar_in_3d",
    "plot_2d_feature_map",
    "plot_2d_heatmap",
    "plot_curves",
    "plot_one_neuron_v_s",
    "plot_surrogate_function",
]
