"""The verb plot."""

import errno
import hashlib
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from snn_mnist.cli import plot
from snn_mnist.cli.main import main
from snn_mnist.data.datasets import DIGITS
from snn_mnist.errors import SNNError
from snn_mnist.settings.config import Config, yaml_text
from snn_mnist.storage import checkpoint
from snn_mnist.storage.atomic_files import writing
from snn_mnist.storage.directory import LATEST
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


def test_a_mistyped_directory_is_told_before_anything_is_loaded():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from snn_mnist.cli.main import main; sys.exit(main(['plot', 'nowhere']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere is not a directory" in done.stderr


def test_confusion_is_that_of_the_checkpoint(run_directory, monkeypatch):
    seen = []
    monkeypatch.setattr(figures, "write_network_figures", lambda *given: seen.extend(given) or [])
    plot.plot_network(run_directory)
    folder, _, tested, names = seen
    assert folder == run_directory and names == DIGITS
    assert len(tested.labels) == 360 and tested.readout_steps[-1] == 20
    assert tested.accuracy() > 0.5  # far above chance: the right images met their labels


def test_verb_draws_several_runs_into_one_figure(run_directory, tmp_path, capsys):
    other = make_run(tmp_path / "more" / "T20_b64", list(rows_of(2, gain=0.1)))
    assert main(["plot", str(run_directory), str(other)]) == 0
    assert capsys.readouterr().out == f"{run_directory / 'curves_compared.png'}\n"
    assert [file.name for file in tmp_path.rglob("*.png")] == ["curves_compared.png"]
    assert main(["plot", str(other)]) == 0
    assert f"{other} has no checkpoint_latest.pth: learning curves only" in capsys.readouterr().out
    target = tmp_path / "new" / "all.png"
    assert main(["plot", str(run_directory), str(other), "-out", str(target)]) == 0
    assert target.read_bytes().startswith(PNG)


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the figure of curves, which is not drawn."""
    seen = {}

    def draw(runs, notes, comparable):
        seen.update(runs=runs, notes=notes, comparable=comparable)

    monkeypatch.setattr(figures, "learning_curves", draw)
    monkeypatch.setattr(figures, "write", lambda path, *_: path)
    return seen


def with_settings(folder, **settings):
    (folder / "config.yaml").write_text(yaml_text(Config(**settings).to_mapping()))
    return folder


def test_a_directory_of_runs_stands_for_them_and_what_differs_names_them(tmp_path, capsys, drawn):
    logs = tmp_path / "logs"
    for number in range(3):
        with_settings(make_run(logs / f"r{number}", list(rows_of(2))), tau=1.5 + number, seed=number // 2)
    with_settings(make_run(logs / "group" / "seed9", list(rows_of(1))), tau=3, dataset="digits", seed=9)
    make_run(logs / "empty", [])
    make_run(logs / "without_settings", list(rows_of(1)))
    assert main(["plot", str(logs)]) == 0
    names = ["tau 3, seed 9, digits", "tau 1.5, seed 0", "tau 2.5, seed 0", "tau 3.5, seed 1", "without_settings"]
    assert list(drawn["runs"]) == names
    out = capsys.readouterr().out
    assert "left out: " in out and "empty" in out
    assert drawn["notes"] == ["Different data sets (digits 1, mnist 3): their accuracies can't be compared"]
    assert not drawn["comparable"]
    assert drawn["notes"][0] in out


def test_runs_without_a_curve_are_named(tmp_path, capsys, drawn):
    """Of several runs only the tests are drawn."""
    for number in range(9):
        make_run(tmp_path / f"r{number}", list(rows_of(1, every=1 if number > 1 else 2)))
    assert main(["plot", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"not drawn, because they have no test: {tmp_path / 'r0'}, {tmp_path / 'r1'}" in out
    assert list(drawn["runs"]) == [f"r{number}" for number in range(2, 9)]


@pytest.mark.parametrize(("untested", "notes"), [(0, ["The first 16 of 20 runs are drawn"]), (5, [])])
def test_the_number_of_runs_has_a_limit_that_is_said(tmp_path, capsys, drawn, untested, notes):
    """It counts the runs that are drawn."""
    for number in range(20):
        make_run(tmp_path / f"r{number:02}", list(rows_of(1, every=1 if number >= untested else 2)))
    assert main(["plot", str(tmp_path)]) == 0
    assert list(drawn["runs"]) == [f"r{number:02}" for number in range(untested, 20)][:16]
    assert [note.partition(";")[0] for note in drawn["notes"]] == notes
    assert all(note in capsys.readouterr().out for note in notes)


def test_curves_of_a_conversion_are_said_to_be_the_anns(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(plot, "plot_network", lambda folder: [])
    one, other = (
        with_settings(make_run(tmp_path / name, list(rows_of(1)), torch.from_numpy(weights())), tau=tau)
        for name, tau in (("ann", 2.0), ("snn", 3.0))
    )
    checkpoint.save(one / LATEST, checkpoint.load(one / LATEST) | {"ann": {"scale": 1.0}})
    assert main(["plot", str(one), str(other)]) == 0
    assert list(drawn["runs"]) == ["ANN, tau 2", "tau 3"] and not drawn["notes"]
    assert main(["plot", str(one)]) == 0
    assert drawn["notes"] == ["Curves of the ANN, which was trained and then converted"]
    assert main(["plot", str(other)]) == 0
    assert not drawn["notes"]


def test_a_damaged_checkpoint_is_an_error_after_the_curves(tmp_path, capsys):
    (make_run(tmp_path / "a", list(rows_of(1))) / LATEST).write_bytes(b"nonsense")
    (tmp_path / "a link").symlink_to(tmp_path / "a")
    assert main(["plot", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'a' / 'curves.png'}\n" and "a/checkpoint_latest.pth is damaged" in err


def test_last_is_the_newest_run(run_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "plot_network", lambda folder: [])
    assert main(["plot", "last", "-out-dir", str(tmp_path / "logs")]) == 0
    assert (run_directory / "curves.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["none"], "none is not a directory; give run directories", 2),
        (["inner", "run"], "there is no inner here; did you mean logs/inner?", 2),
        (["nothing"], "has no metrics.csv", 2),
        (["run", "-out", "a.gif"], "ends in .png", 2),
        (["empty"], "no finished epoch", 1),
        (["run", "-out", "file/a.png"], "choose another -out", 1),
    ],
)
def test_errors_name_the_remedy(tmp_path, monkeypatch, capsys, arguments, words, code):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run", list(rows_of(1)))
    (make_run(tmp_path / "empty", []) / "metrics.csv").write_text("epochs,train_acc\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "logs" / "inner").mkdir(parents=True)
    assert main(["plot", *arguments]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free space"), (errno.EACCES, "permissions"), (errno.EROFS, "permissions")]
)
def test_the_remedy_of_a_file_that_can_not_be_written(number, remedy):
    with pytest.raises(SNNError) as caught, writing("curves.png", "-out"):
        raise OSError(number, os.strerror(number))
    text = str(caught.value)
    assert text.startswith(f"curves.png can't be written ({os.strerror(number)})")
    assert text.endswith("choose another -out") and remedy in text
