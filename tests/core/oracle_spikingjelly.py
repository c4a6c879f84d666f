"""Compares neurons, surrogates, encoders, STDP and conversion with SpikingJelly's, value by value.

SpikingJelly is an oracle of development only, never a dependency. Make a throw-away environment and run:

    uv venv .venv-oracle && uv pip install --python .venv-oracle/bin/python torch spikingjelly
    PYTHONPATH=. .venv-oracle/bin/python tests/core/oracle_spikingjelly.py

or let pytest run it: SNN_MNIST_SPIKINGJELLY_PYTHON=.venv-oracle/bin/python pytest tests/core/test_core_oracle.py
Prints a table of the largest differences; exit code 1 when one is above its bound. float64 throughout, so
that a bound of 1e-9 leaves room for nothing but rounding. The one known difference: SpikingJelly's S2NN
primitive is beta ln(x + 1 + 1e-5) + 1/2. The PROGRAMS are run twice, with the package's name changed only.
(A neuron or memory of the user's own is not among them: 2.0 no longer runs one that defines only
`neuronal_charge` or `single_step_forward`, which ours does.)
"""

import inspect
import itertools
import sys
import types
import warnings

import torch
from spikingjelly.activation_based import encoding as sj_encoding
from spikingjelly.activation_based import functional as sj_functional
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import learning as sj_learning
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate

from snn_mnist.core import conversion, encoding, functional, layer, learning, neuron, surrogate

warnings.filterwarnings("ignore")
rows: list[tuple[str, float, float]] = []  # (what, largest difference, bound)


def report(what: str, difference: float, bound: float = 1e-9) -> None:
    rows.append((what, difference, bound))


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# ---- surrogates ----

GRID_OF_SURROGATES = {
    "PiecewiseQuadratic": [(1.0,), (0.4,), (3.0,)],
    "PiecewiseExp": [(1.0,), (4.0,)],
    "Sigmoid": [(4.0,), (0.5,)],
    "SoftSign": [(2.0,), (5.0,)],
    "SuperSpike": [(1.0,), (3.0,)],
    "ATan": [(2.0,), (0.1,), (8.0,)],
    "NonzeroSignLogAbs": [(1.0,), (2.5,)],
    "Erf": [(2.0,), (0.7,)],
    "PiecewiseLeakyReLU": [(1.0, 0.01), (0.3, 0.2)],
    "SquarewaveFourierSeries": [(2, 8.0), (5, 3.0)],
    "S2NN": [(4.0, 1.0), (2.0, 0.5)],
    "QPseudoSpike": [(2.0,), (1.5,), (6.0,)],
    "LeakyKReLU": [(0.0, 1.0), (0.2, 0.7)],
    "FakeNumericalGradient": [(0.3,), (2.0,)],
    "LogTailedReLU": [(0.0,), (0.1,)],
    "Rect": [(1.0,), (0.25,)],
}


def evaluate(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    y.sum().backward()
    return y.detach(), x.grad


def surrogates() -> None:
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64) + 1.23e-4  # off the kinks
    for name, grid in GRID_OF_SURROGATES.items():
        ours, theirs = getattr(surrogate, name), getattr(sj_surrogate, name)
        value = gradient = primitive = slope = 0.0
        no_primitive = ours.formula.primitive is None
        for parameters in grid:
            y, g = evaluate(ours(*parameters), x)
            y_sj, g_sj = evaluate(theirs(*parameters), x)
            value, gradient = max(value, gap(y, y_sj)), max(gradient, gap(g, g_sj))
            if no_primitive:
                continue
            y, g = evaluate(ours(*parameters, spiking=False), x)
            y_sj, g_sj = evaluate(theirs(*parameters, spiking=False), x)
            primitive, slope = max(primitive, gap(y, y_sj)), max(slope, gap(g, g_sj))
        report(f"{name} spike", value, 0.0)
        report(f"{name} gradient", gradient)
        if not no_primitive:
            bound = 2e-5 if name == "S2NN" else 1e-9  # see above
            report(f"{name} primitive", primitive, bound)
            report(f"{name} gradient of the primitive", slope, bound)


