"""The command line: what it accepts, what it prints, how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from snn_mnist import __version__
from snn_mnist.__main__ import main
from snn_mnist.cli.parser import VERBS, Verb, read_command, read_flags
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.settings.config import cores
from snn_mnist.settings.options import Options, option, options_of
from tests.conftest import ROOT, Program
from tests.support.export_net import saved
from tests.support.run_directories import make_run, rows_of
from tests.support.runs import train_run

NOT_THERE = f"snn_mnist fake: error: {sys.executable} has no"


def parse(verb: str, *tokens: str) -> dict[str, Any]:
    """The settings that these flags give."""
    options = read_command([verb, *tokens])[1]
    return {name: getattr(options, name) for name in options.given}


# ---------------------------------------------------------------------------- flags


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_with_one_dash_and_with_two(verb: str):
    """With hyphens and with underscores, and every switch with `no-` too."""
    for each in options_of(VERBS[verb].record):
        for word in {each.flag[1:], each.name} if not each.positional else ():
            for dashes in ("-", "--"):
                if each.is_switch:
                    assert read_flags(verb, [f"{dashes}{word}"]) == {each.name: True}
                    assert read_flags(verb, [f"{dashes}no-{word}"]) == {each.name: False}
                else:
                    assert read_flags(verb, [f"{dashes}{word}", "-1"]) == {each.name: "-1"}
                    assert read_flags(verb, [f"{dashes}{word}=-1"]) == {each.name: "-1"}


@pytest.mark.parametrize("text", ["-1", "-1e-1", "-.5", "-1E-05", "-0.25", "-2.", "-1e3", "-12"])
def test_negative_numbers_are_values(text: str):
    for tokens in (["-v-reset", text], [f"--v_reset={text}"]):
        assert parse("train", *tokens, "-T", "5") == {"v_reset": float(text), "T": 5}


def test_switches_lists_and_names_without_a_flag():
    assert parse("train", "-amp", "-no-amp", "-T", "5", "-T", "6") == {"amp": False, "T": 6}, "the last one counts"
    assert parse("bench", "-T", "1", "2", "-b", "3,4") == {"T": (1, 2), "b": (3, 4)}
    assert parse("plot", "a", "-out", "x", "b") == {"runs": ("a", "b"), "out": "x"}
    assert parse("plot", "-out", "x", "a,b") == {"runs": ("a,b",), "out": "x"}
    found = parse("predict", "-no-show", "a", "-T", "3", "-resume", "r", "-json", "-")
    assert found == {"show": False, "images": ("a",), "T": 3, "resume": "r", "json": "-"}
    assert parse("predict", "a", "-resume", "r", "--", "-b.png")["images"] == ("a", "-b.png")
    assert parse("import", "a") == {"file": "a"}
    with pytest.raises(UsageError, match="b is an unexpected argument"):
        parse("import", "a", "-T", "3", "b")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["-epoch", "3"], "unknown flag -epoch; did you mean -epochs?"),
        (["-b64"], "unknown flag -b64"),
        (["-given", "x"], "unknown flag -given"),
        (["-zzzzzz=3"], "unknown flag -zzzzzz; --help lists the flags"),
        (["-T"], "argument -T: expected one argument; --help lists the flags"),
        (["-tau="], "-tau '' is not allowed"),
        (["-tau", "1"], "-tau 1 is not allowed; give a number above 1"),
        (["--opt", "adamw"], "-opt adamw is not allowed; give one of adam, sgd; did you mean adam?"),
        (["-figures", "off"], "off is an unexpected argument"),
        (["-amp=True", "-T", "5"], "-amp is a switch, without a value; give -amp or -no-amp"),
    ],
)
def test_wrong_flags(tokens: list[str], message: str):
    with pytest.raises(UsageError) as caught:
        read_command(["train", *tokens])
    assert message in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("T: 7\nepochs: 3\namp: true\n")
    c = read_command(["train", "-epochs", "4", "-config", str(file), "-no-amp"])[1]
    assert (c.T, c.epochs, c.amp, c.b) == (7, 4, False, 64)
    assert c.given == {"T", "epochs", "amp", "config"}
    assert read_command(["train", "-config", "best"])[1].tau == 1.3
    with pytest.raises(UsageError, match=r"bets: no such file or directory; did you mean best\? name a .*: best,"):
        read_command(["train", "-config", "bets"])


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_every_flag_with_its_default(name: str, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    texts = []
    for tokens in ([name, "-h"], [name, "--help"], [name, "-debug", "-help"]):
        assert main(tokens) == 0
        texts.append(capsys.readouterr().out)
    assert len(set(texts)) == 1 and texts[0].startswith(f"usage: python -m snn_mnist {name} ")
    assert max(map(len, texts[0].splitlines())) <= 80
    text = " ".join(texts[0].split())
    for each in options_of(VERBS[name].record):
        default = "(required)" if each.required else f"(default: {each.default_text})"
        assert f" {each.flag} " in text and default in text and f" {each.group}: " in text
    assert VERBS[name].summary in text and (name != "train" or "Resuming: the run continues" in text)


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture):
    assert main(["--help"]) == main(["-h"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in VERBS)
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"snn_mnist {__version__}\n"


def test_what_needs_no_network_imports_nothing_heavy(tmp_path: Path):
    """What makes help instant, measured without a clock; of help not even YAML. Nor is an error late."""
    code = (
        "import sys\nfrom snn_mnist.__main__ import VERBS, main\n"
        "loaded = lambda: print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "for verb in VERBS: assert main([verb, '-help']) == 0\nassert main(['-help']) == 0\nloaded()\n"
        "assert main(['runs', '-csv', 'x.csv']) == 0 and main(['plot', 'nowhere']) == 2\nloaded()"
    )
    make_run(tmp_path / "logs" / "run", [*rows_of(1)], torch.zeros(10, 784))
    environment, command = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    help, verbs = (set(line.split()) for line in done.stdout.splitlines() if line.startswith("loaded:"))
    heavy = {"torch", "torchvision", "numpy", "numba", "matplotlib", "sklearn", "tqdm"}
    assert "snn_mnist" in help and help.isdisjoint({*heavy, "yaml"}) and verbs.isdisjoint(heavy)


# ---------------------------------------------------------------------------- exit codes and errors


@dataclass(frozen=True, kw_only=True)
class FakeOptions(Options):
    n: int = option(1, "Work", "a number", low=1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a verb that returns or raises this outcome, and returns the program's exit code."""

    def run(outcome: object, *flags: str) -> int:
        def verb(options: Options) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setitem(VERBS, "fake", Verb(FakeOptions, verb, "does nothing"))
        return main(["fake", *flags])

    return run


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (SNNError("it\nbroke; mend it"), 1, "snn_mnist fake: error: it broke; mend it\n"),
        (UsageError("wrong; right"), 2, "snn_mnist fake: error: wrong; right\n"),
        (KeyboardInterrupt(), 130, "snn_mnist fake: error: interrupted\n"),
        (RuntimeError("a\nb"), 1, "snn_mnist fake: error: RuntimeError: a; run again with -debug for the traceback\n"),
        (ModuleNotFoundError(name="torch"), 1, f"{NOT_THERE} torch; activate the environment that scripts/train.sh"),
        (ModuleNotFoundError(name="optuna"), 1, f"{NOT_THERE} optuna; sweep needs it: SNN_MNIST_EXTRAS=sweep bash"),
    ],
)
def test_how_a_verb_ends(
    fake: Callable[..., int], capsys: pytest.CaptureFixture, outcome: object, code: int, line: str
):
    assert fake(outcome, "-n", "2") == code
    err = capsys.readouterr().err
    assert err.startswith(line) and len(err.splitlines()) == bool(line)


