// One pass from pixels to firing rates and the weight gradient, one block per sample; mathematics: cpu/fused.py.
//
//   gather        the sample's active (non-zero) pixels and the weights of each, from global to shared memory
//   encode        one Philox call for 16 steps of a pixel, spikes as bit masks [word of 32 steps, active pixel]; ties
//                 are listed and resolved afterwards, so that a warp does not wait for a single tied lane
//   linear        X[t, c] over the active pixels; a warp holds 32 steps, so weights and masks are read by broadcast
//   lif_forward   charge, fire, reset: one thread per neuron, its state in registers; leaves x[t] = H[t] - V_threshold
//   slopes        g(x) and the factor of dH[t+1], for all t at once, so that
//   lif_backward  is one multiply-add per step, in reverse; leaves F[t] = dX[t] for dS = 1/T
//   eligibility_traces  E[p, c] = sum over the spikes of pixel p of F[t, c]; a warp holds 32 pixels
// `contract` then gives dL/dW[c, p] = sum_n dL/drate[n, c] E_n[p, c], each sum by one block in a fixed order. Nothing
// that depends on the order of threads is a float, so results are bitwise repeatable.
//
// Set at compile time: PIXELS, OUTPUTS, THREADS, SPAN (steps held at a time, a multiple of 32), HARD, GLOBAL_WORK
// (working memory in global memory, if shared memory is too small), TIES (listed ties; any further one is resolved at
// once), LEARNING, and then STEPS (T), GRAD_THROUGH_RESET, GRADIENT(x), and LANES and SLICES of `contract`.
#include "snn.cuh"

#define GROUPS ((OUTPUTS + 3) / 4) // of four neurons, one 16-byte access
#define WORDS (SPAN / 32)
#define HALVES (SPAN / 16)

struct alignas(16) Four {
    float f[4];
};

// The working memory of a block. `stride` bounds the active pixels of a sample, a multiple of 32.
struct Work {
    Four *rows;  // [stride, GROUPS] weights of the active pixels
    Four *one;   // [SPAN, GROUPS] charge, then x, then the factor of dH[t+1]
    Four *two;   // [SPAN, GROUPS] g, then F; while learning
    u64 *ties;   // [TIES] pixel << 32 | step
    u64 *inputs; // [1] spikes of the sample
    u32 *masks;  // [WORDS, stride]
    u32 *sites;  // [stride] pixel | value << 16
    u32 *tied;   // [1]
};

FUNCTION i64 work_bytes(i64 stride) {
    return 16 * GROUPS * (stride + SPAN * (1 + LEARNING)) + 8 * (TIES + 1) + 4 * (WORDS + 1) * stride + 8;
}

FUNCTION Work work_at(char *memory, int stride) {
    Work w;
    w.rows = (Four *)memory;
    w.one = w.rows + stride * GROUPS;
    w.two = w.one + SPAN * GROUPS;
    w.ties = (u64 *)(w.two + LEARNING * SPAN * GROUPS);
    w.inputs = w.ties + TIES;
    w.masks = (u32 *)(w.inputs + 1);
    w.sites = w.masks + WORDS * stride;
    w.tied = w.sites + stride;
    return w;
}

FUNCTION char *block_memory(char *global_work, int stride) {
#if GLOBAL_WORK
    return global_work + BLOCK_INDEX * ((work_bytes(stride) + 15) / 16 * 16);
#elif defined(__CUDACC__)
    extern __shared__ Four shared_memory[];
    return (char *)shared_memory;
#else
    return host_memory;
#endif
}

// Spikes of steps start ... start + count - 1 as masks. An item of work is 16 steps of a pixel, one Philox call.
FUNCTION void encode(const Work &w, const SpikeKey &key, int active, int stride, int start, int count, int thread) {
    for (int item = thread; item < active * HALVES; item += THREADS) {
        const int half = item / active, j = item - half * active;
        const u32 p = w.sites[j] & 0xFFFFu, k = w.sites[j] >> 16;
        const int left = count - 16 * half;
        const u32 valid = left >= 16 ? 0xFFFFu : left > 0 ? (1u << left) - 1 : 0u;
        Bits16 bits = {0xFFFFu, 0u};
        if (k != 255u && valid) {
            bits = first_digits(key, p, k, (u32)(start / 16 + half));
        }
        u32 fired = bits.less & valid;
        for (u32 equal = bits.equal & valid; equal; equal &= equal - 1) {
            const u32 bit = lowest_bit(equal), t = 16 * half + bit, slot = add_to(w.tied, 1u);
            if (slot < TIES) {
                w.ties[slot] = (u64)j << 32 | t;
            } else if (tie_fires(key, p, k, start + t)) {
                fired |= 1u << bit;
            }
        }
        ((u16 *)w.masks)[2 * ((half >> 1) * stride + j) + (half & 1)] = (u16)fired; // little endian
    }
}

