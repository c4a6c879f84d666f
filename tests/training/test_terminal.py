"""Text that fits a terminal, and the bar at its foot."""

import fcntl
import io
import os
import select
import struct
import sys
import termios

import pytest

from snn_mnist import terminal
from snn_mnist.terminal import for_stream, print_above, progress_bar, wrapped
from snn_mnist.training.console import learned


def test_lines_break_between_words_and_never_within_a_flag_or_path():
    path = "/a" * 50
    text = f"short\n{'word ' * 20}--no-figures {path}"
    lines = wrapped(text).split("\n")
    assert lines[0] == "short" and " ".join(line.strip() for line in lines[1:]) == text.split("\n")[1]
    assert all(len(line) <= 80 for line in lines if path not in line) and any(line.strip() == path for line in lines)


class Screen:
    """A terminal of so many columns as stderr and stdout."""

    def __init__(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reader, writer = os.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115
        for name in ("stderr", "stdout"):
            monkeypatch.setattr(sys, name, self.stream)
        monkeypatch.setattr(terminal, "REDRAW", 0)

    def lines(self) -> list[str]:
        """What was shown, state after state."""
        self.stream.flush()
        content = b""
        while select.select([self.reader], [], [], 0.05)[0]:
            content += os.read(self.reader, 1 << 16)
        return [line.rstrip() for line in content.decode().replace("\n", "\r").split("\r") if line.strip()]


@pytest.mark.parametrize("columns", [120, 80, 40, 24])
def test_the_bar_of_a_run_fits_its_terminal(columns, monkeypatch):
    """An earlier process did 1,500 of 3,000 images, which do not count; 500 take 5 s: 10 s are left."""
    screen = Screen(columns, monkeypatch)
    with progress_bar("epoch 2/3", 3000, 1500) as bar:
        assert screen.lines() == []  # until there is progress
        bar.start_t -= 5
        bar.set_postfix_str(learned(0.0171, 0.912), refresh=False)
        assert bar.update(500)
        line = screen.lines()[-1]
        assert len(line) < columns and line.startswith("epoch 2/3")
        assert columns < 40 or ("67%|" in line and 9 <= int(line.partition(" left")[0].rpartition(":")[2]) <= 11)
        assert (" images/s, acc 91.20%, loss 0.0171" in line) == (columns >= 80)
        print_above(bar, "epoch 12/100  train loss 0.0171")
        assert "train loss 0.0171" in " ".join(map(str.strip, screen.lines()))  # broken where it does not fit
    screen.lines()
    assert screen.lines() == []


def test_nothing_is_drawn_into_a_file_and_an_epochs_line_is_one_line_there(capsys):
    with progress_bar("testing", 100) as bar:
        assert not bar.update(50)
        print_above(bar, "word " * 40)
    terminal.say("this takes seconds")
    assert capsys.readouterr() == ("word " * 40 + "\n", "")


def test_an_error_is_one_line_in_a_file_and_fits_a_terminal(monkeypatch):
    text = "snn_mnist train: error: " + "word " * 20
    assert for_stream(text, io.StringIO()) == text
    screen = Screen(60, monkeypatch)
    assert max(map(len, for_stream(text, screen.stream).splitlines())) <= 60
