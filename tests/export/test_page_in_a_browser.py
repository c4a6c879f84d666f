"""The page in headless Chromium.

Skipped where it is missing (Debian: apt-get install chromium). Screenshots are kept when SNN_MNIST_SCREENSHOTS names a
directory.
"""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from snn_mnist.__main__ import main
from snn_mnist.data import pictures as picture
from snn_mnist.export import html
from snn_mnist.network.network import SNN, SavedNetwork
from snn_mnist.network.poisson import SpikeKey, Stream, encode
from snn_mnist.network.scoring import Prediction, Reliability, doubts
from tests.support import chromium
from tests.support.export_net import saved

SEVEN = [[(0.25, 0.25), (0.4, 0.24), (0.55, 0.24), (0.72, 0.25), (0.65, 0.4), (0.55, 0.6), (0.47, 0.8)]]
FOUR_OR_NINE = [  # the network wavers
    [(0.48, 0.26), (0.37, 0.36), (0.37, 0.46), (0.45, 0.52), (0.62, 0.46)],
    [(0.64, 0.26), (0.62, 0.5), (0.58, 0.82)],
]
FINISHED = "!snn.state.playing && snn.state.run && snn.state.time === snn.state.steps"


@pytest.fixture(scope="module")
def chrome():
    if (program := chromium.find()) is None:
        pytest.skip("no Chromium here (apt-get install chromium, or name one in $CHROMIUM)")
    with chromium.Chromium(program) as page:
        yield page


@pytest.fixture
def browser(chrome):
    """Chromium, in which a page may neither complain nor ask for anything but its own file."""
    chrome.problems.clear()
    chrome.requests.clear()
    yield chrome
    assert chrome.problems == []
    assert {url.partition(":")[0] for url in chrome.requests} <= {"data", "file"}


def exported_to(loaded: SavedNetwork) -> Path:
    assert main(["export", "-resume", str(loaded.path), "-format", "html"]) == 0
    return loaded.path.with_suffix(".html")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the page's file, its network)"""
    loaded = saved(tmp_path_factory.mktemp("page"), T=60)
    return exported_to(loaded), loaded


@pytest.fixture
def page(browser, exported):
    browser.open(exported[0], prefers_color_scheme="light")
    browser.evaluate("document.getElementById('speed').value = 100")  # 400 steps a second
    return browser


