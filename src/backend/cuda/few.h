/* What the products of few rows (few.cu, wide.cu, wide_tiled.cu) share. Device code. */
#ifndef BACKEND_CUDA_FEW_H
#define BACKEND_CUDA_FEW_H

#include "backend/cuda/unpack.h"

enum { WARPS = 8, FEW = 8, WIDE_OUT = 64, WIDE_STEP = 128, MOST_SPLIT = 4 };

struct few_args {
    struct dlinear w[3], up;
    int count, rows, out, stages, staged; /* staged: x fits into shared memory */
    const bf16 *x;
    int64_t ldx, ldy;
    void *y;
    const float *squares, *factors, *next_weight;
    int squares_count;
    float norm_n, eps;
    bf16 *next_x;
    float *next_squares;
    /* more than FEW rows only */
    int splits, tiled;
    float *parts;
    unsigned *counters;
};

/* 1 / rms of each row from the parts of its sum of squares: `lanes` threads a row, all loads on their way at once. */
template <int LANES>
__device__ static inline void row_factors(const struct few_args &a, float *factor) {
    int row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    float sum = 0;
    if (row < a.rows)
#pragma unroll 8
        for (int i = lane; i < a.squares_count; i += LANES) sum += a.squares[row * MOST_SQUARES + i];
#pragma unroll
    for (int d = LANES / 2; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (row < a.rows && lane == 0) factor[row] = rsqrtf(sum / a.norm_n + a.eps);
}

/* What happens to one sum; returns the square of the residual for the next norm. */
__device__ static inline float finish_one(const struct few_args &a, int64_t row, int64_t column, float sum, float up) {
    int64_t at = row * a.ldy + column;
    if (!a.next_weight) {
        put_sum(a.y, at, sum, a.out, up);
        return 0;
    }
    float h = ((float *)a.y)[at] + sum;
    ((float *)a.y)[at] = h;
    a.next_x[at] = __float2bfloat16_rn(h * a.next_weight[column]);
    return h * h;
}
bool wide_fit(const struct product *p);
void wide_run(struct backend_model *m, const struct product *p, struct few_args *a);  /* wide.cu */
void tiled_run(struct backend_model *m, const struct product *p, struct few_args *a); /* wide_tiled.cu */

#endif
