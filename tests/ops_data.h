/* Random matrices in every storage kind, for the tests and the benchmark of the CPU operations. */
#ifndef OPS_DATA_H
#define OPS_DATA_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/number.h"
#include "backend/cpu/ops.h"

static uint64_t random_state = 88172645463325252ull;
static inline uint32_t random_bits(void) { /* xorshift64* */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 2685821657736338717ull) >> 32);
}
static inline float random_float(void) { return (float)random_bits() * 0x1p-31f - 1.0f; } /* [-1, 1) */

static inline void *cache_lines(size_t bytes) {
    void *p = NULL;
    return posix_memalign(&p, 64, bytes ? bytes : 64) ? NULL : p;
}

static const float nf4_map[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                                  -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                                  0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

struct matrix {
    struct linear_weight w;
    void *data;
    float *scale, *bias, *absmax, *nested, *map2;
    uint8_t *codes;
};

/* nested false: NF4 with plain fp32 absmax. The data end exactly where the allocation ends, so that a read beyond is seen. */
static inline void matrix_new(struct matrix *m, enum storage storage, int64_t out, int64_t in, int bias, int nested) {
    memset(m, 0, sizeof *m);
    m->w = (struct linear_weight){.storage = storage, .out = out, .in = in, .name = "random"};
    size_t n = (size_t)(out * in);
    float spread = 1.0f / sqrtf((float)in);
    if (bias) {
        m->w.bias = m->bias = (float *)malloc((size_t)out * 4);
        for (int64_t o = 0; o < out; o++) m->bias[o] = random_float();
    }
    if (storage == STORAGE_F32) {
        float *d = (float *)(m->data = malloc(n * 4));
        for (size_t i = 0; i < n; i++) d[i] = random_float() * spread;
        m->w.rounding = DTYPE_F32;
    } else if (storage == STORAGE_F16) {
        uint16_t *d = (uint16_t *)(m->data = malloc(n * 2));
        for (size_t i = 0; i < n; i++) d[i] = f32_to_f16(random_float() * spread);
        m->w.rounding = DTYPE_F16;
    } else if (storage == STORAGE_BF16) {
        uint16_t *d = (uint16_t *)(m->data = malloc(n * 2));
        for (size_t i = 0; i < n; i++) d[i] = f32_to_bf16(random_float() * spread);
        m->w.rounding = DTYPE_BF16;
    } else if (storage == STORAGE_FP8_BLOCK) {
        uint8_t *d = (uint8_t *)(m->data = malloc(n));
        for (size_t i = 0; i < n; i++) {
            d[i] = (uint8_t)random_bits();
            if ((d[i] & 0x7f) == 0x7f) d[i] ^= 1;
        }
        size_t blocks = (size_t)((out + 127) / 128 * ((in + 127) / 128));
        m->w.scale = m->scale = (float *)malloc(blocks * 4);
        for (size_t i = 0; i < blocks; i++) m->scale[i] = (1.5f + random_float()) * spread / 448.0f;
        m->w.rounding = DTYPE_F32;
    } else {
        uint8_t *d = (uint8_t *)(m->data = malloc((n + 1) / 2));
        for (size_t i = 0; i < (n + 1) / 2; i++) d[i] = (uint8_t)random_bits();
        size_t blocks = (n + 63) / 64;
        m->w.block_size = 64;
        m->w.quant_map = nf4_map;
        m->w.rounding = DTYPE_BF16;
        if (nested) {
            m->w.absmax_u8 = m->codes = (uint8_t *)malloc(blocks);
            for (size_t i = 0; i < blocks; i++) m->codes[i] = (uint8_t)random_bits();
            size_t groups = (blocks + 255) / 256;
            m->w.nested_absmax = m->nested = (float *)malloc(groups * 4);
            for (size_t i = 0; i < groups; i++) m->nested[i] = (1.5f + random_float()) * 0.3f * spread;
            m->w.nested_map = m->map2 = (float *)malloc(256 * 4);
            for (int i = 0; i < 256; i++) m->map2[i] = ((float)i - 127) / 128;
            m->w.nested_offset = spread;
            m->w.nested_block = 256;
        } else {
            m->w.absmax_f32 = m->absmax = (float *)malloc(blocks * 4);
            for (size_t i = 0; i < blocks; i++) m->absmax[i] = (1.2f + random_float()) * spread;
        }
    }
    m->w.data = m->data;
}

static inline void matrix_free(struct matrix *m) {
    free(m->data);
    free(m->scale);
    free(m->bias);
    free(m->absmax);
    free(m->nested);
    free(m->map2);
    free(m->codes);
}

static const char *const storage_names[] = {"f32", "f16", "bf16", "fp8", "nf4"};

#endif
