"""The CUDA kernels on real threads under the host compiler's sanitizers: races, and memory out of bounds.

What compute-sanitizer does on a GPU, for the same source: every thread of a block is a thread here, every barrier a
barrier, shared and global memory lie in allocations of their exact sizes. A launch is a process of its own, which gets
its arguments by a file and gives the memory back by another. What this can't show is what only the GPU has: warps.
"""

import ctypes
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import torch

from tests.support.cuda_host import OPTIONS, TYPES, HostKernels, compiler, parameters

RACES, MEMORY = "thread", "address,undefined"  # what -fsanitize takes

MAIN = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_barrier_t barriers[2], turn; // of the threads of a block; of those and main, between blocks
static thread_local int phase;
// Two in turn: a thread that leaves one late would else be ordered after those that have come to the next already, for
// the checker takes both for one, and would miss what lies between them in a quarter of all runs.
static void host_barrier() { pthread_barrier_wait(&barriers[phase ^= 1]); }

static i64 number(FILE *file) {
    i64 value;
    if (fread(&value, 8, 1, file) != 1) abort();
    return value;
}
static void *bytes(i64 size, FILE *file) {
    if (size < 0) return NULL;
    void *memory = malloc(size);
    if (fread(memory, 1, size, file) != (size_t)size) abort();
    return memory;
}
static i64 sizes[%(count)d];
static void *values[%(count)d];

struct Pointer {
    void *to;
    template <typename type> operator type *() const { return (type *)to; }
};

static i64 blocks; // columns * rows
static void *run(void *thread) {
    host_thread = (int)(i64)thread;
    for (i64 block = 0; block < blocks; ++block) {
        pthread_barrier_wait(&turn); // its memory is there
        %(name)s(%(arguments)s);
        pthread_barrier_wait(&turn);
    }
    return NULL;
}

int main(int, char **files) {
    FILE *file = fopen(files[1], "rb");
    const i64 columns = number(file), rows = number(file), threads = number(file), shared = number(file);
    for (int i = 0; i < %(count)d; ++i) sizes[i] = number(file), values[i] = bytes(sizes[i], file);
    host_grid = columns, blocks = columns * rows;
    for (int i = 0; i < 2; ++i) pthread_barrier_init(barriers + i, NULL, threads);
    pthread_barrier_init(&turn, NULL, threads + 1);
    pthread_t *made = (pthread_t *)malloc(threads * sizeof(pthread_t));
    for (i64 i = 0; i < threads; ++i)
        if (pthread_create(made + i, NULL, run, (void *)i)) abort();
    for (i64 block = 0; block < blocks; ++block) {
        host_block = block %% columns, host_row = (int)(block / columns);
        host_memory = (char *)malloc(shared);
        memset(host_memory, 0xFF, shared);
        pthread_barrier_wait(&turn);
        pthread_barrier_wait(&turn);
        free(host_memory);
    }
    for (i64 i = 0; i < threads; ++i) pthread_join(made[i], NULL);
    free(made);
    FILE *out = fopen(files[2], "wb");
    for (int i = 0; i < %(count)d; ++i) if (sizes[i] > 0) fwrite(values[i], 1, sizes[i], out);
    for (int i = 0; i < %(count)d; ++i) free(values[i]);
    return fclose(file) | fclose(out);
}
"""


def why_not(sanitizer: str, folder: Path) -> str | None:
    """None, or why a program under this sanitizer does not run here."""
    if compiler() is None:
        return "no g++ to compile the CUDA source for the host"
    source, program = folder / f"none_{sanitizer}.cc", folder / f"none_{sanitizer}"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    done = _compile(source, program, sanitizer)
    if done.returncode == 0:
        done = subprocess.run([*_fixed_addresses(), str(program)], capture_output=True, encoding="utf-8")
    return f"-fsanitize={sanitizer} does not work here: {done.stderr[-300:]}" if done.returncode else None


def _compile(source: Path, program: Path, sanitizer: str) -> subprocess.CompletedProcess:
    checks = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g")
    command = [str(compiler()), *OPTIONS, *checks, "-pthread", "-o", str(program), str(source)]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


def _fixed_addresses() -> list[str]:
    """Older checkers of races know only the addresses that Linux gave without, or with less, randomness."""
    setarch = shutil.which("setarch")
    return [setarch, "-R"] if setarch else []


class SanitizerError(AssertionError):
    """What a sanitizer found."""


class ThreadedKernels(HostKernels):
    """`load` replaces `cuda.launch.load`; a SanitizerError if the sanitizer finds something."""

    def __init__(self, folder: Path, sanitizer: str) -> None:
        super().__init__(folder)
        self.sanitizer = sanitizer

    def load(self, text, name, device):
        kinds = parameters(text, name)

        def launch(grid, threads, arguments, shared_bytes=0):
            given, sizes = self.folder / "given", []
            with open(given, "wb") as file:
                file.write(struct.pack("4q", grid[0], grid[1] if len(grid) > 1 else 1, threads, shared_bytes))
                for kind, value in zip(kinds, arguments, strict=True):
                    content = self._bytes(kind, value)
                    sizes.append(len(content) if content is not None else -1)
                    file.write(struct.pack("q", sizes[-1]) + (content or b""))
            program, back = self._program(text, name, kinds), self.folder / "back"
            command = [*_fixed_addresses(), str(program), str(given), str(back)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8")
            if done.returncode:
                raise SanitizerError(f"{name}: {done.stderr[-3000:]}")
            self.launches.append((name, tuple(grid), threads, shared_bytes))
            content, at = back.read_bytes(), 0
            for size, value in zip(sizes, arguments, strict=True):
                if size > 0 and isinstance(value, torch.Tensor):
                    ctypes.memmove(value.data_ptr(), content[at : at + size], size)
                at += max(size, 0)

        return launch

    @staticmethod
    def _bytes(kind: str, value: object) -> bytes | None:
        if kind != "pointer":
            assert type(value) is TYPES[kind][0], f"{kind} expected, not {type(value)}"
            return value.tobytes()
        if value is None:
            return None
        assert isinstance(value, torch.Tensor) and value.is_contiguous() and value.device.type == "cpu"
        return np.ascontiguousarray(value.detach().numpy()).tobytes()

    def _program(self, text: str, name: str, kinds: list[str]) -> Path:
        calls = [f"Pointer{{values[{i}]}}" if k == "pointer" else f"*({k} *)values[{i}]" for i, k in enumerate(kinds)]
        main = MAIN % {"name": name, "count": len(kinds), "arguments": ", ".join(calls)}
        source = f"#define HOST_THREADS\n{text}\n{main}"
        base = self.folder / hashlib.sha256((source + self.sanitizer).encode()).hexdigest()[:16]
        if not base.exists():
            base.with_suffix(".cc").write_text(source, encoding="utf-8")
            done = _compile(base.with_suffix(".cc"), base, self.sanitizer)
            assert done.returncode == 0, done.stderr
        return base