FUNCTION void resolve_ties(const Work &w, const SpikeKey &key, int stride, int start, int thread) {
    const int tied = *w.tied < TIES ? *w.tied : TIES;
    for (int i = thread; i < tied; i += THREADS) {
        const u32 j = (u32)(w.ties[i] >> 32), t = (u32)w.ties[i];
        if (tie_fires(key, w.sites[j] & 0xFFFFu, w.sites[j] >> 16, start + t)) {
            set_bits(&w.masks[(t >> 5) * stride + j], 1u << (t & 31));
        }
    }
}

FUNCTION void linear(const Work &w, const Neuron<float> &neuron, int active, int stride, int count, int thread) {
    for (int item = thread; item < GROUPS * SPAN; item += THREADS) {
        const int group = item / SPAN, t = item % SPAN;
        if (t >= count) {
            continue;
        }
        const u32 *masks = w.masks + (t >> 5) * stride, bit = 1u << (t & 31);
        Four sum = {{0.f, 0.f, 0.f, 0.f}};
#pragma unroll 8
        for (int j = 0; j < active; ++j) {
            const Four row = w.rows[j * GROUPS + group];
            if (masks[j] & bit) {
                sum.f[0] += row.f[0], sum.f[1] += row.f[1], sum.f[2] += row.f[2], sum.f[3] += row.f[3];
            }
        }
        for (int i = 0; i < 4; ++i) {
            sum.f[i] = charge(neuron, sum.f[i]);
        }
        w.one[t * GROUPS + group] = sum;
    }
}

// State of a neuron that is carried from span to span.
struct Cell {
    float v, fired;
    int readouts; // passed so far
};

#if !LEARNING
FUNCTION void count_inputs(const Work &w, int active, int stride, int thread) {
    u64 sum = 0;
    for (int item = thread; item < active * WORDS; item += THREADS) {
        const int word = item / active;
        sum += population_count(w.masks[word * stride + item - word * active]);
    }
    if (sum) {
        add_to(w.inputs, sum);
    }
}
#endif

FUNCTION void lif_forward(const Work &w, const Neuron<float> &neuron, Cell &cell, int from, int until, int c) {
    float *x = (float *)w.one + c;
    float v = cell.v, fired = cell.fired;
#pragma unroll 8
    for (int t = from; t < until; ++t) {
        const Step<float> s = step<HARD>(neuron, v, x[t * 4 * GROUPS]);
        x[t * 4 * GROUPS] = s.over;
        v = s.v;
        fired += s.fired ? 1.f : 0.f;
    }
    cell.v = v, cell.fired = fired;
}

#if LEARNING
FUNCTION void slopes(const Work &w, const Neuron<float> &neuron, int thread) {
    for (int item = thread; item < STEPS * 4 * GROUPS; item += THREADS) {
        if (item % (4 * GROUPS) < OUTPUTS) {
            const float x = ((float *)w.one)[item], g = GRADIENT(x);
            ((float *)w.one)[item] = passed_back<HARD, GRAD_THROUGH_RESET>(neuron, x, g) * neuron.decay;
            ((float *)w.two)[item] = g;
        }
    }
}

FUNCTION void lif_backward(const Work &w, const Neuron<float> &neuron, int c) {
    const float scale = neuron.gain / (float)STEPS;
    const float *back = (float *)w.one + c;
    float *g = (float *)w.two + c, d = 0.f;
#pragma unroll 8
    for (int t = STEPS - 1; t >= 0; --t) {
        d = fused_multiply_add(back[t * 4 * GROUPS], d, g[t * 4 * GROUPS]);
        g[t * 4 * GROUPS] = d * scale;
    }
}

