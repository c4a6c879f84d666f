"""numba compilation with a disk cache that is keyed by every kernel source, so that it can't go stale.

numba's own cache looks at the file of the cached function alone: a helper changed in another file would leave
an old kernel in place. Here the cache folder (cache.py) is named by a hash of all files of this folder. Where it
can't be made or written, kernels compile anew in each process and everything else works the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numba.core.ccallback
import numba.core.sigutils
import numba.np.ufunc.parallel
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from snn_mnist.kernels.cache import cache_directory, source_hash

log = logging.getLogger("snn_mnist")
compile_seconds: dict[str, float] = {}  # kernel name -> seconds spent compiling it in this process


class _Locator(_CacheLocator):
    """Every function lies in the one folder, told apart by its name and code."""

    def __init__(self, function: Callable) -> None:
        self._py_file = function.__code__.co_filename
        code = function.__code__
        self._name = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:12]

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, function: Callable, _file: str) -> _Locator:
        return cls(function)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _KernelCache(FunctionCache):
    """Announces each compilation, times it, and takes any fault of the cache as a miss."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        overload = None
        if cache_directory() is not None:
            try:
                overload = super().load_overload(sig, target_context)
            except Exception as error:  # a damaged file can fail anywhere in unpickling
                log.info("the compiled kernel in %s can't be read (%s)", cache_directory(), error)
                self._forget()
        if overload is None:
            self._started = time.perf_counter()
            where = cache_directory()
            kept = f"kept in {where}" if where else "for this run only: no cache folder can be written"
            log.info("compiling %s (%s) ...", self._py_func.__name__, kept)
        return overload

    def save_overload(self, sig: Any, data: Any) -> None:
        name = self._py_func.__name__
        seconds = time.perf_counter() - self._started
        compile_seconds[name] = compile_seconds.get(name, 0.0) + seconds
        log.info("compiled %s in %.1f s", name, seconds)
        if cache_directory() is not None:
            try:
                super().save_overload(sig, data)
            except Exception as error:
                log.info("the compiled kernel can't be kept (%s)", error)

    def _forget(self) -> None:
        """Removes the index, which would be read again when the kernel is kept."""
        with contextlib.suppress(OSError):
            os.unlink(self._cache_file._index_path)


def kernel(*signature: Any, parallel: bool = False) -> Callable[[Callable], Any]:
    """Decorator: compile an entry point with the disk cache. Helpers that it calls are inlined by LLVM."""

    def decorate(function: Callable) -> Any:
        dispatcher = numba.njit(*signature, parallel=parallel, nogil=True, error_model="numpy")(function)
        dispatcher._cache = _KernelCache(function)
        return dispatcher

    return decorate


def cached_cfunc(signature: Any, function: Callable) -> Any:
    """A C function with this numba signature, compiled with the disk cache; it has `.address`."""
    library = numba.core.ccallback.CFunc(
        function, numba.core.sigutils.normalize_signature(signature), {}, {"error_model": "numpy"}
    )
    library._cache = _KernelCache(function)
    library.compile()
    return library


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
os.register_at_fork(after_in_child=_note_fork)


def set_threads(threads: int) -> int:
    """Use this many threads in parallel kernels, at most as many as numba started; returns the number used."""
    used = max(1, min(threads, numba.config.NUMBA_NUM_THREADS))
    numba.set_num_threads(used)
    return used


def announce_to_stderr() -> None:
    """Show compilation messages on stderr, one line each."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("snn_mnist: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
