"""The shell scripts, with stand-ins for uv, pip and the environment's Python: quick, and without a network.

The stand-ins write down how they were called; a file `mixed` in the environment's folder makes torch and
torchvision not fit together until both are installed anew.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, no_network

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")

PYTHON = f"""#!/bin/sh
echo "python $*" >>"$CALLS"
here=$(dirname "$0")
case "$*" in
    *"import torch, torchvision"*)
        [ ! -e "$here/../mixed" ] && exit
        echo "RuntimeError: operator torchvision::nms does not exist" >&2
        exit 1 ;;
    "-c import torch") ;;
    "-m uv "*) [ -e "$here/../own_uv" ] && shift 2 && exec uv-stub "$@" || exit 1 ;;
    "-m pip --version") ;;
    "-m pip install"*" uv") [ -z "$PIP_HAS_UV" ] || : >"$here/../own_uv"; [ -n "$PIP_HAS_UV" ] ;;
    "-m pip install"*"torch torchvision"*)
        rm -f "$here/../mixed"
        echo "find-links $PIP_FIND_LINKS" >>"$CALLS" ;;
    "-m pip install"*) [ -z "$MIXED" ] || : >"$here/../mixed"; exit ${{INSTALL_FAILS:-0}} ;;
    "-m pip"*) ;;
    "-m venv "*) for last; do :; done; make-venv "$last" ;;
    "-m ruff"*) exit ${{RUFF:-0}} ;;
    "-m mypy"*) exit ${{MYPY:-0}} ;;
    "-m pytest"*) echo "data $SNN_MNIST_DATA"; exit ${{PYTEST:-0}} ;;
    "-m snn_mnist"*) for argument; do echo "<$argument>"; done ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case "$*" in
    "venv "*) for last; do :; done; make-venv "$last" ;;
    "pip install"*"torch torchvision"*)
        [ -n "$HOPELESS" ] || rm -f "$(dirname "$(dirname "$5")")/mixed"
        echo "find-links $UV_FIND_LINKS" >>"$CALLS" ;;
    "pip install"*) [ -z "$MIXED" ] || : >"$(dirname "$(dirname "$5")")/mixed"; exit ${INSTALL_FAILS:-0} ;;
esac
"""
MAKE_VENV = """#!/bin/sh
mkdir -p "$1/bin" && : >"$1/pyvenv.cfg" && cp "$STUBS/python3.11" "$1/bin/python"
"""
TOOLS = ["bash", "sh", "env", "cat", "cksum", "cp", "dirname", "flock", "grep", "head", "ls", "mkdir"]
TOOLS += ["mktemp", "rm", "rmdir", "sed", "sort", "tail", "tr"]


class Checkout:
    """A copy of what the scripts need, in a path with spaces, with stand-ins as all there is on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "项目 with spaces"
        self.stubs = folder / "stubs"
        self.calls_file = folder / "calls"
        for part in ("scripts", "configs", ".ci", "snn_mnist"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, self.root / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.stubs.mkdir()
        for name, text in {"python3.11": PYTHON, "uv": UV, "uv-stub": UV, "make-venv": MAKE_VENV}.items():
            (self.stubs / name).write_text(text)
            (self.stubs / name).chmod(0o755)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.stubs / tool).symlink_to(found)
        self.home = folder / "home"
        self.home.mkdir()

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        settings = {"PATH": str(self.stubs), "STUBS": str(self.stubs), "CALLS": str(self.calls_file)}
        environment = settings | {"HOME": str(self.home)} | no_network() | variables
        command = [str(self.stubs / "bash"), str(self.root / script), *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, encoding="utf-8", timeout=60
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in self.calls_file.read_text().splitlines() if word in line]

    @property
    def python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")

    def ready(self, *extras: str) -> "Checkout":
        assert self.run("scripts/setup.sh", *extras).returncode == 0
        return self


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("script", sorted(p for p in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]), ids=str)
def test_the_shell_can_read_it(script: Path):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


# ---------------------------------------------------------------------------- setup.sh


