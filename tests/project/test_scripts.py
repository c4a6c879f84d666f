"""The shell scripts, with stand-ins for uv, pip and the environment's Python: quick, and without a network.

The stand-ins write down how they were called; a file `mixed` in the environment's folder makes torch and
torchvision not fit together until both are installed anew.
"""

import contextlib
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from snn_mnist.cli.main import main
from tests.conftest import ROOT, Done, no_network
from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")

DRIVER = os.path.exists("/proc/driver/nvidia/version")
PYTHON = f"""#!/bin/sh
echo "python $*" >>"$CALLS"
here=$(dirname "$0")
case "$*" in
    *"import torch, torchvision"*)
        [ ! -e "$here/../mixed" ] && exit
        echo "RuntimeError: operator torchvision::nms does not exist" >&2
        exit 1 ;;
    *"import sys, urllib.request"*) [ -n "$TORCH_INDEX" ] ;;
    "-m pip install"*" uv") [ -n "$PIP_HAS_UV" ] && cp "$STUBS/uv-stub" "$here/uv" ;;
    "-m pip install"*) install "$here/.." "$@" ;;
    "-m venv "*) for last; do :; done; make-venv "$last" && [ -z "$NO_ENSUREPIP" ] ;;
    "-m ruff"*) exit ${{RUFF:-0}} ;;
    "-m mypy"*) exit ${{MYPY:-0}} ;;
    "-m pytest"*) echo "data $SNN_MNIST_DATA, strict $SNN_MNIST_STRICT"; exit ${{PYTEST:-0}} ;;
    *"scripts/train.py"*) for argument; do echo "<$argument>"; done ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case "$*" in
    "venv "*) for last; do :; done; make-venv "$last" ;;
    "pip install"*)
        echo "no cache $UV_NO_CACHE" >>"$CALLS"
        [ -z "$UV_FAILS" ] && install "$(dirname "$(dirname "$5")")" "$@" ;;
esac
"""
INSTALL = """#!/bin/sh
[ -z "$MIXED" ] || : >"$1/mixed"
case "$*" in *--force-reinstall*)
    [ -n "$HOPELESS" ] || rm -f "$1/mixed"
    echo "find-links $PIP_FIND_LINKS" >>"$CALLS" ;;
esac
if [ -n "$SLOW" ]; then : >"$SLOW"; while [ -e "$SLOW" ]; do sleep 0.05; done; fi
exit ${INSTALL_FAILS:-0}
"""
MAKE_VENV = """#!/bin/sh
mkdir -p "$1/bin" "$1/lib/python3.11/site-packages" && : >"$1/pyvenv.cfg" && cp "$STUBS/python3.11" "$1/bin/python"
"""
STAND_INS = {"python3.11": PYTHON, "uv": UV, "uv-stub": UV, "install": INSTALL, "make-venv": MAKE_VENV}
TOOLS = ["bash", "sh", "env", "cat", "cksum", "cp", "dirname", "flock", "grep", "mkdir", "mktemp", "rm", "rmdir", "sed"]
TOOLS += ["sleep", "sort", "tr", "uname"]


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
        for name, text in STAND_INS.items():
            (self.stubs / name).write_text(text)
            (self.stubs / name).chmod(0o755)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.stubs / tool).symlink_to(found)
        self.home = folder / "home"
        self.home.mkdir()

    def run(self, script: str, *arguments: str, shell: str = "bash", **variables: str) -> Done:
        self.calls_file.write_text("")
        settings = {"PATH": str(self.stubs), "STUBS": str(self.stubs), "CALLS": str(self.calls_file)}
        environment = settings | {"HOME": str(self.home)} | no_network() | variables
        command = [str(self.stubs / shell), str(self.root / script), *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, encoding="utf-8", timeout=60
        )

    def installed(self) -> str:
        """What the last run had uv or pip install, and how."""
        return ["", *self.calls("--editable")][-1].partition("install ")[2]

    def calls(self, word: str) -> list[str]:
        return [line for line in self.calls_file.read_text(encoding="utf-8").splitlines() if word in line]

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
    first = checkout.run("scripts/setup.sh", TORCH_INDEX="there")
    assert (first.returncode, first.stdout) == (0, f"{checkout.python}\n"), first.stderr
    assert f"first: source '{checkout.root}/.venv/bin/activate'" in first.stderr  # quoted, for a path with spaces
    assert checkout.installed() == f"-q --python {checkout.python} --compile-bytecode --torch-backend=auto --editable ."
    again = checkout.run("scripts/setup.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert checkout.calls("") == ["python -c "], "only whether its Python runs is looked at"


@pytest.mark.parametrize("uv", ["is there", "comes by pip", "is not to be had", "fails"])
@pytest.mark.parametrize("index", ["", "there"])
def test_pytorchs_own_index_is_used_where_it_can_be_reached(checkout: Checkout, uv: str, index: str):
    if uv not in ("is there", "fails"):
        (checkout.stubs / "uv").unlink()
    settings = {"comes by pip": {"PIP_HAS_UV": "1"}, "fails": {"UV_FAILS": "1"}}.get(uv, {})
    done = checkout.run("scripts/setup.sh", "dev", TORCH_INDEX=index, **settings)
    assert done.returncode == 0, done.stderr
    assert ("PyTorch's index can't be reached" in done.stderr) == (not index)
    assert ("uv failed (see above): trying pip" in done.stderr) == (uv == "fails")
    by_uv = uv in ("is there", "comes by pip")
    assert checkout.calls("--editable .[dev]")[-1].startswith("uv pip install" if by_uv else "python -m pip install")
    option = "--torch-backend=auto" if by_uv else "--extra-index-url=https://"
    assert (option in checkout.installed()) == bool(index and (by_uv or not DRIVER))


def test_extras_add_up_and_a_changed_pyproject_installs_again(checkout: Checkout):
    checkout.ready()
    assert checkout.run("scripts/setup.sh", "dev").returncode == 0
    assert checkout.installed().endswith(" .[dev]")
    for extras in ([], ["dev"]):
        assert checkout.run("scripts/setup.sh", *extras).returncode == 0
        assert not checkout.calls("uv ")
    assert checkout.run("scripts/setup.sh", TORCH_INDEX="there", SNN_MNIST_EXTRAS="nir,cuda13").returncode == 0
    assert checkout.installed().endswith(" .[cuda13,dev,nir]")
    assert not checkout.calls("torch-backend"), "PyTorch for CUDA comes from the package index"
    (check,) = checkout.calls("import torch, torchvision")
    assert "assert '13' in str(torch.version.cuda)" in check, "a torch that was there may be for another release"
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert checkout.run("scripts/setup.sh").returncode == 0
    assert checkout.installed().endswith(" .[cuda13,dev,nir]")


@pytest.mark.parametrize(
    ("extras", "system", "message"),
    [
        ("cuda15", "Linux x86_64", "has no extra cuda15"),
        ("torch", "Linux x86_64", "has no extra torch"),
        ("cuda12 cuda13", "Linux x86_64", "exclude each other"),
        ("cuda13", "Darwin arm64", "(extras cuda13 dev) are not made for Darwin arm64"),
        ("cuda12", "Linux aarch64", "(extras cuda12 dev) are not made for Linux aarch64"),
        ("", "Darwin x86_64", "not made for Macs with an Intel processor"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(checkout: Checkout, extras: str, system: str, message: str):
    (checkout.stubs / "uname").unlink()
    (checkout.stubs / "uname").write_text(f"#!/bin/sh\necho {system}\n")
    (checkout.stubs / "uname").chmod(0o755)
    done = checkout.run("scripts/setup.sh", "dev", SNN_MNIST_EXTRAS=extras)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not checkout.calls("uv ") and not (checkout.root / ".venv").exists()


def test_an_environment_stays_with_its_cuda_release(checkout: Checkout):
    (checkout.stubs / "uname").unlink()
    (checkout.stubs / "uname").write_text("#!/bin/sh\necho Linux x86_64\n")
    (checkout.stubs / "uname").chmod(0o755)
    checkout.ready("dev", "cuda13", "sanitizer13")
    done = checkout.run("scripts/setup.sh", SNN_MNIST_EXTRAS="cuda12")
    assert done.returncode == 1 and f"to change, delete {checkout.root}/.venv" in done.stderr
    assert checkout.run("scripts/setup.sh").stdout == f"{checkout.python}\n" and not checkout.calls("uv ")


@pytest.mark.skipif(DRIVER, reason="a driver is here")
def test_gpu_tests_look_for_a_driver_first(checkout: Checkout):
    done = checkout.run("scripts/test_gpu.sh")
    assert (done.returncode, done.stdout) == (1, "GPU tests: nothing was tested: no NVIDIA driver here\n")
    assert not checkout.calls("")


def test_no_cache_where_the_home_directory_can_not_be_written(checkout: Checkout):
    assert checkout.run("scripts/setup.sh", HOME="/dev/null", TORCH_INDEX="there").returncode == 0
    assert checkout.calls("no cache") == ["no cache 1"] and "--torch-backend=auto" in checkout.installed()
    checkout.run("scripts/setup.sh", "dev")
    assert checkout.calls("no cache") == ["no cache "]


@pytest.mark.parametrize("uv", ["", "1"])
def test_a_torch_that_does_not_fit_torchvision_is_replaced(checkout: Checkout, uv: str):
    done = checkout.run("scripts/setup.sh", MIXED="1", UV_FAILS=uv, PIP_FIND_LINKS="/opt/wheels")
    assert done.returncode == 0, done.stderr
    assert "operator torchvision::nms does not exist" in done.stderr and "do not fit together" in done.stderr
    assert checkout.calls("--force-reinstall")[-1].endswith(" --force-reinstall --editable .")
    assert checkout.calls("find-links ") == ["find-links /none"], "local wheels are what mixed them"
    assert not (checkout.root / ".venv" / "mixed").exists()


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ({"MIXED": "1", "HOPELESS": "1"}, "still do not fit together"),
        ({"INSTALL_FAILS": "1"}, "can't be installed"),
        ({"NO_ENSUREPIP": "1"}, "on Debian: apt install python3.11-venv"),
    ],
)
def test_a_failed_set_up_is_no_success_next_time(checkout: Checkout, failing: dict[str, str], message: str):
    if "NO_ENSUREPIP" in failing:
        (checkout.stubs / "uv").unlink()
    for _ in range(2):
        done = checkout.run("scripts/setup.sh", **failing)
        assert (done.returncode, done.stdout) == (1, "") and message in done.stderr.splitlines()[-1]
    assert checkout.run("scripts/setup.sh").stdout == f"{checkout.python}\n"


def test_a_failed_addition_leaves_the_environment_as_it_was(checkout: Checkout):
    checkout.ready()
    assert checkout.run("scripts/setup.sh", "dev", INSTALL_FAILS="1").returncode == 1
    again = checkout.run("scripts/setup.sh")
    assert (again.returncode, again.stdout) == (0, f"{checkout.python}\n") and not checkout.calls("uv ")


@pytest.mark.parametrize("moment", ["making", "installing", "adding"])
def test_a_set_up_that_was_killed_starts_anew(checkout: Checkout, tmp_path: Path, moment: str):
    """With uv and then without: the environment that uv or venv left half made may have no pip."""
    if moment == "adding":
        checkout.ready("dev")
    kill = "#!/bin/sh\n{}\nkill -9 $PPID\n"
    real = checkout.stubs / "real"
    real.mkdir()
    for name, text in {"make-venv": 'mkdir -p "$1/bin"', "install": 'rm -f "$1/bin/python"'}.items():
        if (name == "make-venv") == (moment == "making"):
            (checkout.stubs / name).rename(real / name)
            (checkout.stubs / name).write_text(kill.format(text).replace("$PPID", "$SETUP"))
            (checkout.stubs / name).chmod(0o755)
    (checkout.stubs / "bash-that-dies").write_text('#!/bin/bash\nexport SETUP=$$\nexec bash "$@"\n')
    (checkout.stubs / "bash-that-dies").chmod(0o755)
    killed = checkout.run("scripts/setup.sh", "nir", shell="bash-that-dies")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for file in real.iterdir():
        file.rename(checkout.stubs / file.name)
    (checkout.stubs / "uv").unlink()
    done = checkout.run("scripts/setup.sh", "nir")
    assert done.stdout == f"{checkout.python}\n", done.stderr
    assert "anew: the last set-up was interrupted" in done.stderr
    assert checkout.installed().endswith(" .[dev,nir]" if moment == "adding" else " .[nir]")


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_checkout_in_another_place_gets_an_environment_of_its_own(checkout: Checkout, tmp_path: Path, how):
    checkout.ready("dev")
    old, checkout.root = checkout.root, tmp_path / "it's elsewhere"
    how(old, checkout.root)
    for _ in range(2):
        done = checkout.run("scripts/setup.sh")
        assert done.stdout == f"{checkout.python}\n"
        assert ("anew: it was made in another place" in done.stderr) == bool(done.stderr)
        assert not done.stderr or checkout.installed().endswith(" .[dev]")
    assert not checkout.calls("uv ")


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here: nobody waits")
def test_a_second_start_waits_and_says_so(checkout: Checkout, tmp_path: Path):
    busy, flock = tmp_path / "busy", checkout.stubs / "flock"
    flock.unlink()
    flock.write_text(f'#!/bin/sh\necho "flock $*" >>"$CALLS"\nexec {shutil.which("flock")} "$@"\n')
    flock.chmod(0o755)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(checkout.run, "scripts/setup.sh", SLOW=str(busy))
        wait_until(busy.exists)
        second = pool.submit(checkout.run, "scripts/setup.sh")
        wait_until(lambda: checkout.calls("flock 9"))
        busy.unlink()
        assert first.result().returncode == 0
    assert second.result().stdout == f"{checkout.python}\n"
    assert second.result().stderr == f"setup: another set-up of {checkout.root}/.venv is running: waiting for it\n"


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


def test_train_passes_its_flags_on(checkout: Checkout):
    done = checkout.ready().run("scripts/train.sh", "-out-dir", "a b", "-tau", "1.5")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Takes about ")
    assert done.stdout == f"<{checkout.root}/scripts/train.py>\n<-out-dir>\n<a b>\n<-tau>\n<1.5>\n"


spec = importlib.util.spec_from_file_location("train_script", ROOT / "scripts" / "train.py")
assert spec and spec.loader
train_script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_script)


def recipe(*flags: str) -> str | None:
    file = train_script.recipe(flags)
    return file and file.name


@pytest.fixture
def no_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as data directory, and no network to fill it."""
    for name, value in no_network().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNN_MNIST_DATA", str(tmp_path / "empty"))
    return tmp_path


@pytest.mark.parametrize("flags", [[], ["-v-reset", "-1e-1"], ["--epochs=3"]])
def test_train_takes_digits_where_mnist_can_not_be_had(no_mnist: Path, flags: list[str], capsys):
    assert recipe(*flags) == "digits.yaml"
    said = capsys.readouterr().err
    assert "MNIST is not in" in said and "Training on the bundled digits instead" in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(no_mnist) not in line)


def test_train_takes_mnist_where_it_is(no_mnist: Path, mnist_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    assert recipe("--data-dir", str(mnist_dir)) == recipe(f"-data-dir={mnist_dir}") == "quick.yaml"
    monkeypatch.setenv("SNN_MNIST_DATA", str(mnist_dir))
    assert recipe("-epochs", "3") == "quick.yaml"
    assert capsys.readouterr() == ("", "")


def test_train_leaves_damaged_files_to_the_program(no_mnist: Path):
    (no_mnist / "empty" / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (no_mnist / "empty" / "MNIST" / "raw" / f"{name}-ubyte").touch()
    assert recipe() == "quick.yaml"


@pytest.mark.parametrize("flags", [["-dataset", "mnist"], ["--dataset=fashion"], ["-help"], ["-h"]])
def test_train_does_not_replace_a_data_set_asked_for(no_mnist: Path, flags: list[str], capsys):
    assert recipe(*flags) == "quick.yaml"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flags", [["-config", "my.yaml"], ["-resume", "logs/x"], ["--resume=logs/x"]])
def test_flags_that_bring_their_own_settings(no_mnist: Path, flags: list[str]):
    assert recipe(*flags) is None


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
        assert "apt-get install g++ gcc chromium" in said and "brew install gcc gcc google-chrome" in said
    assert checkout.run("scripts/test.sh", "-missing").stdout.startswith(" g++ gcc chromium")
    done = checkout.run("scripts/test.sh", "tests/core", "-quick")
    assert "Takes about a minute" in done.stdout
    assert checkout.calls("-m pytest") == ["python -m pytest -n 2 -m not slow and not not_quick tests/core"]


def test_ci_is_strict_and_takes_the_shared_data_where_they_are(checkout: Checkout):
    checkout.ready("dev")
    alone = checkout.run(".ci/run").stdout
    assert (
        "data , strict 1\n" in alone
        and "nothing was checked on one\nnot run here: test_every_training_pass of " in alone
    )
    assert "not to be had from the system: g++ gcc nodejs chromium" in alone
    shared = checkout.root.parent / "shared" / "data"
    shared.mkdir(parents=True)
    done = checkout.run(".ci/run", "-x")
    assert done.returncode == 0 and done.stdout.count(f"data {shared}, strict 1\n") == 2
    usual, long = checkout.calls("-m pytest")
    assert usual == "python -m pytest -n 2 -x"
    assert long.startswith("python -m pytest -n 2 -m slow or oracle -k not every_training_pass ")


def test_ci_makes_an_environment_for_the_comparisons_or_says_that_it_can_not(checkout: Checkout):
    checkout.ready("dev")
    done = checkout.run(".ci/run")
    assert done.returncode == 0 and "compared" not in done.stdout
    (install,) = checkout.calls("pip install")
    assert " --no-deps " in install and " spikingjelly>=2,<3 " in install
    (link,) = (checkout.root / ".venv-oracle").glob("lib/python3.11/site-packages/*.pth")
    assert link.read_text() == f"{checkout.root}/.venv/lib/python3.11/site-packages\n"
    done = checkout.run(".ci/run", INSTALL_FAILS="1")
    assert done.returncode == 0 and done.stdout.count("SpikingJelly can not be installed here: ") == 1
    assert checkout.calls("-m pytest")[1].startswith("python -m pytest -n 2 -m slow -k ")


def test_ci_checks_a_newer_python_too(checkout: Checkout):
    shutil.copy(checkout.stubs / "python3.11", checkout.stubs / "python3.12")
    done = checkout.run(".ci/run", "-x", PYTEST="1")
    assert done.returncode == 1
    whole, _, quick = checkout.calls("-m pytest")
    assert whole == "python -m pytest -n 2 -x" and quick.startswith(
        "python -m pytest -n 2 -m not slow and not not_quick"
    )
    assert checkout.calls("uv venv") == [
        f"uv venv -q --seed --python {python} {checkout.root}/{venv}"
        for python, venv in (("python3.11", ".venv"), ("python3.12", ".venv-newest"))
    ]


# ---------------------------------------------------------------------------- what is measured on a GPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here: run scripts/test_gpu.sh itself")
def test_gpu_tests_say_that_nothing_was_tested():
    environment = os.environ | {"SNN_MNIST_GPU_PYTHON": sys.executable}
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
    monkeypatch.setattr(gpu_marks, "SECONDS", 0.05)
    flags = ["-device", "cpu", "-dataset", "digits", "-epochs", "2", "-no-figures", "-T", "10"]
    monkeypatch.setattr(sys, "argv", ["gpu_marks", str(tmp_path), *flags])
    gpu_marks.main()
    report = (tmp_path / "gpu_marks.md").read_text(encoding="utf-8")
    runs = [line.split(" | ") for line in report.splitlines() if line.startswith("| cpu")]
    assert len(runs) == 2 and "-amp" in runs[1][0]
    for cells in runs:
        learning, whole = (float(cell.removesuffix(" s")) for cell in cells[1:3])
        assert len(cells) == 6 and 0 < learning <= whole + 0.05  # rounded to tenths
    steps = [line.split() for line in report.splitlines() if line.startswith("**")]  # without and with -amp
    assert len(steps) == 2 and all(float(words[0].strip("*")) > 0 for words in steps)
    assert "numba" in report.partition("## bench")[2]
