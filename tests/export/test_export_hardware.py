"""Integer networks: arithmetic against Python's whole numbers, files against each other, C against both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from fractions import Fraction
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_mnist.__main__ import main
from snn_mnist.errors import UsageError
from snn_mnist.export import fixed_point, hardware
from snn_mnist.export.fixed_point import quantise
from snn_mnist.export.verify import reference
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from tests.support.export_net import digits, network, saved, weights

CC = shutil.which("cc") or shutil.which("gcc")
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler here (cc or gcc)")
C_SOURCE = resources.files("snn_mnist.export").joinpath("snn_infer.c").read_text()
DRAW = SpikeKey(0, Stream.EVAL, 0)
NETWORKS = [
    *({"tau": tau} for tau in (2.0, 4.0, 3.0, 1.1, 1.000001, 2.000001)),
    {"tau": 20.0, "v_threshold": 0.2},
    {"neuron": "if"},
    {"v_reset": None},
    {"neuron": "if", "v_reset": None},
    {"v_reset": -0.5, "v_threshold": 0.7},
    {"votes": 3, "encoding": "latency", "v_threshold": 0.1},
    {"votes": 2, "encoding": "constant"},
    {"encoding": "constant", "tau": 3.0, "v_reset": None},
]


def fixed_of(bits=8, per_neuron=False, fraction=None, **settings):
    loaded = network(**settings)
    return quantise(loaded.net, loaded.config, bits, per_neuron, fraction)


def spikes_of(steps, count):
    return poisson_encode(digits().test.images[:count], torch.arange(count), 0, steps, DRAW).numpy()


def plain_step(v, x, fixed, threshold):
    """One neuron in Python's own whole numbers, as the head of fixed_point.py says it."""
    if fixed.leaky:
        h = v + (((x * 2**fixed.fraction - v) * fixed.multiplier + 2 ** (fixed.shift - 1)) // 2**fixed.shift)
    else:
        h = v + x * 2**fixed.fraction
    if h < threshold:
        return 0, h
    return 1, h - threshold if fixed.soft else 0


# ---------------------------------------------------------------------------- arithmetic


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_the_simulator_is_the_written_arithmetic(settings):
    fixed = fixed_of(**settings)
    given = fixed.input(digits().test.images[:3], torch.arange(3), DRAW).numpy()
    sums = given.astype(np.int64) @ fixed.weight.T
    fired, potential = fixed.run(sums)
    assert fired.any() and len(sums) == (1 if fixed.encoding == "constant" else 30)
    votes = np.zeros((3, 10), int)
    for n, c in np.ndindex(3, len(fixed.weight)):
        v = 0
        for t in range(30):
            s, v = plain_step(v, int(sums[t % len(sums), n, c]), fixed, int(fixed.threshold[c]))
            assert (s, v) == (fired[t, n, c], potential[t, n, c])
            votes[n, c // fixed.votes] += s
    np.testing.assert_array_equal(fixed.count(fired), votes)


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_no_input_leaves_the_announced_ranges(settings, bits):
    """The worst inputs there are: for each neuron all pixels of one sign, in blocks of different length."""
    fixed = fixed_of(bits, **settings)
    ranges, random = fixed.ranges(), np.random.default_rng(0)
    nothing, everything = np.zeros_like(fixed.weight, bool), np.ones_like(fixed.weight, bool)
    inputs = np.stack([fixed.weight > 0, fixed.weight < 0, everything, nothing]) * np.int64(fixed.top)  # [4, n, 784]
    orders = [np.zeros(30, int), np.ones(30, int), np.tile([0, 1], 15), np.repeat([1, 0], 15)]
    for order in [*orders, *random.integers(0, 4, (5, 30))]:
        x = inputs[order] @ fixed.weight.T  # [30, n, n]: sample n works against neuron n
        _, potential = fixed.run(x)
        before = np.concatenate([np.zeros_like(potential[:1]), potential[:-1]])
        found = {"input sum x": x, "potential h": fixed.charge(x, before)}
        if fixed.leaky:
            found["difference (x << F) - v"] = difference = (x << fixed.fraction) - before
            found[fixed_point.PRODUCT] = difference * fixed.multiplier + (1 << fixed.shift - 1)
        assert set(found) == set(ranges)
        for name, values in found.items():
            assert ranges[name][0] <= values.min() and values.max() <= ranges[name][1], name
    sums = inputs @ fixed.weight.T
    assert (int(sums.min()), int(sums.max())) == ranges["input sum x"]  # and they are not wider than need be
    for name, width in fixed.widths().items():
        least, most = -(2 ** (width - 1)), 2 ** (width - 1) - 1  # of two's complement
        assert least <= ranges[name][0] and ranges[name][1] <= most
        assert ranges[name][0] < least // 2 or most // 2 < ranges[name][1], "a bit less would be too few"


@given(st.floats(1, 1000, exclude_min=True), st.integers(1, 10))
def test_time_constants_are_a_shift_or_a_close_fraction(tau, power):
    multiplier, shift = fixed_point.leak(tau)
    assert shift >= 1 and (multiplier == 1 or 2**15 <= multiplier < 2**16)
    assert abs(Fraction(multiplier, 2**shift) * Fraction(tau) - 1) <= Fraction(1, 2**16)
    assert fixed_point.leak(2.0**power) == (1, power)


@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("bits", [4, 5, 8, 16])
def test_quantised_weights_are_symmetric_and_nearest(bits, per_neuron):
    weight, fixed, top = weights().astype(np.float64), fixed_of(bits, per_neuron), 2 ** (bits - 1) - 1
    error = np.abs(fixed.weight * fixed.scale[:, None] - weight)
    assert np.abs(fixed.weight).max() == top and len(set(fixed.scale)) == (10 if per_neuron else 1)
    assert (error / fixed.scale[:, None])[np.abs(fixed.weight) < top].max() <= 0.5 + 1e-9
    peak = np.abs(weight).max() / top
    assert (error**2).sum() <= ((np.rint(weight / peak) * peak - weight) ** 2).sum() + 1e-12


def test_the_threshold_is_the_first_whole_number_that_reaches_it():
    fixed = fixed_of(v_threshold=0.7, v_reset=-0.5, per_neuron=True)
    for level, scale in zip(fixed.threshold, fixed.scale, strict=True):
        exact = (Fraction(0.7) + Fraction(0.5)) * 2**fixed.fraction / Fraction(float(scale))
        assert int(level) - 1 < exact <= int(level)
    assert 2**11 <= fixed.threshold.min() < 2**12


@pytest.mark.parametrize("settings", [each for each in NETWORKS if "encoding" in each], ids=str)
def test_sixteen_bits_fire_almost_as_floats_do(settings):
    loaded = network(T=50, **settings)
    fixed = quantise(loaded.net, loaded.config, 16)
    given = fixed.input(digits().test.images[:100], torch.arange(100), DRAW).numpy().astype(np.int64)
    exact = fixed.count(reference(loaded, np.broadcast_to(given / fixed.top, (50, 100, 784)), np.float64))
    whole = fixed.count(fixed.run(given @ fixed.weight.T)[0])
    assert np.abs(exact - whole).mean() < 0.02 * fixed.votes and (exact.argmax(1) == whole.argmax(1)).mean() >= 0.98


def test_counts_over_a_data_set_do_not_depend_on_chunks(monkeypatch):
    variants, images = [fixed_of(8), fixed_of(4), fixed_of(16)], digits().test.images[:37]
    whole = fixed_point.spike_counts(variants, images, DRAW)
    monkeypatch.setattr(fixed_point, "CHUNK", 90)
    pieces = fixed_point.spike_counts(variants, images, DRAW)
    np.testing.assert_array_equal(whole[0], pieces[0])
    assert whole[1:] == pieces[1:]
    fired, potential = variants[2].run(spikes_of(30, 37).astype(np.int64) @ variants[2].weight.T)
    np.testing.assert_array_equal(whole[0][2], fired.sum(0))
    assert whole[2][2] == (potential.min(), potential.max())


@pytest.mark.parametrize(
    ("bits", "settings", "message"),
    [
        (16, {"fraction": 10, "neuron": "if"}, r"potential h would need \d+ bits .* lower -fraction, -T or -bits"),
        (16, {"fraction": 10}, "lower -fraction or -bits"),
        (16, {"v_threshold": 1e9}, "threshold would need"),
        (16, {"v_threshold": 1e300}, "threshold would need"),
        (8, {"v_threshold": 1e-12}, "fraction bits"),
    ],
)
def test_registers_that_would_be_too_wide_are_refused_with_the_remedy(bits, settings, message):
    with pytest.raises(UsageError, match=message):
        fixed_of(bits, **settings)

    silent = network()
    torch.nn.init.zeros_(silent.net.weight)
    assert not quantise(silent.net, silent.config).weight.any(), "but no weights at all are fine"


# ---------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    loaded = saved(folder, T=20)
    out = folder / "chip"
    flags = ["-format", "hardware", "-bits", "5", "-scale", "neuron"]
    assert main(["export", "-resume", str(loaded.path), *flags, "-out", str(out)]) == 0
    return out


def mem(path, width, bits):
    """The rows of a file for $readmemh, bits at a time from the lowest."""
    head, *lines = path.read_text().splitlines()
    assert head.startswith("//") and {len(line) for line in lines} == {-(-width * bits // 4)}
    fields = np.array([[int(line, 16) >> i * bits & (2**bits - 1) for i in range(width)] for line in lines])
    return np.where(fields >> (bits - 1), fields - 2**bits, fields) if bits > 1 else fields


def test_every_weight_file_holds_the_same_weights(exported):
    arrays = np.load(exported / "weights.npz")
    assert arrays["bits"] == 5 and arrays["weight"].shape == (10, 784)
    np.testing.assert_array_equal(mem(exported / "weights.mem", 10, 5).T, arrays["weight"])
    text = (exported / "snn_weights.h").read_text()
    rows = re.findall(r"^    \{([-\d, ]+)\}", text, re.M)
    np.testing.assert_array_equal(np.array([[int(w) for w in row.split(",")] for row in rows]).T, arrays["weight"])
    levels = re.search(r"snn_threshold\[SNN_NEURONS\] = \{(.*)\};", text)[1]
    assert [int(x) for x in levels.split(",")] == arrays["threshold"].tolist()


def test_golden_vectors_are_the_program_s_spikes_and_agree_with_their_arrays(exported):
    arrays, fixed = np.load(exported / "golden.npz"), fixed_of(5, True, T=20)
    np.testing.assert_array_equal(arrays["input"], spikes_of(20, 16).swapaxes(0, 1))
    for name, width, bits in (("input", 784, 1), ("spikes", 10, 1), ("v", 10, 32)):
        rows = mem(exported / f"golden_{name}.mem", width, bits)
        np.testing.assert_array_equal(rows.reshape(16, 20, width), arrays[name])
    expected = fixed.run(spikes_of(20, 16).astype(np.int64) @ fixed.weight.T)
    for name, values in zip(("spikes", "v"), expected, strict=True):
        np.testing.assert_array_equal(arrays[name], values.swapaxes(0, 1))
    assert arrays["verdicts"].tolist() == arrays["counts"].argmax(1).tolist()


@pytest.mark.parametrize(
    ("settings", "each", "scale", "thresholds"),
    [
        ({}, 6, "tensor", 1),
        ({"tau": 3.0}, 7, "neuron", 10),
        ({"neuron": "if"}, 3, "neuron", 10),
        ({"votes": 4}, 7, "neuron", 40),  # 7: a spike is added to the vote counter
    ],
)
def test_memory_and_operations_by_hand(settings, each, scale, thresholds):
    """`each`: operations per neuron and step, 7 with a multiplication; one threshold for each scale."""
    fixed = fixed_of(5, scale == "neuron", T=30, **settings)
    report = hardware.describe(fixed, scale, DRAW)
    widths, memory = report["widths_bits"], report["memory_bits"]
    assert memory.pop("total") == sum(memory.values())
    votes = settings.get("votes", 1)
    counters = {"vote counters": 10 * 7} if votes > 1 else {}  # of 0 .. 4 x 30
    assert memory == counters | {
        "weights": 7840 * votes * 5,
        "thresholds": thresholds * (int(fixed.threshold.max()).bit_length() + 1),
        "potentials": 10 * votes * widths["potential h"],
        "input sums": 10 * votes * widths["input sum x"],
    }
    rows = fixed.weight.tolist()
    low, high = min(sum(w for w in row if w < 0) for row in rows), max(sum(w for w in row if w > 0) for row in rows)
    assert report["ranges"]["input sum x"] == [low, high]
    assert report["neuron_operations_per_image"] == each * 10 * votes * 30
    assert report["dense_multiply_accumulates_per_image"] == 7840 * votes * 30


def test_the_table_of_the_report_against_its_own_counts(exported):
    """Accuracy against labels, agreement against the float network, bytes: each is another number."""
    report, loaded, labels = json.loads((exported / "report.json").read_text()), network(T=20), digits().test.labels
    rows, predictions = {row["bits"]: row for row in report["accuracy_against_bits"]}, {}
    assert list(rows) == [16, 8, 6, 5, 4] and report["images"] == 360
    for bits, row in rows.items():
        fixed = quantise(loaded.net, loaded.config, bits, True)
        fired, _ = fixed.run(spikes_of(20, 360).astype(np.int64) @ fixed.weight.T)
        predictions[bits] = fired.sum(0).argmax(1)
        assert row["accuracy"] == pytest.approx((predictions[bits] == labels.numpy()).mean(), abs=1e-9)
        assert row["weight_bytes"] == 980 * bits and row["accumulator_bits_used"] <= row["accumulator_bits"] <= 32
    assert rows[16]["verdicts_as_float"] > 0.99 and abs(rows[16]["accuracy"] - report["float_accuracy"]) < 0.01
    as_float = (predictions[4] == predictions[16]).mean()
    assert abs(rows[4]["verdicts_as_float"] - as_float) < 0.02 < abs(as_float - rows[4]["accuracy"])
    spikes = spikes_of(20, 360).sum() / 360
    assert report["input_spikes_per_image"] == pytest.approx(spikes)
    text = (exported / "report.md").read_text()
    assert f"{10 * spikes:,.0f} additions of a weight ({spikes:,.0f} input spikes) and 1,200 in the neurons" in text
    assert "156,800 multiply-accumulates" in text and "| 15,680 |" in text and "| 3,920 |" in text


# ---------------------------------------------------------------------------- C


def build(folder, *flags):
    """Return a function that runs the compiled program on these arguments and bytes."""
    program, strict = folder / "snn_infer", ["-std=c99", "-O2", "-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run([CC, *strict, *flags, "-o", str(program), str(folder / "snn_infer.c")], check=True)
    return lambda *arguments, stdin: subprocess.run(
        [str(program), *map(str, arguments)], input=stdin, capture_output=True
    )


def test_the_c_program_has_no_floats_and_allocates_nothing():
    code = re.sub(r"/\*.*?\*/", "", C_SOURCE, flags=re.S)
    assert not re.search(r"\b(float|double|malloc|calloc|realloc|alloca|math\.h)\b", code)
    assert not re.search(r"\d\.\d", code)


@needs_cc
def test_the_c_program_reproduces_the_golden_vectors_and_refuses_what_it_cannot_read(exported):
    run = build(exported)
    out = run("spikes", stdin=(exported / "golden_input.mem").read_bytes()).stdout.decode().splitlines()
    columns = ((exported / f"golden_{name}.mem").read_text().splitlines()[1:] for name in ("spikes", "v"))
    assert out == [" ".join(pair) for pair in zip(*columns, strict=True)] and len(out) == 16 * 20
    for arguments, stdin in (((), b""), (("spikes",), b"xyz\n"), (("images", 1), b"")):
        done = run(*arguments, stdin=stdin)
        assert done.returncode in (1, 2) and done.stderr


@needs_cc
@pytest.mark.parametrize(
    ("bits", "settings"),
    [
        (8, {}),
        (16, {"tau": 3.0}),
        (4, {"neuron": "if"}),
        (9, {"v_reset": None}),
        (8, {"votes": 3}),
        (6, {"votes": 2, "encoding": "latency", "v_threshold": 0.1}),
        (8, {"votes": 5, "encoding": "constant", "neuron": "if"}),
    ],
    ids=str,
)
def test_the_c_program_encodes_and_counts_as_the_simulator(tmp_path, bits, settings):
    """Reduced: scripts/interop_hardware.py does it on all 10,000 MNIST test images."""
    loaded, key, images = network(T=40, **settings), SpikeKey(2**32 - 1, 7, 5), digits().test.images
    fixed = quantise(loaded.net, loaded.config, bits)
    hardware.export_hardware(loaded, tmp_path, bits, report=False)
    run = build(tmp_path, *(["-fsanitize=undefined", "-fno-sanitize-recover"] if bits == 8 else []))
    counts = fixed_point.spike_counts([fixed], images, key)[0][0]
    words = ("images", key.seed, key.stream, key.epoch)
    out = run(*words, 0, stdin=images.numpy().tobytes())
    theirs = np.array([[int(x) for x in line.split()] for line in out.stdout.splitlines()])
    np.testing.assert_array_equal(theirs, np.column_stack([counts.argmax(1), counts]))
    golden = np.load(tmp_path / "golden.npz")
    np.testing.assert_array_equal(mem(tmp_path / "golden_counts.mem", 10, 32), golden["counts"])
    np.testing.assert_array_equal(golden["counts"], fixed_point.spike_counts([fixed], images[:16], DRAW)[0][0])
    stepped = run("spikes", stdin=(tmp_path / "golden_input.mem").read_bytes()).stdout.decode().splitlines()
    columns = ((tmp_path / f"golden_{name}.mem").read_text().splitlines()[1:] for name in ("spikes", "v"))
    assert stepped == [" ".join(pair) for pair in zip(*columns, strict=True)] and len(stepped) == 16 * 40
    later = run(*words, 300, stdin=images[300:].numpy().tobytes())
    assert (out.returncode, later.stdout) == (0, b"".join(out.stdout.splitlines(keepends=True)[300:]))


# ---------------------------------------------------------------------------- the command line


def test_soft_reset_and_no_report(tmp_path, capsys):
    loaded = saved(tmp_path, v_reset=None)
    assert main(["export", "-resume", str(loaded.path), "-format", "hardware", "-no-report"]) == 0
    out, said = tmp_path / "checkpoint_hardware", capsys.readouterr().out
    assert "soft reset" in " ".join(said.split()) and f": cd {out} && cc -std=c99" in said
    assert len(list(out.iterdir())) == 11 and "accuracy" not in (out / "report.md").read_text()
