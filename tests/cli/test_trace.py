"""The verb trace: its files hold the trace; nothing is written over."""

import numpy as np
import pytest
import torch
from PIL import Image

from snn_mnist.__main__ import main
from snn_mnist.cli.trace import describe
from snn_mnist.data.datasets import DIGITS
from snn_mnist.network.trace import Trace, misclassified, trace_image
from snn_mnist.storage import checkpoint
from snn_mnist.visualizing import run_figures
from tests.support.export_net import digits, saved, weights


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of the time, and most tests look at the arrays."""
    monkeypatch.setattr(run_figures, "write", lambda path, *_: path)
    for name in ("shown_image", "raster", "voltages", "winner"):
        monkeypatch.setattr(run_figures, name, lambda *_: None)


def steps_of(folder):
    return len(np.load(folder / "v_t_array.npy"))


def test_verb_writes_arrays_and_pictures_and_prints_rates(tmp_path, capsys):
    """Each array lies under its own name."""
    loaded = saved(tmp_path, T=25, seed=4)
    assert main(["trace", "-resume", str(loaded.path), "-index", "3"]) == 0
    out, folder = capsys.readouterr().out, tmp_path / "trace_3"
    trace = trace_image(loaded.net, digits(), 3, loaded.config)
    found = np.load(folder / "trace.npz")
    arrays = {"v_t_array": trace.v, "s_t_array": trace.s, "h_t_array": trace.h, "x_t_array": trace.x}
    arrays |= {"image": trace.image, "input_spikes": trace.input_spikes, "firing_rates": trace.rates}
    for name, array in arrays.items():
        assert np.array_equal(found[name], array), name
        assert not name.startswith(("v_t", "s_t")) or np.array_equal(np.load(folder / f"{name}.npy"), array)
    numbers = {"index": 3, "T": 25, "seed": 4, "label": digits().test.labels[3], "verdict": trace.prediction}
    assert {name: int(found[name]) for name in numbers} == numbers
    assert all(f"    {number}  {rate:.3f}" in out for number, rate in enumerate(trace.rates))
    assert f"prediction: {trace.s.sum(0).argmax()} (" in out
    assert {file.name for file in folder.glob("*.png")} == {"input.png", "spikes.png", "voltages.png", "winner.png"}
    for file in folder.glob("*.png"):
        picture = np.asarray(Image.open(file).convert("L"))
        assert picture.shape[1] > 1000 and 0.005 < (picture < 128).mean() < 0.9, file  # neither empty nor black


def test_the_printed_rates_have_bars_in_proportion():
    """Thirty characters for a rate of 1: class 2 fires in 5 of 10 steps, class 7 in 3."""
    s = np.zeros((10, 10), np.float32)
    s[:5, 2], s[:3, 7] = 1, 1
    trace = Trace(6, 7, np.zeros((28, 28)), np.zeros((28, 28)), s, s, s, s)
    lines = describe(trace, DIGITS).splitlines()
    assert lines[0] == "test image 6, label 7" and lines[-1] == "prediction: 2 (wrong, it is 7)"
    assert lines[4] == "    2  0.500  " + "#" * 15 + "  <- prediction" and lines[9] == "    7  0.300  " + "#" * 9
    s[:, 3] = s[:, 2]
    assert "(wrong, it is 7); several classes fired equally often" in describe(trace, DIGITS)
    s[:] = 0
    assert "no neuron fired, which counts as the first class" in describe(trace, DIGITS)


@pytest.mark.usefixtures("without_pictures")
def test_several_images_and_misclassified(tmp_path, capsys):
    network = saved(tmp_path, T=40)
    base = ["trace", "-resume", str(network.path)]
    assert main([*base, "-index", "2", "0", "2", "-out", str(tmp_path / "a")]) == 0
    assert sorted(folder.name for folder in (tmp_path / "a").iterdir()) == ["trace_0", "trace_2"]
    wrong = [trace.index for trace in misclassified(network.net, digits(), network.config)]
    for count in (2, len(wrong) + 1):
        out = tmp_path / str(count)
        assert main([*base, "-misclassified", str(count), "-out", str(out)]) == 0
        assert {folder.name for folder in out.iterdir()} == {f"trace_{index}" for index in wrong[:count]}
        assert capsys.readouterr().out.count("(wrong, it is") >= min(count, len(wrong))


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_of_the_tutorial_has_its_settings(tmp_path, capsys):
    torch.save({"net": {checkpoint.WEIGHT: torch.from_numpy(weights())}, "epoch": 0}, tmp_path / "old.pth")
    assert main(["trace", "-resume", str(tmp_path / "old.pth"), "-dataset", "digits"]) == 0
    assert steps_of(tmp_path / "trace_0") == 100
    assert "does not hold tau, T and the data set: using 2, 100 and digits" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_nothing_is_written_over(tmp_path, capsys):
    base = ["trace", "-resume", str(saved(tmp_path, T=40).path)]
    for extra in ([], ["-T", "10"], ["-T", "12"], []):
        assert main(base + extra) == 0
    steps = {folder.name: steps_of(folder) for folder in tmp_path.glob("trace_*")}
    assert steps == {"trace_0": 40, "trace_0-2": 10, "trace_0-3": 12}
    assert main([*base, "-index", "1", "-out", str(tmp_path / "trace_0")]) == 0
    assert f"written to {tmp_path / 'trace_0-4'}" in capsys.readouterr().out
    assert steps_of(tmp_path / "trace_0") == 40


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["-index", "360"], 2, "360 test images; give numbers up to 359"),
        (["-index", "1", "-misclassified", "1"], 2, "give one of the two"),
        (["-out", "file/x"], 1, "choose another -out"),
    ],
)
def test_errors_name_the_remedy(tmp_path, monkeypatch, capsys, flags, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["trace", "-resume", str(saved(tmp_path).path), *flags]) == code
    assert words in capsys.readouterr().err