// eligibility [OUTPUTS, PIXELS] of this sample: only active pixels are written.
FUNCTION void eligibility_traces(const Work &w, int active, int stride, float *eligibility, int thread) {
    for (int item = thread; item < GROUPS * active; item += THREADS) {
        const int group = item / active, j = item - group * active;
        Four sum = {{0.f, 0.f, 0.f, 0.f}};
        for (int word = 0; word < WORDS; ++word) {
            const u32 mask = w.masks[word * stride + j]; // no bit is set beyond T
            const Four *factor = w.two + word * 32 * GROUPS + group;
#pragma unroll
            for (int bit = 0; bit < 32; ++bit) {
                const Four f = factor[bit * GROUPS];
                if (mask >> bit & 1u) {
                    sum.f[0] += f.f[0], sum.f[1] += f.f[1], sum.f[2] += f.f[2], sum.f[3] += f.f[3];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (4 * group + i < OUTPUTS) {
                eligibility[(4 * group + i) * PIXELS + (w.sites[j] & 0xFFFFu)] = sum.f[i];
            }
        }
    }
}
#endif

// offsets [images + 1]: where the active pixels of each image begin in `sites`. index [samples]: images of the batch.
// weight [OUTPUTS, PIXELS]; rounded: to half precision, but held and added in float32, which costs nothing here: the
// sums are bound by instructions, not by the size of a weight. The epoch is *epoch_at if that is given, so that a
// captured graph can be replayed in the next epoch.
// Learning: out [samples, OUTPUTS] rates, eligibility [samples, OUTPUTS, PIXELS].
// Otherwise: out [samples, readout_count, OUTPUTS] spikes in the first readout_steps[m] steps (the last of them is T),
// and input_spikes [samples].
KERNEL(THREADS) fused(
    const i64 *__restrict__ offsets, const u32 *__restrict__ sites, const i64 *__restrict__ index,
    const float *__restrict__ weight, const u32 *__restrict__ epoch_at, u32 epoch, u32 seed, u32 stream,
    float decay, float gain, float offset, float threshold, float reset, int rounded, int stride,
    const int *__restrict__ readout_steps, int readout_count, float *__restrict__ out, float *__restrict__ eligibility,
    i64 *__restrict__ input_spikes, char *global_work
) {
    const i64 sample = BLOCK_INDEX, image = index[sample], begin = offsets[image];
    const int active = (int)(offsets[image + 1] - begin);
    const SpikeKey key = {(u32)image, epoch_at ? *epoch_at : epoch, seed, stream};
    const Neuron<float> neuron = {decay, gain, offset, threshold, reset};
    const Work w = work_at(block_memory(global_work, stride), stride);
#if LEARNING
    const int steps = STEPS;
#else
    const int steps = readout_steps[readout_count - 1];
#endif
    PER_THREAD(Cell, cell, THREADS);

    EACH_THREAD(THREADS) { // gather
        for (int item = thread; item < active * 4 * GROUPS; item += THREADS) {
            const int c = item / active, j = item - c * active;
            const u32 site = sites[begin + j];
            const float exact = c < OUTPUTS ? weight[c * PIXELS + (site & 0xFFFFu)] : 0.f;
            ((float *)w.rows)[j * 4 * GROUPS + c] = rounded ? from_half(to_half(exact)) : exact;
            if (c == 0) {
                w.sites[j] = site;
            }
        }
        MINE(cell) = {reset, 0.f, 0};
        if (thread == 0) {
            *w.tied = 0, *w.inputs = 0;
        }
    }
    for (int start = 0; start < steps; start += SPAN) {
        const int count = steps - start < SPAN ? steps - start : SPAN;
        EACH_THREAD(THREADS) { encode(w, key, active, stride, start, count, thread); }
        EACH_THREAD(THREADS) { resolve_ties(w, key, stride, start, thread); }
        EACH_THREAD(THREADS) {
            linear(w, neuron, active, stride, count, thread);
#if !LEARNING
            count_inputs(w, active, stride, thread);
#endif
            if (thread == 0) {
                *w.tied = 0;
            }
        }
        EACH_THREAD(THREADS) { // lif_forward
            if (thread < OUTPUTS) {
#if LEARNING
                lif_forward(w, neuron, MINE(cell), 0, STEPS, thread);
                out[sample * OUTPUTS + thread] = MINE(cell).fired / (float)STEPS;
#else
                Cell &mine = MINE(cell);
                int t = 0;
                for (int &m = mine.readouts; m < readout_count && readout_steps[m] <= start + count; ++m) {
                    const int end = readout_steps[m] - start;
                    lif_forward(w, neuron, mine, t, end, thread);
                    out[(sample * readout_count + m) * OUTPUTS + thread] = mine.fired;
                    t = end;
                }
                lif_forward(w, neuron, mine, t, count, thread);
#endif
            }
        }
    }
#if LEARNING
    EACH_THREAD(THREADS) { slopes(w, neuron, thread); }
    EACH_THREAD(THREADS) {
        if (thread < OUTPUTS) {
            lif_backward(w, neuron, thread);
        }
    }
    EACH_THREAD(THREADS) { eligibility_traces(w, active, stride, eligibility + sample * OUTPUTS * PIXELS, thread); }
#else
    EACH_THREAD(THREADS) {
        if (thread == 0) {
            input_spikes[sample] = (i64)*w.inputs;
        }
    }
#endif
}

#if LEARNING
// weight_gradient [OUTPUTS, PIXELS] = sum_n upstream[n, c] E_n[c, p] over the samples in which pixel p is active.
// A block adds the samples n = slice, slice + SLICES, ... of LANES pixels, then the sums of the slices in order.
// Grid: (ceil(PIXELS / LANES), OUTPUTS).
KERNEL(LANES * SLICES) contract(
    const unsigned char *__restrict__ images, const i64 *__restrict__ index, const float *__restrict__ upstream,
    const float *__restrict__ eligibility, int samples, float *__restrict__ weight_gradient
) {
#ifdef __CUDACC__
    __shared__
#else
    static
#endif
        float sums[SLICES][LANES];
    const int c = BLOCK_ROW;
    EACH_THREAD(LANES * SLICES) {
        const int lane = thread % LANES, slice = thread / LANES, p = (int)BLOCK_INDEX * LANES + lane;
        float sum = 0.f;
        if (p < PIXELS) {
#pragma unroll 4
            for (i64 n = slice; n < samples; n += SLICES) {
                if (images[index[n] * PIXELS + p]) { // a zero pixel's E was not written
                    const i64 at = n * OUTPUTS + c;
                    sum = fused_multiply_add(upstream[at], eligibility[at * PIXELS + p], sum);
                }
            }
        }
        sums[slice][lane] = sum;
    }
    EACH_THREAD(LANES * SLICES) {
        const int lane = thread, p = (int)BLOCK_INDEX * LANES + lane;
        if (thread < LANES && p < PIXELS) {
            float sum = 0.f;
            for (int slice = 0; slice < SLICES; ++slice) {
                sum += sums[slice][lane];
            }
            weight_gradient[c * PIXELS + p] = sum;
        }
    }
}
#endif

#if !LEARNING
// Spikes [count, samples, PIXELS] as 0/1 floats, zero pixels left as they are (0); start is a multiple of 16.
KERNEL(THREADS) encode_spikes(
    const i64 *__restrict__ offsets, const u32 *__restrict__ sites, const i64 *__restrict__ index, u32 epoch, u32 seed,
    u32 stream, int stride, int start, int steps, float *__restrict__ spikes, char *global_work
) {
    const i64 sample = BLOCK_INDEX, image = index[sample], begin = offsets[image];
    const int active = (int)(offsets[image + 1] - begin);
    const SpikeKey key = {(u32)image, epoch, seed, stream};
    const Work w = work_at(block_memory(global_work, stride), stride);
    EACH_THREAD(THREADS) {
        for (int j = thread; j < active; j += THREADS) {
            w.sites[j] = sites[begin + j];
        }
        if (thread == 0) {
            *w.tied = 0;
        }
    }
    for (int first = 0; first < steps; first += SPAN) {
        const int count = steps - first < SPAN ? steps - first : SPAN;
        EACH_THREAD(THREADS) { encode(w, key, active, stride, start + first, count, thread); }
        EACH_THREAD(THREADS) { resolve_ties(w, key, stride, start + first, thread); }
        EACH_THREAD(THREADS) {
            for (int item = thread; item < active * count; item += THREADS) {
                const int t = item / active, j = item - t * active;
                const i64 row = (i64)(first + t) * GRID_SIZE + sample;
                const u32 fired = w.masks[(t >> 5) * stride + j] >> (t & 31) & 1u;
                spikes[row * PIXELS + (w.sites[j] & 0xFFFFu)] = (float)fired;
            }
            if (thread == 0) {
                *w.tied = 0;
            }
        }
    }
}
#endif

#ifndef __CUDACC__
extern "C" i64 host_work_bytes(int stride) { return work_bytes(stride); }
#endif
