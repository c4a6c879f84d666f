"""The command line: what it accepts, what it prints, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from snn_mnist import __version__
from snn_mnist.cli.main import VERBS, Verb, main, parse, read_options
from snn_mnist.cli.verb_settings import BenchOptions, EvalOptions, ImportOptions, PlotOptions
from snn_mnist.errors import SNNError, UsageError
from snn_mnist.runs import config
from snn_mnist.runs import shared_fields as flags
from snn_mnist.runs.config import Config
from snn_mnist.runs.fields import Options, default_of, flag_of, integer, option, options_of
from tests.conftest import ROOT, Program

# ---------------------------------------------------------------------------- flags


def test_one_dash_two_dashes_equals_and_underscores():
    for tokens in (
        ["-data-dir", "x"],
        ["--data-dir", "x"],
        ["-data-dir=x"],
        ["--data_dir=x"],
        ["-data_dir", "x"],
    ):
        assert parse(Config, tokens) == {"data_dir": "x"}


def test_values_that_begin_with_a_dash():
    for text in ("-1", "-1e-1", "-.5", "-1E-05"):
        assert parse(Config, ["-v-reset", text]) == {"v_reset": float(text)}
    assert parse(EvalOptions, ["-json", "-"]) == {"json": "-"}


def test_switches():
    assert parse(Config, ["-amp"]) == parse(Config, ["--amp"]) == parse(Config, ["-amp=on"]) == {"amp": True}
    assert parse(Config, ["-no-amp"]) == parse(Config, ["-amp", "--no-amp"]) == {"amp": False}


def test_the_last_of_a_repeated_flag_counts():
    assert parse(Config, ["-T", "5", "-T", "6"]) == {"T": 6}


def test_lists_and_names_without_a_flag():
    assert parse(BenchOptions, ["-T", "1", "2", "-b", "3,4"]) == {"T": (1, 2), "b": (3, 4)}
    assert parse(PlotOptions, ["a", "-out", "x", "b"]) == {"runs": ("a", "b"), "out": "x"}
    assert parse(ImportOptions, ["a"]) == {"file": "a"}
    with pytest.raises(UsageError, match="stands alone"):
        parse(ImportOptions, ["a", "b"])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["-epoch", "3"], "unknown flag -epoch; did you mean -epochs?"),
        (["-ep", "3"], "unknown flag -ep"),
        (["--dat", "x"], "unknown flag --dat"),
        (["-b64"], "unknown flag -b64"),
        (["-no-epochs"], "unknown flag -no-epochs"),
        (["-no-amp=1"], "unknown flag -no-amp"),
        (["-given", "x"], "unknown flag -given"),
        (["-zzzzzz"], "-help lists the flags"),
        (["-T"], "-T needs a value; give an integer from 1"),
        (["-T", "-b", "64"], "-T needs a value"),
        (["-T", "--no-amp"], "-T needs a value"),
        (["-tau="], "-tau '' is not allowed"),
        (["-tau", "1"], "-tau 1 is not allowed; give a number above 1; the default is 2.0"),
        (["64"], "64 stands alone"),
        (["-"], "- stands alone"),
        (["-figures", "off"], "-figures off: a switch takes no value; give -figures or -no-figures"),
        (["--no-amp", "True", "-T", "5"], "-no-amp True: a switch takes no value; give -amp or -no-amp"),
        (["-amp=7"], "-amp 7 is not allowed; give true or false"),
    ],
)
def test_wrong_flags(tokens: list[str], message: str):
    with pytest.raises(UsageError) as caught:
        parse(Config, tokens)
    assert message in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("T: 7\nepochs: 3\namp: true\n")
    c = read_options(Config, ["-epochs", "4", "-config", str(file), "-no-amp"])
    assert isinstance(c, Config)
    assert (c.T, c.epochs, c.amp, c.b) == (7, 4, False, 64)
    assert c.given == {"T", "epochs", "amp", "config"}
    file.write_text("T: 0\n")
    with pytest.raises(UsageError, match=r"c\.yaml: T 0 is not allowed"):
        read_options(Config, ["-config", str(file)])


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_every_flag_with_its_default(name: str, capsys: pytest.CaptureFixture):
    for flag in ("-help", "--help", "-h"):
        assert main([name, flag]) == 0
    text, _ = capsys.readouterr()
    text = " ".join(text.split())
    for field, declared in options_of(VERBS[name].record):
        if not declared.positional:
            assert f" -{flag_of(field)} " in text
        default = declared.shown or as_typed(default_of(field))
        assert "(required)" in text if declared.required else f"(default: {default})" in text
    assert VERBS[name].summary[1:] in text


def as_typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def test_the_help_of_train_states_the_resume_rules(capsys: pytest.CaptureFixture):
    main(["train", "--help"])
    assert config.RESUME_RULES in capsys.readouterr().out


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture):
    assert main(["--help"]) == main(["help"]) == main(["-h"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in VERBS)
    assert main(["-version"]) == 0
    assert capsys.readouterr().out == f"snn_mnist {__version__}\n"


def test_help_imports_nothing_heavy():
    """What makes help instant, measured without a clock: no torch, no numpy, no parser of YAML."""
    code = (
        "import sys\nfrom snn_mnist.cli import VERBS, main\n"
        "for verb in VERBS: main([verb, '-help'])\nmain(['-help'])\n"
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "snn_mnist" in loaded
    assert loaded.isdisjoint({"torch", "torchvision", "numpy", "numba", "yaml", "matplotlib", "sklearn", "tqdm"})


# ---------------------------------------------------------------------------- exit codes and errors


@dataclass(frozen=True, kw_only=True)
class FakeOptions(Options):
    n: int = option(1, integer(1), "Work", "a number")


class Handler:
    """Stands for a verb: does what it is told when the verb is called."""

    outcome: object = None
    options: Options | None = None

    @classmethod
    def run(cls, options: Options) -> object:
        cls.options = options
        if isinstance(cls.outcome, BaseException):
            raise cls.outcome
        return cls.outcome


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Handler]:
    monkeypatch.setitem(sys.modules, "fake_verb", Handler)  # type: ignore[misc]
    monkeypatch.setitem(VERBS, "fake", Verb(FakeOptions, "fake_verb:run", "does nothing"))
    return Handler


@pytest.mark.parametrize(
    ("outcome", "code", "line"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (SNNError("it broke; mend it"), 1, "snn_mnist: error: it broke; mend it\n"),
        (SNNError("two\nlines"), 1, "snn_mnist: error: two lines\n"),
        (UsageError("wrong; right"), 2, "snn_mnist: error: wrong; right\n"),
        (KeyboardInterrupt(), 130, "snn_mnist: error: interrupted\n"),
        (
            RuntimeError("a\nb"),
            1,
            "snn_mnist: error: RuntimeError: a; run again with -debug for the traceback\n",
        ),
        (MemoryError(), 1, "snn_mnist: error: MemoryError: ; run again with -debug for the traceback\n"),
    ],
)
def test_how_a_verb_ends(fake: type[Handler], capsys: pytest.CaptureFixture, outcome: object, code: int, line: str):
    fake.outcome = outcome
    assert main(["fake", "-n", "2"]) == code
    assert capsys.readouterr().err == line
    assert fake.options == FakeOptions(n=2)


def test_debug_shows_the_traceback(fake: type[Handler]):
    fake.outcome = ZeroDivisionError("x")
    with pytest.raises(ZeroDivisionError):
        main(["fake", "-debug"])


def test_notes_are_shown(fake: type[Handler], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    fake.outcome = None
    monkeypatch.setattr(FakeOptions, "notes", lambda self: ["something to know"])
    assert main(["fake"]) == 0
    assert capsys.readouterr().err == "snn_mnist: note: something to know\n"


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "no verb; give one of train, eval"),
        (["trian"], "unknown verb trian; did you mean train?"),
        (["xyzzy"], "unknown verb xyzzy; give one of train"),
        (["-T", "100"], "-T is no verb; put one first: python -m snn_mnist train -T"),
        (["eval"], "-resume is missing; give a checkpoint file or a run directory"),
        (["train", "-tau", "1"], "-tau 1 is not allowed; give a number above 1"),
        (["train", "-config", "/nowhere.yaml"], "/nowhere.yaml: no such file or directory; name a YAML file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tokens: list[str], message: str, capsys: pytest.CaptureFixture):
    assert main(tokens) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"snn_mnist: error: {message}") and err.count("\n") == 1


def test_as_a_process(program: Program):
    done = program("train", "-T", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "snn_mnist: error: -T 0 is not allowed; give an integer from 1 to 1000000; the default is 100\n"
    )


def test_a_reader_that_leaves_is_no_error(program: Program):
    """As in `python -m snn_mnist train --help | head -0`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = program("train", "--help", capture_output=False, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_character_can_be_printed_anywhere(program: Program, tmp_path: Path, encoding: str):
    streams: dict[str, str | None] = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = program("train", "-config", "数据/é.yaml", env=streams, encoding="latin-1")
    assert done.returncode == 2 and "no such file or directory" in done.stderr
    done = program("eval", "--help", env=streams, encoding="latin-1")
    assert done.returncode == 0 and f"gives the {'+-' if encoding == 'ascii' else '±'} of the accuracy" in " ".join(
        done.stdout.split()
    )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_before_anything_is_to_save(tmp_path: Path):
    code = (
        "import sys, time, types\nfrom snn_mnist.cli import main as cli, verb_settings as verb_options\n"
        "def run(options):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "sys.modules['slow'] = types.SimpleNamespace(run=run)\n"
        "cli.VERBS['slow'] = cli.Verb(verb_options.InfoOptions, 'slow:run', 'sleeps')\n"
        "sys.exit(cli.main(['slow']))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, stderr=-1, text=True)
    assert child.stdout and child.stdout.readline() == "ready\n"
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (130, "snn_mnist: error: interrupted\n")
    assert time.monotonic() - started < 20


# ---------------------------------------------------------------------------- info


def test_info_tells_what_is_there(capsys: pytest.CaptureFixture, tmp_path: Path):
    file = tmp_path / "info.json"
    assert main(["info", "-data-dir", str(tmp_path), "-json", str(file)]) == 0
    text = capsys.readouterr().out
    found = json.loads(file.read_text())
    import torch

    assert found["version"] == __version__ and found["packages"]["torch"] in torch.__version__
    assert found["devices"]["cpu"] == f"{flags.cores()} cores"
    assert found["backends"]["torch"]["cpu"] == "available"
    assert set(found["data"]["mnist"].values()) == {"missing"}
    assert all(part in text for part in ("torch", "numba", "mnist", "missing (4 files in", "kernel cache:"))
    assert main(["info", "-data-dir", str(tmp_path), "-json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_info_names_damaged_data_and_broken_packages(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch):
    from snn_mnist.cli import info

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"short")
    monkeypatch.setattr(info, "devices", lambda: 1 / 0)
    assert main(["info", "-data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "is damaged: the md5 of its 5 bytes is " in text
    assert "devices: broken: ZeroDivisionError" in text


def test_results_that_cannot_be_written(capsys: pytest.CaptureFixture, tmp_path: Path):
    assert main(["info", "-json", str(tmp_path / "none" / "x")]) == 1
    out, err = capsys.readouterr()
    assert "snn_mnist" in out and "none/x can't be written (No such file or directory); free" in err
    assert err.endswith("choose another -json\n")


def test_a_python_without_the_packages_is_told_where_they_are(tmp_path: Path):
    """The commands that a run suggests, typed before the environment is activated."""
    code = "import sys; sys.modules['torch'] = None; from snn_mnist.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "-dataset", "digits"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"snn_mnist: error: {sys.executable} has no torch; take the environment ")
    assert done.stderr.endswith("source .venv/bin/activate\n")
