"""Why the CUDA backend can't be used: the exact reason, the original error and the remedy, on machines made up here."""

import sys
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snn_mnist.cli import info
from snn_mnist.errors import UsageError
from snn_mnist.kernels import backends
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.cuda import neuron as neuron_cuda
from snn_mnist.kernels.cuda.packages import PAIRS, install_pair, mismatch
from snn_mnist.model import start_check as self_check
from snn_mnist.model.device import choose_runtime
from snn_mnist.runs import environment as machine_words
from tests.conftest import ROOT


class CUDARuntimeError(RuntimeError):
    pass


def raising(error):
    def call(*_, **__):
        raise error

    return call


def cupy_with(built=13020, driver=13020, devices=None, nvrtc=None):
    """A CuPy with this CUDA version, driver, and faults; None: none."""
    runtime = SimpleNamespace(
        runtimeGetVersion=lambda: built,
        driverGetVersion=lambda: driver,
        getDeviceCount=raising(devices) if devices else lambda: 1,
    )
    compiler = SimpleNamespace(getVersion=raising(nvrtc) if nvrtc else lambda: (built // 1000, 2))
    return SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(runtime=runtime, nvrtc=compiler))


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU that torch can use, and the CuPy given (None: not installed)."""

    def make(cupy, torch_cuda="13.2", torch_fault=None):
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        monkeypatch.setattr(torch.cuda, "init", raising(torch_fault) if torch_fault else lambda: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setitem(sys.modules, "cupy", cupy)  # None makes the import fail
        cuda._missing.cache_clear()
        return cuda.why_unavailable("cuda")

    yield make
    cuda._missing.cache_clear()


def test_nothing_is_missing(machine):
    assert machine(cupy_with()) is None
    assert neuron_cuda.why_unavailable(None) is None and neuron_cuda.why_unavailable("cuda:0") is None
    assert "not on cpu" in neuron_cuda.why_unavailable("cpu")


@pytest.mark.parametrize(("torch_cuda", "package"), [("13.2", "cupy-cuda13x"), ("12.8", "cupy-cuda12x")])
def test_cupy_is_not_installed(machine, torch_cuda, package):
    reason = machine(None, torch_cuda)
    assert reason.startswith("CuPy is not installed (ModuleNotFoundError: ")
    assert reason.endswith(f"); pip install {package}")


def test_cupy_can_not_be_imported(machine, tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcublas.so.13:\\n cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    machine(cupy_with())
    monkeypatch.delitem(sys.modules, "cupy")
    cuda._missing.cache_clear()
    reason = cuda.why_unavailable("cuda")
    assert reason == (
        "CuPy can't be imported (ImportError: libcublas.so.13: cannot open shared object file); "
        "pip install cupy-cuda13x"
    )


def test_the_driver_is_too_old_for_cupy(machine):
    reason = machine(cupy_with(built=13020, driver=12080), torch_cuda="12.8")
    assert reason == (
        "CuPy 14.2.0 for CUDA 13 needs a newer driver: the driver knows CUDA up to 12.8; update it, or: torch is built "
        "for CUDA 12.8 and CuPy for CUDA 13; pip uninstall cupy-cuda13x, then pip install cupy-cuda12x"
    )
    reason = machine(cupy_with(built=12090, driver=11040), torch_cuda="12.8")
    assert reason.endswith("CUDA up to 11.4; update it") and "needs a newer driver" in reason  # no CuPy of ours for 11


def test_cupy_for_another_cuda_than_torchs_is_named_where_it_fails(machine):
    other = (
        "torch is built for CUDA 13.2 and CuPy for CUDA 12; pip uninstall cupy-cuda12x, then pip install cupy-cuda13x"
    )
    error = CUDARuntimeError("cudaErrorSystemDriverMismatch: system has unsupported display driver")
    reason = machine(cupy_with(built=12090, driver=13020, devices=error))
    assert reason == f"CuPy 14.2.0 for CUDA 12 can't use a device ({error}); {other}"
    missing = RuntimeError("no libnvrtc.so.12")
    reason = machine(cupy_with(built=12090, driver=13020, nvrtc=missing))
    assert reason == f"CuPy 14.2.0 for CUDA 12 finds no NVRTC, its compiler ({missing}); {other}"
    assert machine(cupy_with(built=12090, driver=13020)) is None  # used where it works


def test_extras_are_the_pairs_that_messages_name():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {release: tuple(extras[f"cuda{release}"]) for release in PAIRS} == PAIRS
    assert install_pair(12) == "pip install 'cupy-cuda12x>=13.3' 'torch<2.11' 'torchvision<0.26'"
    assert mismatch("12.8", 12) is None and mismatch(None, 13) is None


def test_nvrtc_is_missing(machine):
    error = RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: cannot open shared object file")
    reason = machine(cupy_with(nvrtc=error))
    assert "finds no NVRTC, its compiler (CuPy failed to load libnvrtc.so.13" in reason
    assert reason.endswith("; pip install nvidia-cuda-nvrtc")
    assert "nvidia-cuda-nvrtc-cu12" in machine(cupy_with(built=12090, nvrtc=error), torch_cuda="12.8")


def test_torch_has_no_cuda_or_no_driver(machine):
    assert "is built without CUDA" in machine(cupy_with(driver=0), torch_cuda=None)
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")
    reason = machine(cupy_with(driver=0), torch_fault=old)
    assert "can't use a CUDA device: The NVIDIA driver on your system is too old (found version 11040)" in reason
    assert "\n" not in reason and "pip install" not in reason
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update it.")
    assert machine(cupy_with(), torch_fault=old).endswith(f"; or {install_pair(12)}")


class DriverError(Exception):
    pass


def test_a_launch_goes_to_torchs_stream_on_its_device(machine, monkeypatch):
    """Grid, threads, arguments by value, shared memory beyond 48 KB only when asked for; a fault as one line."""
    calls, inside = [], []

    class Within:  # a device or a stream, entered again and again
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            inside.append(self.name)

        def __exit__(self, *_):
            assert inside.pop() == self.name

    class Kernel:
        max_dynamic_shared_size_bytes = 49152

        def __init__(self, text, name, options):
            assert options == cuda.OPTIONS
            self.text = text

        def compile(self):
            assert inside == ["device 1"]
            if self.text == "broken":
                raise DriverError("kern.cu(1): error: expected a declaration\n  broken")

        def __call__(self, grid, block, arguments, *, shared_mem):
            calls.append((grid, block, arguments, shared_mem, self.max_dynamic_shared_size_bytes, list(inside)))
            if grid == (0,):
                raise DriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")

    fake = cupy_with()
    fake.RawKernel = Kernel
    fake.cuda.Device = lambda index: Within(f"device {index}")
    fake.cuda.Stream = SimpleNamespace(from_external=lambda stream: Within(f"stream {stream.__cuda_stream__()[1]}"))
    fake.cuda.driver, fake.cuda.runtime.CUDARuntimeError = (
        SimpleNamespace(CUDADriverError=DriverError),
        CUDARuntimeError,
    )
    machine(fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=700 + index))
    cuda._load.cache_clear(), cuda._stream.cache_clear()
    device, values = torch.device("cuda:1"), torch.ones(2)
    launch = cuda.load("text", "name", device)
    launch((3, 2), 128, (values, None, np.float32(0.5)))
    launch((3,), 128, (), shared_bytes=90_000)
    places = ["device 1", "stream 701"]
    assert calls[0] == ((3, 2), (128,), (values.data_ptr(), 0, np.float32(0.5)), 0, 49152, places)
    assert [type(a) for a in calls[0][2]] == [np.uint64, np.uint64, np.float32]
    assert calls[1] == ((3,), (128,), (), 90_000, 90_000, places) and "name" in cuda.compile_seconds
    with pytest.raises(RuntimeError, match="'name' can't be launched: CUDA_ERROR_INVALID_VALUE: invalid argument"):
        launch((0,), 128, ())
    with pytest.raises(RuntimeError, match=r"'name' can't be compiled: .* expected a declaration broken"):
        cuda.load("broken", "name", device)
    cuda._load.cache_clear(), cuda._stream.cache_clear()


def test_a_device_that_a_kernel_has_killed_is_no_place_for_another_backend(monkeypatch):
    """An illegal access ends all CUDA of a process: `auto` must not go on to torch there."""
    monkeypatch.setattr(self_check, "_differences", raising(RuntimeError("an illegal memory access was encountered")))
    self_check.self_check.cache_clear()
    alive = self_check.self_check(torch.device("cpu"))
    assert alive == "its start-up check failed: an illegal memory access was encountered"
    touched = []

    def zeros(*_, **__):
        touched.append(None)
        if len(touched) == 2:
            raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch, "zeros", zeros)  # works before the kernels, and no more after them
    with pytest.raises(RuntimeError, match=r"have made cuda unusable for this process .*illegal memory access"):
        self_check.self_check(torch.device("cuda"))
    monkeypatch.setattr(torch, "zeros", raising(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="cuda can't be used: CUDA out of memory"):
        self_check.self_check(torch.device("cuda"))
    self_check.self_check.cache_clear()


def test_info_tells_each_backend_where_a_device_is_lost(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "why_unavailable", lambda device: None)
    monkeypatch.setattr(self_check, "self_check", raising(RuntimeError("cuda can't be used: out of memory")))
    listed = info.backends()
    assert listed["cupy"]["cuda"] == "cuda can't be used: out of memory" and listed["torch"]["cpu"] == "available"


def test_info_warns_of_two_cupys_and_of_one_that_does_not_match_torch(monkeypatch):
    versions = {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}
    monkeypatch.setattr(info, "_version", lambda name: versions.get(name))
    remedy = "two CuPys disturb each other: pip uninstall cupy-cuda13x cupy-cuda12x, then install the one that fits"
    assert info.packages()["cupy-cuda12x"] == info.packages()["cupy-cuda13x"] == f"14.2.0; {remedy}"
    del versions["cupy-cuda12x"]
    assert info.packages()["cupy-cuda12x"] == "another CuPy than cupy-cuda13x, which is installed"
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert info.packages()["cupy-cuda13x"] == "14.2.0"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    other = (
        "torch is built for CUDA 12.8 and CuPy for CUDA 13; pip uninstall cupy-cuda13x, then pip install cupy-cuda12x"
    )
    assert info.packages()["cupy-cuda13x"] == f"14.2.0; {other}"


def test_this_machine_says_why(monkeypatch):
    """Whatever this machine has: an explicit choice of cupy on the CPU is refused, `auto` tells what it took."""
    cuda._missing.cache_clear()
    with pytest.raises(
        ValueError, match="'cupy' can't be used: cupy's kernels run on a CUDA device, not on cpu"
    ) as told:
        backends.choose("cupy", "cpu")
    assert str(told.value).endswith("; use -backend numba")
    assert backends.choose("auto", "cpu")[0] == "numba"


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_auto_says_why_a_gpu_is_left_unused(monkeypatch):
    """A driver is here, and torch can't use it: said with torch's own reason, where nobody asked for the CPU."""
    monkeypatch.setattr(cuda, "device_error", lambda: "torch can't use a CUDA device: the driver is too old")
    monkeypatch.setattr(machine_words, "has_nvidia_driver", lambda: True)
    assert choose_runtime("auto", "auto", 1).reason == (
        "the fused one for cpu; no GPU is used, for torch can't use a CUDA device: the driver is too old"
    )
    assert choose_runtime("cpu", "auto", 1).reason == "the fused one for cpu"
    with pytest.raises(UsageError, match=r"-device cuda: .*the driver is too old; use -device cpu"):
        choose_runtime("cuda", "auto", 1)
    monkeypatch.setattr(machine_words, "has_nvidia_driver", lambda: False)
    assert choose_runtime("auto", "auto", 1).reason == "the fused one for cpu"


def test_auto_takes_torch_when_the_start_up_check_fails(machine, monkeypatch):
    machine(cupy_with())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(self_check, "self_check", lambda device: "its start-up check failed: the spikes differ")
    assert backends.choose("auto", "cuda") == (
        "torch",
        "cupy can't be used: its start-up check failed: the spikes differ",
    )
    with pytest.raises(ValueError, match="start-up check failed"):
        backends.choose("cupy", "cuda")
    monkeypatch.setattr(self_check, "self_check", lambda device: None)
    assert backends.choose("auto", "cuda") == ("cupy", "the fused one for cuda")
    assert backends.choose("torch", "cuda") == ("torch", "as asked")


# ---- the table at the end of scripts/test_gpu.sh ----

RESULTS = """<testsuites><testsuite>
<testcase name="test_a[1]" time="1.5"><properties><property name="figure" value="3 us a step"/></properties></testcase>
<testcase name="test_a[2]" time="0.5">{outcome}</testcase>
<testcase name="test_b" time="0"><skipped message="no CUDA device here"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("outcome", "checks", "code"),
    [("", "memcheck\tclean\n", 0), ("<failure/>", "memcheck\tclean\n", 1), ("", "memcheck\tFAILED: 3 errors\n", 1)],
)
def test_table_of_results(tmp_path, capsys, outcome, checks, code):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import gpu_table
    finally:
        sys.path.pop(0)
    results, sanitizer = tmp_path / "tests.xml", tmp_path / "sanitizer.txt"
    results.write_text(RESULTS.format(outcome=outcome))
    sanitizer.write_text(checks)
    assert gpu_table.main(str(results), str(sanitizer)) == code
    lines = capsys.readouterr().out.splitlines()
    failed = 1 if outcome else 0
    assert [line.split() for line in lines if line.startswith("test_a")] == [
        ["test_a", str(2 - failed), str(failed), "0", "2.0"]
    ]
    assert "3 us a step" in lines and "skipped 1: no CUDA device here" in lines
    assert checks.replace("\t", ": ").strip() in lines
    results.write_text("<testsuites/>")
    assert gpu_table.main(str(results), str(sanitizer)) == 1  # nothing ran: that is no success
    assert gpu_table.main(str(tmp_path / "none.xml"), str(sanitizer)) == 1
