/* The network of snn_weights.h in C99: integers only, no allocation, no floating point.
 *
 *     cc -std=c99 -O2 -Wall -Werror -o snn_infer snn_infer.c
 *     ./snn_infer spikes < golden_input.mem        output spikes and potentials of every step, as in golden_*.mem
 *     ./snn_infer images SEED STREAM EPOCH FIRST < images.raw       prediction and spikes by class of every image
 *
 * The core is snn_reset, snn_input and snn_step. `images` reads 784 bytes per image, the first being number FIRST of
 * its split, and encodes them as the program that trained the network: it draws the same Poisson spikes.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "snn_weights.h"

/* ------------------------------------------------------------------ the network */

typedef struct {
    int32_t x[SNN_NEURONS]; /* sum of the weights of the inputs that fired in this step, or weights x values */
    int32_t v[SNN_NEURONS]; /* membrane potential above the reset potential */
    uint8_t fired[SNN_NEURONS + 3]; /* output spikes of the last step; 3: whole hex digits are printed */
    uint32_t count[SNN_CLASSES]; /* votes: spikes of the neurons of each class so far */
} snn_state;

#if SNN_LEAKY
/* d / 2^k rounded down; C leaves >> of negative numbers to the compiler. */
static int64_t shift_right(int64_t d, unsigned k)
{
    return d >= 0 ? d >> k : ~(~d >> k);
}
#endif

/* Before each image. */
static void snn_reset(snn_state *s)
{
    memset(s, 0, sizeof *s);
}

/* Input `pixel` is `value` in this step: 1 for a spike. A constant current is given once, before the first step. */
static void snn_input(snn_state *s, unsigned pixel, int32_t value)
{
    for (unsigned c = 0; c < SNN_NEURONS; c++)
        s->x[c] += value * snn_weight[pixel][c];
}

/* Ends the step: charge, fire, reset, vote. */
static void snn_step(snn_state *s)
{
    for (unsigned c = 0; c < SNN_NEURONS; c++) {
        int32_t target = s->x[c] * (INT32_C(1) << SNN_FRACTION); /* x << F */
#if SNN_LEAKY
        int64_t d = (int64_t)target - s->v[c];
        int32_t h = s->v[c] + (int32_t)shift_right(d * SNN_MULTIPLIER + (INT64_C(1) << (SNN_SHIFT - 1)), SNN_SHIFT);
#else
        int32_t h = s->v[c] + target;
#endif
        s->fired[c] = h >= snn_threshold[c];
        s->count[c / SNN_VOTES] += s->fired[c];
        if (s->fired[c])
            h = SNN_SOFT_RESET ? h - snn_threshold[c] : 0;
        s->v[c] = h;
        if (!SNN_CONSTANT)
            s->x[c] = 0;
    }
}

/* ------------------------------------------------------------------ encoding */

static void philox4x32(uint32_t c[4], uint32_t k0, uint32_t k1) /* Salmon et al. 2011, 10 rounds */
{
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)c[0] * 0xD2511F53u, p1 = (uint64_t)c[2] * 0xCD9E8D57u;
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

typedef struct {
    uint32_t seed, stream, epoch, image;
} coordinates;

/* The byte of the first digit tied: compare the digits after it, four at a time. */
static int tie_fires(coordinates at, uint32_t step, uint32_t pixel, uint32_t value)
{
    for (uint32_t attempt = 0;; attempt++) {
        uint32_t words[4] = {0x80000000u | step, pixel | attempt << 16, at.image, at.epoch};
        philox4x32(words, at.seed, at.stream);
        for (int i = 0; i < 4; i++)
            if (words[i] != value * 0x01010101u)
                return words[i] < value * 0x01010101u;
    }
}

static uint8_t image[SNN_INPUTS], digits[SNN_INPUTS][16];

