"""The training loops of other libraries that `bench` measures beside ours.

The work is that of SpikingJelly's `lif_fc_mnist` example: images through a DataLoader, Poisson spikes from the
library's own encoder, a layer 784 → 10 of its LIF neurons run step by step, MSE of the rates, Adam, the same device.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import time
from typing import Any

import torch
from torch import Tensor, nn

from snn_mnist.cli.measuring import Stopwatch

TAU = 2.0  # H[t] = V[t-1] + (X[t] - V[t-1]) / TAU


class PeerLoop:
    """The loop; a library says in `build` and `rates` what its network is and how it is run."""

    package = ""  # of the library, on PyPI
    busy = ""  # it does not choose its number of threads

    def __init__(self, settings: dict[str, Any]) -> None:
        from torchvision import datasets, transforms

        self.T, self.device = settings["T"], torch.device(settings["device"])
        torch.set_num_threads(settings["j"])
        self.about = f"{self.package} {importlib.metadata.version(self.package)}"
        self.net = self.build().to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.batches = {
            train: torch.utils.data.DataLoader(
                datasets.MNIST(settings["data_dir"], train=train, transform=transforms.ToTensor()),
                batch_size=settings["b"], shuffle=train, drop_last=train, num_workers=4, pin_memory=True,
            )
            for train in (True, False)
        }  # fmt: skip

    def build(self) -> nn.Module:
        """The network 784 → 10 with a LIF neuron behind each output."""
        raise NotImplementedError

    def rates(self, images: Tensor) -> Tensor:
        """[N, 1, 28, 28] in [0, 1] → the rates [N, 10] over T steps, from a state of zero."""
        raise NotImplementedError

    def train(self, seconds: float) -> float:
        return self._measure(True, seconds)

    def test(self, seconds: float) -> float:
        with torch.no_grad():
            return self._measure(False, seconds)

    def _measure(self, train: bool, seconds: float) -> float:
        if not len(self.batches[train]):
            raise ValueError("-b is more than the training images")
        images, watch = 0, Stopwatch(self.device)
        batches = itertools.chain.from_iterable(itertools.repeat(self.batches[train]))
        next(batches)  # the workers have started
        began = time.perf_counter()
        with watch:
            while not images or time.perf_counter() - began < seconds:  # each batch is waited for, as in the example
                image, label = next(batches)
                images += self._batch(image, label, train)
        return images / watch.seconds

    def _batch(self, image: Tensor, label: Tensor, train: bool) -> int:
        image, label = image.to(self.device), label.to(self.device)
        rates = self.rates(image)
        if train:
            self.optimizer.zero_grad()
            target = nn.functional.one_hot(label, 10).float()
            loss = nn.functional.mse_loss(rates, target)
            loss.backward()
            self.optimizer.step()
            loss.item()
        (rates.argmax(1) == label).float().sum().item()
        return len(label)


class SpikingJelly(PeerLoop):
    """Its lif_fc_mnist example as shipped: encoded and run step by step."""

    package = "spikingjelly"

    def build(self) -> nn.Module:
        from spikingjelly.activation_based import encoding, functional, layer, neuron, surrogate

        self.encoder, self.reset_net = encoding.PoissonEncoder(), functional.reset_net
        lif = neuron.LIFNode(tau=TAU, surrogate_function=surrogate.ATan())
        return nn.Sequential(layer.Flatten(), layer.Linear(784, 10, bias=False), lif)

    def rates(self, images: Tensor) -> Tensor:
        self.reset_net(self.net)
        total: Any = 0.0
        for _ in range(self.T):
            total = total + self.net(self.encoder(images))
        return total / self.T


class SpikingJellyFused(SpikingJelly):
    """All steps at once, by the fastest neurons it has for the device: of its release 0.0.0.0.14 those of its CuPy
    backend, of 2.0 those that it chooses."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.train(0)  # its first batch compiles its kernels, or shows that they don't work

    def build(self) -> nn.Module:
        from spikingjelly.activation_based import functional, neuron

        net = super().build()
        functional.set_step_mode(net, "m")
        if hasattr(functional, "set_backend"):
            functional.set_backend(net, "cupy", neuron.LIFNode)
            by = "cupy"
        else:
            by = functional.neuron_implementation("lif", self.device)["implementation"]
        self.about += f", multi-step neurons by {by}"
        return net

    def rates(self, images: Tensor) -> Tensor:
        self.reset_net(self.net)
        rates: Tensor = self.net(self.encoder(images.expand(self.T, *images.shape))).mean(0)
        return rates


class SnnTorch(PeerLoop):
    """snntorch.Leaky, U[t] = β U[t-1] + X[t]: this is our H[t] times τ for β = 1 - 1/τ, so the threshold is τ and the
    surrogate's α is 2/τ."""

    package = "snntorch"

    def build(self) -> nn.Module:
        import snntorch
        from snntorch import spikegen, surrogate

        self.encode = spikegen.rate
        atan = surrogate.atan(alpha=2 / TAU)
        lif = snntorch.Leaky(beta=1 - 1 / TAU, threshold=TAU, reset_mechanism="zero", spike_grad=atan)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False), lif)

    def rates(self, images: Tensor) -> Tensor:
        flatten, linear, lif = self.net.children()
        membrane = torch.zeros(len(images), 10, device=self.device)
        total: Any = 0.0
        for spikes in self.encode(images, num_steps=self.T):
            fired, membrane = lif(linear(flatten(spikes)), membrane)
            total = total + fired
        return total / self.T


class Norse(PeerLoop):
    """norse.torch.LIFBoxCell, LIF without a synaptic current: v + dt/τ_mem (X - v); its SuperSpike surrogate."""

    package = "norse"

    def build(self) -> nn.Module:
        import norse.torch as norse

        dt = 1e-3
        self.encode = norse.PoissonEncoder(self.T, f_max=1 / dt, dt=dt)
        lif = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1 / (TAU * dt))), dt=dt)
        net: nn.Module = norse.SequentialState(nn.Flatten(), nn.Linear(784, 10, bias=False), lif)
        return net

    def rates(self, images: Tensor) -> Tensor:
        state: Any = None
        total: Any = 0.0
        for spikes in self.encode(images):
            fired, state = self.net(spikes, state)
            total = total + fired
        return total / self.T


LOOPS: dict[str, type[PeerLoop]] = {
    "spikingjelly-fused": SpikingJellyFused,
    "spikingjelly": SpikingJelly,
    "snntorch": SnnTorch,
    "norse": Norse,
}