# ---- neurons ----


def run(node, reset, x, weight, mode):
    x = x.clone().requires_grad_()
    if mode == "m":
        s = node(x)
        v = node.v_seq
    else:
        steps = [(node(x_t), node.v) for x_t in x]
        s, v = torch.stack([a for a, _ in steps]), torch.stack([b for _, b in steps])
    (s * weight + v * weight.flip(0)).sum().backward()
    reset(node)
    return s.detach(), v.detach(), x.grad


def neurons() -> None:
    settings = itertools.product(
        (None, 1.1, 2.0, 5.0), (True, False), (0.0, None, -0.3), (False, True), (1, 2, 7, 100, 257), "sm"
    )
    largest: dict[str, list[float]] = {}
    for tau, decay_input, v_reset, detach_reset, T, mode in settings:
        if tau is None and decay_input:
            continue
        n = {1: 1, 2: 3, 7: 5, 100: 3, 257: 7}[T]
        x, weight = data(T, n) * (1.5 * (tau or 1.0)) + 0.6, data(T, n, seed=1)
        shared = {"v_threshold": 0.9, "v_reset": v_reset, "detach_reset": detach_reset}
        shared |= {"step_mode": mode, "store_v_seq": True}
        if tau is not None:
            shared |= {"tau": tau, "decay_input": decay_input}
        kind = "IFNode" if tau is None else "LIFNode"
        results = [
            run(getattr(m, kind)(**shared, surrogate_function=s.ATan(2.0)), f.reset_net, x, weight, mode)
            for m, s, f in ((neuron, surrogate, functional), (sj_neuron, sj_surrogate, sj_functional))
        ]
        key = f"{kind} {'' if tau is None else f'decay_input={decay_input} '}v_reset={v_reset} "
        key += f"detach_reset={detach_reset} {mode}"
        found = [gap(a, b) for a, b in zip(*results, strict=True)]
        largest[key] = [max(a, b) for a, b in zip(found, largest.get(key, [0.0] * 3), strict=True)]
    for key, (spikes, voltages, gradients) in largest.items():
        report(f"{key}: spikes", spikes, 0.0)
        report(f"{key}: v", voltages, 1e-12)
        report(f"{key}: gradient", gradients)


def defaults() -> None:
    """The same class without arguments is the same neuron."""
    x = data(50, 4) * 3
    for kind in ("IFNode", "LIFNode"):
        y, g = evaluate(getattr(neuron, kind)(step_mode="m"), x)
        y_sj, g_sj = evaluate(getattr(sj_neuron, kind)(step_mode="m"), x)
        report(f"{kind}() defaults", max(gap(y, y_sj), gap(g, g_sj)))


# ---- nets and encoders ----


def nets() -> None:
    def build(layer, neuron, surrogate):
        return torch.nn.Sequential(
            layer.Conv2d(1, 4, 3, bias=False),
            layer.BatchNorm2d(4),
            neuron.LIFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2),
            layer.Flatten(),
            layer.Linear(16, 3),
            neuron.IFNode(v_reset=None),
        ).double()

    ours, theirs = build(layer, neuron, surrogate), build(sj_layer, sj_neuron, sj_surrogate)
    theirs.load_state_dict(ours.state_dict())
    x = data(6, 5, 1, 6, 6) + 1.0
    functional.set_step_mode(ours, "m")
    sj_functional.set_step_mode(theirs, "m")
    results = []
    for net in (ours, theirs):
        y = net(x)
        (y * data(*y.shape, seed=4)).sum().backward()
        results.append([y.detach(), *(p.grad for p in net.parameters())])
    report("Conv-BN-LIF-Linear-IF net: spikes and gradients", max(map(gap, *results)))


