"""The verb convert: what it trains, what it writes, that every other verb takes it, and that no kill harms it."""

import json
import signal
from pathlib import Path

import pytest
import torch
from nursery import Nursery
from torch.nn.functional import linear, mse_loss, one_hot
from torture import differences

from snn_mnist.__main__ import main
from snn_mnist.cli.convert import ConvertOptions
from snn_mnist.core import neuron
from snn_mnist.data.datasets import Split, load_dataset
from snn_mnist.errors import SNNError
from snn_mnist.network.ann import AnnEngine, Conversion, WakingReLU, constant_current_score, scale_of
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream
from snn_mnist.settings.config import Config, read_yaml
from snn_mnist.storage import checkpoint
from snn_mnist.storage.checkpoint import WEIGHT
from snn_mnist.training.learner import TrainingData
from tests.conftest import ROOT
from tests.support.runs import config, newest, wait_until

DIGITS = ["-dataset", "digits", "-lr", "5e-3", "-no-figures"]
QUICK = [*DIGITS, "-T", "4", "-b", "16", "-limit-batches", "4", "-j", "1", "-backend", "torch", "-repeats", "1"]


# ---------------------------------------------------------------------------- the ANN and its conversion


def test_the_gradient_of_the_ann_is_that_of_a_convex_loss():
    """Of max(a, 0)² for the target 0; for the target 1 of (a - 1)², below 0 of its tangent 1 - 2a."""
    torch.manual_seed(0)
    a = torch.randn(50, 10, dtype=torch.double, requires_grad=True)
    target = one_hot(torch.arange(50) % 10, 10).double()
    (by_loss,) = torch.autograd.grad(mse_loss(WakingReLU.apply(a), target), a)
    of_one = torch.where(a >= 0, (a - 1).square(), 1 - 2 * a)
    convex = torch.where(target == 1, of_one, a.relu().square()).mean()
    torch.testing.assert_close(by_loss, torch.autograd.grad(convex, a)[0])
    torch.testing.assert_close(mse_loss(WakingReLU.apply(a), target), mse_loss(a.relu(), target))


def test_counts_for_a_constant_current_are_those_of_the_neurons_on_a_sequence():
    torch.manual_seed(0)
    net = SNN(Config(neuron="if", v_reset=None))
    images = torch.randint(256, (7, 784), dtype=torch.uint8)
    node = neuron.IFNode(v_reset=None, step_mode="m")
    with torch.no_grad():
        spikes = node(linear(images / 255, 3 * net.weight).expand(9, 7, 10))
        net.weight.mul_(3)
    net.spiking(torch.full((7, 10), 0.9))  # what is left of another input
    counts = constant_current_score(net, Split(images, torch.zeros(7)), [1, 4, 9]).counts
    assert counts.sum() > 0
    assert torch.equal(counts, torch.stack([spikes[:t].sum(0) for t in (1, 4, 9)], 1))


def test_rates_of_the_ann_are_its_activations():
    """Its counts are a · T, so that the loss and accuracy of a row of metrics are those of a."""
    net, images = SNN(Config()), torch.randint(256, (6, 784), dtype=torch.uint8)
    counts, inputs = AnnEngine(net, images).firing_counts(torch.tensor([4, 1]), [3, 10], SpikeKey(0, Stream.TEST, 0))
    activation = (images[[4, 1]] / 255 @ net.weight.T).relu().detach()
    torch.testing.assert_close(counts, torch.stack([3 * activation, 10 * activation], 1))
    assert inputs.tolist() == [0, 0]


def test_the_scale_is_that_of_learned_images():
    """Held-out images choose the best epoch, so they must not decide the scale."""
    data = TrainingData.load(config(val=1000), torch.device("cpu"))
    images = data.dataset.train.images / 255
    weight = images[data.held_out][images[data.held_out].norm(dim=1).topk(10).indices]  # largest for these ten
    state = Conversion("Max").entries(weight, data.dataset.train.images[data.learned[:10_000]])
    assert state["ann"]["scale"] == pytest.approx((images[data.learned] @ weight.T).max().item())
    assert state["ann"]["scale"] < 0.999 * (images @ weight.T).max().item()


