"""How a run is named: by what differs from the defaults, and among several runs by what differs between them."""

from snn_mnist.runs.config import Config
from snn_mnist.runs.fields import options_of
from snn_mnist.runs.words import show

SHORT = {
    "amp": "amp", "dataset": "", "tau": "tau", "neuron": "", "v_threshold": "vth", "v_reset": "vreset", "surrogate": "",
    "alpha": "alpha", "momentum": "momentum", "schedule": "", "ema": "ema", "val": "val", "limit_batches": "limit",
    "seed": "seed",
}  # fmt: skip
"""What stands before a setting's value in a name, in the order of the name; '' where the value says what it is."""


def run_name(config: Config) -> str:
    """'T100_b64_adam_lr0.001' as in the tutorial, and behind it the settings of the result that are not the defaults.

    The number of epochs is left out, because a run may be extended, and so are the settings of the machine.
    """
    defaults = {each.name: each.default for each in options_of(Config)}
    parts = [f"T{config.T}", f"b{config.b}", config.opt, f"lr{config.lr}"]
    for name, prefix in SHORT.items():
        value = getattr(config, name)
        if value != defaults[name]:
            parts.append(prefix if value is True else prefix + show(value).removesuffix(".0"))
    return "_".join(parts)[:200]
