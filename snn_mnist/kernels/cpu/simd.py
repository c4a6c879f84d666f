"""Sixteen-lane vectors for numba: one LLVM vector type and the handful of operations that the kernels use.

LLVM lowers a <16 x float> to one AVX-512 register, two AVX2 or four SSE/NEON ones, so a sample's ten neurons (padded to
16) stay in registers; numba's own auto-vectorisation kept them in memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from snn_mnist.kernels.cpu.jit import helper
from snn_mnist.kernels.spikes import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1

LANES = 16
SPINS, NAP = 100_000, 50  # of a thread that waits for others, and microseconds of its sleep after them
_I1, _I8, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_VOID, _VECTOR = ir.VoidType(), ir.VectorType(_F32, LANES)
_ARCHITECTURE = llvm.get_process_triple().partition("-")[0]
llvm.initialize_native_asmparser()  # for the instruction in _rest


class _Vector(types.Type):
    def __init__(self, name: str, element: ir.Type) -> None:
        self.llvm = ir.VectorType(element, LANES)
        super().__init__(name=name)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


f32x16, mask16 = _Vector("f32x16", _F32), _Vector("mask16", _I1)
_word, _long, _bits, _byte, _array = types.uint32, types.int64, types.uint64, types.uint8, None


def _operation(result: types.Type, *operands: types.Type | None, name: str = "") -> Callable[[Callable[..., Any]], Any]:
    """Decorator: make an operation for compiled code of a function (builder, *operands) -> value that writes LLVM.

    operands: their types; for `_array`, a contiguous array, the function receives a pointer to its first element.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        def typed(_typing: Any, *given: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                values = (
                    context.make_array(given_type)(context, builder, value).data if operand is _array else value
                    for value, operand, given_type in zip(values, operands, signature.args, strict=True)
                )
                value = write(builder, *values)
                if isinstance(result, types.UniTuple):
                    return context.make_tuple(builder, result, value)
                return context.get_dummy_value() if result is types.void else value

            return result(*(operand or other for operand, other in zip(operands, given, strict=True))), generate

        typed.__name__, typed.__doc__ = name or write.__name__, write.__doc__
        typed.__signature__ = inspect.signature(write)  # type: ignore[attr-defined]  # numba reads the number of operands
        return intrinsic(typed)

    return decorate


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, _constant(0, lanes, _I32))


def _constant(value: int, lanes: int, element: ir.Type = _I64) -> Any:
    return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)


def _at(builder: Any, data: Any, index: Any, target: ir.Type = _VECTOR) -> Any:
    """Return a pointer to a value of this type that begins at data[index]."""
    return builder.bitcast(builder.gep(data, [index]), target.as_pointer())


def _llvm_function(builder: Any, name: str, result: ir.Type, *operands: ir.Type) -> Any:
    return builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(result, operands), name)


def _c_function(builder: Any, address: Any, *operands: ir.Type) -> Any:
    """Return the C function without result at this address."""
    return builder.inttoptr(address, ir.FunctionType(_VOID, operands).as_pointer())


