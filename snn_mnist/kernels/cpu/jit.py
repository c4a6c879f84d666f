"""Compilation by numba with a disk cache, surrogate gradients as compiled functions, and the threads of kernels.

The key of numba's own cache knows the file of the cached function alone: a helper changed in another file would leave
an old kernel in place. So the cache lies in a folder named by a hash of all kernel sources, behind
`_GuardedCache`, where any error is a miss. Without a folder that can be written, each process compiles anew.

A kernel that uses several threads is called once on each, with a `Team` that says which one it is; numba's own parallel
loops would compile each body three times, and their threads do not survive a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc

from snn_mnist.kernels import cache_directory, compile_seconds, formulas

log = logging.getLogger("snn_mnist")  # shown by the program, see terminal.py

# ---- compilation -----------------------------------------------------------------------------------------------


class _GuardedCache(NullCache):
    """The cache of a dispatcher or CFunc, which replaces numba's: times each compilation, and announces a long one."""

    expected: ClassVar[list[_GuardedCache]] = []  # of the long kernels that are not compiled yet, see expect

    def __init__(self, compiled: Any, name: str, what: str = "", seconds: float = 0) -> None:
        self.name, self.what, self.seconds, self.disk = name, what, seconds, NullCache()
        if folder := cache_directory():
            users_folder, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
            try:
                compiled.enable_caching()
                self.disk = compiled._cache
            finally:
                numba.config.CACHE_DIR = users_folder
        compiled._cache = self

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        overload = None
        try:
            overload = self.disk.load_overload(sig, target_context)
        except Exception:  # a damaged file can fail anywhere in unpickling
            with contextlib.suppress(OSError):
                self.disk.flush()  # a damaged index would be read again by save_overload
        if overload is None:
            if self.what:
                expected = self.expected if self in self.expected else [self]
                which = f"kernel {expected.index(self) + 1} of {len(expected)}, {self.what}"
                often = "once" if cache_directory() else "in every run (no cache can be written)"
                log.info("compiling %s, %s: about %d s ...", which, often, max(1, round(self.seconds * _slowness())))
            self.started = time.perf_counter()
        return overload

    def is_on_disk(self) -> bool:
        with contextlib.suppress(Exception):
            return bool(self.disk._cache_file._load_index())
        return False

    def save_overload(self, sig: Any, data: Any) -> None:
        compile_seconds[self.name] = compile_seconds.get(self.name, 0.0) + time.perf_counter() - self.started
        try:
            self.disk.save_overload(sig, data)
        except Exception as error:
            log.info("a compiled kernel can't be kept (%s)", error)


def kernel(what: str = "", seconds: float = 0) -> Callable[[Callable], Any]:
    """Decorator: compile an entry point with the disk cache. Helpers that it calls are inlined by LLVM.

    what: what it computes, for the announcement of a long compilation; seconds: of it where _slowness is 1.
    """

    def decorate(function: Callable) -> Any:
        if numba.config.DISABLE_JIT:  # see why_unavailable
            return function
        dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
        _GuardedCache(dispatcher, function.__name__, what, seconds)
        return dispatcher

    return decorate


def expect(*kernels: Any) -> None:
    """Let the announcements count: these kernels will be used in this order."""
    if not numba.config.DISABLE_JIT:
        _GuardedCache.expected = [kernel._cache for kernel in kernels if not kernel._cache.is_on_disk()]


@functools.cache
def _slowness() -> float:
    """Return how long this machine takes now to compile a small function, in units of 0.075 s."""
    for _ in range(2):  # the first one of a process also sets numba up
        started = time.perf_counter()
        numba.njit("float64(float64[::1], int64)")(lambda x, n: x[:n].sum() + n)
    return (time.perf_counter() - started) / 0.075


helper = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # only kernels call it
# inlined by numba itself: LLVM leaves vectors in memory where it does not inline, a fifth of the speed
inlined_helper = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, inline="always")


# ---- surrogate gradients -----------------------------------------------------------------------------------------

_NAMES = {name: getattr(math, name) for name in ("exp", "log", "log1p", "sin", "cos", "atan", "erfc", "sqrt")}
_NAMES |= {function.__name__: helper(function) for function in (formulas.where, formulas.minimum, formulas.maximum)}
_NAMES |= {"f32": np.float32, "f64": np.float64, "carray": numba.carray}

_TEMPLATE = """
def {name}(source, target, count):
    points, slopes = carray(source, count), carray(target, count)
    for i in range(count):
        x = points[i]
        slopes[i] = {expression}
"""


@functools.cache
def gradient_function(surrogate: str, parameters: tuple[tuple[str, float], ...], dtype: str = "float32") -> Any:
    """Return the compiled `void f(const real *x, real *g, int64_t count)`; its `.address` goes to a kernel."""
    formula = formulas.expression(formulas.FORMULAS[surrogate].gradient, dict(parameters), "python", dtype)
    # numba's cache tells functions of one file apart by name, line and bytecode, which holds no constants
    name = f"gradient_{surrogate}_{hashlib.sha256(formula.encode()).hexdigest()[:8]}"
    namespace = _NAMES | {"__name__": __name__}
    exec(compile(_TEMPLATE.format(name=name, expression=formula), __file__, "exec"), namespace)
    real = types.CPointer(getattr(types, dtype))
    callback = CFunc(namespace[name], ((real, real, types.int64), types.void), {}, {"error_model": "numpy"})
    _GuardedCache(callback, name)
    callback.compile()
    return callback


# ---- threads -------------------------------------------------------------------------------------------------------


class Team(NamedTuple):
    """The threads that run one call of a kernel together, as each of them sees it."""

    worker: int  # number of this thread
    workers: int
    arrived: np.ndarray  # [1] int64, see simd.wait_for_all
    pause: int  # address of a C function that sleeps, see simd.wait_for_all


_threads = numba.config.NUMBA_NUM_THREADS


def set_threads(threads: int) -> int:
    """Use this many threads in kernels, at most as many as there are cores; return the number used."""
    global _threads
    _threads = max(1, min(threads, numba.config.NUMBA_NUM_THREADS))
    return _threads


def get_threads() -> int:
    """Return the number of threads that kernels use."""
    return _threads


@functools.cache
def _pause() -> int:
    """Return the address of a C function void f(unsigned) that sleeps: microseconds, on Windows milliseconds."""
    library: Any = ctypes.CDLL(None) if os.name == "posix" else ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    return ctypes.cast(library.usleep if os.name == "posix" else library.Sleep, ctypes.c_void_p).value or 0


def on_threads(kernel: Callable[..., Any], *arguments: Any, workers: int | None = None) -> None:
    """Call kernel(team, *arguments) on this many threads at once, by default on all; wait for all of them."""
    workers = workers or _threads
    arrived = np.zeros(1, np.int64)
    teams = [Team(worker, workers, arrived, _pause()) for worker in range(workers)]
    others = [threading.Thread(target=kernel, args=(team, *arguments), daemon=True) for team in teams[1:]]
    for thread in others:
        thread.start()
    try:
        kernel(teams[0], *arguments)
    finally:
        for thread in others:
            thread.join()


def why_unavailable(device: Any = None) -> str | None:
    """Return None, or why these kernels can't run on tensors of this device (None: of any)."""
    if numba.config.DISABLE_JIT:
        return "numba compiles nothing while NUMBA_DISABLE_JIT is set; unset it"
    if device is None or str(device).partition(":")[0] == "cpu":
        return None
    return f"numba's kernels run on the CPU, not on {device}"
