"""NVRTC by ctypes: compiles CUDA source where there is no GPU. Its library comes with torch's CUDA wheels."""

import ctypes
import functools
import importlib.util
from pathlib import Path

from snn_mnist.kernels.cuda.launch import OPTIONS

CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")


@functools.cache
def library() -> ctypes.CDLL | None:
    """libnvrtc of the installed nvidia packages, or the system's; None where there is none."""
    found = []
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        found += sorted(map(str, Path(folder).glob("*/lib/libnvrtc.so.*")))
    for name in [*found, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        if "alt" not in name:
            try:
                return ctypes.CDLL(name)
            except OSError:
                continue
    return None


def compile_text(text: str, architecture: str, *options: str) -> str:
    """The log of a program for an architecture such as sm_90; an AssertionError with it where that fails."""
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    try:
        flags = [flag.encode() for flag in (f"--gpu-architecture={architecture}", *OPTIONS, *CUPY_ADDS, *options)]
        lib = library()
        assert lib is not None
        result = lib.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        size = ctypes.c_size_t()
        _call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        _call("nvrtcGetProgramLog", program, log)
        assert result == 0, log.value.decode()
        return log.value.decode()
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _call(name: str, *arguments: object) -> None:
    lib = library()
    assert lib is not None
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p
    result = getattr(lib, name)(*arguments)
    assert result == 0, f"{name}: {lib.nvrtcGetErrorString(result).decode()}"