def layers() -> None:
    """Layers that torch lacks, in both step modes: values, and gradients of the input and of every parameter."""
    if_node, lif_node = (lambda m: m[1].IFNode(), lambda m: m[1].LIFNode())
    table = {
        "VotingLayer": ((3,), (3, 12)),
        "Dropout": ((0.4,), (3, 50)),
        "Dropout2d": ((0.4,), (3, 20, 2, 2)),
        "SynapseFilter": ((4.0,), (3, 5)),
        "SynapseFilter learnable": ((4.0, True), (3, 5)),
        "ElementWiseRecurrentContainer": ((if_node, torch.add), (3, 5)),
        "LinearRecurrentContainer": ((lif_node, 5, 5), (3, 5)),
    }
    for key, (arguments, shape) in table.items():
        for mode in "sm":
            x = data(6, *shape) * 2 + (0.5 if "Recurrent" in key else 0.0)
            x = (x > 0).double() if "Synapse" in key else x
            results, state = [], None
            for m in ((layer, neuron), (sj_layer, sj_neuron)):
                made = [a(m) if a in (if_node, lif_node) else a for a in arguments]
                module = getattr(m[0], key.split()[0])(*made, step_mode=mode).double()
                state = state or module.state_dict()
                module.load_state_dict(state)
                torch.manual_seed(7)  # of the masks
                x_own = x.clone().requires_grad_()
                y = module(x_own) if mode == "m" else torch.stack([module(x_t) for x_t in x_own])
                (y * data(*y.shape, seed=5)).sum().backward()
                results.append([y.detach(), x_own.grad, *(p.grad for p in module.parameters())])
            report(f"{key} {mode}: values and gradients", max(map(gap, *results)))


def parametric() -> None:
    for decay_input, v_reset, mode in itertools.product((True, False), (0.0, None, -0.3), "sm"):
        results = []
        for m, s, f in ((neuron, surrogate, functional), (sj_neuron, sj_surrogate, sj_functional)):
            node = m.ParametricLIFNode(
                3.0, decay_input, 0.9, v_reset, s.ATan(2.0), step_mode=mode, store_v_seq=True
            ).double()
            results.append([*run(node, f.reset_net, data(50, 7) * 2 + 0.6, data(50, 7, seed=1), mode), node.w.grad])
        report(f"ParametricLIFNode decay_input={decay_input} v_reset={v_reset} {mode}", max(map(gap, *results)))


def encoders() -> None:
    x = torch.rand(997, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, arguments, T in [
        ("LatencyEncoder", (20, "linear"), 20),
        ("LatencyEncoder", (20, "log"), 20),
        ("WeightedPhaseEncoder", (8,), 8),
    ]:
        ours, theirs = getattr(encoding, name)(*arguments), getattr(sj_encoding, name)(*arguments)
        scaled = x * (1 - 2**-8) if name == "WeightedPhaseEncoder" else x
        report(f"{name}{arguments}", max(gap(ours(scaled), theirs(scaled).double()) for _ in range(T)), 0.0)


# ---- STDP and conversion ----


def stdp() -> None:
    """Weight changes and traces of a whole net over random spikes, both modes; linear f, and one with a bound."""
    nets = {
        "Linear": (lambda m: m.Linear(6, 4, bias=False), (3, 6)),
        "Conv1d": (lambda m: m.Conv1d(2, 3, 3, stride=2, padding=1), (3, 2, 9)),
        "Conv2d": (lambda m: m.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 2)), (3, 2, 7, 6)),
    }
    for (name, (make, shape)), mode, on_grad in itertools.product(nets.items(), "sm", (True, False)):
        x_seq = (data(25, *shape, seed=1) > 0.3).double()
        results, state = [], None
        for m, n, f, learners in (
            (layer, neuron, functional, learning),
            (sj_layer, sj_neuron, sj_functional, sj_learning),
        ):
            net = torch.nn.Sequential(make(m), n.IFNode()).double()
            state = state or {key: 2 * value for key, value in net.state_dict().items()}
            net.load_state_dict(state)
            f.set_step_mode(net, mode)
            learner = learners.STDPLearner(
                step_mode=mode, synapse=net[0], sn=net[1], tau_pre=3.0, tau_post=1.7,
                f_pre=lambda w: w.clamp(-0.3, 0.3), f_post=lambda w: 0.5 - w**2,
            )  # fmt: skip
            changes = []
            with torch.no_grad():
                for part in (x_seq[:10], x_seq[10:]):
                    fired = [net(part)] if mode == "m" else [net(x) for x in part]
                    changed = learner.step(on_grad=on_grad, scale=0.7)
                    changes.append(-net[0].weight.grad if on_grad else changed)
            assert sum(spikes.sum() for spikes in fired) > 0
            results.append([*(c.detach().clone() for c in changes), learner.trace_pre, learner.trace_post])
        report(f"STDPLearner of {name}, {mode}, on_grad={on_grad}", max(map(gap, *results)))


