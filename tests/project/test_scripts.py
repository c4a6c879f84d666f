"""train.sh, test.sh, CI's script with the stand-ins of tests/support/checkout.py, and what is measured on a GPU."""

import contextlib
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from snn_mnist.__main__ import main
from snn_mnist.cli import bench
from tests.conftest import ROOT, no_network
from tests.support.checkout import Checkout

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_shell_can_read_every_script():
    for script in (*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert os.access(script, os.X_OK), script


# ---- train.sh ----


def test_train_passes_its_flags_on(checkout: Checkout):
    done = checkout.ready().run("scripts/train.sh", "-out-dir", "a b", "-tau", "1.5")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Takes about ")
    assert done.stdout == f"<{checkout.root}/scripts/train.py>\n<-out-dir>\n<a b>\n<-tau>\n<1.5>\n"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """recipe(*flags): the recipe that scripts/train.py takes; the data directory is empty, and there is no network."""
    for name, value in no_network().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNN_MNIST_DATA", str(tmp_path / "empty"))
    chosen = runpy.run_path(str(ROOT / "scripts" / "train.py"))["recipe"]
    return lambda *flags: getattr(chosen(flags), "name", None)


@pytest.mark.parametrize("flags", [[], ["-v-reset", "-1e-1"], ["--epochs=3"]])
def test_train_takes_digits_where_mnist_can_not_be_had(recipe, tmp_path: Path, flags: list[str], capsys):
    assert recipe(*flags) == "digits.yaml"
    said = capsys.readouterr().err
    assert "MNIST is not in" in said and "Training on the bundled digits instead" in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)


def test_train_takes_mnist_where_it_is_or_is_damaged(recipe, tmp_path: Path, mnist_dir: Path, capsys):
    assert recipe("--data-dir", str(mnist_dir)) == recipe(f"-data-dir={mnist_dir}") == "quick.yaml"
    (tmp_path / "empty" / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "empty" / "MNIST" / "raw" / f"{name}-ubyte").touch()
    assert recipe("-epochs", "3") == "quick.yaml", "train says what is wrong with the files"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        ("-dataset mnist", "quick.yaml"), ("--dataset=fashion", "quick.yaml"), ("-help", "quick.yaml"),
        ("-config my.yaml", None), ("-resume logs/x", None), ("--resume=logs/x", None),
    ],
)  # fmt: skip
def test_train_leaves_what_is_asked_for(recipe, flags: str, taken: str | None, capsys):
    assert recipe(*flags.split()) == taken and capsys.readouterr() == ("", "")


# ---- test.sh and CI ----


def test_all_checks_run_whatever_one_says(checkout: Checkout):
    done = checkout.ready("dev").run("scripts/test.sh", "-k", "a or b")
    assert done.returncode == 0 and done.stdout.endswith("all checks passed\n")
    assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -k a or b"]
    failures: list[tuple[dict[str, str], str]] = [
        ({"MYPY": "1"}, "mypy"),
        ({"RUFF": "1", "PYTEST": "5"}, "ruff format pytest"),
    ]
    for failing, named in failures:
        done = checkout.run("scripts/test.sh", **failing)
        assert done.returncode == 1 and done.stdout.endswith(f"failed: {named}\n")
        assert all(checkout.calls(f"-m {check}") for check in ("ruff", "mypy", "pytest"))


def test_missing_programs_are_named_first_and_strictness_is_for_ci(checkout: Checkout):
    checkout.ready("dev")
    (checkout.stubs / "node").symlink_to("/bin/sh")
    for flags, variables, strict in (([], {}, ""), (["-strict"], {}, "1"), ([], {"CI": "true"}, "1")):
        done = checkout.run("scripts/test.sh", *flags, "-x", **variables)
        assert done.returncode == 0 and f"data , strict {strict}\n" in done.stdout
        assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -x"]
        said, _, _ = done.stdout.partition("\n\n")
        assert "Takes about four minutes" in said and ("which fails the run" in said) == bool(strict)
        assert "\n  g++: the CUDA kernels" in said and "\n  chromium: " in said and "node" not in said
        assert "apt-get install g++ gcc chromium" in said and "brew install gcc google-chrome" in said
    assert checkout.run("scripts/test.sh", "-missing").stdout.startswith(" g++ gcc chromium")
    assert "Takes about a minute" in checkout.run("scripts/test.sh", "tests/core", "-quick").stdout
    assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -m not slow and not not_quick tests/core"]


