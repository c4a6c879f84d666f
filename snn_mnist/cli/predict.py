"""Verb `predict`: your own pictures of digits.

    python -m snn_mnist predict seven.png scans/ -resume last

Shows each picture as the network's input, the firing rates of the ten neurons, the prediction with its margin, and
reasons to doubt it. The same picture, seed and checkpoint give the same rates, whatever other pictures are given.
"""

from __future__ import annotations

import io
import itertools
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.results import write_json
from snn_mnist.cli.shared_options import (
    checkpoint_option,
    json_option,
    open_checkpoint,
    out_dir_option,
    saved_option,
    seed_option,
    tau_option,
)
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import train_option
from snn_mnist.settings.options import Options, option
from snn_mnist.storage.atomic_files import make_directory, reason, write_file

if TYPE_CHECKING:
    import numpy as np

    from snn_mnist.data import pictures
    from snn_mnist.network.network import SNN
    from snn_mnist.network.reliability import Reliability
    from snn_mnist.network.saved_network import SavedNetwork

STDIN = "-"
WIDTH = 80  # characters of a line
BAR = 28  # characters of a firing rate of 1; with the longest class name a line has WIDTH
BLOCKS = ((" ", "▄"), ("▀", "█"))  # [upper pixel is lit][lower pixel is lit]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Settings of `predict`. None means: as in the checkpoint."""

    images: tuple[str, ...] = option(
        (),
        "Files",
        "picture files, directories of them, or - for standard input",
        path="FILE",
        required=True,
        positional=True,
    )
    resume: str = checkpoint_option()
    out_dir: str = out_dir_option()
    T: int | None = saved_option("T", "Images")
    tau: float | None = tau_option("Images")
    seed: int | None = seed_option("Images")
    show: bool = option(True, "Images", "draw the prepared picture and the rates in the terminal")
    save: str | None = option(None, "Files", "write the prepared pictures there, 28 x 28 pixels, as PNG", path="DIR")
    json: str | None = json_option()
    data_dir: str = train_option("data_dir", help="where the test images are that show which margins are low")


@dataclass(frozen=True)
class Doubt:
    """A reason not to trust a prediction."""

    name: str
    why: str  # a sentence for a person


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


def doubts(prediction: Prediction, objects: int, limits: Reliability | None) -> list[Doubt]:
    """Reasons not to trust a prediction from a picture of so many objects; limits: None where they are not known."""
    found = []
    if objects > 1:
        found.append(Doubt("several objects", f"{objects} separate objects are seen; give one digit per picture"))
    if limits is None or prediction.silent:
        return found
    rate, margin = prediction.rates[prediction.ranking[0]], prediction.margin
    if limits.weak(rate):
        why = f"99 % of the test images read right have a rate of {limits.rate:.2f} or more"
        found.append(Doubt("nearly silent", f"the network is nearly silent at rate {rate:.2f}; {why}"))
    elif limits.close(margin):
        why = f"the margin {margin:.2f} is below {limits.margin:.2f}; as doubtful are {limits.words()}"
        found.append(Doubt("low margin", why))
    return found


def classify(net: SNN, pixels: np.ndarray, steps: int, seed: int) -> Prediction:
    """The rates for prepared pixels [784] uint8, encoded as image 0 of the stream PREDICT."""
    import torch

    from snn_mnist.network.engine import TorchEngine
    from snn_mnist.network.poisson import SpikeKey, Stream

    engine = TorchEngine(net, torch.from_numpy(pixels)[None])
    counts, _ = engine.firing_counts(torch.tensor([0]), [steps], SpikeKey(seed, Stream.PREDICT, 0))
    return Prediction((counts[0, -1].double() / steps).tolist())


def run(options: PredictOptions) -> int:
    from snn_mnist.data.datasets import DIGITS, FASHION

    loaded = open_checkpoint(options)
    config = loaded.config
    loaded.net.spiking.step_mode = "m"
    names = FASHION if config.dataset == "fashion" else DIGITS
    limits = measure_limits(loaded, config.data_dir)
    results, code = [], 0
    for file in files(options.images):
        try:
            picture, prepared = read(file, config.dataset)
            saved = save(prepared, file, options.save) if options.save else None
        except SNNError as error:  # the other pictures still get an answer
            code = max(code, error.exit_code)
            print(f"snn_mnist predict: error: {error}", file=sys.stderr)
            continue
        prediction = classify(loaded.net, prepared.pixels, config.T, config.seed)
        # Clothes have several parts: pairs of shoes, sandals.
        found = doubts(prediction, 1 if config.dataset == "fashion" else prepared.objects, limits)
        record = {"file": file} | _record(picture, prepared, prediction, names, found)
        results.append(record | ({"saved": saved} if saved else {}))
        if options.json == "-":
            continue
        if options.show:
            print("\n".join(lines(title(file, picture, prepared), prepared, prediction, names, found, terminal())))
        else:
            print(one_line(file, prediction, names, found))
    if options.json:
        settings: dict[str, Any] = {
            "checkpoint": str(loaded.path), "T": config.T, "tau": config.tau, "seed": config.seed,
            "limits": limits and asdict(limits),
        }  # fmt: skip
        write_json(options.json, settings | {"pictures": results})
    return code


