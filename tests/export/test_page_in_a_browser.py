"""The page in headless Chromium.

Skipped where it is missing (Debian: apt-get install chromium). Screenshots are kept when SNN_MNIST_SCREENSHOTS names a
directory. Without MNIST the network is one on the bundled digits.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from snn_mnist.cli.main import main
from snn_mnist.data import pictures as picture
from snn_mnist.export import html
from snn_mnist.network.network import SNN
from snn_mnist.network.poisson import SpikeKey, Stream, poisson_encode
from snn_mnist.network.reliability import Prediction, Reliability, doubts
from snn_mnist.network.saved_network import SavedNetwork, load_network
from tests.support import chromium
from tests.support.export_net import network, saved

SEVEN = [[(0.25, 0.25), (0.4, 0.24), (0.55, 0.24), (0.72, 0.25), (0.65, 0.4), (0.55, 0.6), (0.47, 0.8)]]
FOUR_OR_NINE = [  # the network wavers
    [(0.48, 0.26), (0.37, 0.36), (0.37, 0.46), (0.45, 0.52), (0.62, 0.46)],
    [(0.64, 0.26), (0.62, 0.5), (0.58, 0.82)],
]
THREE = [[(0.3, 0.3), (0.45, 0.22), (0.62, 0.28), (0.6, 0.42), (0.45, 0.48), (0.62, 0.55), (0.66, 0.7), (0.3, 0.76)]]


@pytest.fixture(scope="module")
def browser():
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium here (apt-get install chromium, or name one in $CHROMIUM)")
    with chromium.Chromium(program) as page:
        yield page


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(the page's file, its network). SNN_MNIST_PAGE_CHECKPOINT names a trained one to look at."""
    folder = tmp_path_factory.mktemp("page")
    place = os.environ.get("SNN_MNIST_PAGE_CHECKPOINT")
    loaded = load_network(place) if place else saved(folder, T=60)
    file = folder / "page.html"
    assert main(["export", "-resume", str(loaded.path), "-format", "html", "-out", str(file)]) == 0
    return file, loaded


@pytest.fixture
def page(browser, exported):
    browser.problems.clear()
    browser.requests.clear()
    browser.open(exported[0], prefers_color_scheme="light")
    browser.evaluate("document.getElementById('speed').value = 100")  # 400 steps a second
    yield browser
    assert browser.problems == []
    assert {url for url in browser.requests if not url.startswith("data:")} == {exported[0].as_uri()}