# ---------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(nursery: Nursery, tmp_path_factory):
    """(run directory, what was printed, the -json) of a conversion on the digits, with figures."""
    out = tmp_path_factory.mktemp("converted")
    flags = [*DIGITS[:-1], "-T", "200", "-epochs", "10", "-repeats", "2", "-json", str(out / "results.json")]
    done = nursery.run("convert", *flags, "-out-dir", str(out / "logs"))
    assert done.code == 0, done.err
    return newest(out / "logs"), done.out, json.loads((out / "results.json").read_text())


def test_the_network_comes_to_its_ann(run):
    """Within 0.3 % at T 200: a single one of the 360 images may differ."""
    folder, out, results = run
    poisson, constant = (results["accuracy_against_T"][name] for name in ("Poisson spikes", "constant current"))
    ann = results["ann_accuracy"]
    assert ann > 0.94 and constant["1"]["mean"] < 0.5
    assert abs(constant["200"]["mean"] - ann) < 0.003 and abs(poisson["200"]["mean"] - ann) < 0.01
    lines = out[out.index("\nANN: ") :].splitlines()
    error = 100 * (ann * (1 - ann) / 360) ** 0.5
    assert lines[1] == f"ANN: {ann:.2%} of 360 test images right (± {error:.2f} % standard error)"
    table = {line.split()[0]: line.split()[1:] for line in lines[5:] if "%" in line}
    for step, at in poisson.items():
        mean, std, of_constant = (100 * share for share in (at["mean"], at["std"], constant[step]["mean"]))
        assert table[step] == f"{mean:.2f} ± {std:.2f} % {of_constant:.2f} %".split()
    lasts = (each["200"]["mean"] for each in (poisson, constant))
    assert table["difference"][::2] == [f"{round(100 * (last - ann), 2) + 0.0:+.2f}" for last in lasts]
    assert lines[-1] == f"test it again: python -m snn_mnist eval -resume {folder}"
    assert max(map(len, lines[:-1])) <= 80


def test_the_checkpoint_is_the_ann_divided_by_its_scale(run):
    folder, _, results = run
    assert folder.name == "converted_T200_b64_adam_lr0.005_digits" and (folder / "conversion.png").is_file()
    state, data = checkpoint.load(folder), load_dataset("digits")
    ann = state["ann"]
    assert torch.equal(state["net"][WEIGHT], ann["weight"] / ann["scale"])
    assert ann["mode"] == results["mode"] == "99.9%" and ann["scale"] == results["scale"]
    activation = (data.train.images / 255 @ ann["weight"].T).relu()
    assert ann["scale"] == pytest.approx(torch.quantile(activation, 0.999).item(), rel=1e-4)
    assert ann["scale"] == scale_of(ann["weight"], data.train.images, "99.9%")
    settings = {name: state["config"][name] for name in ("neuron", "v_reset", "v_threshold", "T", "epochs")}
    assert settings == {"neuron": "if", "v_reset": None, "v_threshold": 1.0, "T": 200, "epochs": 10}
    right = (data.test.images / 255 @ ann["weight"].T).relu().argmax(1) == data.test.labels
    assert results["ann_accuracy"] == right.double().mean().item()