def test_set_up_with_uv_then_nothing_more_to_do(checkout: Checkout):
    first = checkout.run("scripts/setup.sh")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{checkout.python}\n"
    assert checkout.calls("uv pip install") == [
        f"uv pip install --quiet --python {checkout.python} --compile-bytecode --editable ."
    ]
    again = checkout.run("scripts/setup.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert checkout.calls("") == ["python -c "], "only whether its Python runs is looked at"


def test_extras_add_up_and_a_changed_pyproject_installs_again(checkout: Checkout):
    checkout.ready()
    assert checkout.run("scripts/setup.sh", "dev").returncode == 0
    assert checkout.calls("uv pip install")[0].endswith(" .[dev]")
    for extras in ([], ["dev"]):
        assert checkout.run("scripts/setup.sh", *extras).returncode == 0
        assert not checkout.calls("uv ")
    assert checkout.run("scripts/setup.sh", SNN_MNIST_EXTRAS="nir cuda13").returncode == 0
    assert checkout.calls("uv pip install")[0].endswith(" .[cuda13,dev,nir]")
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert checkout.run("scripts/setup.sh").returncode == 0
    assert checkout.calls("uv pip install")[0].endswith(" .[cuda13,dev,nir]")


def test_an_extra_that_is_none_is_refused(checkout: Checkout):
    for extras, message in (("cuda15", "there is no extra cuda15; give some of: cuda12 cuda13 "), ("cuda12 cuda13",
                            "extras for CUDA 12 and 13 exclude each other")):  # fmt: skip
        done = checkout.run("scripts/setup.sh", "dev", SNN_MNIST_EXTRAS=extras)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
        assert not checkout.calls("uv ") and not (checkout.root / ".venv").exists()


def test_one_cupy_takes_the_place_of_another(checkout: Checkout):
    checkout.ready("dev", "cuda13", "sanitizer13")
    assert checkout.run("scripts/setup.sh", SNN_MNIST_EXTRAS="cuda12").returncode == 0
    assert checkout.calls("uninstall")[0].endswith(" cupy-cuda13x nvidia-cuda-sanitizer-api")
    assert checkout.calls("uv pip install")[0].endswith(" .[cuda12,dev]")
    assert checkout.run("scripts/setup.sh").returncode == 0 and not checkout.calls("uv ")


@pytest.mark.skipif(os.path.exists("/proc/driver/nvidia/version"), reason="there is one")
def test_gpu_tests_look_for_a_driver_first(checkout: Checkout):
    done = checkout.run("scripts/test_gpu.sh")
    assert (done.returncode, done.stdout) == (1, "GPU tests: nothing was tested: no NVIDIA driver here\n")
    assert not checkout.calls("")


def test_uv_from_pip_where_it_is_not_there(checkout: Checkout):
    (checkout.stubs / "uv").unlink()
    assert checkout.run("scripts/setup.sh", PIP_HAS_UV="1").returncode == 0
    assert checkout.calls("uv pip install")[-1].endswith("--editable .")
    assert not checkout.calls("pip install --quiet --disable")


def test_pip_where_there_is_no_uv_and_when_asked_for(checkout: Checkout):
    done = checkout.run("scripts/setup.sh", "dev", SNN_MNIST_INSTALLER="pip")
    assert done.returncode == 0 and not checkout.calls("uv ")
    assert checkout.calls("-m pip install")[0].endswith("--editable .[dev]")
    (checkout.stubs / "uv").unlink()
    done = checkout.run("scripts/setup.sh", "nir")
    assert done.returncode == 0
    assert checkout.calls("-m pip install --quiet --disable-pip-version-check --editable .[dev,nir]")
    assert checkout.run("scripts/setup.sh", SNN_MNIST_INSTALLER="conda").returncode == 0, "nothing to do"
    assert "give uv or pip" in checkout.run("scripts/setup.sh", "cuda12", SNN_MNIST_INSTALLER="conda").stderr


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_torch_that_does_not_fit_torchvision_is_replaced(checkout: Checkout, installer: str):
    done = checkout.run("scripts/setup.sh", MIXED="1", SNN_MNIST_INSTALLER=installer, PIP_FIND_LINKS="/opt/wheels")
    assert done.returncode == 0, done.stderr
    assert "operator torchvision::nms does not exist" in done.stderr
    lines = checkout.calls("")
    (removed,) = [i for i, line in enumerate(lines) if "uninstall" in line]
    assert lines[removed].endswith("torch torchvision") and lines[removed + 1].endswith("torch torchvision")
    (links,) = checkout.calls("find-links ")
    assert links not in ("find-links ", "find-links /opt/wheels"), "local wheels are what mixed them"
    assert not (checkout.root / ".venv" / "mixed").exists()


def test_a_pair_that_can_not_be_mended_is_an_error_and_no_success_next_time(checkout: Checkout):
    for _ in range(2):
        done = checkout.run("scripts/setup.sh", MIXED="1", HOPELESS="1")
        assert (done.returncode, done.stdout) == (1, "")
        assert "still do not fit together (RuntimeError: operator torchvision::nms" in done.stderr
    assert checkout.calls("--index-url https://download.pytorch.org/whl/cpu")


def test_a_failed_installation_is_no_success_next_time(checkout: Checkout):
    for _ in range(2):
        done = checkout.run("scripts/setup.sh", INSTALL_FAILS="1")
        assert (done.returncode, done.stdout) == (1, "") and "can't be installed" in done.stderr


def test_no_python(checkout: Checkout):
    for name in ("uv", "python3.11"):
        (checkout.stubs / name).rename(checkout.stubs / f"{name}.away")
    done = checkout.run("scripts/setup.sh")
    assert done.returncode == 1 and done.stderr.startswith("setup: error: no Python 3.11 or newer found")
    (checkout.stubs / "python3").write_text("#!/bin/sh\nexit 1\n")
    (checkout.stubs / "python3").chmod(0o755)
    assert checkout.run("scripts/setup.sh").returncode == 1, "a Python that is too old"
    done = checkout.run("scripts/setup.sh", SNN_MNIST_PYTHON="/no/python")
    assert "SNN_MNIST_PYTHON=/no/python is no Python 3.11" in done.stderr


def test_the_environment_elsewhere_and_one_whose_python_is_gone(checkout: Checkout, tmp_path: Path):
    place = tmp_path / "other place"
    for _ in range(2):
        done = checkout.run("scripts/setup.sh", SNN_MNIST_VENV=str(place))
        assert done.stdout == f"{place}/bin/python\n" and not (checkout.root / ".venv").exists()
        (place / "bin" / "python").unlink()
    assert checkout.calls("uv venv")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("precious")
    done = checkout.run("scripts/setup.sh", SNN_MNIST_VENV=str(taken))
    assert done.returncode == 1 and "is no virtual environment" in done.stderr
    assert (taken / "thesis.tex").read_text() == "precious"


# ---------------------------------------------------------------------------- train.sh


def trained_with(checkout: Checkout, *flags: str, **variables: str) -> tuple[list[str], str]:
    """The arguments that `python -m snn_mnist` got, and what was said."""
    done = checkout.run("scripts/train.sh", *flags, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"<{checkout.root}/", "<").replace(">\n", "> ").strip(" <>").split("> <"), done.stderr


@pytest.fixture
def with_mnist(checkout: Checkout, tmp_path: Path) -> str:
    raw = tmp_path / "my data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").touch()
    return str(tmp_path / "my data")


