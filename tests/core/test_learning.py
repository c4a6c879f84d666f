"""STDP against the sum over all pairs of spikes, which knows no traces: a pre spike and a post spike d >= 0 steps later
give f_post(w) (1 - 1/tau_pre)^d, a post spike and a pre spike d >= 0 steps later take f_pre(w) (1 - 1/tau_post)^d."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, learning, neuron

TAUS = {"tau_pre": 3.0, "tau_post": 1.7}
T = 12


def f_pre(w):
    return w.clamp(-1, 1)


def f_post(w):
    return 0.5 - w**2


def random_spikes(*shape, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def decay(tau):
    """[T, T]: (1 - 1/tau)^(t - u) for the earlier step u, 0 for a later one"""
    t = torch.arange(T)
    distance = t[:, None] - t
    return torch.where(distance >= 0, (1 - 1 / tau) ** distance.clamp(min=0).double(), 0.0)


def pairs(weight, pre, post):
    """weight [O, I], pre [T, N, I], post [T, N, O], N also over places -> delta_w [O, I]"""
    after = torch.einsum("tu,uni,tno->oi", decay(TAUS["tau_pre"]), pre, post)
    before = torch.einsum("tu,uno,tni->oi", decay(TAUS["tau_post"]), post, pre)
    return f_post(weight) * after - f_pre(weight) * before


def pairs_of_conv(conv, pre, post):
    """The same for each weight of a convolution, over the places where it is used."""
    (sh, sw), (dh, dw), (ph, pw) = conv.stride, conv.dilation, conv.padding
    padded = nn.functional.pad(pre, (pw, pw, ph, ph))
    height, width = post.shape[-2:]
    change = torch.zeros_like(conv.weight)
    outs, ins = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    for group in range(conv.groups):
        o, i = slice(group * outs, (group + 1) * outs), slice(group * ins, (group + 1) * ins)
        for h in range(conv.kernel_size[0]):
            for w in range(conv.kernel_size[1]):
                seen = padded[:, :, i, h * dh :: sh, w * dw :: sw][..., :height, :width]
                flat = [x.movedim(2, -1).flatten(1, -2) for x in (seen, post[:, :, o])]  # [T, N places, C]
                change[o, :, h, w] = pairs(conv.weight[o, :, h, w], *flat)
    return change.detach()


LINEAR = layer.Linear(5, 4, bias=False)
CONVS = {
    "plain": layer.Conv2d(2, 3, 3),
    "stride, padding, oblong": layer.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilation, groups": layer.Conv2d(4, 6, 2, dilation=(1, 2), groups=2),
}


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("synapse", [LINEAR, *CONVS.values()], ids=["linear", *CONVS])
def test_changes_are_those_of_all_pairs_of_spikes(mode, synapse):
    """The output spikes are given: identity modules stand for the synapse's neurons."""
    synapse, neurons = copy.deepcopy(synapse).double(), nn.Identity()
    pre = random_spikes(T, 3, *((5,) if isinstance(synapse, nn.Linear) else (synapse.in_channels, 7, 6)))
    post = random_spikes(T, *synapse(pre[0]).shape, seed=1)
    learner = learning.STDPLearner(mode, synapse, neurons, **TAUS, f_pre=f_pre, f_post=f_post)
    functional.set_step_mode(synapse, mode)
    expected = pairs(synapse.weight, pre, post) if synapse.weight.dim() == 2 else pairs_of_conv(synapse, pre, post)
    for inputs, outputs in zip(pre, post, strict=True) if mode == "s" else [(pre, post)]:
        synapse(inputs)
        neurons(outputs)
    torch.testing.assert_close(learner.step(on_grad=False), expected.detach(), rtol=0, atol=1e-12)
    powers = (1 - 1 / TAUS["tau_post"]) ** torch.arange(T - 1, -1, -1, dtype=torch.double)
    torch.testing.assert_close(learner.trace_post, torch.einsum("t,t...->...", powers, post), rtol=0, atol=1e-12)
    assert learner.step(on_grad=False) is None  # the records are used up


def test_conv1d_is_a_conv2d_of_height_one():
    long, flat = nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Conv2d(2, 3, (1, 3), stride=(1, 2), padding=(0, 1))
    flat.weight.data = long.weight.data[:, :, None].clone()
    x, y = random_spikes(2, 2, 9).float(), random_spikes(2, 3, 5, seed=1).float()
    a = learning.stdp_conv1d_single_step(long, x, y, None, None, 2.0, 3.0)
    b = learning.stdp_conv2d_single_step(flat, x[:, :, None], y[:, :, None], None, None, 2.0, 3.0)
    for ours, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(ours, theirs.squeeze(2))


