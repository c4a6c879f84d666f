"""Which backends there are, and why one can't be used."""

from __future__ import annotations

import torch

from snn_mnist.kernels.cuda import launch as cuda

NAMES = ("torch", "numba", "cupy")


def why_unavailable(name: str, device: str | torch.device = "cpu") -> str | None:
    """None when the fused training step of this backend runs on this device, else the reason and the remedy."""
    if name not in NAMES:
        return f"there is no backend {name!r}; choose from {', '.join(NAMES)}"
    device = torch.device(device)
    if name == "cupy":
        reason = cuda.why_unavailable(device)
        return reason if device.type == "cuda" else f"{reason}; use -backend numba"
    if device.type == "cuda" and not torch.cuda.is_available():
        return f"{cuda.device_error()}; use -device cpu"
    if name == "numba" and device.type != "cpu":
        return f"numba's kernels run on the CPU, not on {device}; use -device cpu, or -backend torch"
    return None


def why_refused(name: str, device: str | torch.device = "cpu") -> str | None:
    """`why_unavailable`, and of the CUDA kernels also what their start-up check on this very device finds."""
    reason = why_unavailable(name, device)
    if reason is None and name == "cupy":
        from snn_mnist.model import start_check as self_check

        reason = self_check.self_check(torch.device(device))
    return reason


def choose(name: str, device: str | torch.device) -> tuple[str, str]:
    """(backend, the reason in words) for a name or 'auto'. An explicit name that can't be used is a ValueError.

    The CUDA kernels are taken only after a tiny batch has given on this very device what the CPU gives.
    """
    device = torch.device(device)
    fast = "cupy" if device.type == "cuda" else "numba"
    reason = why_refused(fast if name == "auto" else name, device)
    if name != "auto":
        if reason:
            raise ValueError(f"backend {name!r} can't be used: {reason}")
        return name, "as asked"
    if reason is None:
        return fast, f"the fused one for {device.type}"
    return "torch", f"{fast} can't be used: {reason}"
