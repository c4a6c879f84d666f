"""Settings: every value checked at the door, files that can't do harm, one meaning however they are given."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from snn_mnist.cli import parser as cli
from snn_mnist.cli import sweep
from snn_mnist.cli.evaluate import EvalOptions
from snn_mnist.cli.plot import PlotOptions
from snn_mnist.cli.verbs import VERBS
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.kernels.formulas import FORMULAS
from snn_mnist.settings.config import CHANGEABLE_ON_RESUME, DATASETS, FIXED_ON_RESUME, RESUME_RULES, Config, cores
from snn_mnist.settings.options import markdown_table, options_of
from snn_mnist.settings.yaml_file import MAX_BYTES, read_yaml
from tests.conftest import ROOT

RECORDS = [verb.record for verb in VERBS.values()]


def refused(**values: object) -> str:
    with pytest.raises(UsageError) as caught:
        Config(**values)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


# ---------------------------------------------------------------------------- values


def test_the_defaults_are_the_tutorials():
    tutorial = dict(T=100, device="auto", b=64, epochs=100, opt="adam", momentum=0.9, lr=1e-3, tau=2.0)
    tutorial |= dict(v_threshold=1.0, v_reset=0.0, neuron="lif", surrogate="atan", out_dir="./logs")
    assert tutorial.items() <= vars(Config()).items()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *[("T", value, "integer from 1 to 1000000") for value in (0, 100.0, True, "ten", "9" * 5000, np.float32(3))],
        *[("tau", value, "number above 1") for value in (1, 1.0, float("nan"), "inf", "1e400", None, [2.0], True)],
        *[("seed", value, "from 0 to 4294967295") for value in (-1, 2**32)],
        *[("device", value, "cuda:0") for value in ("gpu", "cuda:-1", 3)],
        *[("data_dir", value, "directory") for value in ("", "a\0b", None, b"x")],
        ("b", 0, "at least 1"),
        ("lr", "-1e-3", "above 0"),
        ("momentum", 1, "of at least 0 and below 1"),
        ("opt", "adamw", "one of adam, sgd (did you mean adam?)"),
        ("opt", "x" * 10**6, "xxx..."),
        ("opt", "a\nb", r"opt 'a\nb'"),
        ("surrogate", "ATam", "did you mean atan?"),
        ("neuron", 3, "lif, if"),
        ("amp", 1, "true or false"),
        ("v_reset", "nothing", "finite number or none"),
        ("limit_batches", 0, "at least 1"),
        ("alpha", -1, "at least 0"),
        ("name", "a/b", "a plain file name"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: object, words: str):
    message = refused(**{name: value})
    assert message.startswith(f"{name} ") and words in message


def test_settings_that_contradict_each_other():
    assert "below v_threshold" in refused(v_reset=1.0)
    assert "v_threshold 0.0" in refused(v_reset=None, v_threshold=0)
    assert "step_mode m" in refused(backend="numba", step_mode="s")
    assert "lower one of them" in refused(seed=2**32 - 3, seeds=4)
    assert "has no alpha" in refused(surrogate="leaky_k_relu", alpha=1)
    assert "above 1, such as its default 2" in refused(surrogate="q_pseudo_spike", alpha=1)
    assert "too small" in refused(surrogate="atan", alpha=0)
    assert Config(surrogate="log_tailed_relu", alpha=0).alpha == 0
    assert Config(seed=2**32 - 4, seeds=4).seeds == 4


@pytest.mark.parametrize("name", FORMULAS)
def test_every_surrogate_by_function_and_by_class_name(name: str):
    class_like = "".join(part.capitalize() for part in name.split("_"))
    for spelling in (name, name.upper(), class_like, name.replace("_", "-")):
        assert Config(surrogate=spelling).surrogate == name
    for spelling, known in (
        ("ATan", "atan"),
        ("PiecewiseLeakyReLU", "piecewise_leaky_relu"),
        ("S2NN", "s2nn"),
    ):
        assert Config(surrogate=spelling).surrogate == known


def test_numbers_of_any_type_are_fine():
    c = Config(tau=2, v_threshold=np.float32(1), v_reset=np.int8(0), lr=1, T=np.int64(20), amp=np.True_)
    assert [type(x) for x in (c.tau, c.v_threshold, c.v_reset, c.lr, c.T, c.amp)] == [*[float] * 4, int, bool]


def test_replace_checks_again():
    c = dataclasses.replace(Config(), epochs=7)
    assert c.epochs == 7
    with pytest.raises(UsageError):
        dataclasses.replace(c, epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.epochs = 8  # type: ignore[misc]


def test_sizes_against_the_data():
    Config(b=50_000, val=10_000).check_sizes(60_000)
    for bad, words in ((Config(b=60_001), "from 1 to 60000"), (Config(val=60_000), "below 60000")):
        with pytest.raises(UsageError, match=words):
            bad.check_sizes(60_000)
    with pytest.raises(UsageError, match="that -val leaves"):
        Config(b=51, val=50).check_sizes(100)


def test_more_threads_than_cores_is_a_note():
    many = Config(j=10_000)
    assert many.threads == cores() and "10000" in many.notes()[0]
    assert Config().threads == cores() and not Config().notes()
    assert Config(j=1).threads == 1


def test_the_variable_is_the_default_of_data_dir(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SNN_MNIST_DATA", "/somewhere")
    assert Config().data_dir == EvalOptions(resume="x").data_dir == "/somewhere"
    assert Config(data_dir="other").data_dir == "other"
    monkeypatch.setenv("SNN_MNIST_DATA", "")
    assert Config().data_dir == "./data"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_default_is_a_value_of_its_kind(record: type):
    for each in options_of(record):
        assert each.required or each.default is None or each.convert(each.default) == each.default, each.name


def test_the_table_of_flags_has_a_row_for_each():
    rows = markdown_table(Config).splitlines()
    assert len(rows) == 2 + len(options_of(Config))
    assert "| `-tau` | 2.0 | membrane time constant of the LIF neuron, in time steps |" in rows
    assert "| `-opt` | adam | optimiser: adam, sgd |" in rows
    assert "| `-data-dir` | $SNN_MNIST_DATA, else ./data | where the data are" in "\n".join(rows)
    assert (
        "| `-resume` | required | a checkpoint file or a run directory; last is the newest run of -out-dir |"
        in markdown_table(EvalOptions)
    )


def test_what_is_required():
    with pytest.raises(UsageError, match=r"-resume is missing; give a checkpoint file or a run directory"):
        EvalOptions()
    with pytest.raises(UsageError, match=r"DIR is missing"):
        PlotOptions()


# ---------------------------------------------------------------------------- round trips

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
names = st.text(min_size=1, max_size=20).filter(lambda s: s.strip() and "\0" not in s and not s.startswith("~"))
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
@example({"out_dir": "a\x85b", "data_dir": "é\u2028\u2029"})  # YAML's further line breaks
def test_a_written_file_reads_back_as_the_same_settings(tmp_path_factory: pytest.TempPathFactory, values: dict):
    file = tmp_path_factory.getbasetemp() / "settings.yaml"
    c = Config(**values)
    file.write_text(c.to_yaml(), encoding="utf-8")
    assert Config.from_yaml(file) == c
    assert Config.from_mapping(c.to_mapping()) == c


@given(configs)
def test_flags_mean_the_same_as_values(values: dict):
    tokens = []
    for name, value in values.items():
        flag = "--" * (len(tokens) % 2) or "-"
        if name == "amp":
            tokens.append(f"{flag}amp" if value else "-no-amp")
        elif str(value).startswith("-"):
            tokens.append(f"{flag}{name.replace('_', '-')}={value}")
        else:
            tokens += [f"{flag}{name.replace('_', '-')}", "none" if value is None else str(value)]
    c = cli.read_command(["train", *tokens])[1]
    assert c == Config(**values) and c.given == frozenset(values)


# ---------------------------------------------------------------------------- files


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        file = tmp_path / "c.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write


def test_a_bare_name_is_a_recipe_and_a_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert read_yaml("best")["tau"] == "1.3" and read_yaml("sweep_best")["study"] == "best"
    for name in ("best.yaml", "./best", "configs/best", "/no/best.yaml", "nothing", ""):
        with pytest.raises(UsageError, match="a recipe: best, digits, quick, sweep_best, tutorial"):
            read_yaml(name)
    (tmp_path / "best").write_text("T: 3\n")
    assert read_yaml("best") == {"T": "3"}


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_the_shipped_files(file: Path):
    record = sweep.SweepOptions if file.stem.startswith("sweep_") else Config
    assert record.from_mapping(read_yaml(file), str(file)).given


def test_yaml_values_as_people_write_them(yaml_file):
    text = "\ufeff# a comment\nlr: 1e-3\ntau: 3\nv-reset: none\nalpha: null\namp: on\nneuron: if\nT: '50'\nj:\n"
    c = Config.from_yaml(yaml_file(text))
    assert (c.lr, c.tau, c.v_reset, c.alpha, c.amp, c.neuron, c.T, c.j) == (
        1e-3,
        3.0,
        None,
        None,
        True,
        "if",
        50,
        None,
    )
    assert Config.from_yaml(yaml_file("")) == Config.from_yaml(yaml_file("# nothing\n---\n")) == Config()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epoch: 3", "unknown setting epoch; did you mean epochs?"),
        ("3: 3", "unknown setting 3"),
        ("tau: 1", "tau 1 is not allowed; give a number above 1"),
        ("T:", "T (no value) is not allowed"),
        ("T: 1\nT: 2", "line 2: T is set twice"),
        ("data-dir: a\ndata_dir: b", "data_dir is set twice"),
        ("tau: !!python/object/apply:os.system ['touch hacked']", "line 1: tau has a nested value"),
        ("!!python/object/apply:os.system ['touch hacked']", "could not determine a constructor"),
        ("T: [10\nb: 3", "line 2: while parsing a flow sequence, expected ',' or ']'"),
        ("T: [1, 2]", "T has a nested value"),
        ("[" * 100_000, "nested"),
        ("T: " + "[" * 100_000, "nested"),
        ("- T: 1", "not a mapping"),
        ("? [T]\n: 1", "line 1: a name is nested"),
        ("<<: {T: 1}", "<< has a nested value"),
        ("lr: 1\nno: 1\n", "unknown setting no"),
        ("T: 1\n---\nT: 2", "line 2: expected a single document in the stream, but found another"),
        ("T: 1\n  b: 2", "line 2: mapping values are not allowed"),
        ("T: 'x", "unexpected end"),
        ("T: \x01", "special characters"),
        (b"T: \xff\xfe", "not UTF-8"),
        ("T: 1".encode("utf-16"), "not UTF-8"),
        ("#" * (MAX_BYTES + 1), "larger than"),
        ("T: " + "9" * 10_000, "T 999"),
        ("T: 2001-12-45", "T 2001-12-45 is not allowed"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(yaml_file, tmp_path: Path, content: str | bytes, words: str):
    file = yaml_file(content)
    with pytest.raises(UsageError) as caught:
        Config.from_yaml(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and words in message and len(message) < 900 and "\n" not in message
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_a_file_that_is_not_there(tmp_path: Path):
    for place in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="name a YAML file"):
            read_yaml(place)


pieces = st.sampled_from(
    ["T", "lr", ": ", "\n", "- ", "[", "]", "{", "}", "&a ", "*a", "!!", "!x", "'", '"', "#", "|", ">", "?"]
    + ["<<", "~", "1", "1e999", "-1", "---", "...", "%", "\t", "é", "tau: 3\n", "@"]
)
yaml_like = st.lists(pieces, max_size=40).map("".join)


@given(st.binary(max_size=200) | (st.text(max_size=200) | yaml_like).map(str.encode))
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    try:
        Config.from_yaml(file)
    except UsageError as error:
        assert str(file) in str(error)
    except SNNError:
        raise AssertionError("a fault in a settings file is a usage error") from None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@example({"resume": "0"})
@given(st.dictionaries(st.sampled_from([each.name for each in options_of(Config)]) | anything.filter(
    lambda key: getattr(key, "__hash__", None)), anything, max_size=4))  # fmt: skip
def test_any_mapping_is_read_or_refused(mapping: dict):
    """A checkpoint's settings come from a file that anybody may have written."""
    try:
        c = Config.from_mapping(mapping, "file")
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert Config.from_mapping(c.to_mapping()).to_mapping() == c.to_mapping()  # -resume and such are not saved


