"""Monitors against hooks written by hand."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snn_mnist.core import functional, layer, monitor, neuron


def make_net(mode="m"):
    torch.manual_seed(1)
    net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.LIFNode())
    for i in (0, 2):
        net[i].weight.data.abs_()
    functional.set_step_mode(net, mode)
    return net


def batches(n=3, T=5):
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(T, 3, 8, generator=generator) * 2 for _ in range(n)]


NODES = (neuron.IFNode, neuron.LIFNode)
KINDS = {  # name -> (the monitor of a net, the same by a hook of a layer)
    "output": (
        lambda net: monitor.OutputMonitor(net, NODES),
        lambda m, log: m.register_forward_hook(lambda m, x, y: log(y)),
    ),
    "input": (
        lambda net: monitor.InputMonitor(net, NODES),
        lambda m, log: m.register_forward_pre_hook(lambda m, x: log(x[0])),
    ),
    "v before": (
        lambda net: monitor.AttributeMonitor("v", True, net, NODES, torch.as_tensor),  # a number before the first step
        lambda m, log: m.register_forward_pre_hook(lambda m, x: log(torch.as_tensor(m.v))),
    ),
    "v after": (
        lambda net: monitor.AttributeMonitor("v", pre_forward=False, net=net, instance=NODES),
        lambda m, log: m.register_forward_hook(lambda m, x, y: log(m.v)),
    ),
    "grad input": (
        lambda net: monitor.GradInputMonitor(net, NODES),
        lambda m, log: m.register_full_backward_hook(lambda m, gi, go: log(gi[0])),
    ),
    "grad output": (
        lambda net: monitor.GradOutputMonitor(net, NODES),
        lambda m, log: m.register_full_backward_hook(lambda m, gi, go: log(go[0])),
    ),
}


def run(net, x_seq, mode, backward):
    if mode == "m":
        y = net(x_seq).mean()
    else:
        y = torch.stack([net(x) for x in x_seq]).mean()
    if backward:
        y.backward()
    functional.reset_net(net)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", KINDS)
def test_records_what_hooks_record(kind, mode):
    net, log = make_net(mode), []  # log: (layer, data) in call order
    make, register = KINDS[kind]
    for name in ("1", "3"):
        register(net.get_submodule(name), lambda data, name=name: log.append((name, data)))
    mon = make(net)
    assert mon.monitored_layers == ["1", "3"]
    for x in batches():
        run(net, x, mode, "grad" in kind)
    assert len(log) == len(mon.records) == 3 * 2 * (1 if mode == "m" else 5)
    torch.testing.assert_close(mon.records, [data for _, data in log], rtol=0, atol=0)
    for name in mon.monitored_layers:
        torch.testing.assert_close(mon[name], [data for n, data in log if n == name], rtol=0, atol=0)
    assert any(record.abs().sum() > 0 for record in mon.records) or (kind, mode) == ("v before", "m")


def test_switching_clearing_removing():
    net, x = make_net(), batches(1)[0]
    mon = monitor.OutputMonitor(net, NODES, lambda y: y.mean().item())

    def records_after_a_run():
        run(net, x, "m", False)
        return list(mon.records)

    first = records_after_a_run()
    assert len(first) == 2 and all(isinstance(r, float) for r in first)
    mon.disable()
    assert records_after_a_run() == first
    mon.enable()
    assert records_after_a_run() == first * 2 and mon[0:2] == first and len(mon["3"]) == 2
    mon.clear_recorded_data()
    assert mon.records == [] and mon["1"] == []
    assert records_after_a_run() == first == [mon["1"][0], mon["3"][0]]
    mon.remove_hooks()
    assert records_after_a_run() == first and not any(m._forward_hooks for m in net.modules())


def test_context_manager():
    net, x = make_net(), batches(1)[0]
    with pytest.raises(ZeroDivisionError), monitor.GradOutputMonitor(net, neuron.IFNode, torch.norm) as mon:
        run(net, x, "m", True)
        _ = 1 / 0
    run(net, x, "m", True)
    assert len(mon.records) == 1 and mon["1"][0] > 0


def test_which_layers():
    net = make_net()
    assert monitor.OutputMonitor(net).monitored_layers == [""]
    nested = nn.Sequential(net, nn.Sequential(neuron.IFNode()), neuron.IFNode())
    for make in (monitor.OutputMonitor, monitor.InputMonitor, monitor.GradInputMonitor, monitor.GradOutputMonitor):
        assert make(nested).monitored_layers == ["", "0", "1"], "every module of the net's own type"
    assert monitor.AttributeMonitor("training", True, nested).monitored_layers == ["", "0", "1"]
    assert monitor.OutputMonitor(net, neuron.BaseNode).monitored_layers == ["1", "3"]
    assert monitor.OutputMonitor(net, (layer.Linear, neuron.LIFNode)).monitored_layers == ["0", "2", "3"]
    with pytest.raises(KeyError, match="'7'"):
        _ = monitor.OutputMonitor(net, neuron.IFNode)["7"]


CONTAINERS = [
    lambda node: layer.MultiStepContainer(node),
    lambda node: layer.StepModeContainer(True, node, step_mode="m"),
    lambda node: layer.ElementWiseRecurrentContainer(node, torch.add, "m"),
    lambda node: layer.LinearRecurrentContainer(node, 4, 4, step_mode="m"),
]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode])
def test_v_seq_in_containers(kind, container):
    """[T, N, *] of the steps so far, as SpikingJelly 2.0 has it; v of each step by a hook is the oracle."""
    node = kind(store_v_seq=True)
    net, x, v = container(node), torch.rand(5, 3, 4), []
    node.register_forward_hook(lambda module, x, y: v.append(module.v))
    mon = monitor.AttributeMonitor("v_seq", False, net, kind)
    for _ in range(2):
        net(x)
    assert torch.equal(node.v_seq, torch.stack(v)) and [len(record) for record in mon] == list(range(1, 11))
    assert torch.equal(mon[4], torch.stack(v[:5])) and copy.deepcopy(node).double().v_seq.dtype == torch.float64
    functional.detach_net(net)
    assert not node.v_seq.requires_grad
    functional.reset_net(net)
    assert node.v_seq is None


def test_order_and_values_of_nested_and_in_place_layers():
    """An input is recorded before the layers inside run, an output after them; in-place layers change no record."""
    net = nn.Sequential(nn.Sequential(nn.Hardtanh(-0.5, 0.5, inplace=True), nn.ReLU(inplace=True)), nn.ReLU())
    x = torch.tensor([-2.0, 0.2, 3.0])
    with monitor.InputMonitor(net, nn.Module) as inputs, monitor.OutputMonitor(net, nn.Module) as outputs:
        net(x.clone())
    order = {name: places for name, places in inputs.name_records_index.items()}
    assert order == {"": [0], "0": [1], "0.0": [2], "0.1": [3], "1": [4]}
    assert outputs.name_records_index == {"0.0": [0], "0.1": [1], "0": [2], "1": [3], "": [4]}
    assert torch.equal(inputs["0.0"][0], x) and torch.equal(inputs["0.1"][0], x.clamp(-0.5, 0.5))
    assert torch.equal(outputs["0.0"][0], x.clamp(-0.5, 0.5)) and torch.equal(outputs[""][0], x.clamp(0, 0.5))


def test_records_outlive_the_step_of_an_optimiser_and_the_next_batch_in_the_same_buffer():
    net, buffer, seen = nn.Sequential(neuron.ParametricLIFNode(step_mode="m")), torch.empty(4, 2), []
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    weights = monitor.AttributeMonitor("w", False, net, neuron.ParametricLIFNode)
    inputs = monitor.InputMonitor(net, neuron.ParametricLIFNode)
    for _ in range(3):
        seen.append((net[0].w.item(), buffer.uniform_(0, 3).clone()))
        net(buffer).sum().backward()
        optimizer.step()
        functional.reset_net(net)
    assert [w.item() for w in weights.records] == [w for w, _ in seen] and len({w for w, _ in seen}) == 3
    assert torch.equal(torch.stack(inputs.records), torch.stack([x for _, x in seen]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_net_is_saved_and_copied_without_its_monitor(kind):
    net, x = make_net(), batches(1)[0]
    mon = KINDS[kind][0](net)
    run(net, x, "m", True)
    assert len(mon.records) == 2
    y = net(x)
    functional.reset_net(net)
    before = len(mon.records)
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert torch.equal(twin(x), y)
        twin(x).sum().backward()
    assert len(mon.records) == before
    run(net, x, "m", True)
    assert len(mon.records) == before + 2, "the original is still watched"
