/* The small float formats of checkpoints, converted exactly. */
#ifndef CHECKPOINT_NUMBER_H
#define CHECKPOINT_NUMBER_H

#include <stdint.h>
#include <string.h>

static inline float bits_to_f32(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint32_t f32_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static inline float bf16_to_f32(uint16_t v) { return bits_to_f32((uint32_t)v << 16); }

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits = f32_to_bits(f);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline float f16_to_f32(uint16_t v) {
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = v >> 10 & 31, mantissa = v & 0x3FF;
    if (exponent == 31) return bits_to_f32(sign | 0x7F800000 | mantissa << 13);
    if (exponent == 0) { /* subnormal: mantissa * 2^-24 */
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return bits_to_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Round to nearest, ties to even, overflow to infinity. */
static inline uint16_t f32_to_f16(float f) {
    uint32_t bits = f32_to_bits(f), magnitude = bits & 0x7FFFFFFF;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7F800000) return sign | 0x7E00;
    if (magnitude >= 0x47800000) return sign | 0x7C00;
    if (magnitude < 0x38800000) { /* subnormal: adding 0.5 lets the FPU round at 2^-24 */
        uint32_t rounded = f32_to_bits(bits_to_f32(magnitude) + 0.5f);
        return sign | (uint16_t)(rounded - 0x3F000000);
    }
    magnitude += 0xFFF + (magnitude >> 13 & 1);
    return sign | (uint16_t)((magnitude - 0x38000000) >> 13);
}

/* e4m3fn: bias 7, no infinities, 0x7F and 0xFF are NaN, subnormal step 2^-9 (facts §2.3). */
static inline float e4m3_to_f32(uint8_t v) {
    uint32_t sign = (uint32_t)(v & 0x80) << 24, exponent = v >> 3 & 15, mantissa = v & 7;
    if ((v & 0x7F) == 0x7F) return bits_to_f32(sign | 0x7FC00000);
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-9f;
        return sign ? -f : f;
    }
    return bits_to_f32(sign | (exponent + 120) << 23 | mantissa << 20);
}

#endif
