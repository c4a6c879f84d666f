"""What bench measures beside our trainer."""

import pytest
import torch

from snn_mnist.cli.contestants import SpikingJelly


@pytest.fixture
def loop() -> SpikingJelly:
    """SpikingJelly's loop around a network that answers at once."""
    loop = SpikingJelly.__new__(SpikingJelly)
    loop.multi_step = False
    loop.device, loop.reset_net = torch.device("cpu"), lambda net: None
    loop.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    loop.T, loop.encoder = 1, torch.nn.Identity()
    loop.optimizer = torch.optim.Adam(loop.net.parameters())
    return loop


def test_a_data_set_of_a_single_batch_is_gone_through_again(loop: SpikingJelly):
    batch = torch.rand(5, 1, 28, 28), torch.arange(5)
    loop.batches = {True: [batch], False: [batch]}
    assert loop.train(0.01) > 0
    assert loop.test(0.01) > 0


def test_a_batch_larger_than_the_data_set_is_refused(loop: SpikingJelly):
    loop.batches = {True: [], False: []}
    with pytest.raises(ValueError, match="-b is more than the training images"):
        loop.train(0.01)
