"""Why CUDA kernels can't run: exact reason, original error and remedy, on machines made up here; how they launch."""

import sys
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snn_mnist.kernels.cache import compile_seconds
from snn_mnist.kernels.cuda import available
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.cuda import neuron as neuron_cuda
from snn_mnist.kernels.cuda.packages import PAIRS, install_pair, mismatch
from tests.conftest import ROOT
from tests.support.cuda_machine import CUDARuntimeError, cupy_with, pretend_machine


@pytest.fixture
def machine(monkeypatch):
    """machine(cupy, …): why the kernels can't run on that machine."""

    def why(*args, **settings):
        pretend_machine(monkeypatch, *args, **settings)
        return available.why_unavailable("cuda")

    return why


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
    available.what_is_missing.cache_clear()
    reason = available.why_unavailable("cuda")
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
    reason = machine(cupy_with(built=12090, driver=13020, device_error=error))
    assert reason == f"CuPy 14.2.0 for CUDA 12 can't use a device ({error}); {other}"
    missing = RuntimeError("no libnvrtc.so.12")
    reason = machine(cupy_with(built=12090, driver=13020, nvrtc_error=missing))
    assert reason == f"CuPy 14.2.0 for CUDA 12 finds no NVRTC, its compiler ({missing}); {other}"
    assert machine(cupy_with(built=12090, driver=13020)) is None  # used where it works


def test_extras_are_the_pairs_that_messages_name():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {release: tuple(extras[f"cuda{release}"]) for release in PAIRS} == PAIRS
    assert install_pair(12) == "pip install 'cupy-cuda12x>=13.3' 'torch<2.11' 'torchvision<0.26'"
    assert mismatch("12.8", 12) is None and mismatch(None, 13) is None


def test_nvrtc_is_missing(machine):
    error = RuntimeError("CuPy failed to load libnvrtc.so.13: OSError: cannot open shared object file")
    reason = machine(cupy_with(nvrtc_error=error))
    assert "finds no NVRTC, its compiler (CuPy failed to load libnvrtc.so.13" in reason
    assert reason.endswith("; pip install nvidia-cuda-nvrtc")
    assert "nvidia-cuda-nvrtc-cu12" in machine(cupy_with(built=12090, nvrtc_error=error), torch_cuda="12.8")


def test_torch_has_no_cuda_or_no_driver(machine):
    assert "is built without CUDA" in machine(cupy_with(driver=0), torch_cuda=None)
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")
    reason = machine(cupy_with(driver=0), torch_error=old)
    assert "can't use a CUDA device: The NVIDIA driver on your system is too old (found version 11040)" in reason
    assert "\n" not in reason and "pip install" not in reason
    old = RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update it.")
    assert machine(cupy_with(), torch_error=old).endswith(f"; or {install_pair(12)}")


class DriverError(Exception):
    pass


def test_a_launch_goes_to_torchs_stream_on_its_device(machine, monkeypatch):
    """Grid, threads, arguments by value, shared memory beyond 48 KB only when asked for; an error as one line."""
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
    device, values = torch.device("cuda:1"), torch.ones(2)  # no other test loads these sources or knows this stream
    launch = cuda.load("text", "name", device)
    launch((3, 2), 128, (values, None, np.float32(0.5)))
    launch((3,), 128, (), shared_bytes=90_000)
    places = ["device 1", "stream 701"]
    assert calls[0] == ((3, 2), (128,), (values.data_ptr(), 0, np.float32(0.5)), 0, 49152, places)
    assert [type(a) for a in calls[0][2]] == [np.uint64, np.uint64, np.float32]
    assert calls[1] == ((3,), (128,), (), 90_000, 90_000, places) and "name" in compile_seconds
    with pytest.raises(RuntimeError, match="'name' can't be launched: CUDA_ERROR_INVALID_VALUE: invalid argument"):
        launch((0,), 128, ())
    with pytest.raises(RuntimeError, match=r"'name' can't be compiled: .* expected a declaration broken"):
        cuda.load("broken", "name", device)
