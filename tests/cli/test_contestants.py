"""What bench measures: our trainer, and the loops of other libraries."""

from importlib import util

import pytest
import torch
from torch import Tensor, nn

from snn_mnist import core
from snn_mnist.cli import peers
from snn_mnist.cli.contestants import OurLoop
from snn_mnist.training.threads import ThreadTuner


class Plain(peers.PeerLoop):
    """A loop around a network that answers at once."""

    def __init__(self) -> None:
        self.device, self.net = torch.device("cpu"), nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.optimizer = torch.optim.Adam(self.net.parameters())

    def rates(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_a_data_set_of_a_single_batch_is_gone_through_again():
    loop, batch = Plain(), (torch.rand(5, 1, 28, 28), torch.arange(5))
    loop.batches = {True: [batch], False: [batch]}
    before = loop.net[1].weight.clone()
    assert loop.test(0.01) > 0
    assert torch.equal(loop.net[1].weight, before)
    assert loop.train(0.01) > 0
    assert not torch.equal(loop.net[1].weight, before)


def test_a_batch_larger_than_the_data_set_is_refused():
    loop = Plain()
    loop.batches = {True: [], False: []}
    with pytest.raises(ValueError, match="-b is more than the training images"):
        loop.train(0.01)


@pytest.mark.parametrize(("name", "package"), [("spikingjelly", "spikingjelly"), ("snntorch",) * 2, ("norse",) * 2])
def test_each_library_computes_the_same_rates(name: str, package: str, mnist_dir):
    """With images of black and white pixels every encoder gives the same spikes, so that the rates are ours."""
    if util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    try:
        loop = peers.LOOPS[name]({"T": 20, "device": "cpu", "j": 1, "b": 64, "data_dir": str(mnist_dir)})
    except ImportError as error:
        pytest.skip(f"{package} can't be imported: {error}")
    assert loop.about.startswith(package)
    torch.manual_seed(0)
    images = (torch.rand(64, 1, 28, 28) < 0.2).float()
    ours = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False), core.neuron.LIFNode(tau=2.0))
    for weight, theirs in zip(ours.parameters(), loop.net.parameters(), strict=True):
        nn.init.normal_(theirs, std=0.2)
        weight.data = theirs.data
    for _ in range(2):  # nothing is left over from the batch before
        core.functional.reset_net(ours)
        expected = torch.stack([ours(images) for _ in range(20)]).mean(0)
        rates = loop.rates(images)
        assert (rates - expected).abs().max() < 0.051  # a spike more or less, of a potential at the threshold
        assert (rates != expected).float().mean() < 0.02 and 0.1 < expected.mean() < 0.9
    loop.net.zero_grad()
    rates.sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in loop.net.parameters())
    assert loop.train(0.01) > 0 and loop.test(0.01) > 0


def test_a_busy_machine_is_told():
    trainer = OurLoop.__new__(OurLoop)
    trainer.tuner = ThreadTuner(2, lambda threads: None)
    assert trainer.busy == ""
    while not trainer.tuner.reduced:  # the trial: two threads take three times as long as one
        trainer.tuner.note(3e-3 if trainer.tuner.count == 2 else 1e-3, 8)
    assert trainer.busy == "the machine is busy: 1 of 2 threads was faster"
