"""Sixteen-lane vectors for numba: one LLVM vector type and the handful of operations that the kernels use.

LLVM lowers a <16 x float> to one AVX-512 register, two AVX2 or four SSE/NEON ones, so a sample's ten neurons
(padded to 16) are one value that stays in registers; numba's own auto-vectorisation kept them in memory.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from snn_mnist.kernels.philox import MULTIPLIER_0, MULTIPLIER_1, ROUNDS, WEYL_0, WEYL_1

LANES = 16
_I1, _I8, _I32, _I64, _F32 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


class _Vector(types.Type):
    def __init__(self, name: str, element: ir.Type, lanes: int) -> None:
        self.llvm = ir.VectorType(element, lanes)
        super().__init__(name=name)


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


f32x16 = _Vector("f32x16", _F32, LANES)
mask16 = _Vector("mask16", _I1, LANES)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def _constant(value: int, lanes: int, bits: int = 64) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(bits), lanes), [value] * lanes)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def aligned_array(count, dtype):  # type: ignore[no-untyped-def]
    """An empty array that begins at a cache line. A vector across two lines costs twice, and a load that follows its
    store stalls."""
    size = np.empty(1, dtype).itemsize
    room = np.empty(count + 64 // size, dtype)
    skip = (-room.ctypes.data) % 64 // size
    return room[skip : skip + count]


aligned = numba.njit(aligned_array)  # inside kernels


@intrinsic
def load(_typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] of a contiguous float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index = arguments
        return builder.load(_address(context, builder, signature.args[0], array, index, f32x16.llvm), align=4)

    return f32x16(array, types.int64), generate


@intrinsic
def store(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        address = _address(context, builder, signature.args[0], array, index, f32x16.llvm)
        builder.store(value, address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, f32x16), generate


@intrinsic
def splat(_typing: Any, scalar: Any) -> Any:
    """All sixteen lanes = scalar."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0], LANES)

    return f32x16(types.float32), generate


def _arithmetic(operation: str) -> Any:
    @intrinsic
    def apply(_typing: Any, a: Any, b: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, operation)(*arguments)

        return f32x16(f32x16, f32x16), generate

    return apply


add, sub, mul, div = (_arithmetic(operation) for operation in ("fadd", "fsub", "fmul", "fdiv"))


def _rounded_once(name: str, operands: int) -> Any:
    """An LLVM function on vectors whose result is the exact one, rounded."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        vector = f32x16.llvm
        full_name = f"llvm.{name}.v{LANES}f32"
        function = builder.module.globals.get(full_name) or ir.Function(
            builder.module, ir.FunctionType(vector, [vector] * operands), full_name
        )
        return builder.call(function, arguments)

    return generate


@intrinsic
def fma(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return f32x16(f32x16, f32x16, f32x16), _rounded_once("fma", 3)


@intrinsic
def sqrt(_typing: Any, a: Any) -> Any:
    """The square root, correctly rounded."""
    return f32x16(f32x16), _rounded_once("sqrt", 1)


@intrinsic
def greater_equal(_typing: Any, a: Any, b: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fcmp_ordered(">=", *arguments)

    return mask16(f32x16, f32x16), generate


@intrinsic
def select(_typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """a where the mask is set, else b."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return f32x16(mask16, f32x16, f32x16), generate


@intrinsic
def compare_bytes(_typing: Any, array: Any, index: Any, value: Any, flags: Any, offset: Any, flag: Any) -> Any:
    """(less, equal): bit i tells whether array[index + i] < value, == value, for 64 unsigned bytes;
    where it is less, flags[offset + i] |= flag."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value, flags, offset, flag = arguments
        vector = ir.VectorType(_I8, 64)
        data = builder.load(_address(context, builder, signature.args[0], array, index, vector), align=1)
        value = _splat(builder, value, 64)
        less = builder.icmp_unsigned("<", data, value)
        equal = builder.icmp_unsigned("==", data, value)
        address = _address(context, builder, signature.args[3], flags, offset, vector)
        raised = builder.select(less, _splat(builder, flag, 64), _constant(0, 64, bits=8))
        builder.store(builder.or_(builder.load(address, align=1), raised), address, align=1)
        bits = builder.bitcast(less, _I64), builder.bitcast(equal, _I64)
        return context.make_tuple(builder, signature.return_type, bits)

    pair, byte = types.UniTuple(types.uint64, 2), types.uint8
    return pair(array, types.int64, byte, flags, types.int64, byte), generate


@intrinsic
def trailing_zeros(_typing: Any, bits: Any) -> Any:
    """Index of the lowest set bit; bits must not be 0."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_I1, 1))

    return types.int64(types.uint64), generate


