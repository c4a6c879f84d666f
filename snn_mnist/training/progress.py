"""The progress bar of an epoch."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any


class Progress:
    """A tqdm bar on a terminal; elsewhere one line an epoch. Speed and remaining time come from the bar."""

    def __init__(self, epochs: int, interactive: bool | None = None) -> None:
        from tqdm import tqdm

        self.epochs, self.tqdm = epochs, tqdm
        self.bar: Any = None
        self.interactive = sys.stderr.isatty() if interactive is None else interactive

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, epoch: int, images: int, done: int) -> None:
        size = shutil.get_terminal_size((100, 24))  # also for terminals that say 0 x 0
        self.bar = self.tqdm(
            total=images, initial=done, unit=" images", unit_scale=True, leave=False, disable=not self.interactive,
            desc=f"epoch {epoch + 1}/{self.epochs}", ncols=min(size.columns, 120), nrows=size.lines,
            ascii=not _unicode(),
        )  # fmt: skip
        self._shown = time.perf_counter()

    def due(self) -> bool:
        """Whether the figures behind the bar are old enough to compute them anew."""
        return self.interactive and time.perf_counter() - self._shown > 0.25

    def figures(self, loss: float, accuracy: float) -> None:
        self._shown = time.perf_counter()
        self.bar.set_postfix_str(f"loss {loss:.4f} acc {accuracy:.2%}", refresh=False)

    def step(self, images: int) -> None:
        self.bar.update(images)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def line(self, text: str) -> None:
        print(text, flush=True)


def _unicode() -> bool:
    return (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "").startswith("utf")
