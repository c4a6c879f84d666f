"""scripts/setup.sh, with the stand-ins of tests/support/checkout.py."""

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.checkout import STAND_INS, Checkout
from tests.support.runs import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")
DRIVER = os.path.exists("/proc/driver/nvidia/version")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_set_up_with_uv_then_nothing_more_to_do(checkout: Checkout):
    first = checkout.set_up(TORCH_INDEX="there")
    assert (first.returncode, first.stdout) == (0, f"{checkout.python}\n"), first.stderr
    assert f"first: source '{checkout.root}/.venv/bin/activate'" in first.stderr  # quoted, for a path with spaces
    assert checkout.installed() == f"-q --python {checkout.python} --compile-bytecode --torch-backend=auto --editable ."
    again = checkout.set_up()
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert checkout.calls("") == ["python -c "], "only whether its Python runs is looked at"


@pytest.mark.parametrize(
    ("uv", "index"), [("is there", "there"), ("comes by pip", ""), ("is missing", "there"), ("fails", "")]
)
def test_pytorchs_own_index_is_used_where_it_can_be_reached(checkout: Checkout, uv: str, index: str):
    if uv not in ("is there", "fails"):
        (checkout.stubs / "uv").unlink()
    settings = {"comes by pip": {"PIP_HAS_UV": "1"}, "fails": {"UV_FAILS": "1"}}.get(uv, {})
    done = checkout.set_up("dev", TORCH_INDEX=index, **settings)
    assert done.returncode == 0, done.stderr
    assert ("PyTorch's own server can't be reached" in done.stderr) == (not index)
    assert ("uv failed (see above): trying pip" in done.stderr) == (uv == "fails")
    by_uv = uv in ("is there", "comes by pip")
    assert checkout.calls("--editable .[dev]")[-1].startswith("uv pip install" if by_uv else "python -m pip install")
    option = "--torch-backend=auto" if by_uv else "--extra-index-url=https://"
    assert (option in checkout.installed()) == bool(index and (by_uv or not DRIVER))


def test_extras_add_up_and_a_changed_pyproject_installs_again(checkout: Checkout):
    checkout.stub("uname", "echo Linux x86_64")
    checkout.ready().ready("dev")
    assert checkout.installed().endswith(" .[dev]")
    checkout.ready()
    assert not checkout.calls("uv ")
    assert checkout.set_up(TORCH_INDEX="there", SNN_MNIST_EXTRAS="nir,cuda13").returncode == 0
    assert checkout.installed().endswith(" .[cuda13,dev,nir]")
    assert not checkout.calls("torch-backend"), "PyTorch for CUDA comes from the package index"
    (check,) = checkout.calls("import torch, torchvision")
    assert "assert '13' in str(torch.version.cuda)" in check, "a torch that was there may be for another release"
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    checkout.ready()
    assert checkout.installed().endswith(" .[cuda13,dev,nir]")
    done = checkout.set_up(SNN_MNIST_EXTRAS="cuda12")
    assert done.returncode == 1 and f"to change, delete {checkout.root}/.venv" in done.stderr
    assert checkout.ready() and not checkout.calls("uv "), "the environment is as it was"


