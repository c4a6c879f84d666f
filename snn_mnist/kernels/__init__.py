"""Numerics of the backends; nothing else of the package is imported here."""

BACKENDS = "torch", "numba", "cupy"  # the modules of core, the CPU kernels, the CUDA kernels
