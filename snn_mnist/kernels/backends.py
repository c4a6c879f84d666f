"""Which backends there are, and why one can't be used."""

from __future__ import annotations

import torch

from snn_mnist.kernels import cuda

NAMES = ("torch", "numba", "cupy")


def why_unavailable(name: str, device: str | torch.device = "cpu") -> str | None:
    """None when the fused training step of this backend runs on this device, else the reason and the remedy."""
    if name not in NAMES:
        return f"there is no backend {name!r}; choose from {', '.join(NAMES)}"
    device = torch.device(device)
    if name == "cupy":
        return cuda.why_unavailable(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return f"{cuda.device_fault()}; use -device cpu"
    if name == "numba" and device.type != "cpu":
        return f"numba's kernels run on the CPU, not on {device}; use -device cpu, or -backend torch"
    return None


def choose(name: str, device: str | torch.device) -> tuple[str, str]:
    """(backend, the reason in words) for a name or 'auto'. An explicit name that can't be used is a ValueError.

    The CUDA kernels are taken only after a tiny batch has given on this very device what the CPU gives.
    """
    device = torch.device(device)
    fast = "cupy" if device.type == "cuda" else "numba"
    asked = fast if name == "auto" else name
    reason = why_unavailable(asked, device)
    if reason is None and asked == "cupy":
        from snn_mnist.kernels import self_check

        reason = self_check.self_check(device)
    if name != "auto":
        if reason:
            raise ValueError(f"backend {name!r} can't be used: {reason}")
        return name, "as asked"
    if reason is None:
        return fast, f"the fused one for {device.type}"
    return "torch", f"{fast} can't be used: {reason}"
