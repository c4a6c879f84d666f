"""A prepared picture and the firing rates as text for a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from snn_mnist.network.reliability import Prediction

BAR = 28  # characters of a firing rate of 1; with the longest class name a line has 80


def shows_greys() -> bool:
    """Return whether standard output is a terminal with 256 colours that can write block characters."""
    coding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not plain and coding.startswith("utf")


def drawn(pixels: np.ndarray, prediction: Prediction, names: tuple[str, ...], greys: bool) -> str:
    """Return the prepared picture [784] in 14 lines, each of two rows of pixels, and beside it the rates as bars.

    greys: each cell is a half block in two greys of the terminal; else a character, denser for more ink.
    """
    pairs, ramp = pixels.reshape(14, 2, 28).astype(int), " .:-=+*#%@"
    best = -1 if prediction.silent else prediction.ranking[0]
    bars = [""] * 14
    for c, (name, rate) in enumerate(zip(names, prediction.rates, strict=True)):
        bar = ("█" if greys else "#") * round(rate * BAR)
        mark = (" ◀" if greys else " <") if c == best else ""
        bars[c + 1] = f"{name:>{max(map(len, names))}} {rate:4.2f} {bar}{mark}"
    lines = []
    for (upper, lower), bar in zip(pairs, bars, strict=True):
        if greys:
            codes = zip(map(grey_code, upper), map(grey_code, lower), strict=True)
            row = "".join(f"\x1b[38;5;{a};48;5;{b}m▀" for a, b in codes) + "\x1b[0m"
        else:
            row = "".join(ramp[level] for level in (upper + lower) * len(ramp) // 511)
        lines.append(f"  {row}   {bar}".rstrip())
    return "\n".join(lines)


def grey_code(level: int) -> int:
    """Return the terminal's code of the nearest of its 24 greys, black or white."""
    step = level * 25 // 255
    return 16 if step == 0 else 231 if step == 25 else 231 + step
