/* Rounding to the small number formats that the checkpoint room only reads. */
#ifndef BACKEND_CPU_NUMBER_H
#define BACKEND_CPU_NUMBER_H

#include <math.h>

#include "checkpoint/number.h"

/* The e4m3 value nearest to f (ties to even) after clamping to +-448, as a float. */
static inline float e4m3_round(float f) {
    if (f > 448.0f) f = 448.0f;
    if (f < -448.0f) f = -448.0f;
    if (fabsf(f) < 0x1p-6f) return rintf(f * 512.0f) * 0x1p-9f; /* subnormal: steps of 2^-9 */
    uint32_t u = f32_to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return f;
    return bits_to_f32((u + 0x7ffffu + (u >> 20 & 1)) & 0xfff00000u);
}

#endif