def conv_net() -> torch.nn.Module:
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(6, 8, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(32, 20), torch.nn.ReLU(), torch.nn.Linear(20, 10),
    )  # fmt: skip
    for _ in range(5):
        net(torch.rand(16, 1, 12, 12))
    return net.eval()


def converters() -> None:
    """Scales, and outputs of 50 steps; the percentile is rounded otherwise, which may move a spike by a step."""
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # only its downloads need it
    from spikingjelly.activation_based import ann2snn

    torch.manual_seed(0)
    batches, x = [(torch.rand(16, 1, 12, 12), 0) for _ in range(4)], torch.rand(8, 1, 12, 12)
    for mode in ("Max", "99.9%", 0.7):
        if "recipe" in inspect.signature(ann2snn.Converter.__init__).parameters:  # since version 2
            theirs = ann2snn.Converter(ann2snn.RateCodingRecipe(batches, mode=mode)).convert(conv_net())
        else:
            theirs = ann2snn.Converter(batches, mode=mode)(conv_net())
        ours = conversion.Converter(batches, mode=mode)(conv_net())
        scales = [torch.stack([b for n, b in net.named_buffers() if n.endswith("scale")]) for net in (ours, theirs)]
        report(f"Converter mode={mode}: scales", (scales[0] / scales[1] - 1).abs().max().item(), 1e-6)
        with torch.no_grad():
            outputs = [torch.stack([net(x) for _ in range(50)]) for net in (ours, theirs)]
        if isinstance(mode, str) and mode.endswith("%"):
            report(f"Converter mode={mode}: mean output", gap(*(y.mean(0) for y in outputs)), 0.01)
        else:
            report(f"Converter mode={mode}: outputs of each step", gap(*outputs), 1e-6)


