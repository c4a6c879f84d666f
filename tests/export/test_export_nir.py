"""NIR files: the mathematics against exact arithmetic, the spikes against our own neurons, both ways."""

from __future__ import annotations

import itertools
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from snn_mnist.__main__ import main
from snn_mnist.errors import SNNError
from snn_mnist.export import nir as nir_file
from snn_mnist.export import verify
from snn_mnist.network.network import load_network
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from tests.support.export_net import digits, network, saved, weights

nir = pytest.importorskip("nir", reason="nir is not installed: pip install nir")

NETWORKS = [
    {},
    {"tau": 3.0},
    {"tau": 1.1},
    {"v_threshold": 0.7, "v_reset": -0.5},
    {"v_threshold": 1.3, "v_reset": 0.1, "tau": 4.0},
    {"neuron": "if"},
    {"neuron": "if", "v_reset": -1.0},
    {"votes": 3, "encoding": "constant"},
    {"votes": 2, "encoding": "latency", "v_threshold": 0.1, "neuron": "if"},
]
FILES = [(1e-4, "euler"), (1e-3, "euler"), (1e-4, "exact"), (0.007, "exact")]  # dt, discretization


def written(tmp_path, loaded, **settings):
    path = tmp_path / "network.nir"
    nir.write(str(path), nir_file.build(loaded, **settings))
    return path


def spikes_of(loaded, count=20):
    images = digits().test.images[:count]
    key = SpikeKey(loaded.config.seed, Stream.EVAL, 0)
    return poisson_encode(images, torch.arange(count), 0, loaded.config.T, key).numpy()


# ---------------------------------------------------------------------------- the file


def test_the_file_holds_the_shifted_network_in_seconds(tmp_path):
    loaded = network(tau=5.0, v_threshold=0.75, v_reset=-0.5)
    graph = nir.read(str(written(tmp_path, loaded, dt=1e-3)))
    assert [type(node).__name__ for node in graph.nodes.values()] == ["Affine", "Input", "LIF", "Output"]
    assert graph.edges == [("input", "affine"), ("affine", "neurons"), ("neurons", "output")]
    neurons, affine = graph.nodes["neurons"], graph.nodes["affine"]
    for name, value in {"tau": 5e-3, "r": 1.0, "v_leak": 0.0, "v_reset": 0.0}.items():
        parameter = getattr(neurons, name)
        assert parameter.shape == (10,) and np.all(parameter == value), name
    assert np.all(neurons.v_threshold == np.nextafter(np.float32(1.25), np.float32(0)))
    np.testing.assert_array_equal(affine.weight, weights())
    assert affine.weight.dtype == np.float32 and not affine.bias.any()
    told = graph.metadata
    assert (told["T"], told["dt"], told["discretization"]) == (30, 1e-3, "euler")
    neurons = nir.read(str(written(tmp_path, network(neuron="if"), dt=1e-4))).nodes["neurons"]
    assert isinstance(neurons, nir.IF) and np.all(neurons.r * 1e-4 == 1.0)


@pytest.mark.parametrize("tau", [1.001, 1.1, 2.0, 3.0, 100.0])
@pytest.mark.parametrize("dt", [1e-4, 1e-3, 0.7])
def test_one_step_decays_by_one_over_tau(tau, dt):
    euler, exact = (nir_file.nir_tau(tau, dt, how) for how in ("euler", "exact"))
    assert dt / euler == pytest.approx(1 / tau, rel=1e-14)
    assert 1 - np.exp(-dt / exact) == pytest.approx(1 / tau, rel=1e-12)
    for seconds, how in ((euler, "euler"), (exact, "exact")):  # the inverse, as `import` rounds it
        assert float(f"{1 / nir_file.gain_of(lif(tau=seconds), dt, how)[0]:.15g}") == tau


@pytest.mark.parametrize(
    ("v_threshold", "v_reset"),
    [(1.0, 0.0), (0.7, 0.0), (0.7, -0.5), (1.0, 0.9999), (1e-3, -1e3), (1.0, 1 / 3), (-0.2, -0.9)],
)
def test_above_the_written_threshold_is_at_or_above_ours(v_threshold, v_reset):
    level = np.float32(nir_file.firing_level(v_threshold, v_reset))
    exact = Fraction(float(np.float32(v_threshold))) - Fraction(float(np.float32(v_reset)))
    for steps in range(-3, 4):  # every float32 around it
        v = level
        for _ in range(abs(steps)):
            v = np.nextafter(v, np.float32(np.copysign(np.inf, steps)))
        assert (v > level) == (Fraction(float(v)) >= exact)


# ---------------------------------------------------------------------------- the same spikes


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
@pytest.mark.parametrize(("dt", "how"), FILES)
def test_a_plain_loop_over_the_file_gives_our_spikes(tmp_path, settings, dt, how):
    loaded = network(**settings)
    path = written(tmp_path, loaded, dt=dt, discretization=how)
    (name, loop), *_ = verify.compare(path, loaded, digits().test.images[:20], dt, how).items()
    assert how in name and loop.images == loop.identical == loop.predictions == 20
    assert loop.different == 0 and loop.spikes > 20


