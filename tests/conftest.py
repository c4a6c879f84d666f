"""What all tests share: real MNIST where it lies, the program as a process, quiet property tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.skips import ACCEPTED

if TYPE_CHECKING:
    from tests.support.kernel_checks import Target

Done = subprocess.CompletedProcess[str]
Program = Callable[..., Done]
ROOT = Path(__file__).resolve().parents[1]

sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests" / "support")]
given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))  # for processes in other directories
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *map(os.path.abspath, given)])
from nursery import Nursery  # noqa: E402
from torture import QUICK  # noqa: E402

with contextlib.suppress(ModuleNotFoundError):  # the tests of a GPU do without
    import hypothesis

    hypothesis.settings.register_profile("snn_mnist", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("snn_mnist")


STARTS_PROGRAMS = {"ask", "browser", "built", "checkout", "compiled_here"}  # fixtures that do
STARTS_PROGRAMS |= {"database", "node", "nursery", "program"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `scripts/test.sh -quick` leaves out: verbs, studies, documents, CUDA, programs. Skip tests of a GPU."""
    for item in items:
        code = getattr(getattr(item, "function", None), "__code__", None)
        if (
            item.path.parent.name in ("cli", "search", "project")
            or item.path.name.startswith("test_cuda")
            or STARTS_PROGRAMS.intersection(getattr(item, "fixturenames", ()))
            or (code and "subprocess" in code.co_names)
        ):
            item.add_marker("not_quick")
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a strict run fail where a test was skipped for a reason that is not on the list of tests/support/skips.py.

    The reasons of all workers are known in the process that reports, none in a worker.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reasons = {report.longrepr[2] for report in (reporter.stats.get("skipped", ()) if reporter else ())}
    refused = {reason for reason in reasons if not reason.removeprefix("Skipped: ").startswith(tuple(ACCEPTED))}
    if refused and os.environ.get("SNN_MNIST_STRICT"):
        reporter.write_line("\n".join(["", "a strict run does not accept:", *refused]))
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def named_mnist() -> Path | None:
    """The directory that SNN_MNIST_DATA names, if MNIST's files are in it."""
    folder = os.environ.get("SNN_MNIST_DATA", "")
    return Path(folder) if folder and (Path(folder) / "MNIST" / "raw").is_dir() else None


@pytest.fixture(scope="session")
def real_mnist() -> Path:
    """The data directory with the four real MNIST files, for tests that look at those images themselves."""
    return named_mnist() or pytest.skip("only real MNIST will do: SNN_MNIST_DATA names no directory with MNIST/raw")


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with four files in MNIST's format: MNIST's own, else made ones, whose md5s then count."""
    if named := named_mnist():
        yield named
        return
    from snn_mnist.data import datasets
    from tests.support import made_mnist

    folder = tmp_path_factory.mktemp("made_mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.MD5, "mnist", made_mnist.write(folder))
        yield folder


@pytest.fixture(scope="session")
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CUDA kernels compiled for the host are kept during a session."""
    return tmp_path_factory.mktemp("host_kernels")


@pytest.fixture
def host(compiled_here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CUDA launches of this test go to the host, see cuda_host.py; fresh tensors are full of NaN."""
    import torch

    from snn_mnist.kernels.cuda import launch as cuda
    from tests.support.cuda_host import HostKernels, compiler

    if compiler() is None:
        pytest.skip("no g++ to compile the CUDA source for the host")
    kernels = HostKernels(compiled_here)
    monkeypatch.setattr(cuda, "load", kernels.load)
    monkeypatch.setattr(cuda, "shared_limit", lambda device: 232_448)
    torch.use_deterministic_algorithms(True)
    yield kernels
    torch.use_deterministic_algorithms(False)


@pytest.fixture(
    params=["numba", pytest.param("host", marks=pytest.mark.not_quick), pytest.param("gpu", marks=pytest.mark.gpu)]
)
def target(request: pytest.FixtureRequest) -> Target:
    """The kernels under test: numba's, CUDA's on the host, CUDA's on a GPU."""
    import torch

    from snn_mnist.kernels.cuda.launch import why_unavailable
    from tests.support.kernel_checks import Target

    host = request.getfixturevalue("host") if request.param == "host" else None
    if request.param == "gpu" and (reason := why_unavailable()):
        pytest.skip(reason)
    return Target(request.param, torch.device("cuda" if request.param == "gpu" else "cpu"), host)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs `python -m snn_mnist …` in an empty directory, without a network.

    `env` adds variables, or removes them with None; `extra` goes to subprocess.run.
    """

    def run(*arguments: str, env: dict[str, str | None] | None = None, **extra: Any) -> Done:
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | no_network() | (env or {})
        command = [sys.executable, "-m", "snn_mnist", *arguments]
        settings = {"cwd": tmp_path, "capture_output": True, "encoding": "utf-8", "timeout": 280} | extra
        return subprocess.run(command, env={k: v for k, v in variables.items() if v is not None}, **settings)

    return run


def no_network() -> dict[str, str]:
    """Variables that send every download to a closed port."""
    closed = "http://127.0.0.1:9"
    return {name: closed for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")} | {"no_proxy": ""}


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts the program as real processes, a second each instead of five, which have no kernel to compile."""
    with Nursery() as nursery:
        child = nursery.run("train", *QUICK, "-epochs", "1", "-out-dir", str(tmp_path_factory.mktemp("first")))
        assert child.code == 0, child.err
        yield nursery
