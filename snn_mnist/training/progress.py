"""The progress bar of an epoch."""

from __future__ import annotations

import sys
import time

from snn_mnist.terminal import StatusLine, duration, fit_terminal, speed


class Progress(StatusLine):
    """On a terminal a bar for the epoch, with loss, accuracy, images/s and the time that the run still takes; elsewhere
    one line an epoch."""

    def __init__(self, epochs: int, interactive: bool | None = None) -> None:
        super().__init__(interactive)
        self.epochs = epochs
        self.trained = 0  # images in this process
        self.since = (time.perf_counter(), 0)  # where the measurement of speed began: time, images

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def start(self, epoch: int, images: int, done: int) -> None:
        """An epoch of so many images begins, `done` of them by an earlier process."""
        self.title = f"epoch {epoch + 1}/{self.epochs}"
        self.epoch, self.images, self.done, self.before = epoch, images, done, done
        self.epoch_began = time.perf_counter()
        if not self.trained:
            self.since = (self.epoch_began, 0)

    def step(self, images: int) -> None:
        self.done += images
        self.trained += images

    def figures(self, loss: float, accuracy: float) -> None:
        """Draws the bar."""
        now = time.perf_counter()
        began, trained = self.since
        pace = (now - began) / (self.trained - trained)  # seconds an image, tests and checkpoints included
        if not trained:
            self.since = (now, self.trained)  # later bars are without what the first steps compile
        still = (self.epochs - self.epoch) * self.images - self.done  # images, in this epoch and all later ones
        parts = (
            f"loss {loss:.4f}", f"acc {accuracy:.2%}",
            speed((self.done - self.before) / (now - self.epoch_began)),
            f"{duration(pace * still)} left",
        )  # fmt: skip
        self.meter(self.title, self.done / self.images, parts, losing=(0, 2, 1, 3))

    def says(self, what: str) -> None:
        """What is done between the epochs."""
        self.show(f"{self.title}  {what} ...")

    def line(self, text: str) -> None:
        self.clear()
        print(fit_terminal(text, sys.stdout), flush=True)