def test_the_reference_is_what_the_engines_compute():
    loaded = network()
    spikes = spikes_of(loaded)
    loaded.net.spiking.step_mode = "m"
    with torch.no_grad():
        net = loaded.net(torch.from_numpy(spikes)).numpy() > 0
    np.testing.assert_array_equal(verify.reference(loaded, spikes, np.float32), net)


def test_at_the_threshold_we_fire_and_so_does_the_file():
    loaded, spikes = network(T=4), np.ones((4, 1, 784), np.float32)
    with torch.no_grad():
        loaded.net.weight.fill_(2.0 / 784)  # X = 2, H = 1
    ours, graph = verify.reference(loaded, spikes, np.float32), nir_file.build(loaded)
    assert ours.all() and nir_file.simulate(graph, spikes, 1e-4, dtype=np.float32).all()
    graph.nodes["neurons"].v_threshold = np.ones(())  # one number for all neurons
    assert not nir_file.simulate(graph, spikes, 1e-4, dtype=np.float32).all()


# ---------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("more", [{}, {"votes": 2, "encoding": "constant"}], ids=str)
def test_export_verify_and_import_by_command_line(tmp_path, capsys, more):
    loaded = saved(tmp_path, tau=3.0, v_threshold=0.7, v_reset=-0.3, **more)
    file = tmp_path / "out" / "mnist.nir"
    assert main(["export", "-resume", str(loaded.path), "-out", str(file), "-verify"]) == 0
    shown = capsys.readouterr().out
    assert "100 of 100 images identical, 0 of" in shown and shown.count("\n") >= 2 + len(verify.IMPORTERS)
    assert main(["import", str(file)]) == 0
    back = load_network(str(file.with_suffix(".pth")))
    assert torch.equal(back.net.weight, loaded.net.weight)
    for name in ("T", "tau", "neuron", "dataset", "votes", "encoding"):
        assert getattr(back.config, name) == getattr(loaded.config, name), name
    assert (back.config.v_threshold, back.config.v_reset) == (1.0, 0.0), "the origin is V_reset"
    assert main(["eval", "-resume", str(file.with_suffix(".pth")), "-repeats", "1"]) == 0


def test_verify_fails_with_one_line_when_the_spikes_differ(tmp_path, capsys, monkeypatch):
    loaded = saved(tmp_path)
    monkeypatch.setattr(nir_file, "firing_level", lambda *levels: 0.9)
    assert main(["export", "-resume", str(loaded.path), "-verify"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "does not give this network's spikes" in error


def test_a_simulator_that_fails_is_a_line_of_the_comparison(tmp_path, monkeypatch):
    """Whether its importer refuses the file or its network fails; the packages that are not here are named."""

    def refused(graph, dt):
        raise ValueError("no such node")

    def failing(graph, dt):
        return lambda spikes: 1 / 0

    right = verify._stepwise(lambda x, state: (torch.zeros(len(x), 10), None))
    importers = {"numpy": refused, "torch": failing, "nir": lambda graph, dt: right, "unheard_of": refused}
    monkeypatch.setattr(verify, "IMPORTERS", importers)
    loaded = network()
    found = verify.compare(written(tmp_path, loaded), loaded, digits().test.images[:20], 1e-4, "euler")
    (_, loop), (_, numpy_), (_, torch_), (_, nir_), (name, absent) = found.items()
    assert "(ValueError: no such node)" in numpy_ and "can't run it (ZeroDivisionError" in torch_
    assert nir_.different == loop.spikes == nir_.spikes and (name, absent) == ("unheard_of", "not installed")


def test_soft_reset_is_refused_unless_allowed(tmp_path, capsys):
    loaded = saved(tmp_path, v_reset=None)
    assert main(["export", "-resume", str(loaded.path)]) == 2
    assert "-allow-lossy" in capsys.readouterr().err
    assert main(["export", "-resume", str(loaded.path), "-allow-lossy", "-verify"]) == 0
    assert " 0 of 100 images identical" not in capsys.readouterr().out


def test_an_export_that_is_not_possible_is_one_line(tmp_path, capsys, monkeypatch):
    path = str(saved(tmp_path).path)
    assert main(["export", "-resume", path, "-out", str(tmp_path)]) == 1
    assert f"{tmp_path} can't be written" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "nir", None)
    assert main(["export", "-resume", path]) == 1
    assert "pip install nir" in capsys.readouterr().err


# ---------------------------------------------------------------------------- import of others' files


def foreign(tmp_path, *nodes):
    names = [f"n{i}" for i in range(len(nodes))]
    graph = nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(itertools.pairwise(names)), type_check=False)
    path = tmp_path / "foreign.nir"
    nir.write(str(path), graph)
    return path


def chain(neurons, linear=None):
    shapes = nir.Input({"input": np.array([784])}), nir.Output({"output": np.array([10])})
    return shapes[0], linear or nir.Linear(weights()), neurons, shapes[1]


