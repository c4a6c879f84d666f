"""The verb plot."""

import hashlib

import pytest
import torch
from PIL import Image

from snn_mnist.cli import plot
from snn_mnist.cli.main import main
from snn_mnist.data.datasets import DIGITS
from snn_mnist.visualizing import run_figures as figures
from tests.support.export_net import weights
from tests.support.run_directories import make_run, rows_of

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run_directory(tmp_path):
    return make_run(tmp_path / "logs" / "T20_b64", list(rows_of(4)), torch.from_numpy(weights()))


def test_verb_draws_one_run(run_directory, capsys):
    before = {file: digest(file) for file in run_directory.iterdir()}
    assert main(["plot", str(run_directory)]) == 0
    names = ["curves.png", "weights.png", "confusion.png", "accuracy_against_T.png"]
    assert capsys.readouterr().out.splitlines()[-4:] == [str(run_directory / name) for name in names]
    for name in names:
        assert Image.open(run_directory / name).size[0] > 1000
    assert {file: digest(file) for file in before} == before


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_confusion_is_that_of_the_checkpoint(run_directory, monkeypatch):
    seen = {}
    monkeypatch.setattr(figures, "write_network_figures", lambda *given: seen.setdefault("given", given) and [])
    plot.plot_network(run_directory)
    folder, _, tested, names = seen["given"]
    assert folder == run_directory and names == DIGITS
    assert len(tested.labels) == 360 and tested.readout_steps[-1] == 20
    assert tested.accuracy() > 0.5  # far above chance: the right images met their labels


def test_verb_draws_several_runs_into_one_figure(run_directory, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plot, "plot_network", lambda folder: [folder / "network"])
    other = make_run(tmp_path / "more" / "T20_b64", list(rows_of(2, gain=0.1)))
    assert main(["plot", str(run_directory), str(other)]) == 0
    out = capsys.readouterr().out
    assert str(run_directory / "network") in out
    assert (run_directory / "curves_compared.png").is_file()
    assert not (run_directory / "curves.png").exists()
    assert f"{other} has no checkpoint_latest.pth: learning curves only" in out
    target = tmp_path / "new" / "all.png"
    assert main(["plot", str(run_directory), str(other), "-out", str(target)]) == 0
    assert target.read_bytes().startswith(PNG)


def test_names_are_as_short_as_they_can_be(tmp_path):
    assert plot.short_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert plot.short_names([tmp_path / "x" / "a", tmp_path / "y" / "a"]) == ["x/a", "y/a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "none is not a directory; give run directories"),
        (["."], "has no metrics.csv"),
        (["run", "-out", "a.gif"], "ends in .png"),
        (["empty"], "no finished epoch"),
        (["run", "-out", "file/a.png"], "choose another -out"),
    ],
)
def test_errors_name_the_remedy(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", list(rows_of(1)))
    (make_run(tmp_path / "empty", []) / "metrics.csv").write_text("epoch,train_acc\n")
    (tmp_path / "file").write_text("")
    assert main(["plot", *arguments]) == 1
    assert words in capsys.readouterr().err
