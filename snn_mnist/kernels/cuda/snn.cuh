// Arithmetic of the CUDA kernels: random bits, byte comparison, charge, fire, reset, and the backward step.
//
// The same text, in ASCII since CuPy writes it to a file in the locale's encoding, is compiled by NVRTC for a GPU and
// by a C++ compiler for the host, where the tests run whole kernels block after block. A kernel is written as phases,
// EACH_THREAD(n) { ... }: on a GPU every thread runs the body once and a barrier follows; on the host a loop over
// `thread` runs it, in the order that the test asks for, or with HOST_THREADS real threads do, with a barrier, under a
// race detector. State that a thread carries from phase to phase lies in PER_THREAD variables, read by MINE(name).
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC__

#define FUNCTION __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define BLOCK_INDEX ((i64)blockIdx.x)
#define BLOCK_ROW ((int)blockIdx.y)
#define GRID_SIZE ((i64)gridDim.x)
#define EACH_THREAD(threads) for (int thread = threadIdx.x, once = 1; once; once = 0, __syncthreads())
#define PER_THREAD(type, name, threads) type name[1]
#define MINE(name) name[0]

FUNCTION float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FUNCTION double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
FUNCTION int population_count(u32 word) { return __popc(word); }
FUNCTION int lowest_bit(u32 word) { return __ffs(word) - 1; }
FUNCTION u32 add_to(u32 *sum, u32 value) { return atomicAdd(sum, value); }
FUNCTION u64 add_to(u64 *sum, u64 value) { return atomicAdd(sum, value); }
FUNCTION void set_bits(u32 *word, u32 bits) { atomicOr(word, bits); }
FUNCTION float from_half(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
FUNCTION u16 to_half(float value) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

#else // the host

// What the formulas of surrogates use, declared by hand: <cmath> takes longer to read than all of this to compile.
extern "C" {
float expf(float), logf(float), log1pf(float), sinf(float), cosf(float), atanf(float), erfcf(float), sqrtf(float);
double exp(double), log(double), log1p(double), sin(double), cos(double), atan(double), erfc(double), sqrt(double);
float fabsf(float), fminf(float, float), fmaxf(float, float), fmaf(float, float, float);
double fabs(double), fmin(double, double), fmax(double, double), fma(double, double, double);
}

static i64 host_block, host_grid;
static int host_row, host_backwards;
static char *host_memory;

#define FUNCTION static inline
#define KERNEL(threads) extern "C" void
#define BLOCK_INDEX host_block
#define BLOCK_ROW host_row
#define GRID_SIZE host_grid
#ifdef HOST_THREADS
static thread_local int host_thread;
static void host_barrier();
#define EACH_THREAD(threads) for (int thread = host_thread, once = 1; once; once = 0, host_barrier())
#define PER_THREAD(type, name, threads) type name[1]
#define MINE(name) name[0]
#else // a phase runs upwards or downwards: one that depends on the order of its threads gives two results
#define EACH_THREAD(threads) \
    for (int turn = 0, thread; turn < (threads) && (thread = host_backwards ? (threads) - 1 - turn : turn, 1); ++turn)
#define PER_THREAD(type, name, threads) static type name[threads]
#define MINE(name) name[thread]
#endif
#define __restrict__ __restrict

FUNCTION float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
FUNCTION double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }
FUNCTION int population_count(u32 word) { return __builtin_popcount(word); }
FUNCTION int lowest_bit(u32 word) { return __builtin_ctz(word); }
FUNCTION u32 add_to(u32 *sum, u32 value) { return __atomic_fetch_add(sum, value, __ATOMIC_RELAXED); }
FUNCTION u64 add_to(u64 *sum, u64 value) { return __atomic_fetch_add(sum, value, __ATOMIC_RELAXED); }
FUNCTION void set_bits(u32 *word, u32 bits) { __atomic_fetch_or(word, bits, __ATOMIC_RELAXED); }
FUNCTION float from_half(u16 half) {
    _Float16 value;
    __builtin_memcpy(&value, &half, 2);
    return (float)value;
}
FUNCTION u16 to_half(float value) {
    _Float16 rounded = (_Float16)value;
    u16 half;
    __builtin_memcpy(&half, &rounded, 2);
    return half;
}

extern "C" void host_select_block(i64 block, int row, i64 grid, char *memory, int backwards) {
    host_block = block, host_row = row, host_grid = grid, host_memory = memory, host_backwards = backwards;
}

