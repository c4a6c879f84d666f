"""How a run is named: by what differs from the defaults, and among several runs by what differs between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_mnist.settings.config import DECIDING, Config
from snn_mnist.settings.options import options_of
from snn_mnist.settings.words import show

OPTIONS = {each.name: each for each in options_of(Config)}
ABBREVIATED = {"v_threshold": "vth", "v_reset": "vreset", "limit_batches": "limit"}
SELF_EXPLAINING = ("dataset", "neuron", "opt", "surrogate", "schedule")  # the value says which setting it is


def run_name(config: Config) -> str:
    """Return 'T100_b64_adam_lr0.001' as in the tutorial, and behind it the settings that are not the defaults.

    The number of epochs is left out, because a run may be extended, and so are the settings of the machine.
    """
    parts = [f"T{config.T}", f"b{config.b}", config.opt, f"lr{config.lr}"]
    for name in ("amp", *(each for each in DECIDING if each not in ("T", "b", "opt", "lr", "epochs", "amp"))):
        if (value := getattr(config, name)) != OPTIONS[name].default:
            prefix = "" if name in SELF_EXPLAINING else ABBREVIATED.get(name, name)
            parts.append(prefix + ("" if value is True else show(value).removesuffix(".0")))
    return "_".join(parts)[:200]


def differences(configs: Sequence[Config]) -> list[list[str]]:
    """Return for each run 'tau 1.1', 'sigmoid', 'seed 3': what differs among these runs.

    A setting that has the same value in more than half of them is named in the others only.
    """
    found: list[list[str]] = [[] for _ in configs]
    for name in DECIDING:
        values = [getattr(config, name) for config in configs]
        usual, often = Counter(values).most_common(1)[0] if values else (None, 0)
        for texts, config, value in zip(found, configs, values, strict=True):
            if often < len(values) and (value != usual or 2 * often <= len(values)) and name not in config.unused:
                texts.append(_word(name, value))
    return found


def _word(name: str, value: Any) -> str:
    option = OPTIONS[name]
    if isinstance(value, bool):
        return option.flag if value else f"no {option.flag}"
    text = option.shown if value is None and option.shown else show(value).removesuffix(".0")
    return text if name in SELF_EXPLAINING else f"{option.flag} {text}"


def labels(runs: Mapping[str, Config]) -> dict[str, str]:
    """Return name → 'tau 1.1, seed 3', see `differences`; the run's name too, where that is not enough."""
    texts = [", ".join(each) for each in differences(list(runs.values()))]
    often = Counter(texts)
    return {
        name: name if not text else f"{text} ({name})" if often[text] > 1 else text
        for name, text in zip(runs, texts, strict=True)
    }


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the last part of each path, with as many before it as make the names different."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