def keep(page, name):
    if folder := os.environ.get("SNN_MNIST_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(Path(folder) / name)


def check_spikes(page, loaded: SavedNetwork, **settings):
    """The input is the library's for the page's pixels, output spikes our network's; return the page's state.

    `fired` there is by class, [T, 10]: shares of its votes.
    """
    state = page.evaluate("""(() => {
        const { pixels, spikes, run, ...rest } = snn.state;
        return { ...rest, counts: null, pixels: [...pixels], spikes: [...spikes], fired: [...run.fired] };
    })()""")
    image, key = torch.tensor(state["pixels"], dtype=torch.uint8)[None], SpikeKey(state["seed"], Stream.PLAY, 0)
    steps, votes = state["steps"], loaded.config.votes
    spikes = encode(loaded.config.encoding, image, torch.tensor([0]), 0, steps, steps, key).expand(steps, -1, -1)
    net = SNN(replace(loaded.config, step_mode="m", **settings))
    net.load_state_dict(loaded.net.state_dict())
    with torch.no_grad():
        fired = net(spikes)[:, 0].numpy()
    state["spikes"] = np.reshape(state["spikes"], (-1, 784)).astype(np.float32)
    state["fired"] = np.reshape(state["fired"], (-1, 10, votes)).mean(2)
    np.testing.assert_array_equal(state["spikes"], spikes[:, 0])
    assert fired.any() and (np.abs(state["fired"] - fired) > 1e-6).sum() <= 1  # sums in float32 there, in float64 here
    return state


def text(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def slide(page, control, value):
    page.evaluate(f"""(() => {{
        const e = document.getElementById('{control}'); e.value = {json.dumps(value)};
        for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{ bubbles: true }}));
    }})()""")


def prepared(loaded: SavedNetwork, file) -> np.ndarray:
    return picture.prepare(picture.read(file).grey, picture.BOXES[loaded.config.dataset]).pixels


# ---------------------------------------------------------------------------- drawing and playing


def test_a_drawn_digit_is_read_with_the_librarys_spikes(page, exported):
    page.draw("#pad", FOUR_OR_NINE[:1], release=False)  # the pen is followed while it draws
    page.wait("snn.state.run !== null")
    assert "after all" in text(page, "#prediction")
    page.draw("#pad", FOUR_OR_NINE)
    page.wait(FINISHED)
    state = check_spikes(page, exported[1])
    counts = state["fired"].sum(0)
    best = int(counts.argmax())
    assert text(page, "#digit") == str(best) and state["spikes"].sum() > 1000
    said = f"firing rate {counts[best] / state['steps']:.2f} after all {state['steps']} steps"
    assert said in text(page, "#prediction")
    rates = page.evaluate("[...document.querySelectorAll('.neuron .rate')].map(e => e.textContent)")
    assert rates == [f"{count / state['steps']:.2f}" for count in counts]
    assert page.evaluate("document.querySelectorAll('.neuron.best').length") == 1
    keep(page, "drawn.png")
    page.click("#clear")
    page.wait("snn.state.pixels === null && !document.getElementById('hint').hidden")
    pad = "document.getElementById('pad').getContext('2d').getImageData(0, 0, 280, 280).data"
    assert page.evaluate(f"document.getElementById('play').disabled && {pad}.every(x => x === 255)")


def test_by_finger_on_a_phone_with_other_neurons_long_names_and_no_examples(browser, tmp_path):
    loaded = saved(tmp_path, T=60, neuron="if", v_reset=None)
    fashion = replace(loaded, config=replace(loaded.config, dataset="fashion", data_dir="nowhere"))
    (tmp_path / "page.html").write_text(html.render(fashion))
    browser.open(tmp_path / "page.html", 360, 740, touch=True, prefers_color_scheme="dark")
    browser.draw("#pad", FOUR_OR_NINE, touch=True)
    browser.wait(FINISHED)
    check_spikes(browser, fashion)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.evaluate("document.getElementById('tau-setting').hidden")
    shown = "[...document.querySelectorAll('button')].filter(b => b.offsetParent)"
    assert browser.evaluate(f"{shown}.every(b => b.getBoundingClientRect().height > 24)")
    assert browser.evaluate("document.getElementById('examples').hidden") and "Ankle boot" in text(browser, "#neurons")
    keep(browser, "phone.png")


@pytest.mark.parametrize(("votes", "encoding"), [(10, "poisson"), (3, "constant"), (2, "latency")])
def test_votes_and_other_encodings(browser, tmp_path, votes, encoding):
    loaded = saved(tmp_path, T=60, votes=votes, encoding=encoding, v_threshold=0.1 if encoding == "latency" else 1.0)
    browser.open(exported_to(loaded), prefers_reduced_motion="reduce")
    browser.draw("#pad", FOUR_OR_NINE)
    browser.wait(FINISHED)
    rates = check_spikes(browser, loaded)["fired"].mean(0)
    tie = np.isclose(rates, rates.max()).sum() > 1
    assert ("are level" if tie else f"firing rate {rates.max():.2f} after all 60 steps") in text(browser, "#prediction")
    shown = browser.evaluate("[...document.querySelectorAll('.neuron .rate')].map(e => e.textContent)")
    assert np.abs(np.array(shown, float) - rates).max() < 0.0051
    assert text(browser, "h1").startswith(f"{10 * votes} spiking neurons")
    assert browser.evaluate("document.getElementById('seed').offsetParent !== null") == (encoding == "poisson")
    keep(browser, f"votes_{encoding}.png")


def test_time_goes_step_by_step_or_at_speed(page, exported):
    page.draw("#pad", SEVEN)
    page.click("#start")
    assert page.evaluate("[snn.state.time, snn.state.playing]") == [0, False]
    for _ in range(3):
        page.click("#step")
    page.wait("document.getElementById('time-text').textContent.startsWith('3 of ')")
    spikes = check_spikes(page, exported[1])["spikes"][2]
    assert text(page, "#spikes-text") == f"step 3: {int(spikes.sum())} input spikes"
    lit = page.evaluate("""(() => {
        const { data } = document.getElementById('spikes').getContext('2d').getImageData(0, 0, 28, 28);
        return [...Array(784).keys()].map(p => [data[4 * p], data[4 * p + 1], data[4 * p + 2]].join())
    })()""")
    assert [colour == lit[int(spikes.argmax())] for colour in lit] == (spikes > 0).tolist()
    page.click("#play")
    page.wait(FINISHED)
    assert page.evaluate("document.getElementById('step').disabled")
    page.click("#play")  # from the beginning again
    page.wait("snn.state.time < snn.state.steps || !snn.state.playing")
    page.click("#end")
    assert page.evaluate(FINISHED)


def test_by_keyboard_alone_and_every_control_has_a_name(page):
    page.evaluate("document.querySelector('#examples button').focus()")
    page.key("Enter", "Enter", 13, "\r")
    page.wait(FINISHED)
    page.evaluate("document.activeElement.blur()")
    page.key("ArrowLeft", "ArrowLeft", 37)
    page.wait("snn.state.time === snn.state.steps - 1")
    page.key("ArrowRight", "ArrowRight", 39)
    page.wait("snn.state.time === snn.state.steps")
    page.key(" ", "Space", 32, " ")
    page.wait("snn.state.playing")
    page.key("Escape", "Escape", 27)
    page.wait("snn.state.pixels === null && !snn.state.playing")
    page.wait("document.getElementById('prediction').textContent.startsWith('Draw something')")
    page.evaluate("document.getElementById('steps').focus()")
    before = page.evaluate("snn.state.steps")
    page.key("ArrowRight", "ArrowRight", 39)
    page.wait(f"snn.state.steps === {before + 1}")
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    found = [(n.get("role", {}).get("value"), n.get("name", {}).get("value", "").strip()) for n in nodes]
    controls = [(role, name) for role, name in found if role in ("button", "slider", "spinbutton", "image", "Canvas")]
    assert len(controls) >= 24 and all(name for _, name in controls) and "status" in dict(found)


def test_the_sliders_change_the_network(page, exported):
    loaded, changed = exported[1], {}
    page.evaluate("document.querySelector('#examples button:nth-child(4)').click()")
    page.wait(FINISHED)
    third = base64.b64decode(html.content(loaded)["examples"])[3 * 784 : 4 * 784]
    sliders = [("tau", 3.5, {"tau": 3.5}), ("threshold", 0.6, {"v_threshold": 0.6})]
    for control, value, setting in [*sliders, ("steps", 37, {}), ("seed", 4294967295, {})]:
        slide(page, control, value)
        page.wait(FINISHED)
        changed |= setting
        state = check_spikes(page, loaded, **changed)
        assert state[control] == value and bytes(state["pixels"]) == third  # an example is taken as it is
    page.click("#trained")
    config = loaded.config
    state = page.evaluate("[snn.state.tau, snn.state.threshold, snn.state.steps, snn.state.seed]")
    assert state == [config.tau, config.v_threshold, config.T, config.seed]


def test_a_seed_out_of_range_is_marked_and_not_used(page, exported):
    """The last good seed stays in use, and a word says so until the field is right again."""
    used = """[snn.state.seed, document.getElementById('seed').matches('[aria-invalid=true]'),
               getComputedStyle(document.getElementById('seed')).borderTopWidth]"""
    for good in (7, 4294967295):
        slide(page, "seed", good)
        assert page.evaluate(used) == [good, False, "1px"] and text(page, "#seed-text") == "other random input spikes"
        for wrong in ("-1", "4294967296", "1.5", ""):
            slide(page, "seed", wrong)
            assert page.evaluate(used) == [good, True, "2px"]
            assert text(page, "#seed-text") == f"give a whole number from 0 to 4294967295; {good} is in use"
    page.click("#trained")
    assert text(page, "#seed-text") == "other random input spikes"
    assert page.evaluate("document.getElementById('seed').value") == str(exported[1].config.seed)


# ---------------------------------------------------------------------------- files, examples, doubts


def put(page, file):
    """Give the page a picture, wait until it is read, and return the reason if it is refused."""
    page.evaluate("document.getElementById('clear').click()")
    document = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    page.wait(f"document.getElementById('refused').textContent !== '' || ({FINISHED})")
    return text(page, "#refused")


@pytest.mark.parametrize(
    ("size", "ground", "ink", "tolerance"),
    [
        ((120, 200), (0, 130, 0), (255, 0, 0), 0),
        ((400, 300), (190, 180, 170), (60, 60, 120), 0),
        ((900, 1200), (0, 0, 0, 0), (255, 255, 255, 255), 4),  # transparent; the browser reduces it differently
    ],
)
def test_an_opened_picture_is_prepared_as_predict_does(page, exported, tmp_path, size, ground, ink, tolerance):
    file, image = tmp_path / "digit.png", Image.new("RGBA" if len(ground) == 4 else "RGB", size, ground)
    line = [(x * size[0], y * size[1]) for x, y in ((0.25, 0.25), (0.7, 0.24), (0.5, 0.8))]
    ImageDraw.Draw(image).line(line, ink, max(2, size[0] // 12), "curve")
    image.save(file)
    assert put(page, file) == ""
    difference = prepared(exported[1], file).astype(int) - page.evaluate("[...snn.state.pixels]")
    assert np.abs(difference).mean() <= tolerance
    pad = "document.getElementById('pad')"
    if not tolerance:
        assert page.evaluate(f"[{pad}.width, {pad}.height]") == [*size]
        page.draw("#pad", [[(0.4, 0.5), (0.6, 0.5)]])  # one can draw on it, where the pen is
        page.wait(FINISHED)
        middle = f"{pad}.getContext('2d').getImageData({size[0] // 2}, {size[1] // 2}, 1, 1).data"
        assert page.evaluate(f"[...{middle}]") == [17, 17, 17, 255]
    page.click("#clear")
    assert page.evaluate(f"[{pad}.width, {pad}.height]") == [280, 280]


def test_what_is_no_picture_is_refused_in_a_sentence(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    assert put(page, tmp_path / "notes.txt").startswith("notes.txt is not a picture that this browser reads")
    assert put(page, tmp_path / "blank.png").startswith("blank.png shows nothing that stands out")
    page.draw("#pad", SEVEN)
    page.wait(FINISHED)
    page.click("#clear")
    assert page.evaluate("document.getElementById('refused').hidden")


def test_a_saved_drawing_is_the_file_that_predict_reads_and_two_digits_are_noticed(page, exported, tmp_path):
    assert page.evaluate("document.getElementById('save').disabled")
    page.evaluate("snn.data.limits = null")
    left, right = ([[(x * 0.4 + shift, y) for x, y in line] for line in SEVEN] for shift in (0.05, 0.5))
    page.draw("#pad", left)
    page.wait(FINISHED)
    assert text(page, "#doubt") == ""
    page.draw("#pad", right)
    page.wait(f"({FINISHED}) && document.getElementById('doubt').textContent !== ''")
    assert text(page, "#doubt") == "2 separate objects are seen; draw one digit at a time."
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#save")
    file, end = tmp_path / "drawing.png", time.monotonic() + 20
    while not file.exists() and time.monotonic() < end:
        page.evaluate("0")
        time.sleep(0.02)
    assert prepared(exported[1], file).tolist() == page.evaluate("[...snn.state.pixels]")
    assert picture.prepare(picture.read(file).grey).objects == 2


def test_examples_have_labels_and_a_word_where_the_network_is_wrong(browser, tmp_path):
    """A network whose neurons 3 and 5 are exchanged and whose neuron 1 never fires: nothing does at its example."""
    loaded = saved(tmp_path, T=60)
    state = torch.load(loaded.path)
    weight = state["net"]["layer.1.weight"]
    weight[[3, 5]] = weight[[5, 3]]
    weight[1] = -1
    torch.save(state, loaded.path)
    browser.open(exported_to(loaded), prefers_reduced_motion="reduce")
    browser.wait("[...document.querySelectorAll('#examples b')].some(b => b.textContent)")
    buttons = "[...document.querySelectorAll('#examples button')]"
    words = browser.evaluate(f"{buttons}.map(b => b.textContent)")
    assert [words[1], words[3], words[5]] == ["1no neuron fires", "3read as 5", "5read as 3"]
    assert browser.evaluate(f"{buttons}[3].getAttribute('aria-label')") == "Example: 3, read as 5"
    loaded.net.load_state_dict(state["net"])
    for c in (0, 2, 4, 6):
        browser.evaluate(f"{buttons}[{c}].click()")
        browser.wait(FINISHED)
        read = int(check_spikes(browser, loaded)["fired"].sum(0).argmax())
        assert words[c] == (f"{c}" if read == c else f"{c}read as {read}")
    browser.evaluate(f"{buttons}[3].click()")
    browser.wait("document.getElementById('doubt').textContent.startsWith('Wrong: this is 3.')")
    keep(browser, "examples.png")
    slide(browser, "threshold", 4)
    slide(browser, "steps", 1)
    browser.wait(f"{buttons}.every(b => b.textContent.includes('no neuron fires'))")  # the words follow the settings


def test_doubts_are_those_of_predict(page, exported):
    """One drawing by three limits: its margin is the limit, below the limit, and its rate below that of the rate."""
    page.draw("#pad", FOUR_OR_NINE)
    page.wait(FINISHED)
    state = check_spikes(page, exported[1])
    made = Prediction((state["fired"].sum(0) / state["steps"]).tolist())
    highest = max(made.rates)
    for margin, rate in ((made.margin, highest), (made.margin + 0.01, highest), (0, highest + 0.01)):
        limits = {"margin": margin, "rate": rate, "right": 0.097, "wrong": 0.731}
        page.evaluate(f"snn.data.limits = {json.dumps(limits)}, document.getElementById('end').click()")
        page.wait("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        told, ours = text(page, "#doubt"), [*doubts(made, 1, Reliability(**limits))]
        assert ("margin is below" in told, "nearly silent" in told) == ("low margin" in ours, "nearly silent" in ours)
        assert page.evaluate("document.getElementById('doubt').hidden") == (ours == [])
        if "low margin" in ours:
            assert "as for 10 % of the correct and 73 % of the wrong predictions on the test images." in told
            keep(page, "doubt.png")
    slide(page, "tau", 3.5)  # the limits are those of the settings of training
    page.wait(f"({FINISHED}) && document.getElementById('doubt').textContent === ''")