QUICK = ["-m", "snn_mnist", "train", "-config", "configs/quick.yaml"]
DIGITS = ["-m", "snn_mnist", "train", "-config", "configs/digits.yaml"]


def test_train_on_mnist_with_the_flags_passed_on(checkout: Checkout, with_mnist: str):
    checkout.ready()
    arguments, said = trained_with(checkout, "-out-dir", "a b", "-epochs", "3", SNN_MNIST_DATA=with_mnist)
    assert (arguments, said) == ([*QUICK, "-out-dir", "a b", "-epochs", "3"], "")
    arguments, said = trained_with(checkout, "--data-dir", with_mnist)
    assert (arguments, said) == ([*QUICK, "--data-dir", with_mnist], "")


def test_train_on_digits_when_mnist_can_not_be_had(checkout: Checkout):
    checkout.ready()
    arguments, said = trained_with(checkout, "-epochs", "3")
    assert arguments == [*DIGITS, "-epochs", "3"]
    assert "MNIST is not in" in said and "Training on the bundled digits instead" in said


@pytest.mark.parametrize("flags", [["-dataset", "mnist"], ["--dataset=mnist"]])
def test_a_data_set_asked_for_is_not_replaced(checkout: Checkout, flags: list[str]):
    arguments, said = trained_with(checkout.ready(), *flags)
    assert (arguments, said) == ([*QUICK, *flags], "")


@pytest.mark.parametrize("flags", [["-config", "my.yaml"], ["-resume", "logs/x"], ["--resume=logs/x"]])
def test_flags_that_bring_their_own_settings(checkout: Checkout, flags: list[str]):
    arguments, said = trained_with(checkout.ready(), *flags)
    assert (arguments, said) == (["-m", "snn_mnist", "train", *flags], "")