# ---------------------------------------------------------------------------- resume


def test_what_may_change_on_resume_and_what_not():
    assert {"T", "b", "tau", "v_threshold", "v_reset", "surrogate", "neuron", "seed", "dataset"} <= set(FIXED_ON_RESUME)
    free = {*CHANGEABLE_ON_RESUME, "device", "backend", "step_mode", "j", "data_dir", "out_dir", "eval_every"}
    assert free.isdisjoint(FIXED_ON_RESUME)
    assert all(f"-{name.replace('_', '-')}" in RESUME_RULES for name in (*FIXED_ON_RESUME, *CHANGEABLE_ON_RESUME))


def test_a_resumed_run_keeps_its_settings_except_those_given_now(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SNN_MNIST_DATA", raising=False)
    saved = Config(T=50, tau=3.0, epochs=2, seed=9, data_dir="there").to_mapping()
    now = cli.read_command(["train", "-resume", "x", "-epochs", "4", "-lr", "0.1", "-j", "1"])[1].on_top_of(saved)
    assert (now.T, now.tau, now.seed, now.epochs, now.lr, now.j, now.resume) == (50, 3.0, 9, 4, 0.1, 1, "x")
    assert now.data_dir == "there" and now.changes_of_fixed_settings(saved) == []
    other = cli.read_command(["train", "-resume", "x", "-tau", "2", "-v-reset", "none"])[1].on_top_of(saved)
    assert other.changes_of_fixed_settings(saved) == ["tau 3.0 → 2.0", "v_reset 0.0 → none"]
    monkeypatch.setenv("SNN_MNIST_DATA", "/now/here")
    assert cli.read_command(["train", "-resume", "x"])[1].on_top_of(saved).data_dir == "/now/here"
    with pytest.raises(UsageError, match=r"ck\.pth: unknown setting taw; did you mean tau"):
        now.on_top_of({"taw": 2}, "ck.pth")
