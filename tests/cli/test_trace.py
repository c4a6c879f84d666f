"""The verb trace: what it writes is what a loop written by hand records; nothing is written over."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from snn_mnist.cli import main as cli
from snn_mnist.core import functional, monitor, neuron
from snn_mnist.data.datasets import Dataset, Split, load_dataset
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.model.network import SNN
from snn_mnist.model.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.model.trace import misclassified, trace_image
from snn_mnist.runs import checkpoint
from snn_mnist.runs.config import Config
from snn_mnist.visualizing import run_figures, trace_figures

PICTURES = {"input.png", "spikes.png", "voltages.png", "winner.png"}


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def weight(data) -> Tensor:
    """[10, 784]: a few steps of least squares, so that most predictions are right and some are wrong"""
    w = torch.zeros(10, 784)
    x = data.train.images.float() / 255
    target = torch.nn.functional.one_hot(data.train.labels, 10).float()
    for _ in range(60):
        w += 4e-3 * (target - x @ w.T).T @ x / len(x)
    return 5 * w


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing takes most of the time, and most tests look at the arrays."""
    monkeypatch.setattr(run_figures, "write", lambda path, *_: path)
    for name in ("shown_image", "raster", "voltages", "winner"):
        monkeypatch.setattr(trace_figures, name, lambda *_: None)


def save_checkpoint(path, weight, **settings):
    config = Config(dataset="digits", **{"T": 40, "seed": 7} | settings)
    checkpoint.save(path, {"net": {checkpoint.WEIGHT: weight}, "epoch": 3, "config": config.to_mapping()})
    return config


def by_hand(weight, config, data, index):
    """V and S [T, 10] of the equations, in the plainest words."""
    image = data.test.images[index : index + 1]
    spikes = poisson_encode(image, torch.tensor([index]), 0, config.T, SpikeKey(config.seed, Stream.TRACE, 0))[:, 0]
    v = torch.full((10,), 0.0 if config.v_reset is None else config.v_reset)
    h_t, v_t, s_t = [], [], []
    for x in spikes @ weight.T:
        leak = v - (config.v_reset or 0.0)
        h = v + x if config.neuron == "if" else v + (x - leak) / config.tau
        s = (h >= config.v_threshold).float()
        v = (
            h - s * config.v_threshold
            if config.v_reset is None
            else torch.where(s == 1, torch.tensor(config.v_reset), h)
        )
        h_t, v_t, s_t = [*h_t, h], [*v_t, v], [*s_t, s]
    return torch.stack(h_t), torch.stack(v_t), torch.stack(s_t), spikes


@pytest.mark.parametrize(
    "settings",
    [{}, {"v_reset": None, "tau": 3}, {"v_reset": -0.25, "v_threshold": 0.5}, {"neuron": "if"}, {"T": 1100}],
)
def test_arrays_are_the_equations(tmp_path, data, weight, settings):
    config = save_checkpoint(tmp_path / "net.pth", weight, **settings)
    net = SNN.from_config(config)
    net.load_state_dict({checkpoint.WEIGHT: weight})
    found = trace_image(net, data, 5, config)
    h, v, s, spikes = by_hand(weight, config, data, 5)
    assert np.array_equal(found.s, s)
    assert np.allclose(found.v, v, atol=1e-4)
    assert np.allclose(found.h, h, atol=1e-4)
    assert np.allclose(found.x, spikes @ weight.T, atol=1e-4)
    assert np.array_equal(found.input_spikes, spikes.sum(0).view(28, 28))
    assert found.v.shape == found.s.shape == (config.T, 10)
    assert found.v.dtype == found.s.dtype == np.float32
    assert found.s.any()


def test_the_network_is_left_as_it_was(data, weight):
    config = Config(dataset="digits", T=20)
    net = SNN.from_config(config)
    with monitor.OutputMonitor(net, neuron.LIFNode) as mine:
        trace_image(net, data, 0, config)
        assert len(mine) == 20
    functional.reset_net(net)
    assert net.spiking.v == 0.0
    assert not net.spiking._forward_hooks and not net.layer[1]._forward_hooks