def test_notes_are_shown_and_debug_shows_the_traceback(
    fake: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch
):
    monkeypatch.setattr(FakeOptions, "notes", lambda self: ["something to know"])
    assert fake(None) == 0
    assert capsys.readouterr().err == "snn_mnist: note: something to know\n"
    for flag in ("-debug", "--debug"):
        with pytest.raises(ZeroDivisionError):
            fake(ZeroDivisionError("x"), flag)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "snn_mnist: error: no verb; give one of train, eval"),
        (["trian"], "snn_mnist: error: trian is not a verb; did you mean train?"),
        (["-T", "100"], "snn_mnist: error: -T is not a verb; give one of train, eval"),
        (["eval"], "snn_mnist eval: error: -resume is missing; give a checkpoint file or a run directory"),
        (["train", "-tau", "1"], "snn_mnist train: error: -tau 1 is not allowed; give a number above 1"),
        (["train", "-v-reset", "2"], "snn_mnist train: error: v_reset 2.0 is not below v_threshold 1.0"),
    ],
)
def test_wrong_usage_is_the_usage_one_line_and_exit_code_2(
    tokens: list[str], message: str, capsys: pytest.CaptureFixture
):
    assert main(tokens) == 2
    out, err = capsys.readouterr()
    usage, line = err.splitlines()
    verb = next(iter(tokens), "")
    expected = f"usage: python -m snn_mnist {verb} " if verb in VERBS else "usage: python -m snn_mnist VERB [flags]"
    assert out == "" and usage.startswith(expected) and line.startswith(message)


