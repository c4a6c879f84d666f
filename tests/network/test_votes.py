"""Several neurons per class, losses, encodings and dropout: the reference, and the fused CPU path against it."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from snn_mnist.core import functional
from snn_mnist.core.encoding import LatencyEncoder
from snn_mnist.kernels.cpu import fused, spikes
from snn_mnist.network import scoring
from snn_mnist.network.compiled_steps import CompiledSteps, FusedAdam, FusedSGD
from snn_mnist.network.engine import TorchEngine
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import dropout_mask, encode
from snn_mnist.network.training_steps import MSE, Loss
from snn_mnist.settings.config import Config
from snn_mnist.storage.metrics import read_metrics
from tests.support.kernel_checks import KEY, equations, images_of, spec_of, thread_counts, training_of, weight_of
from tests.support.runs import train_run

IMAGES = images_of(50, active=100)
LABELS = torch.arange(50) % 10
TARGETS = one_hot(LABELS, 10).float()
ENCODINGS = ("poisson", "constant", "latency")


def net_of(**settings):
    torch.manual_seed(0)
    net = SNN(Config(**settings))
    with torch.no_grad():
        net.weight.mul_(60 if net.encoding == "latency" else 6)
    return net


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_scores_are_the_net_s_mean_output(encoding, mode):
    """The engine's scores and counts are what the modules give for the encoded images, in both step modes."""
    net, index, T = net_of(votes=3, encoding=encoding, step_mode=mode), torch.tensor([4, 0, 7]), 20
    engine = TorchEngine(net, IMAGES)
    scores = engine.firing_rate(index, T, KEY)
    inputs = encode(encoding, IMAGES[index], index, 0, T, T, KEY).expand(T, -1, -1)
    expected = net(inputs) if mode == "m" else torch.stack([net(step) for step in inputs])
    functional.reset_net(net)
    torch.testing.assert_close(scores, expected.mean(0))
    score = scoring.score(engine, index, LABELS[index], [5, T], KEY)
    assert score.votes == 3 and score.neuron_counts.shape == (3, 30) and score.neuron_counts.sum() > 0
    assert torch.equal(score.neuron_counts.view(3, 10, 3).sum(2), score.counts[:, 1])
    torch.testing.assert_close(score.rates(), scores.detach())
    torch.testing.assert_close(score.rates(0), expected[:5].mean(0).detach())
    active = (IMAGES[index] > 0).sum(1)
    spikes = inputs.sum((0, 2)).long() if encoding == "poisson" else active
    assert torch.equal(score.input_spikes, spikes)


@pytest.mark.parametrize("T", [1, 2, 16, 100, 2000])
def test_latency_is_that_of_the_encoder(T):
    """The first spike is that of `LatencyEncoder`, in float32; pixels of 0 are silent."""
    values = torch.arange(256, dtype=torch.uint8)[None]
    spikes = encode("latency", values, torch.zeros(1), 0, T, T, KEY)
    expected = LatencyEncoder(T, "linear").single_step_encode(values / 255)
    assert torch.equal(spikes[:, :, 1:], expected[:, :, 1:]) and not spikes[:, :, 0].any()


def test_dropout_silences_a_share_of_the_pixels_for_good():
    """The mask is a function of (seed, epoch, image, pixel), whatever the batch; others count 1 / (1 - share)."""
    index = torch.arange(50)
    mask = dropout_mask(IMAGES, index, KEY, 0.25)
    assert torch.equal(mask.unique(), torch.tensor([0, 1 / 0.75]))
    active = mask[IMAGES > 0]
    assert ((active == 0).double().mean() - 0.25).abs() < 5 * (0.25 * 0.75 / active.numel()) ** 0.5
    part = torch.tensor([30, 2])
    assert torch.equal(dropout_mask(IMAGES[part], part, KEY, 0.25), mask[part])
    assert not torch.equal(dropout_mask(IMAGES, index, KEY._replace(epoch=3), 0.25), mask)
    net = net_of(encoding="constant")
    engine = TorchEngine(net, IMAGES)
    dropped = TorchEngine(net, (IMAGES * (mask > 0)).byte())
    with torch.no_grad():
        rates = engine.firing_rate(index, 16, KEY, 0.25)
        net.weight.div_(0.75)
        torch.testing.assert_close(rates, dropped.firing_rate(index, 16, KEY))


def test_losses():
    scores, targets = torch.rand(5, 10), one_hot(LABELS[:5], 10).float()
    assert Loss()(scores, targets) == mse_loss(scores, targets)
    torch.testing.assert_close(Loss("ce", 20.0)(scores, targets), cross_entropy(20 * scores, LABELS[:5]))


# ---------------------------------------------------------------------------- the fused CPU path


