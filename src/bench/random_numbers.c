#include "bench/random_numbers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/number.h"

static const float nf4_values[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                                     -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                                     0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                                     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

uint64_t random_bits64(struct random_pools *p) { /* splitmix64 */
    uint64_t z = p->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double random_uniform(struct random_pools *p) { return (double)(random_bits64(p) >> 11) * 0x1p-53; }


/* The nearest of ascending values. */
static int nearest(const float *values, int count, float v) {
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (v > (values[middle] + values[middle + 1]) / 2) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* bitsandbytes' signed dynamic 8-bit map (functional.py, create_dynamic_map). */
static void make_nested_map(float out[256]) {
    int n = 0;
    out[n++] = 0;
    out[n++] = 1;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 1 << i; k++) {
            double low = 0.1 + 0.9 * k / (1 << i), high = 0.1 + 0.9 * (k + 1) / (1 << i);
            double v = pow(10, i - 6) * (low + high) / 2;
            out[n++] = (float)v;
            out[n++] = (float)-v;
        }
    qsort(out, 256, sizeof *out, by_value);
}

static void make_fp8(struct random_pools *p) {
    float values[127];
    for (int code = 0; code < 127; code++) {
        int exponent = code >> 3, mantissa = code & 7;
        values[code] = exponent ? ldexpf(1 + (float)mantissa / 8, exponent - 7) : (float)mantissa * 0x1p-9f;
    }
    for (int i = 0; i < POOL_COUNT; i++) {
        float v = p->normal[i] / 4.2f * 448; /* 128 x 128 normal numbers reach about 4.2 standard deviations */
        int code = nearest(values, 127, fabsf(v) > 448 ? 448 : fabsf(v));
        p->fp8[i] = (uint8_t)(v < 0 ? code | 0x80 : code);
    }
}

static void make_nf4(struct random_pools *p) {
    float absmax[POOL_NF4_BLOCKS];
    double sum = 0;
    memcpy(p->quant_map, nf4_values, sizeof nf4_values);
    make_nested_map(p->nested_map);
    for (int b = 0; b < POOL_NF4_BLOCKS; b++) {
        const float *x = p->normal + 64 * b;
        float most = 0;
        for (int i = 0; i < 64; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        for (int i = 0; i < 64; i += 2)
            p->nf4[32 * b + i / 2] =
                (uint8_t)(nearest(nf4_values, 16, x[i] / most) << 4 | nearest(nf4_values, 16, x[i + 1] / most));
        absmax[b] = most;
        sum += (double)most;
    }
    p->offset = (float)(sum / POOL_NF4_BLOCKS);
    for (int g = 0; g < POOL_NF4_GROUPS; g++) {
        float most = 0;
        for (int b = 256 * g; b < 256 * (g + 1); b++) most = fmaxf(most, fabsf(absmax[b] - p->offset));
        p->nested[g] = most;
        for (int b = 256 * g; b < 256 * (g + 1); b++)
            p->absmax_code[b] = (uint8_t)nearest(p->nested_map, 256, (absmax[b] - p->offset) / most);
    }
}

int random_pools_new(struct random_pools *p, uint64_t seed, struct err *err) {
    *p = (struct random_pools){.state = seed};
    p->normal = malloc(POOL_COUNT * sizeof *p->normal);
    p->fp8 = malloc(POOL_COUNT);
    p->nf4 = malloc(POOL_COUNT / 2);
    p->absmax_code = malloc(POOL_NF4_BLOCKS);
    if (!p->normal || !p->fp8 || !p->nf4 || !p->absmax_code) {
        random_pools_free(p);
        return err_set(err, ERR_MEMORY, "out of memory for random weights");
    }
    for (int i = 0; i < POOL_COUNT; i += 2) { /* Box and Muller */
        double radius = sqrt(-2 * log(1 - random_uniform(p))), angle = 6.283185307179586 * random_uniform(p);
        p->normal[i] = (float)(radius * cos(angle));
        p->normal[i + 1] = (float)(radius * sin(angle));
    }
    make_fp8(p);
    make_nf4(p);
    return 0;
}

void random_pools_free(struct random_pools *p) {
    free(p->normal);
    free(p->fp8);
    free(p->nf4);
    free(p->absmax_code);
    for (int i = 0; i < POOL_DENSE_KEPT; i++) free(p->dense[i].values);
    *p = (struct random_pools){0};
}

const uint16_t *random_dense(struct random_pools *p, float deviation) {
    for (int i = 0; i < POOL_DENSE_KEPT; i++)
        if (p->dense[i].values && p->dense[i].deviation == deviation) return p->dense[i].values;
    int at = p->dense_next++ % POOL_DENSE_KEPT;
    if (!p->dense[at].values) p->dense[at].values = malloc(POOL_COUNT * sizeof(uint16_t));
    if (!p->dense[at].values) return NULL;
    p->dense[at].deviation = deviation;
    for (int i = 0; i < POOL_COUNT; i++) p->dense[at].values[i] = f32_to_bf16(p->normal[i] * deviation);
    return p->dense[at].values;
}