def test_verb_writes_arrays_and_pictures_and_prints_rates(tmp_path, data, weight, capsys):
    save_checkpoint(tmp_path / checkpoint.LATEST, weight)
    assert cli.main(["trace", "-resume", str(tmp_path), "-index", "3", "-T", "25"]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "trace_3"
    v, s = np.load(folder / "v_t_array.npy"), np.load(folder / "s_t_array.npy")
    assert v.shape == s.shape == (25, 10)
    everything = np.load(folder / "trace.npz")
    assert np.array_equal(everything["v_t_array"], v) and np.array_equal(everything["s_t_array"], s)
    assert np.allclose(everything["firing_rates"], s.mean(0))
    assert int(everything["label"]) == data.test.labels[3]
    assert int(everything["verdict"]) == s.sum(0).argmax()
    assert everything["image"].reshape(-1).tolist() == data.test.images[3].tolist()
    for number, rate in enumerate(s.mean(0)):
        assert f"    {number}  {rate:.3f}" in out
    assert f"prediction: {s.sum(0).argmax()} (" in out
    assert {file.name for file in folder.glob("*.png")} == PICTURES
    for file in folder.glob("*.png"):
        picture = np.asarray(Image.open(file).convert("L"))
        assert picture.shape[1] > 1000
        assert 0.005 < (picture < 128).mean() < 0.9, file  # neither empty nor black


@pytest.mark.usefixtures("without_pictures")
def test_t_50_is_the_first_half_of_t_100(tmp_path, weight):
    save_checkpoint(tmp_path / checkpoint.LATEST, weight)
    for steps in ("16", "33"):
        assert cli.main(["trace", "-resume", str(tmp_path), "-T", steps, "-out", str(tmp_path / steps)]) == 0
    half, whole = (np.load(tmp_path / steps / "v_t_array.npy") for steps in ("16", "33"))
    assert np.array_equal(half, whole[:16])


@pytest.mark.usefixtures("without_pictures")
def test_several_images_and_misclassified(tmp_path, data, weight, capsys):
    path = tmp_path / "checkpoint_max.pth"
    config = save_checkpoint(path, weight)
    assert cli.main(["trace", "-resume", str(path), "-index", "2", "0", "2", "-out", str(tmp_path / "a")]) == 0
    assert sorted(folder.name for folder in (tmp_path / "a").iterdir()) == ["trace_0", "trace_2"]
    assert cli.main(["trace", "-resume", str(path), "-misclassified", "2", "-out", str(tmp_path / "b")]) == 0
    found = sorted(int(folder.name.removeprefix("trace_")) for folder in (tmp_path / "b").iterdir())
    wrong = []
    for index in range(len(data.test)):
        if by_hand(weight, config, data, index)[2].sum(0).argmax() != data.test.labels[index]:
            wrong.append(index)
        if len(wrong) == 2:
            break
    assert found == wrong
    assert capsys.readouterr().out.count("(wrong, it is") >= 2


@pytest.mark.usefixtures("without_pictures")
def test_a_checkpoint_of_the_tutorial_has_its_settings(tmp_path, weight, capsys):
    torch.save({"net": {checkpoint.WEIGHT: weight}, "epoch": 0, "max_test_acc": 0.9}, tmp_path / "old.pth")
    assert cli.main(["trace", "-resume", str(tmp_path / "old.pth"), "-dataset", "digits"]) == 0
    assert np.load(tmp_path / "trace_0" / "s_t_array.npy").shape == (100, 10)
    assert "does not hold T and tau: using 100 and 2" in capsys.readouterr().out


@pytest.mark.usefixtures("without_pictures")
def test_nothing_is_written_over(tmp_path, weight, capsys):
    save_checkpoint(tmp_path / checkpoint.LATEST, weight)
    base = ["trace", "-resume", str(tmp_path)]
    for extra in ([], ["-T", "10"], ["-T", "12"], []):
        assert cli.main(base + extra) == 0
    shapes = {f.name: np.load(f / "v_t_array.npy").shape[0] for f in tmp_path.glob("trace_*")}
    assert shapes == {"trace_0": 40, "trace_0-2": 10, "trace_0-3": 12}
    capsys.readouterr()
    assert cli.main([*base, "-index", "1", "-out", str(tmp_path / "trace_0")]) == 2
    assert "holds the trace of another image" in capsys.readouterr().err
    assert np.load(tmp_path / "trace_0" / "v_t_array.npy").shape[0] == 40


def test_errors_name_the_remedy(tmp_path, data, weight):
    save_checkpoint(tmp_path / checkpoint.LATEST, weight)
    resume = str(tmp_path)
    with pytest.raises(UsageError, match=f"360 test images; give numbers from 0 to {len(data.test) - 1}"):
        cli.dispatch(["trace", "-resume", resume, "-index", "360"])
    with pytest.raises(UsageError, match="give one of the two"):
        cli.dispatch(["trace", "-resume", resume, "-index", "1", "-misclassified", "1"])
    (tmp_path / "file").write_text("")
    with pytest.raises(SNNError, match="choose another -out"):
        cli.dispatch(["trace", "-resume", resume, "-out", str(tmp_path / "file" / "x")])


def test_silent_network_says_so(tmp_path, capsys):
    save_checkpoint(tmp_path / checkpoint.LATEST, torch.zeros(10, 784), T=5)
    assert cli.main(["trace", "-resume", str(tmp_path), "-misclassified", "1"]) == 0
    assert "no neuron fired, which counts as the first class" in capsys.readouterr().out


def test_a_network_without_errors_has_no_misclassified(tmp_path, data, weight, monkeypatch):
    """Its labels are the network's own predictions."""
    config = save_checkpoint(tmp_path / checkpoint.LATEST, weight, T=5)
    net = SNN.from_config(config)
    net.load_state_dict({checkpoint.WEIGHT: weight})
    images = data.test.images[:20]
    unlabelled = Dataset("digits", data.train, Split(images, torch.zeros(20, dtype=torch.int64)), data.class_names)
    predictions = torch.tensor([trace_image(net, unlabelled, index, config).prediction for index in range(20)])
    right = Dataset("digits", data.train, Split(images, predictions), data.class_names)
    assert list(misclassified(net, right, config)) == []
    monkeypatch.setattr("snn_mnist.cli.trace.load_dataset", lambda *_: right)
    with pytest.raises(SNNError, match="gets all 20 test images right"):
        cli.dispatch(["trace", "-resume", str(tmp_path), "-misclassified", "1"])
