"""How a run is named: by what differs from the defaults, and among several runs by what differs between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import options_of
from snn_mnist.settings.words import show

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


def differing(configs: Sequence[Config]) -> list[str]:
    """The settings that decide the result and are not the same in all of these runs."""
    return [name for name in DECIDING if len({getattr(config, name) for config in configs}) > 1]


def differences(configs: Sequence[Config]) -> list[list[str]]:
    """Of each run 'tau 1.1', 'sigmoid', 'seed 3': what differs among these runs.

    A setting that has the same value in more than half of them is named in the others only.
    """
    found: list[list[str]] = [[] for _ in configs]
    for name in differing(configs):
        values = [getattr(config, name) for config in configs]
        usual, often = Counter(values).most_common(1)[0]
        for texts, config, value in zip(found, configs, values, strict=True):
            if not (value == usual and 2 * often > len(values)) and name not in config.unused:
                texts.append(_word(name, value))
    return found


def labels(runs: Mapping[str, Config]) -> dict[str, str]:
    """name → 'tau 1.1, seed 3', see `differences`; the run's name too, where that is not enough."""
    texts = [", ".join(each) for each in differences(list(runs.values()))]
    often = Counter(texts)
    return {
        name: name if not text else f"{text} ({name})" if often[text] > 1 else text
        for name, text in zip(runs, texts, strict=True)
    }


def _word(name: str, value: Any) -> str:
    if name == "amp":
        return "amp" if value else "no amp"
    if SHORT.get(name) == "" or name == "opt":
        return show(value)
    if value is None and name != "v_reset":
        return {"alpha": "the surrogate's own alpha", "limit_batches": "all batches"}[name]
    return f"{name.replace('_', '-')} {show(value).removesuffix('.0')}"


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, with as many before it as make the names different."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