def vote(neurons=20, bias=0.0):
    """The chain of ten classes with two neurons each, or more or less."""
    shares = np.repeat(np.eye(10), 2, 1)[:, :neurons] / 2
    first, *_, last = chain(lif())
    return first, nir.Linear(np.repeat(weights(), 2, 0)), lif(20), nir.Affine(shares, np.full(10, bias)), last


def lif(shape=10, **changes):
    values = {"tau": 2e-4, "r": 1.0, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return nir.LIF(**{name: np.full(shape, value) for name, value in values.items()})


@pytest.mark.parametrize(
    "neurons",
    [
        lif(),
        lif(tau=3e-4, r=3.0, v_threshold=2.5),  # no decay of the input
        lif(tau=3e-4, r=0.37, v_threshold=0.4),
        lif(v_threshold=np.linspace(0.5, 1.5, 10)),
        lif(v_leak=-0.25, v_reset=-0.25, v_threshold=0.5),
        nir.IF(r=np.full(10, 1e4), v_threshold=np.full(10, 3.0)),
        nir.IF(r=np.full(10, 5e3), v_threshold=np.linspace(1.0, 3.0, 10)),
        lif(1, tau=3e-4, v_threshold=0.5),  # files of other programs may hold one number for all neurons
    ],
    ids=["plain", "r tau", "r", "thresholds", "reset", "if", "if r", "one number"],
)
def test_an_imported_network_gives_the_spikes_of_the_file(tmp_path, neurons):
    path = foreign(tmp_path, *chain(neurons))
    nir_file.import_nir(path, tmp_path / "net.pth")
    loaded = load_network(str(tmp_path / "net.pth"))
    spikes = spikes_of(loaded)
    theirs = nir_file.simulate(nir_file.read(path), spikes, 1e-4)
    ours = verify.reference(loaded, spikes, np.float64)
    assert theirs.sum() > 100 and (theirs != ours).sum() == 0


def test_a_vote_of_another_program_is_imported(tmp_path):
    path = foreign(tmp_path, *vote())
    nir_file.import_nir(path, tmp_path / "net.pth")
    loaded = load_network(str(tmp_path / "net.pth"))
    loop, *_ = verify.compare(path, loaded, digits().test.images[:20], 1e-4, "euler").values()
    assert loaded.config.votes == 2 and loop.identical == 20 and loop.spikes > 100


def test_dt_and_discretization_of_a_silent_file_are_given_by_flags(tmp_path, capsys):
    tau = nir_file.nir_tau(2.5, 1e-3, "exact")
    path = foreign(tmp_path, *chain(lif(tau=tau)))
    flags = ["-dt", "1e-3", "-discretization", "exact", "-T", "50"]
    assert main(["import", str(path), *flags]) == 0
    assert "does not hold its time step" in " ".join(capsys.readouterr().out.split())
    config = load_network(str(path.with_suffix(".pth"))).config
    assert (config.tau, config.T) == (2.5, 50)


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(path.read_bytes()[:1500]), lambda path: path.write_text("text")],
    ids=["cut", "text"],
)
def test_a_damaged_file_is_one_line(tmp_path, capsys, spoil):
    path = written(tmp_path, network())
    spoil(path)
    assert main(["import", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1 and "Traceback" not in error
    assert not path.with_suffix(".pth").exists()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (chain(lif(), nir.Affine(weights(), np.ones(10))), "biases"),
        (chain(lif(), nir.Affine(weights(), np.eye(10)[7])), "biases"),  # of one neuron alone
        (chain(lif(tau=np.linspace(2e-4, 3e-4, 10))), "different tau"),
        (chain(lif(tau=5e-5)), "not above 1"),
        (chain(lif(v_leak=0.1)), "v_leak"),
        (chain(lif(v_threshold=-1.0)), "not above its v_reset"),
        (chain(lif(r=np.nan)), "finite"),
        (chain(lif(), nir.Linear(np.full((10, 784), np.inf))), "finite"),
        (chain(lif(), nir.Linear(weights()[:, :700])), "784"),
        (chain(nir.LI(np.ones(10), np.ones(10), np.zeros(10))), "Input → Linear → LI → Output"),
        ((*chain(lif())[:3], lif(), chain(lif())[3]), "LIF → LIF"),
        (vote(19), "a node 'n3' after its neurons that is not the vote"),
        (vote(bias=0.5), "a node 'n3' after its neurons that is not the vote"),
        (vote()[:3] + vote()[4:], r"weights \[20, 784\] and biases \[20\], not \[10, 784\]"),
        (chain(lif())[:1], "holds Input, not Input → Affine"),
    ],
)
def test_networks_that_are_not_ours_are_refused_with_the_reason(tmp_path, nodes, message):
    with pytest.raises(SNNError, match=message):
        nir_file.import_nir(foreign(tmp_path, *nodes), tmp_path / "net.pth")
    ring = nir_file.build(network())
    ring.edges.append(("neurons", "affine"))
    with pytest.raises(SNNError, match="with 4 connections, not Input"):
        nir_file.parts(ring)
