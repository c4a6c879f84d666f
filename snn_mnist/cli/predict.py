"""Verb `predict`: your own pictures of digits.

    python -m snn_mnist predict seven.png scans/ -resume last

Shows each picture as the network's input, the firing rate of each class, the prediction with its margin, and reasons
to doubt it. The same picture, seed and checkpoint give the same rates, whatever other pictures are given.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snn_mnist.cli.shared import SavedNetworkOptions, data_dir_option, json_option, open_checkpoint, publish
from snn_mnist.errors import SNNError
from snn_mnist.settings.options import option
from snn_mnist.storage.atomic_files import make_directory, write_file
from snn_mnist.terminal import report, wrapped

if TYPE_CHECKING:
    import numpy as np

    from snn_mnist.network.scoring import Prediction

STDIN = "-"
FILES = "picture files, directories of them, or - for standard input"
BAR = 28  # characters of a firing rate of 1; with the longest class name a line has 80


@dataclass(frozen=True, kw_only=True)
class PredictOptions(SavedNetworkOptions):
    """Settings of `predict`."""

    images: tuple[str, ...] = option((), "Files", FILES, metavar="FILE", required=True, positional=True)
    show: bool = option(True, "Images", "draw the prepared picture and the rates in the terminal")
    save: str | None = option(None, "Files", "write the prepared pictures there, 28 x 28 pixels, as PNG", metavar="DIR")
    json: str | None = json_option()
    data_dir: str | None = data_dir_option(help="where the test images are, from which low margins are determined")


def run(options: PredictOptions) -> int:
    from snn_mnist.data import pictures
    from snn_mnist.data.datasets import DIGITS, FASHION, load_test_images
    from snn_mnist.network import scoring

    loaded = open_checkpoint(options)
    config, limits = loaded.config, None
    names = FASHION if config.dataset == "fashion" else DIGITS
    if test := load_test_images(config.dataset, config.data_dir):
        limits = scoring.measure_reliability(loaded.net, test, config)
    else:
        report(f"note: no test images of {config.dataset} in {config.data_dir}: low margins are not marked (-data-dir)")
    results, code = [], 0
    for file in files(options.images, pictures.SUFFIXES):
        name = "standard input" if file == STDIN else file
        try:
            source: Any = io.BytesIO(sys.stdin.buffer.read()) if file == STDIN else file
            picture = pictures.read(source, name)
            prepared = pictures.prepare(picture.grey, pictures.BOXES[config.dataset])
            if prepared is None:
                raise SNNError(f"{name} shows nothing that stands out; give a picture with more contrast")
            saved = {"saved": save(prepared.pixels, file, options.save)} if options.save else {}
        except SNNError as error:  # the other pictures are still classified
            code = max(code, error.exit_code)
            print(f"snn_mnist predict: error: {error}", file=sys.stderr)
            continue
        prediction = scoring.predict(loaded.net, prepared.pixels, config.T, config.seed)
        objects = 1 if config.dataset == "fashion" else prepared.objects  # clothes have several parts: pairs of shoes
        doubts = scoring.doubts(prediction, objects, limits)
        first, second = prediction.ranking[:2]
        result = {"file": file, "width": picture.width, "height": picture.height}
        result |= {"verdict": None, "name": None} if prediction.silent else {"verdict": first, "name": names[first]}
        result |= {"runner_up": second, "margin": prediction.margin, "rates": prediction.rates}
        result |= {"dark_on_light": prepared.dark_on_light, "objects": prepared.objects, "doubts": [*doubts]}
        results.append(result | saved | ({"neuron_rates": prediction.neurons} if prediction.neurons else {}))
        if options.json == "-":
            continue
        if options.show:
            colour = "dark on light" if prepared.dark_on_light else "light on dark"
            print(f"{name} ({picture.width} x {picture.height} pixels, {colour})\n{prediction.sentence(names)}")
            print("".join(wrapped(f"Doubtful: {why}.", indent="") + "\n" for why in doubts.values()))
            print(drawn(prepared.pixels, prediction, names, shows_greys()) + "\n")
        else:
            doubtful = f"; doubtful: {', '.join(doubts)}" if doubts else ""
            print(f"{file}: {prediction.sentence(names)}{doubtful}")
    settings = {"checkpoint": str(loaded.path), "T": config.T, "tau": config.tau, "seed": config.seed}
    publish(options.json, settings | {"limits": limits and asdict(limits), "pictures": results})
    return code


def files(names: tuple[str, ...], suffixes: tuple[str, ...]) -> list[str]:
    """Return the files that were named, and instead of a directory the pictures in it, in order."""
    found: list[str] = []
    for name in names:
        inside = sorted(os.listdir(name)) if os.path.isdir(name) else []
        found += [os.path.join(name, each) for each in inside if each.lower().endswith(suffixes)] or [name]
    return found


def save(pixels: np.ndarray, file: str, folder: str) -> str:
    """Write prepared pixels as a PNG, ink white on black as in MNIST; return its path. Nothing is overwritten."""
    from PIL import Image

    buffer, number = io.BytesIO(), 1
    Image.fromarray(pixels.reshape(28, 28)).save(buffer, "PNG")
    make_directory(folder, "-save")
    target = first = Path(folder) / f"{'stdin' if file == STDIN else Path(file).stem}_28x28.png"
    while target.is_file() and target.read_bytes() != buffer.getvalue():
        target = first.with_stem(f"{first.stem}-{(number := number + 1)}")
    write_file(target, buffer.getvalue(), "-save")
    return str(target)


def shows_greys() -> bool:
    """Return whether standard output is a terminal with 256 colours that can write block characters."""
    coding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not plain and coding.startswith("utf")


def drawn(pixels: np.ndarray, prediction: Prediction, names: tuple[str, ...], greys: bool) -> str:
    """Return the prepared picture [784] in 14 lines, each of two rows of pixels, and beside it the rates as bars.

    greys: each cell is a half block in two greys of the terminal; else a character, denser for more ink.
    """
    ramp, block, arrow = " .:-=+*#%@", "█" if greys else "#", "◀" if greys else "<"
    width, best = max(map(len, names)), None if prediction.silent else prediction.ranking[0]
    lines = []
    for number, (upper, lower) in enumerate(pixels.reshape(14, 2, 28).astype(int)):
        if greys:
            codes = zip(map(grey_code, upper), map(grey_code, lower), strict=True)
            line = "".join(f"\x1b[38;5;{a};48;5;{b}m▀" for a, b in codes) + "\x1b[0m"
        else:
            line = "".join(ramp[level] for level in (upper + lower) * len(ramp) // 511)
        if 0 <= (c := number - 1) < len(names):
            rate = prediction.rates[c]
            line += f"   {names[c]:>{width}} {rate:4.2f} {block * round(rate * BAR)}{f' {arrow}' if c == best else ''}"
        lines.append(f"  {line}".rstrip())
    return "\n".join(lines)


def grey_code(level: int) -> int:
    """Return the terminal's code of the nearest of its 24 greys, black or white."""
    step = level * 25 // 255
    return 16 if step == 0 else 231 if step == 25 else 231 + step
