"""Text that fits a terminal, and the line that is drawn anew."""

import io
from types import SimpleNamespace

import pytest

from snn_mnist import terminal
from snn_mnist.terminal import Meter, StatusLine, duration, fit, speed
from snn_mnist.training.progress import Progress

PARTS = ("loss 0.0171", "acc 91.20%", "181k images/s", "0:12 left")
LOSING = (0, 2, 1, 3)  # the loss goes first, the time last


def test_durations_and_speeds():
    assert [duration(s) for s in (0.4, 59.6, 754, 3723)] == ["0:00", "1:00", "12:34", "1:02:03"]
    assert [speed(x).split()[0] for x in (7.2, 999.4, 1_040, 18_140, 181_448)] == ["7", "999", "1.0k", "18.1k", "181k"]


def test_lines_break_between_words_and_never_within_a_flag_or_path():
    path = "/a" * 50
    text = f"short\n{'word ' * 20}--no-figures {path}"
    lines = fit(text).split("\n")
    assert lines[0] == "short" and " ".join(line.strip() for line in lines[1:]) == text.split("\n")[1]
    assert all(len(line) <= 80 for line in lines if path not in line) and any(line.strip() == path for line in lines)


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def lines(self):
        """What was shown, state after state."""
        return [line.rstrip() for line in self.getvalue().split("\r") if line.strip()]


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 60 columns as stderr."""
    found = Screen()
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stderr=found))
    monkeypatch.setattr(terminal, "columns", lambda stream: 60)
    return found


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "epoch 12/100  50%|█████     | loss 0.0171  acc 91.20%  181k images/s  0:12 left"),
        (65, "epoch 12/100  50%|████    | acc 91.20%  181k images/s  0:12 left"),
        (60, "epoch 12/100  50%|█████████         | acc 91.20%  0:12 left"),
        (40, "epoch 12/100  50%|█████     | 0:12 left"),
    ],
)
def test_a_bar_loses_parts_where_the_terminal_is_narrow(columns, line, screen, monkeypatch):
    monkeypatch.setattr(terminal, "columns", lambda stream: columns)
    StatusLine().meter("epoch 12/100", 0.5, PARTS, LOSING)
    assert screen.lines() == [line]


def test_a_shorter_text_covers_a_longer_one(screen):
    line = StatusLine()
    line.show("a long text")
    line.show("short")
    assert screen.getvalue().endswith("\ra long text\rshort      ")
    line.clear()
    line.clear()
    assert screen.getvalue().endswith("\r     \r")


def test_nothing_is_drawn_into_a_file(capsys):
    with Meter("testing", 100) as found:
        found.shown = float("-inf")
        found.step(50)
    terminal.say("this takes seconds")
    assert capsys.readouterr() == ("", "")


def test_a_meter_counts_images(screen, monkeypatch):
    """A quarter of 400 images in 2 s: 50 images/s, 6 s for the others. The last column stays free."""
    clock = iter([10.0, 12.0, 12.0, 12.0])
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(clock))
    Meter("testing", 400).step(100)
    assert screen.lines() == ["testing  25%|█████▌                | 50 images/s  0:06 left"]


def test_the_bar_of_a_resumed_epoch_and_of_the_next(screen, monkeypatch):
    """Of 1,000 images 250 were learned before and 250 in these 5 s: 50 images/s, and at 0.02 s each 1,500 are left.
    Then 500 more in 10 s, 5 s of a test, and 250 of the next epoch in 10 s: 25 images/s, and without the first steps,
    which may compile kernels, 1/30 s each for the 750 that are left."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(terminal, "columns", lambda stream: 80)
    progress = Progress(3)
    now[0] = 200.0  # compiling
    progress.start(1, 1000, 250)
    progress.step(250)
    now[0] = 205.0
    progress.figures(0.0171, 0.912)
    progress.step(500)
    now[0] = 220.0
    progress.start(2, 1000, 0)
    progress.step(250)
    now[0] = 230.0
    progress.figures(0.0169, 0.915)
    (first, second) = screen.lines()
    assert first.startswith("epoch 2/3  50%|") and first.endswith("| loss 0.0171  acc 91.20%  50 images/s  0:30 left")
    assert second.startswith("epoch 3/3  25%|") and second.endswith("| loss 0.0169  acc 91.50%  25 images/s  0:25 left")


def test_an_error_is_one_line_in_a_file_and_fits_a_terminal(screen):
    text = "snn_mnist train: error: " + "word " * 20
    assert terminal.fit_terminal(text, io.StringIO()) == text
    assert max(map(len, terminal.fit_terminal(text, screen).splitlines())) <= 60