def test_the_other_verbs_take_it(run, capsys, tmp_path):
    """eval gives the accuracies that convert printed: the same encodings."""
    folder, _, results = run
    assert main(["eval", "-resume", str(folder), "-repeats", "2", "-json", "-"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["accuracy_against_T"] == results["accuracy_against_T"]["Poisson spikes"]
    assert main(["predict", str(ROOT / "docs" / "images" / "square.png"), "-resume", str(folder)]) == 0
    assert main(["export", "-resume", str(folder), "-format", "html", "-out", str(tmp_path / "page.html")]) == 0


def test_its_config_repeats_it_and_recipes_are_read(run):
    file = run[0] / "config.yaml"
    assert "snn_mnist convert -mode 99.9% -config THIS_FILE\n" in file.read_text()
    again = ConvertOptions.from_mapping(read_yaml(file), "a.yaml").training()
    assert (again.dataset, again.lr, again.T, again.epochs) == ("digits", 5e-3, 200, 10)
    options = ConvertOptions.from_mapping({"tau": 1.3, "v-reset": "none", "lr": 0.1}, "a.yaml")
    assert (options.lr, options.training().neuron) == (0.1, "if")


def test_training_goes_on_with_surrogate_gradients_in_a_new_directory(run, nursery: Nursery, tmp_path):
    before = {file: file.read_bytes() for file in run[0].iterdir()}
    flags = ["-epochs", "11", "-lr", "1e-3", "-no-figures", "-out-dir", str(tmp_path)]
    done = nursery.run("train", "-resume", str(run[0]), *flags)
    assert done.code == 0, done.err
    assert "was converted from an ANN, and continues as a spiking network" in done.out
    assert {file: file.read_bytes() for file in run[0].iterdir()} == before
    state = checkpoint.load(newest(tmp_path))
    assert "ann" not in state and state["epoch"] == 10
    assert float(done.out.partition("test accuracy ")[2].partition("%")[0]) > 90


def test_a_finished_run_is_tested_again(run, nursery: Nursery):
    done = nursery.run("convert", "-resume", str(run[0]), "-repeats", "2", "-no-figures", "-json", "-")
    assert json.loads(done.out) == run[2] and done.err.startswith("nothing to do: ")


# ---------------------------------------------------------------------------- kills


def rows(out: Path) -> int:
    """Return the lines of metrics.csv of the run in a directory."""
    return max((file.read_text().count("\n") for file in out.glob("*/metrics.csv")), default=0)


def test_stopped_and_resumed_equals_undisturbed(nursery: Nursery, tmp_path):
    """Every checkpoint on the way is a spiking network. With an average of the weights, and images held out."""
    settings, out = [*QUICK, "-ema", "0.9", "-val", "100"], tmp_path / "stopped"
    flags = [*settings, "-out-dir", str(out)]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        enough = rows(out) + 3
        child = nursery.start("convert", *flags, "-epochs", "100000")
        wait_until(lambda child=child, enough=enough: child.poll() is not None or rows(out) > enough)
        child.send(number)
        assert child.wait() == code and child.err == ""
        (folder,) = out.iterdir()
        state = checkpoint.load(folder)
        assert torch.equal(state["net"][WEIGHT], state["ann"]["weight"] / state["ann"]["scale"])
        assert ("resume with: python -m snn_mnist convert -resume" in child.out) == (number != signal.SIGKILL)
        flags = ["-resume", str(folder)]
    epochs = ["-epochs", str(state["epoch"] + 3)]
    resumed = nursery.run("convert", "-resume", str(folder), *epochs, "-repeats", "1")
    assert resumed.code == 0 and "\nANN: " in resumed.out, resumed.err
    whole = nursery.run("convert", *settings, *epochs, "-out-dir", str(tmp_path / "whole"))
    assert whole.code == 0, whole.err
    assert differences(newest(tmp_path / "whole"), folder) == []
    reports = [done.out.partition("\nANN: ")[2].partition("test it")[0] for done in (resumed, whole)]
    assert reports[0] == reports[1]


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["-mode", "0"], 2, "-mode 0 is not allowed; give Max"),
        (["-neuron", "lif"], 2, "unknown flag -neuron"),
        (["-lr", "1e30"], 1, "the weights are not finite by step"),
        (["-resume", "trained"], 2, "was not written by `convert`; name one that was, or use train -resume"),
        (["-resume", "RUN", "-mode", "Max"], 2, "mode 99.9% → Max changes the result; start a new run"),
    ],
)
def test_bad_input_is_one_line(run, capsys, monkeypatch, tmp_path, flags, code, message):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "trained", {"net": {WEIGHT: torch.zeros(10, 784)}})
    if "-resume" not in flags:
        flags = [*QUICK, "-epochs", "1", *flags]
    assert main(["convert", *(str(run[0]) if flag == "RUN" else flag for flag in flags)]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("snn_mnist convert: error: ") and message in line


def test_an_ann_without_activity_is_named():
    with pytest.raises(SNNError, match="-mode Max takes the scale from activations that are 0"):
        scale_of(-torch.ones(10, 784), torch.full((3, 784), 255, dtype=torch.uint8), "Max")