#endif

// ---- random bits: Philox4x32-10, Salmon et al. 2011 ---------------------------------------------------------

struct Words {
    u32 word[4];
};

FUNCTION Words philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(p1 >> 32) ^ c1 ^ k0, c1 = (u32)p1;
        c2 = (u32)(p0 >> 32) ^ c3 ^ k1, c3 = (u32)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// The coordinates that the spikes of one image share.
struct SpikeKey {
    u32 image, epoch, seed, stream;
};

// ---- spikes: U < k / 255, digit by digit in base 256 (kernels/spikes.py) ------------------------------------

#define TIE 0x80000000u
#define HIGH 0x80808080u // the highest bit of each byte

FUNCTION u32 bytes_below(u32 a, u32 b) { // HIGH bit of each byte where a < b
    const u32 low = (a | HIGH) - (b & ~HIGH); // HIGH: a's lower seven bits are not below b's
    return ((~a & b) | (~(a ^ b) & ~low)) & HIGH;
}

FUNCTION u32 bytes_equal(u32 a, u32 b) { // HIGH bit of each byte where a == b
    const u32 x = a ^ b;
    return ~(((x & ~HIGH) + ~HIGH) | x) & HIGH;
}

FUNCTION u32 gather_high(u32 bits) { // bits 7, 15, 23, 31 to bits 0 ... 3
    return ((bits >> 7) * 0x01020408u) >> 24 & 15u;
}

struct Bits16 {
    u32 less, equal; // of sixteen steps
};

// The first digit of steps 16 block ... 16 block + 15 of pixel p, compared with its byte k.
FUNCTION Bits16 first_digits(const SpikeKey &key, u32 p, u32 k, u32 block) {
    const Words random = philox(block, p, key.image, key.epoch, key.seed, key.stream);
    const u32 digits = k * 0x01010101u;
    Bits16 bits = {0u, 0u};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        bits.less |= gather_high(bytes_below(random.word[w], digits)) << 4 * w;
        bits.equal |= gather_high(bytes_equal(random.word[w], digits)) << 4 * w;
    }
    return bits;
}

// The digits after a first one that tied: four at a time, and new words after four ties.
FUNCTION bool tie_fires(const SpikeKey &key, u32 p, u32 k, u32 t) {
    const u32 digits = k * 0x01010101u;
    for (u32 attempt = 0;; ++attempt) {
        const Words random = philox(TIE | t, p | attempt << 16, key.image, key.epoch, key.seed, key.stream);
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            if (random.word[w] != digits) {
                return random.word[w] < digits;
            }
        }
    }
}

// ---- the neuron: core/neuron.py; decay = 1 - 1/tau, gain = 1/tau, offset = (1 - decay) V_reset (1, 1, 0 for IF) --

template <typename real> struct Neuron {
    real decay, gain, offset, threshold, reset;
};

// What X[t] adds to the charge, H[t] = decay V[t-1] + charge(X[t]).
template <typename real> FUNCTION real charge(const Neuron<real> &n, real x) {
    return fused_multiply_add(x, n.gain, n.offset);
}

template <typename real> struct Step {
    real over, v; // H - V_threshold, V after the reset
    bool fired;
};

template <bool HARD_RESET, typename real> FUNCTION Step<real> fire_and_reset(const Neuron<real> &n, real h) {
    const real over = h - n.threshold;
    const bool fired = h >= n.threshold;
    return {over, fired ? (HARD_RESET ? n.reset : over) : h, fired};
}

template <bool HARD_RESET, typename real> FUNCTION Step<real> step(const Neuron<real> &n, real v, real charged) {
    return fire_and_reset<HARD_RESET>(n, fused_multiply_add(v, n.decay, charged));
}

// dV/dH of one step from x = H - V_threshold and the surrogate's g = g(x); THROUGH_RESET is false for detach_reset.
template <bool HARD_RESET, bool THROUGH_RESET, typename real>
FUNCTION real passed_back(const Neuron<real> &n, real x, real g) {
    const real through = THROUGH_RESET ? g : (real)0;
    if (HARD_RESET) { // 1 - S + (V_reset - H) g
        return fused_multiply_add(n.reset - n.threshold - x, through, x >= (real)0 ? (real)0 : (real)1);
    }
    return (real)1 - n.threshold * through;
}