def test_ci_is_strict_takes_the_shared_data_and_compares_where_it_can(checkout: Checkout):
    checkout.ready("dev")
    alone = checkout.run(".ci/run", INSTALL_FAILS="1")
    assert alone.returncode == 0 and "data , strict 1\n" in alone.stdout
    assert alone.stdout.count("SpikingJelly can not be installed here: ") == 1
    assert "nothing was checked on one\nnot run here: test_every_training_pass of " in alone.stdout
    assert "not to be had from the system: g++ gcc nodejs chromium" in alone.stdout
    assert checkout.calls("-m pytest")[1].startswith("python -m pytest -n 2 -m slow -k ")
    shared = checkout.root.parent / "shared" / "data"
    shared.mkdir(parents=True)
    done = checkout.run(".ci/run", "-x")
    assert done.returncode == 0 and done.stdout.count(f"data {shared}, strict 1\n") == 2
    usual, long = checkout.calls("-m pytest")
    assert usual == "python -m pytest -n 2 -x"
    assert long.startswith("python -m pytest -n 2 -m slow or oracle -k not every_training_pass ")
    (install,) = checkout.calls("pip install")
    assert " --no-deps " in install and " spikingjelly>=2,<3 " in install
    (link,) = (checkout.root / ".venv-oracle").glob("lib/python3.11/site-packages/*.pth")
    assert link.read_text() == f"{checkout.root}/.venv/lib/python3.11/site-packages\n"


def test_ci_checks_a_newer_python_too(checkout: Checkout):
    shutil.copy(checkout.stubs / "python3.11", checkout.stubs / "python3.12")
    done = checkout.run(".ci/run", "-x", PYTEST="1")
    assert done.returncode == 1
    whole, _, quick = checkout.calls("-m pytest")
    assert whole.endswith("pytest -n 2 -x") and quick.startswith("python -m pytest -n 2 -m not slow and not not_quick")
    assert checkout.calls("uv venv") == [
        f"uv venv -q --seed --python {python} {checkout.root}/{venv}"
        for python, venv in (("python3.11", ".venv"), ("python3.12", ".venv-newest"))
    ]


# ---- what is measured on a GPU ----


def test_the_first_gpu_script_selects_tests_that_are_there():
    files = [*(ROOT / "tests" / "network").glob("test_*.py"), *(ROOT / "tests" / "kernels").glob("test_*.py")]
    names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())]
    selected = re.findall(r'tests -k "?([\w ]+)', (ROOT / "scripts" / "gpu_first.sh").read_text())
    words = [word for each in selected for word in re.split(r" or | and not \w+", each) if word]
    assert len(words) == 5 and all(any(word in name for name in names) for word in words)


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia/version"), reason="a driver is here")
def test_gpu_tests_look_for_a_driver_first(checkout: Checkout):
    done = checkout.run("scripts/test_gpu.sh")
    assert (done.returncode, done.stdout) == (1, "GPU tests: nothing was tested: no NVIDIA driver here\n")
    assert not checkout.calls("")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: run scripts/test_gpu.sh itself")
def test_gpu_tests_say_that_nothing_was_tested(tmp_path: Path):
    """They are collected without the development extras too."""
    extras = ["hypothesis", "xdist", "pytest_timeout", "optuna", "nir", "scipy", "jupytext", "psycopg2", "sklearn"]
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({extras}))")
    environment = os.environ | {"SNN_MNIST_GPU_PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = ["bash", str(ROOT / "scripts" / "test_gpu.sh"), "-k", "start_up", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=280)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SKIPPED" in done.stdout and "GPU tests: nothing was tested" in done.stdout
    assert done.stdout.count(": not run: ") == 3


def test_report_of_a_gpu_is_written_for_any_device(tmp_path, monkeypatch):
    """scripts/gpu_marks.py, on the CPU and the digits, its programs in this process: every section has numbers."""
    import gpu_marks  # of scripts/, which conftest.py has put on the path

    def program(*flags: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(flags) == 0
        return printed.getvalue()

    monkeypatch.setattr(gpu_marks, "program", program)
    for measured in (gpu_marks, bench):
        monkeypatch.setattr(measured, "SECONDS", 0.02)
    flags = ["-device", "cpu", "-dataset", "digits", "-epochs", "2", "-no-figures", "-T", "10"]
    monkeypatch.setattr(sys, "argv", ["gpu_marks", str(tmp_path), *flags])
    gpu_marks.main()
    report = (tmp_path / "gpu_marks.md").read_text(encoding="utf-8")
    assert len(re.findall(r"(?m)^\| cpu.* s \| [\d.]+ s \| [\d,]+ \[", report)) == 2  # without and with -amp
    assert len(re.findall(r"(?m)^\*\*[\d.]+ µs\*\* for", report)) == 2 and "numba" in report.partition("## bench")[2]
