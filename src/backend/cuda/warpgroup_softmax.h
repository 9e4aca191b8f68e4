/* The running softmax between a warpgroup's two products of attention. */
#ifndef BACKEND_CUDA_WARPGROUP_SOFTMAX_H
#define BACKEND_CUDA_WARPGROUP_SOFTMAX_H

#include "backend/cuda/warpgroup.h"

/* What the running softmax of a thread's two rows keeps: r = 0 for row g, 1 for row g + 8. */
struct running {
    float most[2], total[2];
};

/* 64 x 128 scores of a warpgroup (warpgroup_product_k) become weights; keep: what sums so far are to be multiplied by. scale: with log2 e.
 * reach0, reach1: the last key of the tile that a row sees. */
template <bool MASKED>
__device__ static inline void weigh(float (&s)[64], struct running *run, float (&keep)[2], float scale, int reach0, int reach1) {
    int t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (MASKED) {
#pragma unroll
            for (int j = 0; j < 16; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (j * 8 + t * 2 + e > (r ? reach1 : reach0)) s[4 * j + 2 * r + e] = -INFINITY;
        }
        float top = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
        for (int j = 1; j < 16; j++) top = fmaxf(top, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        top = fmaxf(top, run->most[r]);
        float base = MASKED && top == -INFINITY ? 0 : top * scale, sum = 0;
        keep[r] = exp2_fast(run->most[r] * scale - base);
        run->most[r] = top;
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) sum += s[4 * j + 2 * r + e] = exp2_fast(s[4 * j + 2 * r + e] * scale - base);
        run->total[r] = run->total[r] * keep[r] + sum;
    }
}

/* As the left operand of the product with the values: four words for each 16 keys. */
__device__ static inline void pack_weights(const float (&s)[64], uint32_t (&p)[32]) {
#pragma unroll
    for (int j = 0; j < 32; j++) p[j] = pack_bf16(s[2 * j], s[2 * j + 1]);
}

#endif