def measure_limits(loaded: SavedNetwork, data_dir: str) -> Reliability | None:
    """From the test images of the checkpoint's data set, if they are on this machine."""
    from snn_mnist.data.datasets import load_test_images
    from snn_mnist.network import reliability

    config = loaded.config
    if (test := load_test_images(config.dataset, data_dir)) is None:
        note = f"no test images of {config.dataset} in {data_dir}, so low margins are not marked (-data-dir)"
        print(f"snn_mnist: note: {note}", file=sys.stderr)
        return None
    return reliability.measure(loaded.net, test, config.T, config.seed)


# ---------------------------------------------------------------------------- files


def files(names: tuple[str, ...]) -> Iterator[str]:
    """The files that were named, and instead of a directory the pictures in it, in order."""
    from snn_mnist.data import pictures

    for name in names:
        inside = sorted(os.listdir(name)) if os.path.isdir(name) else []
        found = [os.path.join(name, each) for each in inside if each.lower().endswith(pictures.SUFFIXES)]
        yield from found or [name]


def read(file: str, dataset: str) -> tuple[pictures.Picture, pictures.Prepared]:
    """The picture of a file or of standard input, and the input of the network; SNNError names what is wrong."""
    from snn_mnist.data import pictures

    if os.path.isdir(file):
        raise UsageError(f"{file} is a directory without PNG, JPEG, GIF, WebP or BMP files; name another one")
    if file == STDIN:
        picture = pictures.read(io.BytesIO(sys.stdin.buffer.read()), "standard input")
    else:
        picture = pictures.read(file)
    prepared = pictures.prepare(picture.grey, pictures.BOXES[dataset])
    if prepared is None:
        raise SNNError(f"{file} shows nothing that stands out; give a picture with more contrast")
    return picture, prepared


def save(prepared: pictures.Prepared, file: str, folder: str) -> str:
    """Writes the prepared picture as a PNG, ink white on black as in MNIST; returns its path. It overwrites nothing."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(prepared.pixels.reshape(28, 28)).save(buffer, "PNG")
    content, stem = buffer.getvalue(), "stdin" if file == STDIN else Path(file).stem
    make_directory(folder, "-save")
    for number in itertools.count(1):
        target = Path(folder) / f"{stem}_28x28{f'-{number}' if number > 1 else ''}.png"
        try:
            if target.exists() and target.read_bytes() != content:
                continue
        except OSError as error:
            raise SNNError(f"{target} can't be read ({reason(error)}); choose another -save") from error
        break
    write_file(target, content, "-save")
    return str(target)


def _record(
    picture: pictures.Picture, prepared: pictures.Prepared, prediction: Prediction, names: tuple[str, ...],
    found: list[Doubt],
) -> dict[str, Any]:  # fmt: skip
    first, second = prediction.ranking[:2]
    return {
        "width": picture.width,
        "height": picture.height,
        "verdict": None if prediction.silent else first,
        "name": None if prediction.silent else names[first],
        "runner_up": second,
        "margin": prediction.margin,
        "rates": prediction.rates,
        "dark_on_light": prepared.dark_on_light,
        "objects": prepared.objects,
        "doubts": [doubt.name for doubt in found],
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


def title(file: str, picture: pictures.Picture, prepared: pictures.Prepared) -> str:
    colour = "dark on light" if prepared.dark_on_light else "light on dark"
    name = "standard input" if file == STDIN else file
    return f"{name} ({picture.width} x {picture.height} pixels, {colour})"


def one_line(file: str, prediction: Prediction, names: tuple[str, ...], found: list[Doubt]) -> str:
    doubtful = f"; doubtful: {', '.join(doubt.name for doubt in found)}" if found else ""
    return f"{file}: {prediction.sentence(names)}{doubtful}"


def lines(
    title: str, prepared: pictures.Prepared, prediction: Prediction, names: tuple[str, ...], found: list[Doubt],
    screen: Terminal,
) -> list[str]:  # fmt: skip
    """The prediction as text: the prepared picture on the left, the rates as bars on the right."""
    head = [title, prediction.sentence(names)]
    for doubt in found:
        head += textwrap.wrap(f"Doubtful: {doubt.why}.", WIDTH)
    left = thumbnail(prepared.pixels, screen)
    right = ["", *bars(prediction, names, screen)]
    right += [""] * (len(left) - len(right))
    return [*head, "", *(f"  {a}   {b}".rstrip() for a, b in zip(left, right, strict=True)), ""]


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
