"""Encoders against their definitions; the Poisson one by an exact binomial test."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from snn_mnist.core import encoding, functional


def test_poisson_rates():
    """41 binomial tests at a level of 1e-6 each: the whole fails by chance once in 24,000 seeds."""
    torch.manual_seed(0)
    n, x = 20_000, torch.linspace(0, 1, 41)
    encoder = encoding.PoissonEncoder(step_mode="m")
    spikes = encoder(x.expand(n, -1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    counts = spikes.sum(0)
    assert counts[0] == 0 and counts[-1] == n
    for p, count in zip(x.tolist()[1:-1], counts.tolist()[1:-1], strict=True):
        assert binomtest(int(count), n, p).pvalue > 1e-6
    pairs = (spikes[1:] * spikes[:-1]).mean(0)  # independent from call to call
    torch.testing.assert_close(pairs, x**2, rtol=0, atol=0.02)


def test_poisson_types_and_errors():
    encoder = encoding.PoissonEncoder()
    assert encoder(torch.rand(3, dtype=torch.float64)).dtype == torch.float64
    assert encoder(torch.tensor([0, 1, 1])).tolist() == [0.0, 1.0, 1.0]
    assert encoder(torch.tensor([True, False])).tolist() == [1.0, 0.0]
    assert encoder(torch.zeros(0, 3)).shape == (0, 3)
    for value in (1.5, -0.25, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"\[0, 1\], but got {value:g}"):
            encoder(torch.tensor([0.5, value]))


def play(encoder, x, steps):
    return torch.stack([encoder(x) for _ in range(steps)])


def test_periodic():
    spike = torch.rand(4, 2, 3).round()
    encoder = encoding.PeriodicEncoder(spike)
    assert torch.equal(play(encoder, None, 10), spike.repeat(3, 1, 1)[:10])
    assert encoder.t == 2
    functional.reset_net(encoder)
    assert torch.equal(encoder(), spike[0]) and torch.equal(encoder(torch.rand(7)), spike[1])
    multi = encoding.PeriodicEncoder(spike, step_mode="m")
    assert torch.equal(multi(torch.zeros(7, 2, 3)), spike.repeat(2, 1, 1)[:7])
    assert torch.equal(multi(torch.zeros(2, 2, 3)), spike[[3, 0]]), "it goes on where it was"
    assert encoder.double().spike.dtype == torch.float64 and encoder.state_dict() == {}


@pytest.mark.parametrize("kind", ["linear", "log"])
@pytest.mark.parametrize("T", [1, 2, 7, 20])
def test_latency(kind, T):
    # points away from the rounding ties of both formulas
    x = (torch.arange(211, dtype=torch.float64) / 210).clamp(0, 1)
    if kind == "linear":
        t_f = [(T - 1) * (1 - v) for v in x.tolist()]
    else:
        t_f = [T - 1 - math.log((math.exp(T - 1) - 1) * v + 1) for v in x.tolist()]
    clear = [i for i, t in enumerate(t_f) if abs(t % 1 - 0.5) > 1e-9]
    assert len(clear) > 150
    spikes = play(encoding.LatencyEncoder(T, kind), x, T)
    assert torch.equal(spikes.sum(0), torch.ones(211, dtype=torch.float64)), "one spike each"
    when = spikes.argmax(0)
    assert [when[i].item() for i in clear] == [round(t_f[i]) for i in clear]
    assert when[-1] == 0 and when[0] == T - 1
    for dtype in (torch.bfloat16, torch.float16):  # computed in float32
        half = play(encoding.LatencyEncoder(T, kind), x.to(dtype), T)
        assert half.dtype == dtype and torch.equal(half, play(encoding.LatencyEncoder(T, kind), x.to(dtype).float(), T))
    multi = encoding.LatencyEncoder(T, kind, step_mode="m")
    for _ in range(2):  # a second period
        assert torch.equal(multi(x.expand(T, -1)), spikes)
    multi.reset()
    longer = multi(x.expand(T + 3, -1))
    assert torch.equal(longer, torch.cat([spikes] * 4)[: T + 3])


def test_latency_of_a_long_sequence_does_not_overflow():
    when = encoding.LatencyEncoder(1000, "log", step_mode="m")(torch.tensor([0.0, 0.5, 1.0]).expand(1000, 3)).argmax(0)
    assert when.tolist() == [999, 1, 0]


def test_weighted_phase():
    K = 5
    x = torch.arange(2**K).float() / 2**K  # every number of 5 digits
    spikes = play(encoding.WeightedPhaseEncoder(K), x, K)
    for i in range(2**K):
        assert "".join(str(int(s)) for s in spikes[:, i]) == f"{i:05b}"
    weights = 2.0 ** -torch.arange(1, K + 1)
    assert torch.equal((weights[:, None] * spikes).sum(0), x)
    assert torch.equal(encoding.WeightedPhaseEncoder(K, step_mode="m")(x.expand(K, -1)), spikes)
    with pytest.raises(ValueError, match=r"\[0, 0.96875\], but got 1"):
        encoding.WeightedPhaseEncoder(K)(torch.ones(1))


def test_state_of_encoders():
    encoder = encoding.LatencyEncoder(4)
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    first = play(encoder, a, 2)
    assert torch.equal(play(encoder, b, 2), play(encoding.LatencyEncoder(4), a, 4)[2:]), "a is still playing"
    functional.reset_net(encoder)
    assert not torch.equal(play(encoder, b, 2), first)
    with pytest.raises(RuntimeError, match="reset_net"):
        encoder(torch.zeros(3))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: encoding.LatencyEncoder(4, "cubic"), "use 'linear' or 'log'"),
        (lambda: encoding.WeightedPhaseEncoder(0), "not 0"),
        (lambda: encoding.PoissonEncoder("x"), "step_mode 'x'"),
        (lambda: encoding.LatencyEncoder(4)(torch.tensor([2.0])), r"\[0, 1\], but got 2"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_fires_as_often_as_float32(dtype):
    """The darkest pixel, 1/255: a draw in bfloat16 would be below it half as often again."""
    n, x = 400_000, torch.tensor([1 / 255, 2 / 255, 5 / 255]).to(dtype)
    for mode in "sm":
        torch.manual_seed(1)
        spikes = encoding.PoissonEncoder(mode)(x.expand(n, 3))
        torch.manual_seed(1)
        assert spikes.dtype == dtype and torch.equal(spikes.float(), encoding.PoissonEncoder()(x.float().expand(n, 3)))
        for p, count in zip(x.tolist(), spikes.float().sum(0).tolist(), strict=True):
            assert binomtest(int(count), n, p).pvalue > 1e-6


@pytest.mark.parametrize("returns", [True, False])
def test_an_encoder_of_ones_own(returns):
    class Countdown(encoding.StatefulEncoder):
        def single_step_encode(self, x):
            code = torch.stack([(x > t / self.T).to(x) for t in range(self.T)])
            if returns:  # as in SpikingJelly 2.0
                return code
            self.spike = code  # as in 0.0.0.0.14

    x = torch.tensor([0.1, 0.6])
    assert play(Countdown(2), x, 3).tolist() == [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    assert Countdown(2, "m")(x.expand(3, 2)).tolist() == [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]


def test_numbers_and_complex_input():
    assert encoding.LatencyEncoder(np.int64(4)).T == 4 and encoding.WeightedPhaseEncoder(torch.tensor(3)).T == 3
    for encoder in (encoding.PoissonEncoder(), encoding.LatencyEncoder(3), encoding.WeightedPhaseEncoder(3)):
        with pytest.raises(TypeError, match=r"takes real numbers, but got torch.complex64"):
            encoder(torch.ones(2, dtype=torch.complex64))
