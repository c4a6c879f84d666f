"""The variants of the CUDA kernels go through NVRTC, for sm_80, sm_86 and sm_90; no GPU is needed for that.

Variants of a file are compiled many in one program: each in a namespace of its own, its kernels renamed.
"""

import re
from itertools import product
from pathlib import Path

import pytest
import torch

from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from snn_mnist.kernels.formulas import FORMULAS
from tests.support import nvrtc
from tests.support.kernel_checks import spec_of

pytestmark = pytest.mark.skipif(
    nvrtc.library() is None, reason="no libnvrtc: neither torch's CUDA wheels nor a CUDA toolkit is installed"
)
RESETS = list(product((0.0, None), (False, True)))  # v_reset, detach_reset
ARCHITECTURES = ("sm_80", "sm_86", "sm_90")
QUICK = {("atan", "sm_90"), ("squarewave_fourier_series", "sm_80"), ("s2nn", "sm_86")}  # in each run: some resets
LIMITS = (10**6, 0)  # working memory in the block's own and in global memory
HEADER = Path(cuda.__file__).with_name("snn.cuh").read_text().replace("#pragma once\n", "")


def together(texts: list[str]) -> str:
    """One program of many variants, with kernels NAME_0, NAME_1, …"""
    assert all(text.isascii() for text in texts) and len(set(texts)) == len(texts)  # CuPy takes the locale's encoding
    parts = [HEADER]
    for i, text in enumerate(texts):
        assert text.count(HEADER) == 1
        defines, body = text.split(HEADER)
        names = re.findall(r"KERNEL\([^)]*\) (\w+)\(", body)
        macros = re.findall(r"^#define (\w+)", defines + body, re.MULTILINE)
        renamed = "".join(f"#define {name} {name}_{i}\n" for name in names)
        parts += [defines, renamed, f"namespace variant_{i} {{\n", body, "}\n"]
        parts += [f"#undef {macro}\n" for macro in dict.fromkeys([*macros, *names])]
    return "".join(parts)


def registers(texts: list[str], architecture: str, most_spilled: int = 0) -> dict[str, int]:
    """The registers a thread of each kernel takes, assembled; at most this number of bytes may spill."""
    log = nvrtc.compile_text(together(texts), architecture, "--ptxas-options=-v")
    kernels = re.findall(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", log, re.DOTALL)
    assert "warning" not in log and max(int(spilled) for _, spilled, _ in kernels) <= most_spilled, log
    return {name: int(used) for name, _, used in kernels}


def fused_text(name="atan", v_reset=0.0, detach=False, steps=None, limit=232_448):
    return fused_cuda.plan_launch((10, 784), 352, spec_of(name, v_reset=v_reset, detach=detach), steps, limit).text


@pytest.mark.parametrize(
    ("dtype", "architecture"), [(torch.float16, "sm_90"), (torch.float32, "sm_80"), (torch.float64, "sm_90")]
)
def test_every_neuron_kernel(dtype, architecture):
    """Two resets of each surrogate, the two others in the other precision; float64, which only oracles use, one. At
    least four blocks of them in a multiprocessor, but for float64."""
    first, count = 2 * (architecture == "sm_90"), 1 if dtype is torch.float64 else 2
    specs = [
        spec_of(name, v_reset=v, detach=d)
        for i, name in enumerate(FORMULAS)
        for v, d in (RESETS * 2)[(i + first) % 4 :][:count]
    ]
    texts = [fused_cuda.neuron_source(spec, dtype, True) for spec in specs]
    texts += [fused_cuda.neuron_source(spec_of(v_reset=v), dtype, False) for v in (0.0, None)]
    assert len(texts) == len(FORMULAS) * count + 2
    used = registers(texts, architecture, most_spilled=32)  # by the cosines of the square wave, or in float64
    assert len(used) == len(texts) and sum(name.startswith("forward") for name in used) == 2
    assert dtype is torch.float64 or max(used.values()) <= 65_536 // (4 * 128)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_forward_pass(architecture):
    """For each reset, in each kind of memory: at least four blocks in a multiprocessor. MNIST's spills nothing."""
    texts = [fused_text(v_reset=v, limit=limit) for v, limit in product((0.0, None), LIMITS)]
    used = registers(texts[:1], architecture) | registers(texts, architecture, most_spilled=32)
    assert sorted(used) == [f"{kernel}_{i}" for kernel in ("encode_spikes", "fused") for i in range(4)]
    assert max(used.values()) <= 65_536 // (4 * 256)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        pytest.param(name, arch, marks=() if (name, arch) in QUICK else pytest.mark.slow)
        for name, arch in product(FORMULAS, ARCHITECTURES)
    ],
)
def test_every_training_pass(name, architecture):
    """With each reset, working in each kind of memory: two blocks of 512 threads find room in a multiprocessor."""
    texts = [fused_text(name, v, d, 100, limit) for (v, d), limit in product(RESETS, LIMITS)]
    if (name, architecture) in QUICK:
        texts = texts[::3]
    used = registers(texts, architecture)
    assert sorted(used) == sorted(f"{kernel}_{i}" for kernel in ("contract", "fused") for i in range(len(texts)))
    assert max(used.values()) <= 65_536 // (512 * 2)


@pytest.mark.parametrize(("limit", "of_the_processor"), [(101_376, 102_400), (166_912, 167_936), (232_448, 233_472)])
def test_two_blocks_of_a_training_pass_share_a_multiprocessor(limit, of_the_processor):
    """MNIST at T = 100 on sm_86, sm_80 and sm_90: bytes of shared memory, 1 KB of them the driver's for each block."""
    plan = fused_cuda.plan_launch((10, 784), 352, spec_of(), 100, limit)
    assert plan.global_bytes == 0 and 2 * (plan.shared_bytes + 1024) <= of_the_processor