HEAD = """
import torch, torch.nn as nn
from PACKAGE import neuron, layer, surrogate, functional, monitor, encoding, base
torch.manual_seed(0)
"""
PROGRAMS = {
    "one neuron, step by step": """
node = neuron.LIFNode(tau=100.)
node.reset()
x = torch.as_tensor([2.])
s_list, v_list = [], []
for t in range(150):
    s_list.append(node(x))
    v_list.append(node.v)
result = [torch.cat(s_list), torch.cat(v_list)]
""",
    "step by step and layer by layer": """
net = nn.Sequential(
    layer.Linear(8, 4), neuron.IFNode(surrogate_function=surrogate.ATan()),
    layer.Linear(4, 2), neuron.IFNode(surrogate_function=surrogate.ATan()))
x_seq = torch.rand([4, 3, 8]) * 3
with torch.no_grad():
    y_s = torch.stack([net(x) for x in x_seq])
    functional.reset_net(net)
    y_l = functional.multi_step_forward(x_seq, net)
    functional.reset_net(net)
    functional.set_step_mode(net, step_mode='m')
    y_m = net(x_seq)
    functional.reset_net(net)
result = [y_s, y_l, y_m]
""",
    "wrappers": """
net = nn.Sequential(
    layer.SeqToANNContainer(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
    layer.MultiStepContainer(neuron.IFNode()))
x_seq = torch.rand([4, 2, 3, 8, 8])
y = net(x_seq)
z = functional.seq_to_ann_forward(x_seq, (nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
result = [y, z]
""",
    "output monitor": """
net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.IFNode())
for param in net.parameters():
    param.data.abs_()
functional.set_step_mode(net, 'm')
spikes = monitor.OutputMonitor(net, neuron.IFNode)
x_seq = torch.rand([4, 1, 8])
with torch.no_grad():
    net(x_seq)
assert spikes.monitored_layers == ['1', '3']
result = [*spikes.records, spikes[0], *spikes['3']]
spikes.clear_recorded_data()
functional.reset_net(net)
spikes.disable()
net(x_seq)
assert spikes.records == []
spikes.remove_hooks()
""",
    "attribute monitor": """
net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 2), neuron.IFNode())
functional.set_step_mode(net, 'm')
for m in net.modules():
    if isinstance(m, neuron.IFNode):
        m.store_v_seq = True
v = monitor.AttributeMonitor('v_seq', pre_forward=False, net=net, instance=neuron.IFNode)
x = monitor.InputMonitor(net, neuron.IFNode, function_on_input=lambda x: x.mean())
with torch.no_grad():
    net(torch.rand([4, 1, 8]))
result = v.records + x.records
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
    "surrogates, both styles": """
x = torch.rand([8]) - 0.5
result = []
functions = [surrogate.Sigmoid(alpha=4.), lambda x: surrogate.sigmoid.apply(x, 4.)]
functions.append(surrogate.ATan(spiking=False))
for f in functions:
    x = x.detach().requires_grad_()
    y = f(x)
    y.sum().backward()
    result += [y, x.grad]
""",
    "a surrogate of one's own": """
class Box(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return (x >= 0).to(x)
    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        return grad * ctx.alpha * (x.abs() < 0.5 / ctx.alpha), None
class Mine(surrogate.SurrogateFunctionBase):
    def __init__(self, alpha=2., spiking=True):
        super().__init__(alpha=alpha, spiking=spiking)
    @staticmethod
    def spiking_function(x, alpha):
        return Box.apply(x, alpha)
    @staticmethod
    def primitive_function(x, alpha):
        return (alpha * x + 0.5).clamp(0, 1)
result = []
for spiking in (True, False):
    node = neuron.LIFNode(surrogate_function=Mine(spiking=spiking), step_mode='m')
    x = (torch.rand([5, 4]) * 2).requires_grad_()
    y = node(x)
    y.sum().backward()
    result += [y, x.grad]
""",
    "chunks and every net's own type": """
net = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), nn.Sequential(layer.Linear(4, 2), neuron.IFNode()))
functional.set_step_mode(net, 'm')
mon = monitor.OutputMonitor(net)
with torch.no_grad():
    y = functional.chunk_multi_step_forward(16, torch.rand([50, 8]) * 9, net)
result = [y, *mon.records]
""",
    "encoders, multi-step": """
x = torch.rand([25, 6])
le, we = encoding.LatencyEncoder(20, 'log', 'm'), encoding.WeightedPhaseEncoder(8, 'm')
result = [le(x), we(x * (1 - 2 ** -8))]
""",
    "encoders, step by step": """
x = torch.rand([6])
le, we = encoding.LatencyEncoder(20), encoding.WeightedPhaseEncoder(8)
pe = encoding.PeriodicEncoder(torch.eye(3))
result = [torch.stack([le(x) for t in range(20)]), torch.stack([we(x * (1 - 2 ** -8)) for t in range(8)])]
""",
}


def programs() -> None:
    for what, text in PROGRAMS.items():
        results = []
        for package in ("snn_mnist.core", "spikingjelly.activation_based"):
            scope: dict = {}
            exec(HEAD.replace("PACKAGE", package) + text, scope)
            results.append([r.detach() for r in scope["result"]])
        assert len(results[0]) == len(results[1]) > 0, what
        report(f"program: {what}", max(map(gap, *results)), 1e-5)


def main() -> int:
    torch.set_num_threads(1)
    for part in (surrogates, neurons, parametric, defaults, layers, nets, encoders, stdp, converters, programs):
        part()
    wrong = 0
    for what, difference, bound in rows:
        bad = not difference <= bound
        wrong += bad
        print(f"{'DIFFERS' if bad else 'ok':8}{difference:10.2e}  (bound {bound:7.0e})  {what}")
    print(f"{len(rows)} comparisons, {wrong} above their bound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
