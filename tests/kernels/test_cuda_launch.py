"""Why CUDA kernels can't run: the original error and the remedy, on machines made up here; how kernels are launched."""

import os
import tempfile
import tomllib
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from snn_mnist.cli import info
from snn_mnist.errors import SNNError
from snn_mnist.kernels import compile_seconds, writable
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.network import fused_steps
from tests.conftest import ROOT
from tests.support.cuda_machine import CUDARuntimeError, cupy_with, pretend_machine, raising


@pytest.mark.parametrize(
    ("torch_cuda", "cupy", "torch_error", "start", "end"),
    [
        ("13.2", {}, None, None, None),
        ("13.2", {"built": 12090}, None, None, None),  # another CUDA than torch's is used where it works
        ("13.2", None, None, "CuPy can't be used (ModuleNotFoundError: ", "); pip install cupy-cuda13x"),
        ("12.8", {"built": 12090, "device_error": CUDARuntimeError("driver:\n too old")}, None,
         "CuPy can't be used (CUDARuntimeError: driver: too old", "); pip install cupy-cuda12x"),
        ("13.2", {"built": 12090, "nvrtc_error": RuntimeError("no libnvrtc.so.12")}, None,
         "CuPy can't be used (RuntimeError: no libnvrtc.so.12); it is built for CUDA 12",
         "pip uninstall cupy-cuda12x, then pip install cupy-cuda13x"),
        (None, {}, None, f"torch {torch.__version__} is built without CUDA", ")"),
        ("13.2", {}, RuntimeError("The driver is too old (found 11040).\nPlease update it."),
         f"torch {torch.__version__} can't use a CUDA device: The driver is too old (found 11040). ", "update it"),
    ],
)  # fmt: skip
def test_the_error_and_the_line_that_installs(monkeypatch, torch_cuda, cupy, torch_error, start, end):
    pretend_machine(monkeypatch, None if cupy is None else cupy_with(**cupy), torch_cuda, torch_error)
    reason = cuda.why_unavailable("cuda")
    assert reason == cuda.why_unavailable() and "not on cpu" in cuda.why_unavailable("cpu")
    if start is None:
        assert reason is None
    else:
        assert reason.startswith(start) and reason.endswith(end) and "\n" not in reason


def test_the_extras_install_what_messages_name():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(extras[f"cuda{release}"][0].startswith(f"cupy-cuda{release}x") for release in (12, 13))


def test_cupys_kernels_are_kept_where_there_is_room(monkeypatch, tmp_path):
    """CuPy can't be imported where its cache can't be made, and its default is in the home directory."""
    pretend_machine(monkeypatch, cupy_with())
    (tmp_path / "a file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for room, given, used in (("", "mine", "mine"), ("", "", "/cupy"), ("/a file", "", "/temporary/snn_mnist-")):
        monkeypatch.setenv("SNN_MNIST_CACHE", f"{tmp_path}{room}")
        monkeypatch.setenv("CUPY_CACHE_DIR", given) if given else monkeypatch.delenv("CUPY_CACHE_DIR")
        writable.cache_clear()
        cuda.import_cupy()
        assert os.environ["CUPY_CACHE_DIR"].removeprefix(str(tmp_path)).startswith(used)
    writable.cache_clear()


def test_info_goes_on_although_a_device_is_lost(monkeypatch):
    pretend_machine(monkeypatch, cupy_with())
    monkeypatch.setattr(fused_steps, "start_up_error", raising(SNNError("cuda can't be used: out of memory")))
    assert info.guarded(info.backend, "cupy") == "cuda can't be used: out of memory"


def test_a_launch_goes_to_torchs_stream_on_its_device(monkeypatch):
    """Grid, threads, arguments by value, shared memory beyond 48 KB only when asked for."""
    calls, inside = [], []

    @contextmanager
    def within(name):  # a device or a stream
        inside.append(name)
        try:
            yield
        finally:
            inside.remove(name)

    class Kernel:
        max_dynamic_shared_size_bytes = 49152

        def __init__(self, text, name, options):
            self.text = text

        def compile(self):
            assert inside == ["device 1"]
            if self.text == "broken":
                raise ValueError("kern.cu(1): error: expected a declaration\n  broken")

        def __call__(self, grid, block, arguments, *, shared_mem):
            calls.append((grid, block, arguments, shared_mem, self.max_dynamic_shared_size_bytes, list(inside)))

    fake = cupy_with()
    fake.RawKernel, fake.cuda.Device = Kernel, lambda index: within(f"device {index}")
    pretend_machine(monkeypatch, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=700 + index))
    monkeypatch.setattr(cuda, "_stream", lambda address, index: within(f"stream {address}"))
    device, values = torch.device("cuda:1"), torch.ones(2)  # no other test loads these sources
    launch = cuda.load("text", "name", device)
    launch((3, 2), 128, (values, None, np.float32(0.5)))
    launch((3,), 128, (), shared_bytes=90_000)
    places = ["device 1", "stream 701"]
    assert calls[0] == ((3, 2), (128,), (values.data_ptr(), 0, np.float32(0.5)), 0, 49152, places)
    assert [type(a) for a in calls[0][2]] == [np.uint64, np.uint64, np.float32]
    assert calls[1] == ((3,), (128,), (), 90_000, 90_000, places) and "name" in compile_seconds
    with pytest.raises(RuntimeError, match=r"'name' can't be compiled: .* expected a declaration broken"):
        cuda.load("broken", "name", device)