def keep(page, name):
    folder = os.environ.get("SNN_MNIST_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(Path(folder) / name)


FINISHED = "!snn.state.playing && snn.state.run && snn.state.time === snn.state.steps"


def shown(page):
    """Pixels [784], spikes [T, 784], output spikes [T, 10], settings."""
    text = page.evaluate("""(() => {
        const { pixels, spikes, run, ...rest } = snn.state, list = (a) => a && [...a];
        const lists = { pixels: list(pixels), spikes: list(spikes), fired: list(run?.fired) };
        return JSON.stringify({ ...rest, counts: null, ...lists });
    })()""")
    state = json.loads(text)
    for name, width in (("spikes", 784), ("fired", 10)):
        state[name] = np.array(state[name]).reshape(-1, width)
    return state


def expected(loaded: SavedNetwork, state, **settings):
    """The library's spikes for the page's pixels, and our network's for those."""
    image = torch.tensor(state["pixels"], dtype=torch.uint8)[None]
    spike_key = SpikeKey(state["seed"], Stream.PLAY, 0)
    spikes = poisson_encode(image, torch.tensor([0]), 0, state["steps"], spike_key)
    net = SNN.from_config(replace(loaded.config, step_mode="m", **settings))
    net.load_state_dict(loaded.net.state_dict())
    with torch.no_grad():
        fired = net(spikes)
    return spikes[:, 0].numpy(), fired[:, 0].numpy()


def text(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def test_a_drawn_digit_is_read_with_the_librarys_spikes(page, exported):
    loaded = exported[1]
    keep(page, "empty.png")
    page.draw("#pad", FOUR_OR_NINE)
    page.wait(FINISHED)
    state = shown(page)
    spikes, fired = expected(loaded, state)
    assert spikes.sum() > 1000 and fired.sum() > 0
    np.testing.assert_array_equal(state["spikes"], spikes)
    assert (state["fired"] != fired).sum() <= 1  # sums in float32 there, in float64 here
    counts = state["fired"].sum(0)
    best = int(counts.argmax())
    assert text(page, "#digit") == str(best)
    assert f"firing rate {counts[best] / state['steps']:.2f} after all {state['steps']} steps" in text(
        page, "#prediction"
    )
    rates = page.evaluate("[...document.querySelectorAll('.neuron .rate')].map(e => e.textContent)")
    assert rates == [f"{count / state['steps']:.2f}" for count in counts]
    assert page.evaluate("document.querySelectorAll('.neuron.best').length") == 1
    keep(page, "drawn.png")


def test_by_finger_on_a_phone(browser, exported):
    browser.problems.clear()
    browser.open(exported[0], 360, 740, touch=True, prefers_color_scheme="dark")
    browser.draw("#pad", FOUR_OR_NINE, touch=True)
    browser.wait("snn.state.time > 30")
    state = shown(browser)
    np.testing.assert_array_equal(state["spikes"], expected(exported[1], state)[0])
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    tall = browser.evaluate("[...document.querySelectorAll('button')].map(b => b.getBoundingClientRect().height)")
    assert min(tall) > 24
    browser.evaluate("document.getElementById('play').click()")
    keep(browser, "phone.png")
    assert browser.problems == []


def test_the_pen_is_followed_while_it_draws(page):
    x, y, width, height = page.box("#pad")
    at = {"button": "left", "buttons": 1, "clickCount": 1}
    page.send("Input.dispatchMouseEvent", type="mousePressed", x=x + 0.3 * width, y=y + 0.2 * height, **at)
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + 0.35 * width, y=y + 0.8 * height, **at)
    page.wait("snn.state.run !== null")
    assert "after all" in text(page, "#prediction")
    page.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
    page.wait(FINISHED)


def test_time_goes_step_by_step_or_at_speed(page):
    page.draw("#pad", SEVEN)
    page.click("#start")
    assert page.evaluate("[snn.state.time, snn.state.playing]") == [0, False]
    for _ in range(3):
        page.click("#step")
    page.wait("document.getElementById('time-text').textContent.startsWith('3 of ')")
    state = shown(page)
    assert text(page, "#spikes-text") == f"step 3: {int(state['spikes'][2].sum())} input spikes"
    lit = page.evaluate("""(() => {
        const { data } = document.getElementById('spikes').getContext('2d').getImageData(0, 0, 28, 28);
        return [...Array(784).keys()].map(p => [data[4 * p], data[4 * p + 1], data[4 * p + 2]].join())
    })()""")
    strongest = lit[int(state["spikes"][2].argmax())]
    assert [colour == strongest for colour in lit] == (state["spikes"][2] > 0).tolist()
    page.click("#play")
    page.wait(FINISHED, 5)
    assert page.evaluate("document.getElementById('step').disabled")
    page.click("#play")  # from the beginning again
    page.wait("snn.state.time < snn.state.steps || !snn.state.playing")
    page.click("#end")
    assert page.evaluate(FINISHED)


def test_by_keyboard_alone(page):
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


def slide(page, control, value):
    page.evaluate(f"""(() => {{
        const e = document.getElementById('{control}'); e.value = {value};
        for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{ bubbles: true }}));
    }})()""")


def test_the_sliders_change_the_network(page, exported):
    loaded = exported[1]
    page.evaluate("document.querySelector('#examples button:nth-child(4)').click()")
    page.wait(FINISHED)
    third = base64.b64decode(html.content(loaded)["examples"])[3 * 784 : 4 * 784]
    for control, value, settings in (
        ("tau", 3.5, {"tau": 3.5}),
        ("threshold", 0.6, {"v_threshold": 0.6, "tau": 3.5}),
        ("steps", 37, {"v_threshold": 0.6, "tau": 3.5}),
        ("seed", 4294967295, {"v_threshold": 0.6, "tau": 3.5}),
    ):
        slide(page, control, value)
        page.wait(FINISHED)
        state = shown(page)
        assert state[control] == value
        assert bytes(state["pixels"]) == third  # an example is taken as it is
        spikes, fired = expected(loaded, state, **settings)
        np.testing.assert_array_equal(state["spikes"], spikes)
        assert (state["fired"] != fired).sum() <= 1
    page.click("#trained")
    state = shown(page)
    config = loaded.config
    assert [state[n] for n in ("tau", "threshold", "steps", "seed")] == [
        config.tau, config.v_threshold, config.T, config.seed,
    ]  # fmt: skip


def test_a_seed_out_of_range_is_marked_and_not_used(page, exported):
    """The last good seed stays in use, and a word says so until the field is right again."""
    slide(page, "seed", 7)
    border = "getComputedStyle(document.getElementById('seed')).borderTopWidth"
    assert (text(page, "#seed-text"), page.evaluate(border)) == ("other random input spikes", "1px")
    for wrong in ("-1", "4294967296", "1.5", "''"):
        slide(page, "seed", wrong)
        assert page.evaluate("[snn.state.seed, document.getElementById('seed').matches('[aria-invalid=true]')]") == [
            7,
            True,
        ]
        assert text(page, "#seed-text") == "give a whole number from 0 to 4294967295; 7 is in use"
        assert page.evaluate(border) == "2px"
    keep(page, "seed.png")
    slide(page, "seed", 4294967295)
    assert page.evaluate("[snn.state.seed, document.getElementById('seed').matches('[aria-invalid=true]')]") == [
        4294967295, False,
    ]  # fmt: skip
    slide(page, "seed", -1)
    page.click("#trained")
    assert text(page, "#seed-text") == "other random input spikes"
    assert page.evaluate("document.getElementById('seed').value") == str(exported[1].config.seed)


# ---------------------------------------------------------------------------- files, examples, doubts


def upload(page, file):
    document = page.send("DOM.getDocument")["root"]["nodeId"]
    node = page.send("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])


def put(page, file):
    """Gives the page a picture and waits until it is read."""
    page.evaluate("document.getElementById('clear').click()")
    upload(page, file)
    page.wait(f"document.getElementById('refused').textContent !== '' || ({FINISHED})")
    return text(page, "#refused")


def coloured(width, height, ground, ink, mode="RGB"):
    image = Image.new(mode, (width, height), ground)
    points = [(0.25, 0.25), (0.7, 0.24), (0.5, 0.8)]
    ImageDraw.Draw(image).line([(x * width, y * height) for x, y in points], ink, max(2, width // 12), "curve")
    return image


@pytest.mark.parametrize(
    "image",
    [
        coloured(120, 200, (0, 130, 0), (255, 0, 0)),
        coloured(400, 300, (190, 180, 170), (60, 60, 120)),
        coloured(28, 28, (0, 0, 0), (255, 255, 255)),
    ],
    ids=["red on green", "ink on paper", "28 x 28"],
)
def test_an_opened_picture_is_prepared_as_predict_does(page, exported, tmp_path, image):
    file = tmp_path / "digit.png"
    image.save(file)
    assert put(page, file) == ""
    ours = picture.prepare(picture.read(file).grey, picture.BOXES[exported[1].config.dataset])
    assert shown(page)["pixels"] == ours.pixels.tolist()
    assert page.evaluate("[document.getElementById('pad').width, document.getElementById('pad').height]") == [
        *image.size
    ]
    keep(page, f"opened-{image.width}.png")
    page.draw("#pad", [[(0.4, 0.5), (0.6, 0.5)]])  # one can draw on it, where the pen is
    page.wait(FINISHED)
    drawn = page.evaluate("[...document.getElementById('pad').getContext('2d').getImageData("
                          f"{image.width // 2}, {image.height // 2}, 1, 1).data]")  # fmt: skip
    assert drawn == [17, 17, 17, 255]
    page.click("#clear")
    assert page.evaluate("[document.getElementById('pad').width, document.getElementById('pad').height]") == [280, 280]


@pytest.mark.parametrize("ink", [(0, 0, 0, 255), (255, 255, 255, 255)], ids=["black", "white"])
def test_a_transparent_picture_and_a_large_one(page, exported, tmp_path, ink):
    """Large ones are reduced by the browser, so single pixels may differ."""
    file = tmp_path / "large.png"
    coloured(900, 1200, (0, 0, 0, 0), ink, "RGBA").save(file)
    assert put(page, file) == ""
    ours = picture.prepare(picture.read(file).grey, picture.BOXES[exported[1].config.dataset]).pixels.astype(int)
    assert np.abs(ours - shown(page)["pixels"]).mean() < 4


def test_what_is_no_picture_is_refused_in_a_sentence(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    Image.new("L", (50, 50), 200).save(tmp_path / "blank.png")
    assert put(page, tmp_path / "notes.txt").startswith("notes.txt is not a picture that this browser reads")
    assert put(page, tmp_path / "blank.png").startswith("blank.png shows nothing that stands out")
    page.draw("#pad", SEVEN)
    page.wait(FINISHED)
    page.click("#clear")
    assert page.evaluate("document.getElementById('refused').hidden")


def test_a_saved_drawing_is_the_file_that_predict_reads(page, exported, tmp_path):
    assert page.evaluate("document.getElementById('save').disabled")
    page.draw("#pad", THREE)
    page.wait(FINISHED)
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#save")
    file, end = tmp_path / "drawing.png", time.monotonic() + 20
    while not file.exists() and time.monotonic() < end:
        page.evaluate("0")
        time.sleep(0.02)
    prepared = picture.prepare(picture.read(file).grey, picture.BOXES[exported[1].config.dataset])
    assert prepared.pixels.tolist() == shown(page)["pixels"]


def test_examples_have_labels_and_a_word_where_the_network_is_wrong(browser, tmp_path):
    """A network whose neurons 3 and 5 are exchanged and whose neuron 1 never fires: nothing does at its example."""
    loaded = saved(tmp_path, T=60)
    state = torch.load(loaded.path)
    weight = state["net"]["layer.1.weight"]
    weight[[3, 5]] = weight[[5, 3]]
    weight[1] = -1
    torch.save(state, loaded.path)
    file = tmp_path / "page.html"
    assert main(["export", "-resume", str(loaded.path), "-format", "html", "-out", str(file)]) == 0
    browser.problems.clear()
    browser.open(file, prefers_reduced_motion="reduce")
    browser.wait("[...document.querySelectorAll('#examples b')].some(b => b.textContent)")
    loaded.net.load_state_dict(state["net"])
    buttons = "[...document.querySelectorAll('#examples button')]"
    words = browser.evaluate(f"{buttons}.map(b => b.textContent)")
    held = np.frombuffer(base64.b64decode(html.content(network())["examples"]), np.uint8).reshape(10, 784)
    settings = {"steps": 60, "seed": 0}
    counts = [expected(loaded, settings | {"pixels": image.tolist()})[1].sum(0) for image in held]
    wrong = [f"read as {count.argmax()}" if count.argmax() != c else "" for c, count in enumerate(counts)]
    assert wrong[3] == "read as 5" and wrong[5] == "read as 3" and not counts[1].any()
    wrong[1] = "silent"
    assert words == [f"{c}{word}" for c, word in enumerate(wrong)]
    assert browser.evaluate(f"{buttons}[3].getAttribute('aria-label')") == "Example: 3, read as 5"
    browser.evaluate(f"{buttons}[3].click()")
    browser.wait("document.getElementById('doubt').textContent !== ''")
    assert text(browser, "#doubt").startswith("Wrong: this is 3.")
    keep(browser, "examples.png")
    slide(browser, "threshold", 4)
    slide(browser, "steps", 1)
    browser.wait(f"{buttons}.some(b => b.textContent.includes('silent'))")  # the words follow the settings
    assert browser.problems == []


def test_doubts_are_those_of_predict(page, exported):
    """Three cuts of one drawing: its margin is the limit, below the limit, and its rate below that of the rate."""
    page.draw("#pad", FOUR_OR_NINE)
    page.wait(FINISHED)
    state = shown(page)
    rates = (state["fired"].sum(0) / state["steps"]).tolist()
    made = Prediction(rates)
    highest = max(rates)
    for margin, rate in ((made.margin, highest), (made.margin + 0.01, highest), (0, highest + 0.01)):
        limits = {"margin": margin, "rate": rate, "right": 0.097, "wrong": 0.731}
        page.evaluate(f"snn.data.limits = {json.dumps(limits)}, document.getElementById('end').click()")
        page.wait("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        told, ours = text(page, "#doubt"), [*doubts(made, 1, Reliability(**limits))]
        assert ("margin is below" in told, "nearly silent" in told) == ("low margin" in ours, "nearly silent" in ours)
        assert page.evaluate("document.getElementById('doubt').hidden") == (ours == [])
        if "low margin" in ours:
            assert "so are those of 10 % of the correctly classified test images and 73 % of the others." in told
            keep(page, "doubt.png")
    slide(page, "tau", 3.5)  # the limits are those of the settings of training
    page.wait(f"({FINISHED}) && document.getElementById('doubt').textContent === ''")


def test_two_digits_are_noticed(page):
    page.evaluate("snn.data.limits = null")
    left, right = ([[(x * 0.4 + shift, y) for x, y in line] for line in SEVEN] for shift in (0.05, 0.5))
    page.draw("#pad", left)
    page.wait(FINISHED)
    assert text(page, "#doubt") == ""
    page.draw("#pad", right)
    page.wait(f"({FINISHED}) && document.getElementById('doubt').textContent !== ''")
    assert text(page, "#doubt") == "2 separate objects are seen; draw one digit at a time."
    assert picture.prepare(picture.read(io.BytesIO(base64.b64decode(page.evaluate(
        "document.getElementById('pad').toDataURL('image/png')").split(",")[1]))).grey).objects == 2  # fmt: skip


def test_clear_begins_anew(page):
    page.draw("#pad", SEVEN)
    page.wait("snn.state.run !== null")
    page.click("#clear")
    page.wait("snn.state.pixels === null && !document.getElementById('hint').hidden")
    assert page.evaluate("document.getElementById('play').disabled")
    white = page.evaluate("""
        document.getElementById('pad').getContext('2d').getImageData(0, 0, 280, 280).data.every(x => x === 255)
    """)
    assert white
    page.draw("#pad", THREE)
    page.wait(FINISHED)


def test_every_control_has_a_name(page):
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    controls = [
        n for n in nodes if n.get("role", {}).get("value") in ("button", "slider", "spinbutton", "image", "Canvas")
    ]
    assert len(controls) >= 24
    for node in controls:
        assert node.get("name", {}).get("value", "").strip(), node["role"]
    assert any(n.get("role", {}).get("value") == "status" for n in nodes)


@pytest.mark.parametrize("settings", [{"v_reset": None}, {"neuron": "if", "v_reset": -0.5}], ids=str)
def test_other_neurons(browser, tmp_path, settings):
    loaded = saved(tmp_path, **settings)
    file = tmp_path / "page.html"
    assert main(["export", "-resume", str(loaded.path), "-format", "html", "-out", str(file)]) == 0
    browser.problems.clear()
    browser.open(file)
    browser.evaluate("document.querySelector('#examples button:nth-child(8)').click()")
    browser.wait(FINISHED)
    state = shown(browser)
    spikes, fired = expected(loaded, state)
    np.testing.assert_array_equal(state["spikes"], spikes)
    assert (state["fired"] != fired).sum() <= 1 and fired.sum() > 5
    hidden = browser.evaluate("document.getElementById('tau-setting').hidden")
    assert hidden == (loaded.config.neuron == "if")
    assert browser.problems == []


def test_long_names_and_no_examples(browser, tmp_path):
    loaded = network()
    fashion = replace(loaded, config=replace(loaded.config, dataset="fashion", data_dir="nowhere"))
    file = tmp_path / "page.html"
    file.write_text(html.render(fashion))
    browser.problems.clear()
    browser.open(file, 360, 740)
    browser.draw("#pad", SEVEN)
    browser.wait(FINISHED)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    assert browser.evaluate("document.getElementById('examples').hidden")
    assert "Ankle boot" in text(browser, "#neurons")
    keep(browser, "fashion.png")
    assert browser.problems == []


def test_the_command_says_where_the_page_is(tmp_path, capsys):
    loaded = saved(tmp_path)
    assert main(["export", "-resume", str(loaded.path), "-format", "html"]) == 0
    assert (tmp_path / "checkpoint.html").is_file()
    assert "open it in a browser" in capsys.readouterr().out
    assert main(["export", "-resume", str(loaded.path), "-format", "html", "-out", str(tmp_path)]) == 2
