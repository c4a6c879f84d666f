"""Which backends there are, and why one can't be used."""

from __future__ import annotations

import torch

NAMES = ("torch", "numba", "cupy")
INSTALL_CUPY = "pip install 'snn_mnist[cuda13]' (or [cuda12] for a CUDA 12 driver)"


def why_unavailable(name: str, device: str | torch.device = "cpu") -> str | None:
    """None when the fused training step of this backend runs on this device, else the reason and the remedy."""
    if name not in NAMES:
        return f"there is no backend {name!r}; choose from {', '.join(NAMES)}"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return f"no CUDA device is available to torch {torch.__version__}; use -device cpu"
    if name == "numba" and device.type != "cpu":
        return f"numba's kernels run on the CPU, not on {device}; use -device cpu, or -backend torch"
    if name == "cupy":
        return "this version has no CUDA kernels yet; use -backend torch on a GPU"
    return None


def choose(name: str, device: str | torch.device) -> tuple[str, str]:
    """(backend, the reason in words) for a name or 'auto'. An explicit name that can't be used is a ValueError."""
    if name != "auto":
        reason = why_unavailable(name, device)
        if reason:
            raise ValueError(f"backend {name!r} can't be used: {reason}")
        return name, "as asked"
    fast = "cupy" if torch.device(device).type == "cuda" else "numba"
    reason = why_unavailable(fast, device)
    if reason is None:
        return fast, f"the fused one for {torch.device(device).type}"
    return "torch", f"{fast} can't be used: {reason}"
