"""Compares neurons, surrogates, layers, encoders, monitors and conversion with SpikingJelly's, value by value.

SpikingJelly is an oracle of development only, never a dependency. Make a throw-away environment and run:

    uv venv .venv-oracle && uv pip install --python .venv-oracle/bin/python torch spikingjelly
    PYTHONPATH=. .venv-oracle/bin/python tests/core/oracle_spikingjelly.py

or let pytest run it: SNN_MNIST_SPIKINGJELLY_PYTHON=.venv-oracle/bin/python pytest tests/core/test_core_oracle.py
Prints the largest differences; exit code 1 when one is above its bound. float64, so that 1e-9 leaves room for nothing
but rounding, except in the PROGRAMS, texts of which only the package's name changes. The one known difference:
SpikingJelly's S2NN primitive is beta ln(x + 1 + 1e-5) + 1/2. (A neuron or memory of the user's own is not among them:
2.0 no longer runs one that defines only `neuronal_charge` or `single_step_forward`, which ours does.)
"""

# ruff: noqa: B023 a function is called before its loop goes on

import importlib
import inspect
import itertools
import sys
import types
import warnings

import torch
from torch import nn

from snn_mnist.core import conversion
from snn_mnist.core.surrogate import SURROGATES

warnings.filterwarnings("ignore")
MODULES = ("encoding", "functional", "layer", "neuron", "surrogate")
PACKAGES = [
    types.SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in MODULES})
    for package in ("snn_mnist.core", "spikingjelly.activation_based")
]
rows: list[tuple[str, float, float]] = []  # (what, largest difference, bound)


def report(what, tensors, bound=1e-9):
    """Compare tensors(package) of both packages."""
    ours, theirs = map(tensors, PACKAGES)
    assert [a.shape for a in ours] == [b.shape for b in theirs] and len(ours) > 0, what
    rows.append((what, max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)), bound))


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def play(module, x, mode):
    return module(x) if mode == "m" else torch.stack([module(x_t) for x_t in x])


def differentiated(module, x, mode="m"):
    """The output, and the gradients of the input and every parameter."""
    x = x.clone().requires_grad_()
    y = play(module, x, mode)
    (y * data(*y.shape, seed=5)).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


def surrogates():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64) + 1.23e-4  # off the kinks
    for formula, cls in SURROGATES.items():
        defaults = cls.formula.defaults
        for number, parameters in enumerate([defaults, {k: type(v)(v * 1.5 + 0.25) for k, v in defaults.items()}]):
            for spiking in (True, False) if cls.formula.primitive else (True,):
                given = ({} if number == 0 else parameters) | ({} if spiking else {"spiking": False})
                bound = 4e-5 if (formula, spiking) == ("s2nn", False) else 1e-9  # see above
                name = cls.__name__
                report(f"{name} {given}", lambda m: differentiated(getattr(m.surrogate, name)(**given), x), bound)


def neurons():
    grid = itertools.product((None, "LIF", "PLIF"), (True, False), (0.0, None, -0.3), (False, True), "sm")
    for kind, decay_input, v_reset, detach_reset, mode in grid:
        if kind is None and decay_input:
            continue

        def run(m, tau, T, n):
            settings = {"v_threshold": 0.9, "v_reset": v_reset, "detach_reset": detach_reset, "step_mode": mode}
            settings |= {"surrogate_function": m.surrogate.ATan(2.0), "store_v_seq": True}
            settings |= {"decay_input": decay_input} if kind else {}
            if kind == "PLIF":
                node = m.neuron.ParametricLIFNode(tau, **settings).double()
            else:
                node = m.neuron.LIFNode(tau, **settings) if kind else m.neuron.IFNode(**settings)
            x = (data(T, n) * 1.5 * tau + 0.6).requires_grad_()
            s = play(node, x, mode)
            (s * data(T, n, seed=1) + node.v_seq * data(T, n, seed=2)).sum().backward()
            return [s.detach(), node.v_seq.detach(), x.grad, *(p.grad for p in node.parameters())]

        what = f"{kind or 'IF'}Node decay_input={decay_input} v_reset={v_reset} detach_reset={detach_reset} {mode}"
        sizes = [(tau, T, n) for tau in ((1.1, 2.0, 5.0) if kind else (1.0,)) for T, n in ((1, 1), (7, 5), (257, 7))]
        report(what, lambda m: [t for size in sizes for t in run(m, *size)])
    for kind in ("IFNode", "LIFNode"):
        report(f"{kind}() defaults", lambda m: differentiated(getattr(m.neuron, kind)(step_mode="m"), data(50, 4) * 3))


LAYERS = {  # name -> (constructor's arguments, shape of a step); layers that torch lacks
    "VotingLayer": (lambda m: (3,), (3, 12)),
    "Dropout": (lambda m: (0.4,), (3, 50)),
    "Dropout2d": (lambda m: (0.4,), (3, 20, 2, 2)),
    "SynapseFilter": (lambda m: (4.0,), (3, 5)),
    "SynapseFilter learnable": (lambda m: (4.0, True), (3, 5)),
    "ElementWiseRecurrentContainer": (lambda m: (m.neuron.IFNode(), torch.add), (3, 5)),
    "LinearRecurrentContainer": (lambda m: (m.neuron.LIFNode(), 5, 5), (3, 5)),
}


def layers():
    for (key, (arguments, shape)), mode in itertools.product(LAYERS.items(), "sm"):
        x = data(6, *shape) * 2 + (0.5 if "Recurrent" in key else 0.0)
        x = (x > 0).double() if "Synapse" in key else x

        def run(m):
            torch.manual_seed(7)  # of weights and masks
            module = getattr(m.layer, key.split()[0])(*arguments(m), step_mode=mode).double()
            return differentiated(module, x, mode)

        report(f"{key} {mode}: values and gradients", run)