def aligned_array(count, dtype):  # type: ignore[no-untyped-def]
    """Return an empty array that begins at a cache line: a vector across two costs twice, and its loads stall."""
    size = np.empty(1, dtype).itemsize
    whole = np.empty(count + 64 // size, dtype)
    skip = (-whole.ctypes.data) % 64 // size
    return whole[skip : skip + count]


aligned = helper(aligned_array)  # inside kernels

# ---- floats --------------------------------------------------------------------------------------------------------


@_operation(f32x16, _array, _long)
def load(builder: Any, data: Any, index: Any) -> Any:
    """array[index : index + 16] of a float32 array."""
    return builder.load(_at(builder, data, index), align=4)


@_operation(types.void, _array, _long, f32x16)
def store(builder: Any, data: Any, index: Any, value: Any) -> None:
    """array[index : index + 16] = value."""
    builder.store(value, _at(builder, data, index), align=4)


@_operation(f32x16, types.float32)
def splat(builder: Any, scalar: Any) -> Any:
    """All sixteen lanes = scalar."""
    return _splat(builder, scalar, LANES)


add = _operation(f32x16, f32x16, f32x16, name="add")(lambda builder, a, b: builder.fadd(a, b))
sub = _operation(f32x16, f32x16, f32x16, name="sub")(lambda builder, a, b: builder.fsub(a, b))
mul = _operation(f32x16, f32x16, f32x16, name="mul")(lambda builder, a, b: builder.fmul(a, b))
div = _operation(f32x16, f32x16, f32x16, name="div")(lambda builder, a, b: builder.fdiv(a, b))


@_operation(f32x16, f32x16, f32x16, f32x16)
def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return builder.call(_llvm_function(builder, f"llvm.fma.v{LANES}f32", _VECTOR, *[_VECTOR] * 3), [a, b, c])


@_operation(f32x16, f32x16)
def sqrt(builder: Any, a: Any) -> Any:
    """Return the square root, correctly rounded."""
    return builder.call(_llvm_function(builder, f"llvm.sqrt.v{LANES}f32", _VECTOR, _VECTOR), [a])


@_operation(mask16, f32x16, f32x16)
def greater_equal(builder: Any, a: Any, b: Any) -> Any:
    return builder.fcmp_ordered(">=", a, b)


@_operation(f32x16, mask16, f32x16, f32x16)
def select(builder: Any, mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is set, else b."""
    return builder.select(mask, a, b)


@_operation(types.void, _long, _array, _array, _long)
def call_elementwise(builder: Any, address: Any, source: Any, target: Any, count: Any) -> None:
    """Calls the C function void f(const float *source, float *target, int64_t count) at this address."""
    pointer = _F32.as_pointer()
    builder.call(_c_function(builder, address, pointer, pointer, _I64), [source, target, count])


# ---- bits and bytes ------------------------------------------------------------------------------------------------


@_operation(types.UniTuple(_bits, 2), _array, _long, _byte, _array, _long, _byte)
def compare_bytes(builder: Any, data: Any, index: Any, value: Any, flags: Any, offset: Any, flag: Any) -> Any:
    """Return 64 bits each, array[index + i] < value and == value, and where it is less flags[offset + i] |= flag."""
    vector = ir.VectorType(_I8, 64)
    compared, value = builder.load(_at(builder, data, index, vector), align=1), _splat(builder, value, 64)
    less, equal = (builder.icmp_unsigned(relation, compared, value) for relation in ("<", "=="))
    address = _at(builder, flags, offset, vector)
    raised = builder.select(less, _splat(builder, flag, 64), _constant(0, 64, _I8))
    builder.store(builder.or_(builder.load(address, align=1), raised), address, align=1)
    return builder.bitcast(less, _I64), builder.bitcast(equal, _I64)


@_operation(_long, _bits)
def trailing_zeros(builder: Any, bits: Any) -> Any:
    """Index of the lowest set bit; bits must not be 0."""
    return builder.cttz(bits, ir.Constant(_I1, 1))


@_operation(_long, _bits)
def population_count(builder: Any, bits: Any) -> Any:
    """Number of set bits."""
    return builder.ctpop(bits)


@_operation(types.void, _array, _long)
def prefetch(builder: Any, data: Any, index: Any) -> None:
    """Asks for the cache line of array[index], which need not exist."""
    pointer = _I8.as_pointer()
    function = _llvm_function(builder, "llvm.prefetch.p0", _VOID, pointer, _I32, _I32, _I32)
    builder.call(function, [_at(builder, data, index, _I8), *(ir.Constant(_I32, n) for n in (0, 3, 1))])  # read, keep


@_operation(types.void, _array, _long, _word, _word)
def store_lanes(builder: Any, data: Any, index: Any, first: Any, stride: Any) -> None:
    """array[index + i] = first + i * stride for i = 0 .. 7, of a uint32 array."""
    words = ir.VectorType(_I32, 8)
    steps = builder.mul(_splat(builder, stride, 8), ir.Constant(words, list(range(8))))
    builder.store(builder.add(_splat(builder, first, 8), steps), _at(builder, data, index, words), align=4)


@_operation(types.void, _array, _long, _array, _array, _long, _word, _word, _word, _word)
def philox8(
    builder: Any, out: Any, position: Any, steps: Any, pixels: Any, lane: Any, image: Any, epoch: Any, k0: Any, k1: Any
) -> None:  # fmt: skip
    """Eight Philox4x32-10 calls with counters (steps[lane + i], pixels[lane + i], image, epoch), key (k0, k1);
    call i writes its 16 bytes to out[position + 16 * i :] (position counts elements of out).

    Words live in 64-bit lanes whose upper halves are ignored, as vpmuludq does. The upper half of a product comes down
    by a shuffle, not a shift: AVX-512 shifts and multiplies on the same one port.
    """
    wide, halves = ir.VectorType(_I64, 8), ir.VectorType(_I32, 16)
    odd = ir.Constant(halves, [i | 1 for i in range(16)])

    def everywhere(scalar: Any) -> Any:
        return _splat(builder, builder.zext(scalar, _I64), 8)

    def upper_half(product: Any) -> Any:
        as_words = builder.bitcast(product, halves)
        return builder.bitcast(builder.shuffle_vector(as_words, as_words, odd), wide)

    c0, c1 = (
        builder.zext(builder.load(_at(builder, words, lane, ir.VectorType(_I32, 8)), align=4), wide)
        for words in (steps, pixels)
    )
    c2, c3 = everywhere(image), everywhere(epoch)
    low, thirty_two = _constant(0xFFFFFFFF, 8), _constant(32, 8)
    m0, m1 = _constant(MULTIPLIER_0, 8), _constant(MULTIPLIER_1, 8)
    for _ in range(ROUNDS):
        p0 = builder.mul(builder.and_(c0, low), m0)
        p1 = builder.mul(builder.and_(c2, low), m1)
        c0 = builder.xor(builder.xor(upper_half(p1), c1), everywhere(k0))
        c2 = builder.xor(builder.xor(upper_half(p0), c3), everywhere(k1))
        c1, c3 = p1, p0
        k0 = builder.add(k0, ir.Constant(_I32, WEYL_0))
        k1 = builder.add(k1, ir.Constant(_I32, WEYL_1))
    first = builder.or_(builder.and_(c0, low), builder.shl(c1, thirty_two))
    second = builder.or_(builder.and_(c2, low), builder.shl(c3, thirty_two))
    order = [half * 8 + i for i in range(8) for half in (0, 1)]
    result = builder.shuffle_vector(first, second, ir.Constant(halves, order))
    builder.store(result, _at(builder, out, position, ir.VectorType(_I64, 16)), align=1)


# ---- threads -------------------------------------------------------------------------------------------------------


@_operation(_long, _array, _long)
def _add_atomically(builder: Any, counter: Any, amount: Any) -> Any:
    """Add to counter[0] and return what was there; other threads then see what was written before."""
    return builder.atomic_rmw("add", counter, amount, "seq_cst")


@_operation(_long, _array)
def _load_atomically(builder: Any, counter: Any) -> Any:
    """counter[0], and from then on all that other threads wrote before they changed it."""
    return builder.load_atomic(counter, "seq_cst", 8)


@_operation(types.void, _long, _word)
def _rest(builder: Any, address: Any, duration: Any) -> None:
    """Call the C function void f(unsigned) at this address, or for 0 let the core's other hardware thread go first."""
    relax = {"x86_64": "pause", "i686": "pause", "aarch64": "yield", "arm64": "yield"}.get(_ARCHITECTURE, "")
    with builder.if_else(builder.icmp_signed("!=", address, ir.Constant(_I64, 0))) as (sleep, spin):
        with sleep:
            builder.call(_c_function(builder, address, _I32), [duration])
        with spin:
            builder.asm(ir.FunctionType(_VOID, []), relax, "~{memory}", [], True)


@helper
def wait_for_all(team):  # type: ignore[no-untyped-def]
    """Wait until all threads of a team are here, and see what they wrote. arrived[0] counts arrivals for ever.

    A thread spins for milliseconds (naps after 100 µs cost a tenth of the speed on two quiet cores); then it sleeps, so
    that one that lost its core to another program can have this one.
    """
    if team.workers == 1:
        return
    target = (_add_atomically(team.arrived, 1) // team.workers + 1) * team.workers
    spins = 0
    while _load_atomically(team.arrived) < target:
        spins += 1
        _rest(team.pause if spins > SPINS else 0, np.uint32(NAP))
