"""Names of runs: of their directories, and of several in one figure or table."""

from dataclasses import replace

import pytest

from snn_mnist.errors import UsageError
from snn_mnist.settings.config import FIXED_ON_RESUME, Config
from snn_mnist.storage.runs import labels, run_name
from tests.support.runs import train_run


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "T100_b64_adam_lr0.001"),  # the tutorial's
        ({"amp": True, "opt": "sgd", "lr": 0.1}, "T100_b64_sgd_lr0.1_amp"),  # the tutorial's too
        ({"tau": 1.1, "neuron": "if", "seed": 3}, "T100_b64_adam_lr0.001_if_tau1.1_seed3"),
        ({"T": 8, "b": 7, "dataset": "digits", "v_reset": None}, "T8_b7_adam_lr0.001_vresetnone_digits"),
        (
            {"tau": 3, "v_threshold": 0.5, "v_reset": -0.25, "surrogate": "sigmoid", "alpha": 4},
            "T100_b64_adam_lr0.001_tau3_vth0.5_vreset-0.25_sigmoid_alpha4",
        ),
        (
            {"momentum": 0.5, "schedule": "cosine", "ema": 0.99, "val": 5000, "limit_batches": 9},
            "T100_b64_adam_lr0.001_momentum0.5_cosine_ema0.99_val5000_limit9",
        ),
        (
            {"votes": 10, "encoding": "constant", "loss": "ce", "scale": 20, "dropout": 0.25},
            "T100_b64_adam_lr0.001_votes10_constant_ce_scale20_dropout0.25",
        ),
        ({"net": "nets/two.py:make", "surrogate": "my.py:Tri"}, "T100_b64_adam_lr0.001_Tri_two"),
        ({"epochs": 7, "backend": "torch", "device": "cpu", "eval_every": 2}, "T100_b64_adam_lr0.001"),
    ],
)
def test_a_name_has_what_differs_from_the_defaults(settings, name):
    assert run_name(Config(**settings)) == name


@pytest.mark.parametrize("name", FIXED_ON_RESUME)
def test_every_setting_that_may_not_change_on_resume_is_in_the_name(name):
    others = {"neuron": "if", "surrogate": "sigmoid", "opt": "sgd", "dataset": "digits", "momentum": 0.5, "ema": 0.5}
    others |= {"encoding": "latency", "loss": "ce", "dropout": 0.5, "net": "my_net.py:make"}
    value = others.get(name) or (True if name == "amp" else 0.25 if name == "v_reset" else 2.5 if name == "tau" else 3)
    assert run_name(replace(Config(), **{name: value})) != run_name(Config())


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", ".a", "-a", "a\nb", "a\\b", "a:b", "last", "x" * 201, "a ", 5])
def test_a_name_must_be_a_plain_file_name(name):
    with pytest.raises(UsageError, match="a plain file name"):
        Config(name=name)


def test_a_given_name_is_the_directory_and_what_is_taken_gets_a_number(tmp_path, capsys):
    first = train_run(tmp_path, epochs=1, limit_batches=1, name="größe 1.5")
    assert first == tmp_path / "größe 1.5"
    assert train_run(tmp_path, epochs=1, limit_batches=1, name="größe 1.5") == tmp_path / "größe 1.5-2"
    capsys.readouterr()
    train_run(tmp_path, epochs=2, limit_batches=1, name="other", resume=str(first))
    assert "-name other is not used: the run continues in its own directory" in capsys.readouterr().out
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["größe 1.5", "größe 1.5-2"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([{"tau": 1.1}, {}], ["tau 1.1", "tau 2"]),
        ([{"tau": 1.1}, {}, {}], ["tau 1.1", "b", "c"]),  # the usual value is not named
        ([{"seed": 0, "epochs": 5}, {"seed": 1}, {"seed": 1, "amp": True}], ["epochs 5, seed 0", "b", "amp on"]),
        ([{"tau": 3}, {"tau": 3}, {"tau": 4}, {"tau": 5}], ["tau 3 (a)", "tau 3 (b)", "tau 4", "tau 5"]),
        ([{"tau": 3}, {"neuron": "if"}], ["lif, tau 3", "if"]),
        ([{"alpha": 3}, {"v_reset": None}], ["v-reset 0, alpha 3", "v-reset none, alpha the surrogate's own"]),
        ([{"backend": "torch"}, {"out_dir": "x"}], ["a", "b"]),
    ],
)
def test_a_label_has_what_differs_among_the_runs(tmp_path, settings, expected):
    runs = {tmp_path / name: Config(**each) for name, each in zip("abcd", settings, strict=False)}
    assert labels(runs) == expected


def test_runs_that_do_not_differ_have_their_shortest_path(tmp_path):
    assert labels({tmp_path / "x" / "a": Config(), tmp_path / "y" / "a": Config()}) == ["x/a", "y/a"]
    assert labels({tmp_path / "x" / "a": Config()}) == ["a"]
