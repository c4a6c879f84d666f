"""What `info` says of a GPU and of CuPy, on machines made up here."""

from importlib import metadata

import torch

from snn_mnist.cli import info
from snn_mnist.errors import SNNError
from snn_mnist.network import start_check
from tests.support.cuda_machine import cupy_with, pretend_machine, raising


def test_each_backend_is_listed_although_a_device_is_lost(monkeypatch):
    pretend_machine(monkeypatch, cupy_with())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(start_check, "find_error", raising(SNNError("cuda can't be used: out of memory")))
    listed = info.backends()
    assert listed["cupy"]["cuda"] == "cuda can't be used: out of memory" and listed["torch"]["cpu"] == "available"


def test_two_cupys_are_reported(monkeypatch):
    versions = {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    remedy = "two CuPys disturb each other: pip uninstall cupy-cuda13x cupy-cuda12x, then install the one that fits"
    assert info.packages()["cupy-cuda12x"] == info.packages()["cupy-cuda13x"] == f"14.2.0; {remedy}"
    del versions["cupy-cuda12x"]
    assert info.packages()["cupy-cuda12x"] == "another CuPy than cupy-cuda13x, which is installed"