def compiled(votes=1, loss=MSE, encoding="poisson", v_reset=0.0, T=16, batch=50, dropout=0.0, steps=1, momentum=True):
    """Steps over the images in order, whose momentum is their gradient after the first one."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(weight_of({"latency": 1.5}.get(encoding, 0.15), 10 * votes))
    optimizer = FusedSGD(weight, lr=1.0, momentum=0.9) if momentum else FusedAdam(weight, lr=0.003)
    training = training_of(weight, optimizer, steps, batch, T, votes=votes, loss=loss, dropout=dropout)
    made = CompiledSteps(weight, spikes.active_pixels(IMAGES), TARGETS, spec_of(v_reset=v_reset), training, encoding)
    made.begin(KEY, torch.arange(steps * batch) % 50, [0.003] * steps)
    return made


def exact_scores(weight, index, encoding, v_reset, T, dropout, key=KEY):
    """Counts of each neuron [N, 10 votes] and scores [N, 10] in float64, differentiable."""
    inputs = encode(encoding, IMAGES[index], index, 0, T, T, key)
    inputs = IMAGES[index][None].double() / 255 if encoding == "constant" else inputs.double()
    if dropout:
        inputs = inputs * (dropout_mask(IMAGES[index], index, key, dropout) > 0) / (1 - dropout)
    currents = (inputs @ weight.T).expand(T, -1, -1)
    fired = equations(currents, torch.full(currents.shape[1:], v_reset or 0.0).double(), spec_of(v_reset=v_reset))[0]
    return fired.sum(0).detach(), fired.mean(0).unflatten(1, (10, -1)).mean(2)


CE = Loss("ce", 20.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"votes": 1, "loss": CE, "T": 100},
        {"votes": 1, "encoding": "constant", "v_reset": None},
        {"votes": 2, "T": 129, "batch": 7},
        {"votes": 2, "loss": CE, "encoding": "latency", "T": 100, "dropout": 0.5},
        {"votes": 3, "loss": CE, "v_reset": 0.6, "T": 1, "batch": 5},
        {"votes": 3, "encoding": "constant", "T": 129, "batch": 33, "dropout": 0.25},
        {"votes": 10, "loss": CE, "v_reset": -0.3, "dropout": 0.25, "batch": 49},
        {"votes": 10, "encoding": "latency", "T": 16, "v_reset": None},
        {"votes": 40, "loss": CE, "encoding": "constant", "T": 16, "dropout": 0.25},
        {"votes": 40, "T": 16, "v_reset": None, "batch": 9},
        {"votes": 40, "loss": CE, "encoding": "latency", "T": 1, "v_reset": 0.2},
    ],
    ids=str,
)
def test_counts_rates_and_gradients_in_float64(settings):
    steps = compiled(**settings)
    training, dropout = steps.training, settings.get("dropout", 0.0)
    encoding, v_reset, batch = settings.get("encoding", "poisson"), settings.get("v_reset", 0.0), training.batch
    exact, index = steps.weight.detach().double().requires_grad_(), torch.arange(batch)
    counts, scores = exact_scores(exact, index, encoding, v_reset, training.T, dropout)
    training.loss(scores, TARGETS[:batch].double()).backward()
    spec, active = spec_of(v_reset=v_reset), spikes.active_pixels(IMAGES)
    found, inputs = fused.firing_counts(steps.weight, active, index, [training.T], KEY, spec, encoding=encoding)
    plain = counts if not dropout else exact_scores(exact, index, encoding, v_reset, training.T, 0.0)[0]
    assert torch.equal(found[:, 0].double(), plain) and plain.any()
    assert torch.equal(inputs, (IMAGES[:batch] > 0).sum(1)) or encoding == "poisson"
    steps.run(0, 1)
    assert (training.rates - scores).abs().max() < 1e-6
    gradient = training.optimizer.state[steps.weight]["momentum_buffer"]
    assert (gradient - exact.grad).abs().max() < 1e-5 * exact.grad.abs().max()


def test_weights_after_a_hundred_steps_and_their_bits():
    """Those of torch.optim.Adam in float64; the same bits for every number of threads and every cut."""
    settings = {"votes": 3, "loss": CE, "encoding": "constant", "dropout": 0.25, "steps": 100, "batch": 16}
    steps = compiled(**settings, momentum=False)
    exact = steps.weight.detach().double().requires_grad_()
    optimizer = torch.optim.Adam([exact], lr=0.003)
    steps.run(0, 100)
    for step in range(100):
        index = steps.order[16 * step : 16 * (step + 1)]
        _, scores = exact_scores(exact, index, "constant", 0.0, 16, 0.25)
        optimizer.zero_grad()
        CE(scores, TARGETS[index].double()).backward()
        optimizer.step()
    assert (steps.weight - exact).norm() < 1e-6 * exact.norm()
    for _ in thread_counts():
        again = compiled(**settings, momentum=False)
        again.run(0, 33)
        again.run(33, 100)
        assert torch.equal(again.weight, steps.weight) and torch.equal(again.training.rates, steps.training.rates)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_encoding_learns(tmp_path, encoding):
    """The digits, in a few seconds; chance is 10 %."""
    more = {"votes": 3, "encoding": encoding, "loss": "ce", "scale": 10, "lr": 0.01, "dropout": 0.1}
    rows = read_metrics(train_run(tmp_path, **more, epochs=3, b=20) / "metrics.csv")
    assert rows[-1]["test_acc"] > 0.7
