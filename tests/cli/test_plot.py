"""The verb plot."""

import pytest
import torch
from PIL import Image

from snn_mnist.__main__ import main
from snn_mnist.cli import plot
from snn_mnist.data.datasets import DIGITS
from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import LATEST
from snn_mnist.visualizing import run_figures as figures
from tests.support.export_net import weights
from tests.support.run_directories import make_run, rows_of


@pytest.fixture
def run_directory(tmp_path):
    return make_run(tmp_path / "logs" / "T20_b64", list(rows_of(4)), torch.from_numpy(weights()))


def test_verb_draws_one_run(run_directory, capsys, monkeypatch):
    """Its last test is repeated: on the test images of its data set, up to its T."""
    before, seen = {file: file.read_bytes() for file in run_directory.iterdir()}, []
    write = figures.write_network_figures
    monkeypatch.setattr(figures, "write_network_figures", lambda *given: seen.extend(given) or write(*given))
    assert main(["plot", "last", "-out-dir", str(run_directory.parent)]) == 0
    names = ["curves.png", "weights.png", "confusion.png", "accuracy_against_T.png"]
    assert capsys.readouterr().out.splitlines()[-4:] == [str(run_directory / name) for name in names]
    for name in names:
        assert Image.open(run_directory / name).size[0] > 1000
    assert {file: file.read_bytes() for file in before} == before
    _, _, tested, classes = seen
    assert len(tested.labels) == 360 and tested.readout_steps[-1] == 20 and classes == DIGITS
    assert tested.accuracy() > 0.5  # far above chance: the right images met their labels


def test_verb_draws_several_runs_into_one_figure(run_directory, tmp_path, capsys):
    other = make_run(tmp_path / "more" / "T20_b64", list(rows_of(2, gain=0.1)))
    target = tmp_path / "new" / "all.png"
    assert main(["plot", str(run_directory), str(other), "-out", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert [*tmp_path.rglob("*.png")] == [target] and Image.open(target).size[0] > 1000


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the figure of curves, which is not drawn."""
    seen = {}

    def draw(runs, notes, comparable, losses):
        seen.update(runs=runs, notes=notes, comparable=comparable, losses=losses)

    monkeypatch.setattr(figures, "learning_curves", draw)
    monkeypatch.setattr(figures, "write", lambda path, *_: path)
    return seen


def test_a_directory_of_runs_stands_for_them_and_what_differs_names_them(tmp_path, capsys, drawn):
    """A run that can't be read is named, and one without a test beside tested ones."""
    logs = tmp_path / "logs"
    for number in range(3):
        make_run(logs / f"r{number}", list(rows_of(2)), tau=1.5 + number, seed=number // 2)
    make_run(logs / "group" / "seed9", list(rows_of(1)), tau=3, dataset="mnist", seed=9)
    make_run(logs / "untested", list(rows_of(1, every=2)))
    (make_run(logs / "damaged", list(rows_of(1))) / LATEST).write_bytes(b"nonsense")
    assert main(["plot", str(logs)]) == 0
    assert list(drawn["runs"]) == ["tau 3, seed 9, mnist", "tau 1.5, seed 0", "tau 2.5, seed 0", "tau 3.5, seed 1"]
    out, err = capsys.readouterr()
    assert "damaged/checkpoint_latest.pth is damaged" in err
    assert "not drawn, because they have no test: 1 of 5 runs\n" in out
    assert drawn["notes"] == ["Different data sets (mnist, digits): their accuracies can't be compared"]
    assert not drawn["comparable"] and drawn["notes"][0] in out
    assert f"{logs / 'curves_compared.png'}\n" in out


def test_curves_of_a_conversion_are_said_to_be_the_anns(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(plot, "plot_network", lambda folder: [])
    one, other = (
        make_run(tmp_path / name, list(rows_of(1)), torch.from_numpy(weights()), tau=tau)
        for name, tau in (("ann", 2.0), ("snn", 3.0))
    )
    checkpoint.save(one / LATEST, checkpoint.load(one / LATEST) | {"ann": {"scale": 1.0}})
    assert main(["plot", str(one), str(other)]) == 0
    assert list(drawn["runs"]) == ["ANN, tau 2", "tau 3"] and not drawn["notes"]
    assert main(["plot", str(one)]) == 0
    assert drawn["notes"] == ["Curves of the ANN, which was trained and then converted"]
    assert main(["plot", str(other)]) == 0
    assert not drawn["notes"]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["run"], "run has no checkpoint_latest.pth: learning curves only", 0),
        (["run", "-out", "a.gif"], "ends in .png", 2),
        (["empty"], "empty: no finished epoch yet", 1),
        (["run", "-out", "file/a.png"], "choose another -out", 1),
    ],
)
def test_what_can_not_be_drawn_is_named_with_the_remedy(tmp_path, monkeypatch, capsys, arguments, words, code):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", list(rows_of(1)))
    make_run(tmp_path / "empty", [])
    (tmp_path / "file").write_text("")
    assert main(["plot", *arguments]) == code
    assert words in "".join(capsys.readouterr())