@pytest.mark.parametrize(
    ("extras", "system", "message"),
    [
        ("cuda15", "Linux x86_64", "has no extra cuda15"),
        ("cuda12 cuda13", "Linux x86_64", "exclude each other"),
        ("cuda12", "Linux aarch64", "no CUDA for Linux aarch64 (extras cuda12 dev)"),
        ("", "Darwin x86_64", "not made for Macs with Intel processors"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(checkout: Checkout, extras: str, system: str, message: str):
    checkout.stub("uname", f"echo {system}")
    done = checkout.set_up("dev", SNN_MNIST_EXTRAS=extras)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
    assert not checkout.calls("uv ") and not (checkout.root / ".venv").exists()


def test_no_cache_where_the_home_directory_can_not_be_written(checkout: Checkout):
    for home, used in (("/dev/null", "no cache 1"), (str(checkout.home), "no cache ")):
        assert checkout.set_up(*["dev"] * (used == "no cache "), HOME=home).returncode == 0
        assert checkout.calls("no cache") == [used]


def test_a_torch_that_does_not_fit_torchvision_is_replaced(checkout: Checkout):
    done = checkout.set_up(MIXED="1", UV_FAILS="1", PIP_FIND_LINKS="/opt/wheels")
    assert done.returncode == 0, done.stderr
    assert "operator torchvision::nms does not exist" in done.stderr and "do not match" in done.stderr
    assert checkout.calls("--force-reinstall")[-1].endswith(" --force-reinstall --editable .")
    assert checkout.calls("find-links ") == ["find-links /none"], "local wheels are what mixed them"


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ({"MIXED": "1", "HOPELESS": "1"}, "still do not match"),
        ({"INSTALL_FAILS": "1"}, "can't be installed"),
        ({"NO_ENSUREPIP": "1"}, "on Debian: apt install python3.11-venv"),
    ],
)
def test_a_failed_set_up_is_no_success_next_time(checkout: Checkout, failing: dict[str, str], message: str):
    if "NO_ENSUREPIP" in failing:
        (checkout.stubs / "uv").unlink()
    for _ in range(2):
        done = checkout.set_up(**failing)
        assert (done.returncode, done.stdout) == (1, "") and message in done.stderr.splitlines()[-1]
    assert checkout.set_up().stdout == f"{checkout.python}\n"
    assert checkout.set_up("nir", INSTALL_FAILS="1").returncode == 1
    assert checkout.ready() and not checkout.calls("uv "), "the environment is as it was"


@pytest.mark.parametrize("moment", ["making", "installing", "adding"])
def test_a_set_up_that_was_killed_starts_anew(checkout: Checkout, moment: str):
    """With uv and then without: the environment that uv or venv left half made may have no pip."""
    if moment == "adding":
        checkout.ready("dev")
    name, half = ("make-venv", 'mkdir -p "$1/bin"') if moment == "making" else ("install", 'rm -f "$1/bin/python"')
    checkout.stub(name, f"{half}\nkill -9 0")  # the whole process group
    assert checkout.set_up("nir").returncode == -signal.SIGKILL
    checkout.stub(name, STAND_INS[name])
    (checkout.stubs / "uv").unlink()
    done = checkout.set_up("nir")
    assert done.stdout == f"{checkout.python}\n", done.stderr
    assert "anew: the last set-up was interrupted" in done.stderr
    assert checkout.installed().endswith(" .[dev,nir]" if moment == "adding" else " .[nir]")


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_checkout_in_another_place_gets_an_environment_of_its_own(checkout: Checkout, tmp_path: Path, how):
    old, checkout.root = checkout.ready("dev").root, tmp_path / "it's elsewhere"
    how(old, checkout.root)
    done = checkout.set_up()
    assert done.stdout == f"{checkout.python}\n" and "anew: it was made in another place" in done.stderr
    assert checkout.installed().endswith(" .[dev]")
    assert checkout.set_up().stdout == done.stdout and not checkout.calls("uv ")


@pytest.mark.skipif(not shutil.which("flock"), reason="no flock here: nobody waits")
def test_a_second_start_waits_and_says_so(checkout: Checkout, tmp_path: Path):
    busy = tmp_path / "busy"
    checkout.stub("flock", f'echo "flock $*" >>"$CALLS"\nexec {shutil.which("flock")} "$@"')
    with ThreadPoolExecutor() as pool:
        first = pool.submit(checkout.set_up, SLOW=str(busy))
        wait_until(busy.exists)
        second = pool.submit(checkout.set_up)
        wait_until(lambda: checkout.calls("flock 9"))
        busy.unlink()
        assert first.result().returncode == 0
    assert second.result().stdout == f"{checkout.python}\n"
    assert second.result().stderr == f"setup: another set-up of {checkout.root}/.venv is running: waiting for it\n"


def test_no_python(checkout: Checkout):
    for name in ("uv", "python3.11"):
        (checkout.stubs / name).unlink()
    assert "error: no Python 3.11 or newer; install" in checkout.set_up().stderr
    checkout.stub("python3", "exit 1")
    assert checkout.set_up().returncode == 1, "a Python that is too old"
    assert "SNN_MNIST_PYTHON=/no/python is no Python 3.11" in checkout.set_up(SNN_MNIST_PYTHON="/no/python").stderr


def test_the_environment_elsewhere_and_one_whose_python_is_gone(checkout: Checkout, tmp_path: Path):
    place, taken = tmp_path / "other place", tmp_path / "taken"
    for _ in range(2):
        done = checkout.set_up(SNN_MNIST_VENV=str(place))
        assert done.stdout == f"{place}/bin/python\n" and not (checkout.root / ".venv").exists()
        (place / "bin" / "python").unlink()
    assert checkout.calls("uv venv")
    taken.mkdir()
    (taken / "thesis.tex").write_text("precious")
    done = checkout.set_up(SNN_MNIST_VENV=str(taken))
    assert done.returncode == 1 and "is no virtual environment" in done.stderr
    assert (taken / "thesis.tex").read_text() == "precious"