def net_and_learner(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(layer.Linear(6, 4), neuron.IFNode())
    net[0].weight.data.abs_()
    return net, learning.STDPLearner("s", net[0], net[1], 2.0, 2.0, **settings)


def test_the_gradient_is_minus_the_change_and_is_added():
    net, learner = net_and_learner()
    twin, other = net_and_learner()
    x = random_spikes(5, 2, 6).float()
    for step in x:
        net(step)
        twin(step)
    change = other.step(on_grad=False)
    net[0].weight.grad = torch.ones(4, 6)
    before = net[0].weight.clone()
    assert learner.step(scale=0.5) is None
    assert change.abs().sum() > 0 and not change.requires_grad
    torch.testing.assert_close(net[0].weight.grad, 1 - 0.5 * change)
    assert torch.equal(net[0].weight, before) and net[0].bias.grad is None
    net[0].weight.grad = None
    net(x[0])
    learner.step()
    assert net[0].weight.grad is not None


def test_disabled_reset_and_without_spikes():
    net, learner = net_and_learner()
    assert learner.step() is None and net[0].weight.grad is None
    learner.disable()
    net(torch.ones(2, 6))
    assert learner.step(on_grad=False) is None and learner.trace_pre is None
    learner.enable()
    net(torch.ones(2, 6))
    learner.reset()
    assert learner.step(on_grad=False) is None
    net(torch.ones(2, 6))
    learner.step()
    assert learner.trace_pre.eq(1).all()
    functional.reset_net(learner)
    assert learner.trace_pre is None and learner.trace_post is None


def test_errors_name_the_remedy():
    net, learner = net_and_learner()
    net(torch.ones(2, 6))
    learner.step()
    functional.reset_net(net)
    net(torch.ones(3, 6))
    with pytest.raises(RuntimeError, match=r"\[2, 6\] to \[3, 6\] while their trace is kept; call the learner's reset"):
        learner.step()
    learner.reset()
    net[0](torch.ones(3, 6))
    with pytest.raises(ValueError):  # an input of the synapse without an output of the neurons
        learner.step()
    with pytest.raises(
        NotImplementedError, match="STDP of BatchNorm1d is not implemented; use Linear, Conv1d or Conv2d"
    ):
        learning.STDPLearner("s", nn.BatchNorm1d(3), net[1], 2.0, 2.0)
    for tau in (0.5, float("nan"), "2"):
        with pytest.raises(ValueError, match="tau_post="):
            learning.STDPLearner("s", net[0], net[1], 2.0, tau)
    with pytest.raises(ValueError, match="step_mode 'x'"):
        learning.STDPLearner("x", net[0], net[1], 2.0, 2.0)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("synapse", [LINEAR, CONVS["stride, padding, oblong"], nn.Conv1d(2, 3, 3, padding=1)])
def test_one_sample_without_a_batch(synapse, mode):
    """What the same spikes in a batch of one give."""
    synapse, sn = copy.deepcopy(synapse).float(), nn.Identity()
    learner = learning.STDPLearner(mode, synapse, sn, **TAUS)
    shape = (5,) if isinstance(synapse, nn.Linear) else (2, 7, 6)[: synapse.weight.dim() - 1]
    x, changes = random_spikes(T, *shape).float(), []
    y = torch.stack([synapse(x_t) for x_t in x]).gt(0).float()
    for batched in (False, True):
        learner.reset()
        pre, post = (x[:, None], y[:, None]) if batched else (x, y)
        if mode == "m":
            learner.in_spikes.append(pre)
            learner.out_spikes.append(post)
        else:
            learner.in_spikes += list(pre)
            learner.out_spikes += list(post)
        changes.append(learner.step(on_grad=False))
    assert changes[0].abs().sum() > 0
    torch.testing.assert_close(*changes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_saturate(dtype):
    """A spike in each of 1,500 steps with tau 1000: the trace is 1000 (1 - 0.999^1500)."""
    fc, sn, one = nn.Linear(1, 1, bias=False, dtype=dtype), nn.Identity(), torch.ones(1, 1, dtype=dtype)
    learner = learning.STDPLearner("s", fc, sn, 1000.0, 1000.0)
    total = 0.0
    for _ in range(1500):
        fc(one)
        sn(one)
        total += learner.step(on_grad=False, scale=1e-3)
    assert learner.trace_pre.item() == pytest.approx(1000 * (1 - 0.999**1500), rel=1e-4)
    assert learner.trace_pre.dtype == total.dtype == torch.float32
    fc(one)
    sn(one)
    learner.step()
    assert fc.weight.grad.dtype == dtype


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_of_a_learner_learn(way):
    net, learner = net_and_learner()
    net, learner = way((net, learner))
    assert learner.synapse is net[0] and learner.sn is net[1]
    twin, other = net_and_learner()
    for x in random_spikes(5, 2, 6).float():
        net(x)
        twin(x)
    change = learner.step(on_grad=False)
    assert torch.equal(change, other.step(on_grad=False)) and change.abs().sum() > 0


def test_a_change_of_a_parametrised_weight_is_not_lost():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(layer.Linear(3, 2, bias=False)), neuron.IFNode())
    learner = learning.STDPLearner("s", net[0], net[1], 2.0, 2.0)
    net(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match=r"computed from other parameters.*on_grad=False"):
        learner.step()
    assert learner.step(on_grad=False).shape == (2, 3)
