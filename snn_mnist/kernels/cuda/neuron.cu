// IF and LIF over a whole sequence: charge, fire and reset of all T steps in one pass, and back; one thread per neuron,
// its state in registers, neighbouring threads on neighbouring neurons. The mathematics of cpu/neuron.py.
//
// Set at compile time: THREADS of a block, REAL (float or double: the membrane and all arithmetic), HALF_IO (sequences
// in half precision, REAL is float), HARD, and for `backward` also GRAD_THROUGH_RESET and GRADIENT(x).
#include "snn.cuh"

#define AHEAD 8 // steps loaded at a time: loads do not depend on the state, so they wait for memory together

#if HALF_IO
typedef u16 stored;
FUNCTION REAL unpack(stored value) { return from_half(value); }
FUNCTION stored pack(REAL value) { return to_half(value); }
#else
typedef REAL stored;
FUNCTION REAL unpack(stored value) { return value; }
FUNCTION stored pack(REAL value) { return value; }
#endif

// H within +-2^64, as in core/neuron.py: an infinite input leaves a finite V. NaN stays NaN.
FUNCTION REAL bounded(REAL h) {
    const REAL limit = (REAL)18446744073709551616.0;
    return h > limit ? limit : (h < -limit ? -limit : h);
}

#ifndef GRADIENT
// x [steps, size], v [size] -> spikes [steps, size], last_v [size], and where they are given (not null)
// over = H - V_threshold [steps, size], which `backward` needs, and v_seq [steps, size].
KERNEL(THREADS) forward(
    const stored *__restrict__ x, const REAL *__restrict__ v, i64 steps, i64 size, REAL decay, REAL gain, REAL offset,
    REAL threshold, REAL reset, stored *__restrict__ spikes, REAL *__restrict__ last_v, REAL *__restrict__ over,
    stored *__restrict__ v_seq
) {
    const Neuron<REAL> neuron = {decay, gain, offset, threshold, reset};
    EACH_THREAD(THREADS) {
        for (i64 m = BLOCK_INDEX * THREADS + thread; m < size; m += GRID_SIZE * THREADS) {
            REAL state = v[m];
            for (i64 first = 0; first < steps; first += AHEAD) {
                stored input[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    if (first + i < steps) {
                        input[i] = x[(first + i) * size + m];
                    }
                }
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    if (first + i < steps) {
                        const i64 at = (first + i) * size + m;
                        const REAL h = fused_multiply_add(state, neuron.decay, charge(neuron, unpack(input[i])));
                        const Step<REAL> s = fire_and_reset<HARD>(neuron, bounded(h));
                        state = s.v;
                        spikes[at] = pack(s.fired ? (REAL)1 : (REAL)0);
                        if (over) {
                            over[at] = s.over;
                        }
                        if (v_seq) {
                            v_seq[at] = pack(s.v);
                        }
                    }
                }
            }
            last_v[m] = state;
        }
    }
}

#else
// d_spikes, over [steps, size], d_last_v [size], d_v_seq [steps, size] or null -> d_x [steps, size], d_v [size].
KERNEL(THREADS) backward(
    const stored *__restrict__ d_spikes, const stored *__restrict__ d_v_seq, const REAL *__restrict__ d_last_v,
    const REAL *__restrict__ over, i64 steps, i64 size, REAL decay, REAL gain, REAL offset, REAL threshold, REAL reset,
    stored *__restrict__ d_x, REAL *__restrict__ d_v
) {
    const Neuron<REAL> neuron = {decay, gain, offset, threshold, reset};
    EACH_THREAD(THREADS) {
        for (i64 m = BLOCK_INDEX * THREADS + thread; m < size; m += GRID_SIZE * THREADS) {
            REAL d_after = d_last_v[m]; // dL/dV[t], from the steps after t
            for (i64 last = steps; last > 0; last -= AHEAD) { // steps last - 1 ... last - AHEAD
                REAL overs[AHEAD];
                stored d_spike[AHEAD], d_seq[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    if (last - 1 - i >= 0) {
                        const i64 at = (last - 1 - i) * size + m;
                        overs[i] = over[at], d_spike[i] = d_spikes[at];
                        if (d_v_seq) {
                            d_seq[i] = d_v_seq[at];
                        }
                    }
                }
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) {
                    if (last - 1 - i >= 0) {
                        const REAL g = GRADIENT(overs[i]);
                        const REAL arriving = d_v_seq ? d_after + unpack(d_seq[i]) : d_after;
                        const REAL passed = passed_back<HARD, GRAD_THROUGH_RESET>(neuron, overs[i], g);
                        const REAL d_h = fused_multiply_add(arriving, passed, unpack(d_spike[i]) * g);
                        d_x[(last - 1 - i) * size + m] = pack(d_h * neuron.gain);
                        d_after = d_h * neuron.decay;
                    }
                }
            }
            d_v[m] = d_after;
        }
    }
}
#endif