def test_a_reader_that_leaves_is_no_error(program: Program):
    """As in `python -m snn_mnist train --help | head -0`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = program("train", "--help", capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert done.stderr == ""


def test_any_character_can_be_printed_anywhere(program: Program):
    streams: dict[str, str | None] = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = program("train", "-config", "数据/é.yaml", env=streams, encoding="latin-1")
    assert done.returncode == 2 and "??/é.yaml: no such file or directory" in done.stderr


# ---------------------------------------------------------------------------- info


def test_info_tells_what_is_there(capsys: pytest.CaptureFixture, tmp_path: Path):
    file = tmp_path / "info.json"
    assert main(["info", "-data-dir", str(tmp_path), "-json", str(file)]) == 0
    text = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["version"] == __version__ and found["packages"]["torch"] in torch.__version__
    assert found["devices"]["cpu"] == f"{cores()} cores"
    assert found["backends"]["torch"] == "available on cpu"
    assert f"MNIST is not in {tmp_path}" in found["data"]["mnist"] and "-dataset digits" in found["data"]["mnist"]
    assert all(part in text for part in ("torch", "numba", "mnist", "is not in", "optuna"))
    assert main(["info", "-json", str(tmp_path / "none" / "x")]) == 1
    assert "none/x can't be written (No such file or directory)" in capsys.readouterr().err


def test_info_reports_an_error_of_a_part(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch):
    from snn_mnist.cli import info

    monkeypatch.setattr(info, "devices", lambda: 1 / 0)
    assert main(["info", "-data-dir", str(tmp_path)]) == 0
    assert "devices: broken: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "notes"),
    [
        (["train", "-neuron", "if", "-tau", "3"], ["-tau has no effect: IF neurons have no leak"]),
        (["train", "-momentum", "0.5"], ["-momentum has no effect: it is for -opt sgd"]),
        (["train", "-momentum", "0.5", "-opt", "sgd"], []),
        (["train", "-config", "best", "-neuron", "if"], []),  # tau is the file's, not a flag
        (["train", "-config", "best", "-neuron", "if", "-tau", "3"], ["-tau has no effect: IF"]),
        (["export", "-resume", "r", "-bits", "4"], ["-bits has no effect: it is for -format hardware"]),
        (["export", "-resume", "r", "-dt", "1", "-format", "html"], ["-dt has no effect: it is for -format nir"]),
        (["export", "-resume", "r", "-seed", "4"], ["-seed has no effect: it is for -verify"]),
    ],
)
def test_flags_without_effect_are_named(tokens: list[str], notes: list[str]):
    found = read_command(tokens)[1].notes()
    assert len(found) == len(notes) and all(map(str.startswith, found, notes))


def test_flags_without_effect_on_a_checkpoint_are_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    resume = str(saved(tmp_path, neuron="if", T=2).path)
    note = "snn_mnist: note: -tau has no effect: IF neurons have no leak\n"
    assert main(["export", "-resume", resume, "-tau", "3", "-format", "html"]) == 0
    err = capsys.readouterr().err
    assert note in err and err.count("has no effect") == 1
    folder = train_run(tmp_path / "runs", epochs=1, T=2, limit_batches=1, neuron="if")
    assert main(["train", "-resume", str(folder), "-epochs", "2", "-tau", "3", "-momentum", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "\nnote: -tau has no effect: IF neurons have no leak\n" in out and "note: -momentum has" in out


def test_what_is_named_but_not_there_is_wrong_usage_in_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture):
    """2: what the command line names is not there. 1: it is there, and damaged."""
    damaged, empty = tmp_path / "damaged.pth", tmp_path / "run"
    damaged.write_bytes(b"PK")
    empty.mkdir()
    for verb in ("train", "eval", "trace", "export"):
        codes = [main([verb, "-resume", str(path)]) for path in (tmp_path / "none", empty, damaged)]
        assert codes == [2, 2, 1]
    assert main(["plot", "none"]) == main(["plot", str(empty)]) == main(["train", "-config", "none.yaml"]) == 2
    assert (main(["import", "none.nir"]), main(["import", str(damaged)])) == (2, 1)
    capsys.readouterr()
