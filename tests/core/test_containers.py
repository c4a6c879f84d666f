"""Step-mode layers and containers against loops written by hand, forward and backward."""

import copy

import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, neuron

T, N = 5, 3


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def forward_and_gradients(run, module, x_seq):
    x_seq = x_seq.clone().requires_grad_()
    module.zero_grad()
    torch.manual_seed(5)
    y = run(x_seq)
    (y * data(*y.shape, seed=9)).sum().backward()
    return y.detach(), x_seq.grad, [p.grad.clone() for p in module.parameters()]


def assert_same(a, b):
    torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a[1], b[1], rtol=1e-5, atol=1e-6)
    for g, h in zip(a[2], b[2], strict=True):
        torch.testing.assert_close(g, h, rtol=1e-5, atol=1e-5)


LAYERS = [
    (lambda **k: layer.Linear(4, 2, **k), nn.Linear(4, 2), (4,)),
    (lambda **k: layer.Linear(4, 2, bias=False, **k), nn.Linear(4, 2, bias=False), (4,)),
    (lambda **k: layer.Flatten(**k), nn.Flatten(), (2, 3, 4)),
    (lambda **k: layer.Conv1d(2, 3, 3, padding=1, **k), nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    (lambda **k: layer.Conv2d(2, 3, 3, stride=2, **k), nn.Conv2d(2, 3, 3, stride=2), (2, 7, 6)),
    (lambda **k: layer.Conv3d(1, 2, 2, **k), nn.Conv3d(1, 2, 2), (1, 3, 4, 5)),
    (lambda **k: layer.BatchNorm1d(4, **k), nn.BatchNorm1d(4), (4,)),
    (lambda **k: layer.BatchNorm1d(4, **k), nn.BatchNorm1d(4), (4, 3)),
    (lambda **k: layer.BatchNorm2d(2, **k), nn.BatchNorm2d(2), (2, 5, 4)),
    (lambda **k: layer.BatchNorm3d(2, **k), nn.BatchNorm3d(2), (2, 3, 4, 2)),
    (lambda **k: layer.MaxPool2d(2, **k), nn.MaxPool2d(2), (2, 6, 4)),
    (lambda **k: layer.AvgPool2d(2, **k), nn.AvgPool2d(2), (2, 6, 4)),
]


@pytest.mark.parametrize("make, plain, shape", LAYERS, ids=lambda v: type(v).__name__)
def test_layers(make, plain, shape):
    single, multi = make(), make(step_mode="m")
    assert (single.step_mode, multi.step_mode) == ("s", "m") and "step_mode='m'" in repr(multi)
    assert isinstance(multi, type(plain)) and list(multi.state_dict()) == list(plain.state_dict())
    for m in (single, multi):
        m.load_state_dict(plain.state_dict())
    x_seq = data(T, N, *shape)

    def folded(x):
        y = plain(x.reshape(T * N, *shape))
        return y.reshape(T, N, *y.shape[1:])

    assert_same(forward_and_gradients(multi, multi, x_seq), forward_and_gradients(folded, plain, x_seq))
    for key, value in plain.state_dict().items():  # running statistics too
        torch.testing.assert_close(multi.state_dict()[key], value)
    torch.manual_seed(3)
    expected = plain(x_seq[0])
    torch.manual_seed(3)
    assert torch.equal(single(x_seq[0]), expected)
    if not isinstance(plain, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        loop = forward_and_gradients(lambda x: torch.stack([single(x_t) for x_t in x]), single, x_seq)
        assert_same(loop, forward_and_gradients(multi, multi, x_seq))


def test_a_step_given_to_a_multi_step_layer_is_explained():
    with pytest.raises(ValueError, match=r"Conv2d in step mode 'm' takes.*5 dimensions.*\[3, 2, 7, 7\]"):
        layer.Conv2d(2, 3, 3, step_mode="m")(data(3, 2, 7, 7))
    with pytest.raises(RuntimeError, match="T >= 1"):
        layer.Linear(4, 2, step_mode="m")(data(0, 3, 4))
    with pytest.raises(RuntimeError, match=r"shape \[T, N, \*\]"):
        layer.Flatten(step_mode="m")(data(3))
    with pytest.raises(ValueError, match="step_mode 'q'"):
        layer.Flatten(step_mode="q")


def test_batch_norm_statistics_over_time_and_batch():
    bn, x = layer.BatchNorm1d(4, step_mode="m"), data(T, N, 4) * 3 + 1
    y = bn(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(bn.running_mean, 0.1 * x.mean((0, 1)))


def stateful():
    torch.manual_seed(0)
    modules = [nn.Linear(4, 6), neuron.LIFNode(), nn.Linear(6, 2), neuron.IFNode()]
    for linear in modules[::2]:
        linear.weight.data.uniform_(-1, 2)
    return modules


def stateless():
    torch.manual_seed(0)
    return [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]


def loop_by_hand(modules):
    def run(x_seq):
        outputs = []
        for t in range(x_seq.shape[0]):
            y = x_seq[t]
            for m in modules:
                y = m(y)
            outputs.append(y)
        return torch.stack(outputs)

    return run


def fold_by_hand(modules):
    def run(x_seq):
        y = x_seq.reshape(-1, *x_seq.shape[2:])
        for m in modules:
            y = m(y)
        return y.reshape(*x_seq.shape[:2], *y.shape[1:])

    return run


@pytest.mark.parametrize("n_modules", [1, 4])
def test_multi_step_container(n_modules):
    modules = stateful()[:n_modules] if n_modules > 1 else stateful()[1:2]
    x = data(T, N, 4) * 3
    by_hand = nn.Sequential(*copy.deepcopy(modules))
    expected = forward_and_gradients(loop_by_hand(list(by_hand)), by_hand, x)
    assert expected[0].abs().sum() > 0
    wrapped = nn.Sequential(*copy.deepcopy(modules))
    for run in (
        layer.MultiStepContainer(*wrapped),
        layer.StepModeContainer(True, *wrapped, step_mode="m"),
        lambda x: functional.multi_step_forward(x, wrapped),
        lambda x: functional.multi_step_forward(x, list(wrapped)),
        lambda x: functional.multi_step_forward(x, tuple(wrapped)),
    ):
        functional.reset_net(wrapped)
        assert_same(forward_and_gradients(run, wrapped, x), expected)


@pytest.mark.parametrize("n_modules", [1, 3])
def test_seq_to_ann_container(n_modules):
    modules = stateless()[:n_modules]
    x = data(T, N, 2, 5, 4)
    by_hand = nn.Sequential(*copy.deepcopy(modules))
    expected = forward_and_gradients(fold_by_hand(list(by_hand)), by_hand, x)
    wrapped = nn.Sequential(*copy.deepcopy(modules))
    for run in (
        layer.SeqToANNContainer(*wrapped),
        layer.StepModeContainer(False, *wrapped, step_mode="m"),
        lambda x: functional.seq_to_ann_forward(x, wrapped),
        lambda x: functional.seq_to_ann_forward(x, list(wrapped)),
        lambda x: functional.seq_to_ann_forward(x, tuple(wrapped)),
    ):
        assert_same(forward_and_gradients(run, wrapped, x), expected)


@pytest.mark.parametrize("is_stateful", [True, False])
def test_step_mode_container_in_single_step(is_stateful):
    modules = stateful() if is_stateful else stateless()
    x = data(N, 4) * 3 if is_stateful else data(N, 2, 5, 4)
    container = layer.StepModeContainer(is_stateful, *copy.deepcopy(modules))
    assert container.step_mode == "s"
    y = x
    for m in modules:
        y = m(y)
    assert torch.equal(container(x), y)


def test_switching_rules():
    net = nn.Sequential(
        layer.StepModeContainer(True, nn.Sequential(layer.Linear(4, 4), neuron.IFNode())),
        layer.StepModeContainer(False, layer.Linear(4, 4), layer.StepModeContainer(False, layer.Linear(4, 4))),
        neuron.LIFNode(),
    )

    def modes():
        return {name: m.step_mode for name, m in net.named_modules() if hasattr(m, "step_mode")}

    inside = ["0.0.0", "0.0.1", "1.0", "1.1", "1.1.0"]
    for mode in "msm":
        functional.set_step_mode(net, mode)
        assert modes() == {"0": mode, "1": mode, "2": mode} | dict.fromkeys(inside, "s")
    assert net(data(T, N, 4)).shape == (T, N, 4)
    with pytest.raises(ValueError, match="step_mode 'x'"):
        functional.set_step_mode(net, "x")

    net = nn.Sequential(neuron.LIFNode(step_mode="m"), layer.MultiStepContainer(neuron.IFNode()))
    functional.set_step_mode(net, "m")
    assert net[1].step_mode == "m" and net[1][0].step_mode == "s"
    with pytest.raises(ValueError, match="not supported by MultiStepContainer; use 'm'"):
        functional.set_step_mode(net, "s")
    assert net[0].step_mode == "m", "nothing is changed when one module refuses"


def test_containers_refuse_what_they_would_get_wrong():
    with pytest.raises(ValueError, match=r"'0'.*IFNode.*has a state.*MultiStepContainer"):
        layer.SeqToANNContainer(neuron.IFNode())
    with pytest.raises(ValueError, match=r"'1\.0'"):
        layer.StepModeContainer(False, nn.ReLU(), nn.Sequential(neuron.IFNode()))
    with pytest.raises(ValueError, match=r"in step mode 'm'.*step mode 's'"):
        layer.MultiStepContainer(neuron.IFNode(step_mode="m"))
    with pytest.raises(TypeError, match="True or False"):
        layer.StepModeContainer(nn.Linear(2, 2))


def test_containers_are_copied_and_reset():
    container = layer.MultiStepContainer(nn.Linear(4, 4), neuron.LIFNode())
    x = data(T, N, 4)
    y = container(x)
    twin = copy.deepcopy(container)
    functional.reset_net(container)
    functional.reset_net(twin)
    assert torch.equal(container(x), y) and torch.equal(twin(x), y)
    assert list(container.state_dict()) == ["0.weight", "0.bias"]
