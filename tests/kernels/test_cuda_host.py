"""Arithmetic, memory and limits of the CUDA kernels on the host, for which g++ compiles them; see test_parity.py."""

import ctypes
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from snn_mnist.kernels.cuda import fused as fused_cuda
from snn_mnist.kernels.cuda import launch as cuda
from tests.support.cuda_host import build, compiler
from tests.support.kernel_checks import KEY, firing_rate, images_of, spec_of, weight_of

pytestmark = pytest.mark.skipif(compiler() is None, reason="no g++ to compile the CUDA source for the host")

ARITHMETIC = """
#include "snn.cuh"
extern "C" u32 test_below(u32 a, u32 b) { return gather_high(bytes_below(a, b)); }
extern "C" u32 test_equal(u32 a, u32 b) { return gather_high(bytes_equal(a, b)); }
extern "C" u32 test_half(float value) { return to_half(value); }
extern "C" float test_float(u32 half) { return from_half((u16)half); }
"""


@pytest.fixture(scope="session")
def arithmetic(compiled_here):
    header = Path(cuda.__file__).with_name("snn.cuh").read_text().replace("#pragma once", "")
    text = ARITHMETIC.replace('#include "snn.cuh"', header)
    library = build(text, compiled_here)
    library.test_float.restype = ctypes.c_float
    library.test_half.argtypes = [ctypes.c_float]
    return library


# ---- arithmetic ----


def test_every_pair_of_bytes_is_compared_rightly(arithmetic):
    """All 65,536 pairs, four at a time, in every position."""
    generator = np.random.default_rng(0)
    pairs = generator.permutation(np.array(list(product(range(256), repeat=2))))
    for four in pairs.reshape(-1, 4, 2).tolist():
        a, b = (int.from_bytes(column, "little") for column in zip(*four, strict=True))
        assert arithmetic.test_below(a, b) == sum((x < y) << i for i, (x, y) in enumerate(four))
        assert arithmetic.test_equal(a, b) == sum((x == y) << i for i, (x, y) in enumerate(four))
        assert arithmetic.test_equal(a, a) == 15 and arithmetic.test_below(a, a) == 0


def test_half_precision_is_ieee(arithmetic):
    values = np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-8, 2).repeat(200)
    for value in [*values.astype(np.float32).tolist(), 65504.0, 65520.0, 0.0, -0.0, 2.0**-24, 2.0**-26]:
        with np.errstate(over="ignore"):
            half = np.float32(value).astype(np.float16)
        assert arithmetic.test_half(value) == half.view(np.uint16)
        assert arithmetic.test_float(int(half.view(np.uint16))) == float(half)


# ---- the fused pass ----


def test_working_memory_in_global_memory_gives_the_same(host, monkeypatch):
    """Where shared memory is too small for a long T, a block works in global memory instead."""
    active, index, results = fused_cuda.active_pixels(images_of(4)), torch.arange(4), []
    for limit in (10**6, 1000):
        monkeypatch.setattr(cuda, "shared_limit", lambda device, limit=limit: limit)
        weight = weight_of().requires_grad_()
        rate = firing_rate(fused_cuda, weight, active, index, 160, KEY, spec_of())
        rate.square().sum().backward()
        results.append((rate, weight.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert [shared > 0 for name, _, _, shared in host.launches if name == "fused"] == [True, False]


@pytest.mark.parametrize(
    ("outputs", "stride", "steps"), [(1, 32, None), (10, 352, None), (17, 32, 100), (10, 352, 100), (1, 32, 300)]
)
def test_layout_in_python_and_in_the_source_agree(compiled_here, outputs, stride, steps):
    plan = fused_cuda.plan_launch((outputs, 784), stride, spec_of(), steps, 10**7)
    assert build(plan.text, compiled_here).host_work_bytes(stride) == plan.shared_bytes
