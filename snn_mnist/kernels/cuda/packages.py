"""Which packages go together: CuPy and PyTorch must be built for the same CUDA release."""

# PyTorch on the package index is built for CUDA 12 up to 2.10 and for CUDA 13 from 2.11 on.
PAIRS = {  # CUDA release -> the packages, as in the extras cuda12 and cuda13 of pyproject.toml
    12: ("cupy-cuda12x>=13.3", "torch<2.11", "torchvision<0.26"),
    13: ("cupy-cuda13x>=13.6", "torch>=2.11", "torchvision>=0.26"),
}


def install_pair(release: int) -> str:
    """The command that installs CuPy and a PyTorch for this CUDA release."""
    return "pip install " + " ".join(f"'{package}'" for package in PAIRS[release])


def install_cupy(torch_cuda: str | None) -> str:
    """The command that installs the CuPy for an installed torch, given its `torch.version.cuda`."""
    return f"pip install cupy-cuda{12 if torch_cuda and release(torch_cuda) < 13 else 13}x"


def mismatch(torch_cuda: str | None, cupy_release: int) -> str | None:
    """What is wrong with this CuPy beside this torch, and the remedy; None where both are for the same CUDA release."""
    if torch_cuda is None or release(torch_cuda) == cupy_release:
        return None
    return (
        f"torch is built for CUDA {torch_cuda} and CuPy for CUDA {cupy_release}; "
        f"pip uninstall cupy-cuda{cupy_release}x, then {install_cupy(torch_cuda)}"
    )


def release(version: str) -> int:
    """12 of '12.8'."""
    return int(version.split(".")[0])
