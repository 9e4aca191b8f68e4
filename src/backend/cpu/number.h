/* The small number formats of checkpoints as C: bf16, f16, e4m3fn. Exact both ways; rounding is to nearest even. */
#ifndef BACKEND_CPU_NUMBER_H
#define BACKEND_CPU_NUMBER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float f32_from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }

static inline uint16_t bf16_from_f32(float f) {
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* e4m3fn: bias 7, no infinities, 0x7f and 0xff are NaN, largest 448. */
static inline float e4m3_to_f32(uint8_t b) {
    uint32_t sign = (uint32_t)(b & 0x80) << 24, exponent = b >> 3 & 15, mantissa = b & 7;
    if (exponent == 15 && mantissa == 7) return f32_from_bits(sign | 0x7fc00000u);
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-9f;
        return sign ? -f : f;
    }
    return f32_from_bits(sign | (exponent + 120) << 23 | mantissa << 20);
}

/* The e4m3 value nearest to f after clamping to +-448, as a float. */
static inline float e4m3_round(float f) {
    if (f > 448.0f) f = 448.0f;
    if (f < -448.0f) f = -448.0f;
    if (fabsf(f) < 0x1p-6f) return rintf(f * 512.0f) * 0x1p-9f; /* subnormal: steps of 2^-9 */
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return f;
    return f32_from_bits((u + 0x7ffffu + (u >> 20 & 1)) & 0xfff00000u);
}

#endif
