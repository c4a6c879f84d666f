"""The progress bar of a run."""

from __future__ import annotations

import sys

from snn_mnist.terminal import for_stream, progress_bar


class Progress:
    """On a terminal a bar for the run: the remaining time, images/s with the tests, accuracy and loss; elsewhere
    one line per epoch. A context: the bar disappears at its end."""

    def __init__(self, epochs: int, show: bool | None = None) -> None:
        self.epochs, self.show = epochs, show
        self.bar = progress_bar("", 0, show=False)  # until the first epoch begins
        self.learned = ""  # loss and accuracy

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def start(self, epochs: int, images: int, done: int) -> None:
        """Begin an epoch of this many images after `epochs` finished ones; an earlier process did `done` of them."""
        title = f"epoch {epochs + 1}/{self.epochs}"
        if not self.bar.total:
            self.bar = progress_bar(title, self.epochs * images, epochs * images + done, self.show)
        self.bar.set_description_str(title, refresh=False)
        self.bar.set_postfix_str(self.learned, refresh=False)

    def step(self, images: int) -> bool:
        """Count images; return whether the bar was drawn, and wants new figures for the next time."""
        return bool(self.bar.update(images))

    def figures(self, loss: float, accuracy: float) -> None:
        self.learned = f"acc {accuracy:.2%}, loss {loss:.4f}"
        self.bar.set_postfix_str(self.learned, refresh=False)

    def says(self, what: str) -> None:
        """Show what is done between the epochs."""
        self.bar.set_postfix_str(f"{what} ...")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        with self.bar.external_write_mode(sys.stdout):
            print(for_stream(text, sys.stdout), flush=True)
