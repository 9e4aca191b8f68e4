/* Made-up values on a device, and how far two results are apart: for the benchmarks of one kernel alone. */
#ifndef BENCH_DEVICE_VALUES_H
#define BENCH_DEVICE_VALUES_H

#include "backend/cuda/room.h"

/* Values of about the variance 1, by position. */
static __global__ void fill_kernel(bf16 *p, int64_t n, unsigned seed) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float sum = 0;
        uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u + seed;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u, x = (x ^ x >> 27) * 0x94D049BB133111EBu, x ^= x >> 31;
        for (int k = 0; k < 4; k++) sum += (float)(x >> k * 16 & 0xFFFF) / 65536.0f - 0.5f;
        p[i] = __float2bfloat16_rn(sum * 1.7f);
    }
}
/* || a - b ||^2 and || b ||^2. */
static __global__ void distance_kernel(const bf16 *a, const bf16 *b, int64_t n, double *out) {
    double d = 0, w = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        double x = __bfloat162float(a[i]), y = __bfloat162float(b[i]);
        d += (x - y) * (x - y), w += y * y;
    }
    atomicAdd(out, d);
    atomicAdd(out + 1, w);
}

#endif