@intrinsic
def population_count(_typing: Any, bits: Any) -> Any:
    """Number of set bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line of array[index], which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _I8.as_pointer()
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32]), name
        )
        array, index = arguments
        address = context.make_array(signature.args[0])(context, builder, array).data
        address = builder.bitcast(builder.gep(address, [index]), pointer)
        builder.call(function, [address, *(ir.Constant(_I32, n) for n in (0, 3, 1))])  # to read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def call_elementwise(_typing: Any, address: Any, source: Any, target: Any, count: Any) -> Any:
    """Calls the C function void f(const float *source, float *target, int64_t count) at this address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, source, target, count = arguments
        pointer = _F32.as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer, pointer, _I64])
        function = builder.inttoptr(address, function_type.as_pointer())
        arrays = [
            context.make_array(ty)(context, builder, array).data
            for ty, array in zip(signature.args[1:3], (source, target), strict=True)
        ]
        builder.call(function, [*arrays, count])
        return context.get_dummy_value()

    return types.void(types.int64, source, target, types.int64), generate


@intrinsic
def store_lanes(_typing: Any, array: Any, index: Any, first: Any, stride: Any) -> Any:
    """array[index + i] = first + i * stride for i = 0 .. 7, of a contiguous uint32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, first, stride = arguments
        words = ir.VectorType(_I32, 8)
        steps = builder.mul(_splat(builder, stride, 8), ir.Constant(words, list(range(8))))
        address = _address(context, builder, signature.args[0], array, index, words)
        builder.store(builder.add(_splat(builder, first, 8), steps), address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32, types.uint32), generate


@intrinsic
def philox8(
    _typing: Any,
    out: Any,
    position: Any,
    steps: Any,
    pixels: Any,
    lane: Any,
    image: Any,
    epoch: Any,
    k0: Any,
    k1: Any,
) -> Any:
    """Eight Philox4x32-10 calls with counters (steps[lane + i], pixels[lane + i], image, epoch), key (k0, k1);
    call i writes its 16 bytes to out[position + 16 * i :] (position counts elements of out).

    Words live in 64-bit lanes whose upper halves are ignored, since one vpmuludq then needs no conversion. The upper
    half of a product comes down by a shuffle, not a shift: AVX-512 shifts and multiplies on the same one port.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, position, steps, pixels, lane, image, epoch, k0, k1 = arguments
        words, wide, halves = ir.VectorType(_I32, 8), ir.VectorType(_I64, 8), ir.VectorType(_I32, 16)

        def lanes_of(array: Any, array_type: Any) -> Any:
            address = _address(context, builder, array_type, array, lane, words)
            return builder.zext(builder.load(address, align=4), wide)

        def everywhere(scalar: Any) -> Any:
            return _splat(builder, builder.zext(scalar, _I64), 8)

        odd = ir.Constant(halves, [i | 1 for i in range(16)])

        def upper_half(product: Any) -> Any:
            as_words = builder.bitcast(product, halves)
            return builder.bitcast(builder.shuffle_vector(as_words, as_words, odd), wide)

        c0, c1 = lanes_of(steps, signature.args[2]), lanes_of(pixels, signature.args[3])
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
        address = _address(context, builder, signature.args[0], out, position, ir.VectorType(_I64, 16))
        builder.store(result, address, align=1)
        return context.get_dummy_value()

    word = types.uint32
    return types.void(out, types.int64, steps, pixels, types.int64, word, word, word, word), generate
