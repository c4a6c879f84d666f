"""Settings: every value checked once, files that can't do harm, one meaning however they are given."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from snn_mnist.cli import sweep
from snn_mnist.cli.evaluate import EvalOptions
from snn_mnist.cli.parser import VERBS, read_command
from snn_mnist.errors import UsageError
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.settings.config import DATASETS, FIXED_ON_RESUME, Config, cores, read_yaml, yaml_text
from snn_mnist.settings.options import options_of
from tests.conftest import ROOT


def refused(**values: object) -> str:
    with pytest.raises(UsageError) as caught:
        Config(**values)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *[("T", value, "integer of at least 1 and at most 1000000") for value in (0, 100.0, True, "ten", "9" * 5000)],
        *[("tau", value, "number above 1") for value in (1, float("nan"), "inf", "1e400", None, [2.0], True)],
        *[("seed", value, "at least 0 and at most 4294967295") for value in (-1, 2**32)],
        *[("device", value, "cuda:0") for value in ("gpu", "cuda:-1", 3)],
        *[("data_dir", value, "directory") for value in ("", None)],
        ("momentum", 1, "of at least 0 and below 1"),
        ("opt", "x" * 10**6, "xxx..."),
        ("opt", "a\nb", r"opt 'a\nb'"),
        ("surrogate", "ATam", "did you mean atan?"),
        ("neuron", 3, "lif, if"),
        ("amp", 1, "true or false"),
        ("v_reset", "nothing", "number or none"),
        ("j", 0, "above 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: object, words: str):
    message = refused(**{name: value})
    assert message.startswith(f"{name} ") and words in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"v_reset": 1.0}, "v_reset 1.0 is not below v_threshold 1.0"),
        ({"v_reset": None, "v_threshold": 0}, "v_threshold 0.0"),
        ({"backend": "numba", "step_mode": "s"}, "step_mode m"),
        ({"seed": 2**32 - 3, "seeds": 4}, "lower one of them"),
        ({"surrogate": "leaky_k_relu", "alpha": 1}, "no parameter 'alpha'"),
        ({"surrogate": "q_pseudo_spike", "alpha": 1}, "above 1; the default is 2"),
        ({"surrogate": "atan", "alpha": 0}, "above 0"),
        ({"test": False}, "with -val"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, words: str):
    assert words in refused(**settings)


def test_settings_at_their_limits():
    assert Config(surrogate="log_tailed_relu", alpha=0).alpha == 0
    assert Config(seed=2**32 - 4, seeds=4).seeds == 4
    assert Config(v_reset=None, v_threshold=0.1).v_reset is None
    assert Config(j=10_000).j == Config().j == cores() and Config(j=1).j == 1


def test_words_are_known_in_every_spelling():
    known = {"ATan": "atan", "PiecewiseLeakyReLU": "piecewise_leaky_relu", "soft-sign": "soft_sign"}
    assert {spelling: Config(surrogate=spelling).surrogate for spelling in known} == known


def test_numbers_of_any_type_are_fine():
    c = Config(tau=2, v_threshold=np.float32(1), v_reset=np.int8(0), lr=1, T=np.int64(20), amp=np.True_)
    assert [type(x) for x in (c.tau, c.v_threshold, c.v_reset, c.lr, c.T, c.amp)] == [*[float] * 4, int, bool]


def test_sizes_against_the_data():
    Config(b=50_000, val=10_000).check_sizes(60_000)
    for bad, words in ((Config(b=51, val=59_950), "from 1 to 50"), (Config(val=60_000), "below 60000")):
        with pytest.raises(UsageError, match=words):
            bad.check_sizes(60_000)


def test_the_variable_is_the_default_of_data_dir(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SNN_MNIST_DATA", "/somewhere")
    assert Config().data_dir == EvalOptions(resume="x").data_dir == "/somewhere"
    assert Config(data_dir="other").data_dir == "other"
    monkeypatch.setenv("SNN_MNIST_DATA", "")
    assert Config().data_dir == "./data"


@pytest.mark.parametrize("verb", VERBS)
def test_every_default_is_a_value_of_its_kind(verb: str):
    for each in options_of(VERBS[verb].record):
        assert each.required or each.default is None or each.convert(each.default) == each.default, each.name


# ---------------------------------------------------------------------------- round trips

letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
names = st.text(letters, min_size=1, max_size=20).filter(lambda s: s.strip() and not s.startswith("~"))
configs = st.fixed_dictionaries(
    {},
    optional={
        "T": st.integers(1, 1_000_000),
        "b": st.integers(1, 10**12),
        "epochs": st.integers(1, 10**12),
        "tau": st.floats(1, 1e300, exclude_min=True),
        "v_reset": st.none() | st.floats(-1e300, 0.99),
        "lr": st.floats(1e-300, 1e300),
        "momentum": st.floats(0, 1, exclude_max=True),
        "opt": st.sampled_from(["adam", "sgd"]),
        "surrogate": st.sampled_from(sorted(FORMULAS)),
        "neuron": st.sampled_from(["lif", "if"]),
        "amp": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
        "dataset": st.sampled_from(DATASETS),
        "data_dir": names,
        "out_dir": names,
        "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:7"]),
        "limit_batches": st.none() | st.integers(1, 10**9),
    },
)


@given(configs)
@example({"out_dir": "no", "data_dir": "1e3"})
@example({"out_dir": "结果 déjà", "data_dir": "#x: - {"})
def test_a_written_file_reads_back_as_the_same_settings(tmp_path_factory: pytest.TempPathFactory, values: dict):
    file = tmp_path_factory.getbasetemp() / "settings.yaml"
    c = Config(**values)
    file.write_text(yaml_text(c.to_mapping()), encoding="utf-8")
    assert Config.from_yaml(file) == c
    assert Config.from_mapping(c.to_mapping()) == c


# ---------------------------------------------------------------------------- files


@pytest.fixture
def written(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        file = tmp_path / "c.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def test_a_bare_name_is_a_recipe_and_a_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read_yaml("best")["tau"] == "1.3" and read_yaml("sweep_best")["study"] == "best"
    for name in ("best.yaml", "nothing", "", str(tmp_path)):
        with pytest.raises(UsageError, match=r"a recipe: best, digits, quick, .*tutorial"):
            read_yaml(name)
    (tmp_path / "best").write_text("T: 3\n")
    assert read_yaml("best") == {"T": "3"}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_the_shipped_files(file: Path):
    record = sweep.SweepOptions if file.stem.startswith("sweep_") else Config
    assert record.from_mapping(read_yaml(file), str(file)).given


def test_yaml_values_as_people_write_them(written):
    text = "\ufeff# a comment\nlr: 1e-3\ntau: 3\nv-reset: none\nalpha: null\namp: on\nneuron: if\nT: '50'\nname:\n"
    c = Config.from_yaml(written(text))
    found = (c.lr, c.tau, c.v_reset, c.alpha, c.amp, c.neuron, c.T, c.name)
    assert found == (1e-3, 3.0, None, None, True, "if", 50, None)
    assert Config.from_yaml(written("")) == Config.from_yaml(written("# nothing\n---\n")) == Config()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("batch_size: 3", "unknown setting batch_size; the known ones are T, "),
        ("tau: 1", "tau 1 is not allowed; give a number above 1"),
        ("T:", "T None is not allowed"),
        ("tau: !!python/object/apply:os.system ['touch hacked']", "tau ['touch hacked'] is not allowed"),
        ("T: [10\nb: 3", "line 2"),
        ("- T: 1", "not a mapping"),
        ("? [T]\n: 1", "unhashable key"),
        (b"T: \xff\xfe", "UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(written, tmp_path: Path, content: str | bytes, words: str):
    file = written(content)
    with pytest.raises(UsageError) as caught:
        Config.from_yaml(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and words in message and len(message) < 900 and "\n" not in message
    assert os.listdir(tmp_path) == ["c.yaml"]


# ---------------------------------------------------------------------------- resume


def test_a_resumed_run_keeps_its_settings_except_those_given_now(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SNN_MNIST_DATA", raising=False)
    saved = Config(T=50, tau=3.0, epochs=2, seed=9, data_dir="there").to_mapping()
    now = read_command(["train", "-resume", "x", "-epochs", "4", "-lr", "0.1", "-j", "1"])[1].on_top_of(saved)
    assert (now.T, now.tau, now.seed, now.epochs, now.lr, now.j, now.resume) == (50, 3.0, 9, 4, 0.1, 1, "x")
    assert now.data_dir == "there" and now.changes(Config.from_mapping(saved), FIXED_ON_RESUME) == []
    other = read_command(["train", "-resume", "x", "-tau", "2", "-v-reset", "none"])[1].on_top_of(saved)
    assert other.changes(Config.from_mapping(saved), FIXED_ON_RESUME) == ["tau 3.0 → 2.0", "v_reset 0.0 → none"]
    monkeypatch.setenv("SNN_MNIST_DATA", "/now/here")
    assert read_command(["train", "-resume", "x"])[1].on_top_of(saved).data_dir == "/now/here"
    with pytest.raises(UsageError, match=r"ck\.pth: unknown setting taw; did you mean tau"):
        now.on_top_of({"taw": 2}, "ck.pth")
