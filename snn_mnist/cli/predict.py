"""Verb `predict`: your own pictures of digits.

    python -m snn_mnist predict seven.png eight.jpg -resume logs/T100_b64_adam_lr0.001

Shows each picture as the network's input, the firing rates of the ten neurons, and the prediction with its margin. The
same picture, seed and checkpoint give the same rates, whatever other pictures are given.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.results import write_json
from snn_mnist.cli.shared_options import checkpoint_option, json_option, saved_option, seed_option, tau_option
from snn_mnist.errors import SNNError
from snn_mnist.runs.fields import Options, option, path, several, switch

if TYPE_CHECKING:
    import numpy as np

    from snn_mnist.data import pictures
    from snn_mnist.model.network import SNN

BAR = 40  # characters of a firing rate of 1
BLOCKS = ((" ", "▄"), ("▀", "█"))  # [upper pixel is lit][lower pixel is lit]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Settings of `predict`. None means: as in the checkpoint."""

    images: tuple[str, ...] = option(
        (), several(path("FILE")), "Files", "picture files", required=True, positional=True
    )
    resume: str = checkpoint_option()
    T: int | None = saved_option("T", "Images")
    tau: float | None = tau_option("Images")
    seed: int | None = seed_option("Images")
    show: bool = option(True, switch(), "Images", "draw the prepared picture and the rates in the terminal")
    json: str | None = json_option()


@dataclass(frozen=True)
class Prediction:
    """The firing rates for one picture."""

    rates: list[float]  # output spikes per step of each of the ten neurons

    @property
    def ranking(self) -> list[int]:
        """Classes from the highest rate down; the lower class comes first in a tie."""
        return sorted(range(len(self.rates)), key=lambda c: (-self.rates[c], c))

    @property
    def margin(self) -> float:
        """The highest rate minus the next."""
        first, second = self.ranking[:2]
        return self.rates[first] - self.rates[second]

    @property
    def silent(self) -> bool:
        return not any(self.rates)

    def sentence(self, names: tuple[str, ...]) -> str:
        first, second = self.ranking[:2]
        if self.silent:
            return "no prediction: no neuron fired; try a larger -T"
        rate, next_rate = self.rates[first], self.rates[second]
        if self.margin == 0:
            return f"undecided between {names[first]} and {names[second]} (rate {rate:.2f} both)"
        rest = f"next {names[second]} with {next_rate:.2f}" if next_rate else "no other neuron fired"
        return f"{names[first]}  (rate {rate:.2f}, margin {self.margin:.2f}; {rest})"


def classify(net: SNN, pixels: np.ndarray, steps: int, seed: int) -> Prediction:
    """The rates for prepared pixels [784] uint8, encoded as image 0 of the stream PREDICT."""
    import torch

    from snn_mnist.model.engine import TorchEngine
    from snn_mnist.model.poisson import SpikeKey, Stream

    engine = TorchEngine(net, torch.from_numpy(pixels)[None])
    counts, _ = engine.firing_counts(torch.tensor([0]), [steps], SpikeKey(seed, Stream.PREDICT, 0))
    return Prediction((counts[0, -1].double() / steps).tolist())


def run(options: PredictOptions) -> int:
    from snn_mnist.data import pictures
    from snn_mnist.data.datasets import DIGITS, FASHION
    from snn_mnist.model.saved_network import load_network

    loaded = load_network(options.resume, T=options.T, tau=options.tau, seed=options.seed)
    config = loaded.config
    loaded.net.spiking.step_mode = "m"
    names = FASHION if config.dataset == "fashion" else DIGITS
    results, failures = [], 0
    for file in options.images:
        try:
            prepared = pictures.prepare(pictures.read(file), pictures.BOXES[config.dataset])
            if prepared is None:
                raise SNNError(f"{file} shows nothing that stands out; give a picture with more contrast")
        except SNNError as error:  # the other pictures still get an answer
            failures += 1
            print(f"snn_mnist predict: error: {error}", file=sys.stderr)
            continue
        prediction = classify(loaded.net, prepared.pixels, config.T, config.seed)
        results.append(_record(file, prepared, prediction, names))
        if options.json != "-":
            print("\n".join(lines(file, prepared, prediction, names, options.show, terminal())))
    if options.json:
        settings = {"checkpoint": str(loaded.path), "T": config.T, "tau": config.tau, "seed": config.seed}
        write_json(options.json, settings | {"pictures": results})
    return 1 if failures else 0


def _record(path: str, prepared: pictures.Prepared, prediction: Prediction, names: tuple[str, ...]) -> dict[str, Any]:
    first, second = prediction.ranking[:2]
    return {
        "file": path,
        "verdict": None if prediction.silent else first,
        "name": None if prediction.silent else names[first],
        "runner_up": second,
        "margin": prediction.margin,
        "rates": prediction.rates,
        "dark_on_light": prepared.dark_on_light,
    }


# ---------------------------------------------------------------------------- the terminal


@dataclass(frozen=True)
class Terminal:
    unicode: bool
    greys: bool  # understands 256 colours


def terminal() -> Terminal:
    """What standard output can show."""
    coding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    greys = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
    return Terminal(coding.startswith("utf"), greys)


def lines(
    path: str, prepared: pictures.Prepared, prediction: Prediction, names: tuple[str, ...], show: bool, screen: Terminal
) -> list[str]:
    """The prediction as text: the prepared picture on the left, the rates as bars on the right."""
    colour = "dark on light" if prepared.dark_on_light else "light on dark"
    head = f"{path} ({prepared.width} x {prepared.height}, {colour}): {prediction.sentence(names)}"
    if not show:
        return [head]
    left = thumbnail(prepared.pixels, screen)
    right = ["", *bars(prediction, names, screen)]
    right += [""] * (len(left) - len(right))
    return [head, "", *(f"  {a}   {b}".rstrip() for a, b in zip(left, right, strict=True)), ""]


def thumbnail(pixels: np.ndarray, screen: Terminal) -> list[str]:
    """28x28 pixels in 14 lines of 28 characters, each of two pixels one above the other."""
    pairs = pixels.reshape(14, 2, 28).astype(int)
    if screen.unicode and screen.greys:
        rows = []
        for upper, lower in pairs:
            cells = (f"\x1b[38;5;{grey_code(a)};48;5;{grey_code(b)}m▀" for a, b in zip(upper, lower, strict=True))
            rows.append("".join(cells) + "\x1b[0m")
        return rows
    if screen.unicode:
        return ["".join(BLOCKS[a > 100][b > 100] for a, b in zip(*rows, strict=True)) for rows in pairs.tolist()]
    ramp = " .:-=+*#%@"
    return ["".join(ramp[level] for level in (a + b) * len(ramp) // 511) for a, b in pairs]


def grey_code(level: int) -> int:
    """The terminal's code of the nearest of its 24 greys, black or white."""
    step = level * 25 // 255
    return 16 if step == 0 else 231 if step == 25 else 231 + step


def bars(prediction: Prediction, names: tuple[str, ...], screen: Terminal) -> list[str]:
    width = max(map(len, names))
    best = -1 if prediction.silent else prediction.ranking[0]
    rows = []
    for c, (name, rate) in enumerate(zip(names, prediction.rates, strict=True)):
        if screen.unicode:
            eighths = round(rate * BAR * 8)
            bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        else:
            bar = "#" * round(rate * BAR)
        mark = ("◀" if screen.unicode else "<") if c == best else ""
        rows.append(f"{name:>{width}} {rate:4.2f} {bar} {mark}".rstrip())
    return rows
