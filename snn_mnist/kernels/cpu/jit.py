"""numba compilation with numba's own disk cache, in a folder that is named by a hash of all kernel sources (cache.py).

The key of numba's cache knows the file of the cached function alone: a helper changed in another file would leave an
old kernel in place, which the name of the folder prevents. numba also raises what goes wrong with a cache file, so its
cache stands behind `_GuardedCache`, where any error is a miss. Without a folder that can be written, kernels are
compiled anew in each process and everything else works the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numba
import numba.np.ufunc.parallel
from numba.core.caching import NullCache
from numba.core.ccallback import CFunc

from snn_mnist.kernels.cache import cache_directory, compile_seconds

log = logging.getLogger("snn_mnist")  # shown by the program, see terminal.py


class _GuardedCache(NullCache):
    """The cache of one compiled function, which replaces numba's: times each compilation, and announces a long one."""

    def __init__(self, compiled: Any, name: str, what: str = "", seconds: int = 0) -> None:
        """compiled: a dispatcher of numba or a CFunc; what it computes, in words, and about how long it compiles"""
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
        except Exception as error:  # a damaged file can fail anywhere in unpickling
            log.info("a compiled kernel in %s can't be read (%s)", cache_directory(), error)
            with contextlib.suppress(OSError):
                self.disk.flush()  # a damaged index would be read again by save_overload
        if overload is None:
            self.started = time.perf_counter()
            if self.what:
                often = "once" if cache_directory() else "in every run (no cache can be written)"
                log.info("compiling the kernel of %s: %s, about %d s ...", self.what, often, self.seconds)
        return overload

    def save_overload(self, sig: Any, data: Any) -> None:
        seconds = time.perf_counter() - self.started
        compile_seconds[self.name] = compile_seconds.get(self.name, 0.0) + seconds
        log.debug("compiled %s in %.1f s", self.name, seconds)
        try:
            self.disk.save_overload(sig, data)
        except Exception as error:
            log.info("a compiled kernel can't be kept (%s)", error)


def kernel(parallel: bool = False, *, what: str = "", seconds: int = 0) -> Callable[[Callable], Any]:
    """Decorator: compile an entry point with the disk cache. Helpers that it calls are inlined by LLVM.

    what: what it computes, for a person who waits for the compiler about so many seconds; '' for short ones
    """

    def decorate(function: Callable) -> Any:
        dispatcher = numba.njit(parallel=parallel, nogil=True, error_model="numpy")(function)
        _GuardedCache(dispatcher, function.__name__, what, seconds)
        return dispatcher

    return decorate


def compiled_callback(signature: Any, function: Callable) -> CFunc:
    """A C function with this numba signature, compiled with the disk cache; it has `.address`."""
    callback = CFunc(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
    _GuardedCache(callback, function.__name__)
    callback.compile()
    return callback


def why_unavailable(device: Any = None) -> str | None:
    """None, or why these kernels can't run on tensors of this device (None: of any)."""
    if device is None or str(device).partition(":")[0] == "cpu":
        return None
    return f"numba's kernels run on the CPU, not on {device}"


def why_not_after_fork() -> str | None:
    """None, or why parallel kernels would kill this process: it was forked from one that had started their threads."""
    if not _forked_with_threads:
        return None
    return (
        "this process was forked from one that had already run a numba kernel, whose threads do not survive a fork; "
        "start it by spawn (DataLoader(…, multiprocessing_context='spawn')), or use the torch backend in it"
    )


def _note_fork() -> None:
    global _forked_with_threads
    _forked_with_threads = numba.np.ufunc.parallel._is_initialized  # as it was in the parent


_forked_with_threads = False
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_note_fork)


def set_threads(threads: int) -> int:
    """Use this many threads in parallel kernels, at most as many as numba started; returns the number used."""
    used = max(1, min(threads, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(used)
    return used