def test_wrong_flags_are_left_to_train(checkout: Checkout):
    arguments, _ = trained_with(checkout.ready(), "-tau", "1")
    assert arguments == [*QUICK, "-tau", "1"]


# ---------------------------------------------------------------------------- test.sh and CI


def test_all_checks_run_whatever_one_says(checkout: Checkout):
    checkout.ready("dev")
    done = checkout.run("scripts/test.sh", "-k", "a or b")
    assert done.returncode == 0 and done.stdout.endswith("all checks passed\n")
    assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -k a or b"]
    failures: list[tuple[dict[str, str], str]] = [
        ({"RUFF": "1"}, "ruff format"),
        ({"MYPY": "1"}, "mypy"),
        ({"PYTEST": "1"}, "pytest"),
        ({"RUFF": "1", "PYTEST": "5"}, "ruff format pytest"),
    ]
    for failing, named in failures:
        done = checkout.run("scripts/test.sh", **failing)
        assert done.returncode == 1
        assert done.stdout.endswith(f"failed: {named}\n")
        assert all(checkout.calls(f"-m {check}") for check in ("ruff", "mypy", "pytest"))


def test_ci_takes_the_shared_data_where_they_are(checkout: Checkout):
    checkout.ready("dev")
    assert "data \n" in checkout.run(".ci/run").stdout
    shared = checkout.root.parent / "shared" / "data"
    shared.mkdir(parents=True)
    done = checkout.run(".ci/run", "-x")
    assert done.returncode == 0 and f"data {shared}\n" in done.stdout
    assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -x"]


# ---------------------------------------------------------------------------- what is measured on a GPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: run scripts/test_gpu.sh itself")
def test_gpu_tests_say_that_nothing_was_tested():
    environment = os.environ | {"SNN_MNIST_GPU_PYTHON": sys.executable}
    command = ["bash", str(ROOT / "scripts" / "test_gpu.sh"), "-k", "start_up", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=200)
    assert done.returncode == 1, done.stdout + done.stderr
    table = done.stdout.partition("\nno CUDA device\n")[2].splitlines()
    assert ["test_start_up_check", "0", "0", "1"] in [line.split()[:4] for line in table]
    assert [line.partition(": ")[0] for line in table if ": not run: " in line] == [
        "memcheck",
        "racecheck",
        "synccheck",
    ]
    assert table[-1] == "GPU tests: nothing was tested"


def test_report_of_a_gpu_is_written_for_any_device(tmp_path):
    """scripts/gpu_marks.py, on the CPU and the digits: every section, with numbers in it."""
    command = [sys.executable, str(ROOT / "scripts" / "gpu_marks.py"), str(tmp_path), "-device", "cpu"]
    command += ["-seconds", "0.05", "-repeats", "2", "-flags", "-dataset", "digits", "-epochs", "2", "-no-figures"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "gpu_marks.md").read_text(encoding="utf-8")
    runs = [line.split(" | ") for line in report.splitlines() if line.startswith("| cpu")]
    assert [cells[0] for cells in runs] == ["| cpu", "| cpu -amp"]
    assert "## configs/tutorial.yaml with -dataset digits -epochs 2 -no-figures" in report
    for cells in runs:
        assert len(cells) == 7 and cells[6].startswith("all finite; 0 epochs with skipped steps")
        assert 0 < float(cells[1].removesuffix(" s")) < float(cells[2].removesuffix(" s"))
    step = float(report.partition("**")[2].partition(" µs")[0])
    parts = [float(line.split("|")[2]) for line in report.splitlines() if line.startswith(("| encode", "| weight"))]
    assert len(parts) == 4 and sum(parts) > 0 and step > 0
    assert "numba" in report.partition("## bench")[2] and "median of 2 measurements" in report.partition("## bench")[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-device", "cpu", "-flags", "-epocs", "2"], "unknown flag -epocs; did you mean -epochs?"),
        (["-device", "cuda:999"], "-device cuda:999: "),
    ],
)
def test_report_of_a_gpu_refuses_in_one_line(tmp_path, flags, message):
    command = [sys.executable, str(ROOT / "scripts" / "gpu_marks.py"), str(tmp_path / "out"), *flags]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.startswith("gpu_marks: error: ") and message in done.stderr and done.stderr.count("\n") == 1