/* Whether a pixel fires at this step, for Poisson spikes with probability value / 255; steps must come in order. */
static int fires(coordinates at, uint32_t step, uint32_t pixel)
{
    uint32_t value = image[pixel];
    if (SNN_LATENCY)
        return value && (2 * (SNN_T - 1) * (255 - value) + 255) / 510 == step;
    if (value == 0 || value == 255)
        return value == 255;
    if (step % 16 == 0) {
        uint32_t words[4] = {step / 16, pixel, at.image, at.epoch};
        philox4x32(words, at.seed, at.stream);
        for (int i = 0; i < 16; i++)
            digits[pixel][i] = (uint8_t)(words[i / 4] >> 8 * (i % 4));
    }
    uint32_t digit = digits[pixel][step % 16];
    return digit == value ? tie_fires(at, step, pixel, value) : digit < value;
}

/* ------------------------------------------------------------------ the two ways to run it */

static int run_images(coordinates at)
{
    snn_state state;
    while (fread(image, 1, SNN_INPUTS, stdin) == SNN_INPUTS) {
        unsigned best = 0;
        snn_reset(&state);
        for (uint32_t p = 0; SNN_CONSTANT && p < SNN_INPUTS; p++)
            snn_input(&state, p, image[p]);
        for (uint32_t t = 0; t < SNN_T; t++) {
            for (uint32_t p = 0; !SNN_CONSTANT && p < SNN_INPUTS; p++)
                if (fires(at, t, p))
                    snn_input(&state, p, 1);
            snn_step(&state);
        }
        for (unsigned c = 1; c < SNN_CLASSES; c++)
            if (state.count[c] > state.count[best])
                best = c;
        printf("%u", best);
        for (unsigned c = 0; c < SNN_CLASSES; c++)
            printf(" %u", (unsigned)state.count[c]);
        putchar('\n');
        at.image++;
    }
    return 0;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

#define INPUT_BITS (SNN_CONSTANT ? 8 : 1)
#define DIGITS (SNN_INPUTS * INPUT_BITS / 4)

/* A line is the 784 bits of a step as 196 hex digits, pixel 0 the lowest bit, or the 784 bytes of an image's constant
 * current as 1,568; // begins a comment. */
static int run_spikes(void)
{
    static char line[DIGITS + 64];
    snn_state state;
    unsigned long step = 0;
    while (fgets(line, sizeof line, stdin)) {
        if (line[0] == '/' || line[0] == '\n')
            continue;
        if (step % SNN_T == 0)
            snn_reset(&state);
        for (unsigned i = 0; i < DIGITS; i++) {
            int digit = hex_digit(line[DIGITS - 1 - i]);
            if (digit < 0) {
                fprintf(stderr, "step %lu: not %d hex digits\n", step, DIGITS);
                return 1;
            }
            for (unsigned b = 4 * i; b < 4 * i + 4; b++)
                if (digit >> b % 4 & 1)
                    snn_input(&state, b / INPUT_BITS, 1 << b % INPUT_BITS);
        }
        do {
            snn_step(&state);
            const uint8_t *s = state.fired;
            for (int c = (SNN_NEURONS - 1) / 4 * 4; c >= 0; c -= 4)
                printf("%x", (unsigned)(s[c] | s[c + 1] << 1 | s[c + 2] << 2 | s[c + 3] << 3));
            putchar(' ');
            for (int c = SNN_NEURONS - 1; c >= 0; c--)
                printf("%08lx", (unsigned long)(uint32_t)state.v[c]);
            putchar('\n');
        } while (++step % SNN_T && SNN_CONSTANT);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "spikes"))
        return run_spikes();
    if (argc == 6 && !strcmp(argv[1], "images")) {
        uint32_t words[4];
        for (int i = 0; i < 4; i++)
            words[i] = (uint32_t)strtoul(argv[2 + i], NULL, 10);
        coordinates at = {words[0], words[1], words[2], words[3]};
        return run_images(at);
    }
    fprintf(stderr, "usage: %s spikes < FILE.mem | %s images SEED STREAM EPOCH FIRST < FILE.raw\n", argv[0], argv[0]);
    return 2;
}
