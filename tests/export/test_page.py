"""The page: its text, and its JavaScript against the library in Node.js (Debian: apt-get install nodejs)."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from snn_mnist.__main__ import main
from snn_mnist.data import pictures as picture
from snn_mnist.export import html
from snn_mnist.network import scoring
from snn_mnist.network.poisson import SpikeKey, Stream, encode
from tests.support.export_net import digits, network, saved

ENCODINGS = ("poisson", "constant", "latency")


def script(page: str, name: str) -> str:
    return re.search(rf'<script id="{name}"[^>]*>(.*?)</script>', page, re.S)[1]


# ---------------------------------------------------------------------------- the text


def test_the_page_is_one_file_that_reaches_for_nothing():
    page = html.render(network())
    outside = page.replace(script(page, "data"), "")
    asks = r"https?:|//cdn|@import|url\(|\bfetch\(|XMLHttpRequest|WebSocket|<link (?!rel=\"icon\")"
    assert "default-src 'none'" in page and "__DATA__" not in page and len(page) < 120_000
    assert not re.search(rf"{asks}|\b(src|href)=(?!\"data:,\")", outside)


def test_the_page_holds_the_network(monkeypatch):
    monkeypatch.setattr(html, "DIGITS", ("</script><b>",) * 10)  # no setting can end the script
    loaded = network(T=60, tau=3.0, v_threshold=0.7, v_reset=-0.5, seed=5)
    page = html.render(loaded)
    data = json.loads(script(page, "data"))
    held = np.frombuffer(base64.b64decode(data["weight"]), "<f4").reshape(10, 784)
    np.testing.assert_array_equal(held, loaded.net.weight.detach().numpy())
    for name in ("T", "tau", "v_threshold", "v_reset", "seed", "neuron"):
        assert data[name] == getattr(loaded.config, name)
    assert (data["stream"], data["box"]) == (8, 28)
    assert page.count("</script>") == 3 and data["names"][0] == "</script><b>"
    assert data["example_labels"] == list(range(10))  # digits are always at hand
    shown = np.frombuffer(base64.b64decode(data["examples"]), np.uint8).reshape(10, 784)
    assert (digits().test.images.numpy() == shown[4]).all(1).any()


def test_the_command_says_where_the_page_is(tmp_path, capsys):
    path = saved(tmp_path, T=5).path
    assert main(["export", "-resume", str(path), "-format", "html"]) == 0
    assert path.with_suffix(".html").is_file() and "open it in a browser" in capsys.readouterr().out


def test_a_long_sequence_is_cut_to_what_the_page_can_keep_and_limits_are_measured_at_it():
    for steps in (30, 2001):
        loaded = network(T=steps)
        content = html.content(loaded)
        assert content["T"] == min(steps, 2000)
        assert content["limits"] == vars(
            scoring.measure_reliability(loaded.net, digits().test, replace(loaded.config, T=min(steps, 2000), seed=0))
        )
    fashion = replace(loaded.config, dataset="fashion", data_dir="nowhere")
    assert not {"limits", "examples"} & html.content(replace(loaded, config=fashion)).keys()


# ---------------------------------------------------------------------------- the JavaScript in Node.js


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """node(body, **values): what JavaScript returns, with `core` and the values at hand."""
    if not (program := shutil.which("node")):
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("node")
    (folder / "core.js").write_text(script(html.render(network()), "core"))

    def run(body, **values):
        (folder / "run.js").write_text(
            "const core = require('./core.js'), given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
            f"console.log(JSON.stringify((() => {{ {body} }})()));"
        )
        done = subprocess.run([program, "run.js"], cwd=folder, input=json.dumps(values), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(
    ("steps", "spike_key", "index"),
    [
        (100, SpikeKey(0, Stream.PLAY, 0), 0),
        (33, SpikeKey(2**32 - 1, Stream.TRAIN, 2**32 - 1), 59_999),
        (1, SpikeKey(7, Stream.PREDICT, 3), 2**31),
        (400, SpikeKey(123, Stream.EVAL, 1), 1),
    ],
)
def test_spikes_are_the_librarys(node, steps, spike_key, index):
    pixels = np.random.default_rng(1).integers(0, 256, 784).astype(np.uint8)
    pixels[:40], pixels[40:80] = 0, 255
    at = {"seed": spike_key.seed, "stream": int(spike_key.stream), "epoch": spike_key.epoch, "image": index}
    body = "return Buffer.from(core.encode(given.pixels, given.steps, given.at, given.encoding).buffer)"
    body += ".toString('base64')"
    for encoding in ENCODINGS:
        kind = np.float32 if encoding == "constant" else np.uint8
        text = node(body, pixels=pixels.tolist(), steps=steps, at=at, encoding=encoding)
        got = np.frombuffer(base64.b64decode(text), kind).reshape(steps, 784)
        given = encode(encoding, torch.from_numpy(pixels)[None], torch.tensor([index]), 0, steps, steps, spike_key)
        np.testing.assert_array_equal(got, given[:, 0].expand(steps, -1))


@pytest.mark.parametrize(
    "settings",
    [
        {"tau": 2.0},
        {"tau": 3.0},
        {"tau": 1.1, "v_threshold": 0.7, "v_reset": -0.5},
        {"v_reset": None},
        {"neuron": "if"},
        {"neuron": "if", "v_reset": 0.25},
        {"votes": 3, "encoding": "constant"},
        {"votes": 2, "encoding": "latency", "v_threshold": 0.1},
    ],
    ids=str,
)
def test_potentials_are_those_of_our_neurons_to_the_last_bit(node, settings):
    loaded = network(step_mode="s", **settings)
    config, weight, neuron = loaded.config, loaded.net.weight.detach().numpy(), loaded.net.spiking
    image, key = digits().test.images[17:18], SpikeKey(0, Stream.PLAY, 0)
    spikes = encode(config.encoding, image, torch.tensor([0]), 0, 60, 60, key)[:, 0].expand(60, -1)
    potentials, fired = [], []
    with torch.no_grad():
        for step in spikes.numpy():
            fired.append(neuron(torch.from_numpy((weight.astype(np.float64) @ step).astype(np.float32))).numpy() > 0)
            potentials.append(neuron.v.numpy().copy())
    body = """
        const r = core.simulate(Float32Array.from(given.weight), given.spikes, given.steps, given.like);
        return { v: [...r.v], fired: [...r.fired], h: [...r.h] }"""
    like = {"leaky": config.neuron == "lif", "tau": config.tau}
    like |= {"threshold": config.v_threshold, "reset": config.v_reset}
    values = {"weight": weight.flatten().tolist(), "spikes": spikes.flatten().tolist()}
    got = {name: np.reshape(each, (60, -1)) for name, each in node(body, steps=60, like=like, **values).items()}
    fires, h, v = got["fired"] > 0, got["h"], got["v"].astype(np.float32)
    np.testing.assert_array_equal(fires, fired)
    np.testing.assert_array_equal(v, potentials)
    np.testing.assert_array_equal(h[~fires], v[~fires])
    assert fires.sum() > 10 and (h[fires] >= np.float32(config.v_threshold)).all()


def drawings():
    """Drawings, noise, odd shapes, thin and thick pens, both polarities."""
    random = np.random.default_rng(2)
    for side, pen, dark in ((280, 22, True), (280, 4, True), (60, 3, False), (28, 2, False), (120, 30, True)):
        image = Image.new("L", (side, side + side // 4), 0)
        points = [tuple((random.random(2) * 0.8 + 0.1) * side) for _ in range(6)]
        ImageDraw.Draw(image).line(points, 255, pen, "curve")
        grey = np.asarray(image.resize((side, side + side // 4 - 1), Image.Resampling.BILINEAR))
        yield (230 - grey * 0.8).astype(np.uint8) if dark else grey
    for shape in ((30, 30), (1, 9), (100, 7), (45, 200)):
        yield (random.random(shape) ** 6 * 255).astype(np.uint8)
    for contrast in (0, -25, -24, -23, 23, 24, 25):  # 24 grey levels are the weakest ink that counts
        grey = np.full((30, 30), 100)
        grey[10:20, 12:16] += contrast
        yield grey.astype(np.uint8)
    yield from digits().test.images[:5].view(5, 28, 28).numpy()


@pytest.mark.parametrize("box", [20, 28])
def test_a_drawing_is_prepared_as_predict_does(node, box):
    shown = list(drawings())
    body = """
        const all = given.shown.map(p => core.prepare(p.at, p.w, p.h, given.box));
        return all.map(r => r && [...r.pixels, r.objects]);"""
    values = [{"at": grey.flatten().tolist(), "w": grey.shape[1], "h": grey.shape[0]} for grey in shown]
    for grey, theirs in zip(shown, node(body, shown=values, box=box), strict=True):
        ours = picture.prepare(grey, box)
        assert (ours and [*ours.pixels.tolist(), ours.objects]) == theirs


def test_colours_and_uneven_lighting_become_the_same_grey_levels(node):
    """Random colours, red on green of the same luma, a ramp of light over noise; even and odd sizes, small ones too."""
    random = np.random.default_rng(3)
    shown = [random.integers(0, 256, (31, 50, 3)), random.integers(0, 256, (5, 4, 3))]
    for low, high in (((0, 130, 0), (255, 0, 0)), ((0, 37, 0), (72, 0, 0)), ((0, 37, 0), (73, 0, 0))):
        shown.append(np.full((60, 41, 3), low))
        shown[-1][20:40, 15:20] = high
    for height, width in ((61, 44), (100, 133)):
        ramp = np.linspace(0, 90, width) + np.linspace(0, 40, height)[:, None]
        ramp += random.integers(60, 90, (height, width))
        ramp[30:50, 20:24] = 20
        shown.append(np.repeat(ramp[..., None], 3, 2))
    body = """
        return given.shown.map(({ at, w, h }) => {
            const rgba = new Uint8ClampedArray(w * h * 4).fill(255);
            at.forEach((level, i) => { rgba[Math.floor(i / 3) * 4 + i % 3] = level; });
            return [...core.greyLevels(rgba, w, h)];
        });"""
    shown = [rgb.astype(np.uint8) for rgb in shown]
    theirs = node(body, shown=[{"at": a.flatten().tolist(), "w": a.shape[1], "h": a.shape[0]} for a in shown])
    for rgb, levels in zip(shown, theirs, strict=True):
        assert picture.to_grey(Image.fromarray(rgb)).flatten().tolist() == levels