def encoders():
    x = torch.rand(997, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (1 - 2**-8)
    encoders = [("LatencyEncoder", (20, "linear")), ("LatencyEncoder", (20, "log")), ("WeightedPhaseEncoder", (8,))]
    for (name, arguments), mode in itertools.product(encoders, "sm"):
        T = arguments[0]
        make = lambda m: getattr(m.encoding, name)(*arguments, step_mode=mode)  # noqa: E731
        report(f"{name}{arguments} {mode}", lambda m: [play(make(m), x.expand(T, -1), mode).double()], 0.0)


def conv_net():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2))
    net.extend([nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 20), nn.ReLU()])
    net.append(nn.Linear(20, 10))
    for _ in range(5):
        net(torch.rand(16, 1, 12, 12))
    return net.eval()


def converters():
    """Scales and outputs of 50 steps; the percentile is rounded otherwise, which may move a spike by a step."""
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # only its downloads need it
    from spikingjelly.activation_based import ann2snn

    torch.manual_seed(0)
    batches, x = [(torch.rand(16, 1, 12, 12), 0) for _ in range(4)], torch.rand(8, 1, 12, 12)
    since_2 = "recipe" in inspect.signature(ann2snn.Converter.__init__).parameters
    for mode in ("Max", "99.9%", 0.7):

        @torch.no_grad()
        def run(m):
            if m is PACKAGES[0]:
                net = conversion.Converter(batches, mode=mode)(conv_net())
            elif since_2:
                net = ann2snn.Converter(ann2snn.RateCodingRecipe(batches, mode=mode)).convert(conv_net())
            else:
                net = ann2snn.Converter(batches, mode=mode)(conv_net())
            scales = torch.stack([b for n, b in net.named_buffers() if n.endswith("scale")])
            y = torch.stack([net(x) for _ in range(50)])
            return [scales, y.mean(0) if mode == "99.9%" else y]

        report(f"Converter mode={mode}: scales and outputs", run, 0.01 if mode == "99.9%" else 1e-5)


HEAD = """
import torch, torch.nn as nn
from PACKAGE import neuron, layer, surrogate, functional, monitor, encoding, base
torch.manual_seed(0)
net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.IFNode())
for param in net.parameters():
    param.data.abs_()
x_seq = torch.rand([4, 3, 8])
"""
PROGRAMS = {
    "step by step and layer by layer": """
with torch.no_grad():
    y_s = torch.stack([net(x) for x in x_seq])
    functional.reset_net(net)
    y_l = functional.multi_step_forward(x_seq, net)
    functional.reset_net(net)
    functional.set_step_mode(net, step_mode='m')
    result = [y_s, y_l, net(x_seq)]
    functional.reset_net(net)
    result += [functional.chunk_multi_step_forward(3, x_seq, net)]
""",
    "monitors": """
functional.set_step_mode(net, 'm')
for m in net.modules():
    if isinstance(m, neuron.IFNode):
        m.store_v_seq = True
spikes = monitor.OutputMonitor(net, neuron.IFNode)
v = monitor.AttributeMonitor('v_seq', pre_forward=False, net=net, instance=neuron.IFNode)
x = monitor.InputMonitor(net, neuron.IFNode, function_on_input=lambda x: x.mean())
whole = monitor.OutputMonitor(net)
with torch.no_grad():
    net(x_seq)
assert spikes.monitored_layers == ['1', '3']
result = [*spikes.records, spikes[0], *spikes['3'], *v.records, *x.records, *whole.records]
spikes.clear_recorded_data()
functional.reset_net(net)
spikes.disable()
net(x_seq)
assert spikes.records == []
spikes.remove_hooks()
""",
    "gradients through ten layers": """
net = []
for i in range(10):
    net += [layer.Linear(16, 16), neuron.IFNode()]
net = nn.Sequential(*net)
functional.set_step_mode(net, 'm')
for p in net.parameters():
    p.data += 0.05
mon = monitor.GradOutputMonitor(net, neuron.IFNode, function_on_grad_output=torch.norm)
mon_in = monitor.GradInputMonitor(net, neuron.IFNode, function_on_grad_input=torch.norm)
result = []
for alpha in (0.1, 0.5, 2, 4, 8):
    for m in net.modules():
        if isinstance(m, surrogate.Sigmoid):
            m.alpha = alpha
    net(torch.rand([4, 2, 16])).sum().backward()
    result += mon.records + mon_in.records
    mon.clear_recorded_data()
    mon_in.clear_recorded_data()
    functional.reset_net(net)
""",
}


def programs():
    packages = ("snn_mnist.core", "spikingjelly.activation_based")
    for what, text in PROGRAMS.items():

        def run(m):
            scope: dict = {}
            exec(HEAD.replace("PACKAGE", packages[PACKAGES.index(m)]) + text, scope)
            return [tensor.detach() for tensor in scope["result"]]

        report(f"program: {what}", run, 1e-5)


def main() -> int:
    torch.set_num_threads(1)
    for part in (surrogates, neurons, layers, encoders, converters, programs):
        part()
    wrong = [row for row in rows if not row[1] <= row[2]]
    for row in rows:
        print("{:8}{:10.2e}  (bound {:7.0e})  {}".format("DIFFERS" if row in wrong else "ok", row[1], row[2], row[0]))
    print(f"{len(rows)} comparisons, {len(wrong)} above their bound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
