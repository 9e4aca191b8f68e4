/* Products of few rows, weights read as they are stored: what decoding is made of.
 *
 * The time to beat is bytes of weights over memory bandwidth. All products run on the tensor cores (mma m16n8k16, outputs as M, rows as N),
 * weights unpacked in registers. Which of its values a lane calls k does not matter as long as the activations are read in the same
 * order, so a lane takes 16 consecutive bytes of a row and nothing is shuffled. FP8's block factor and NF4's absmax multiply the fp32
 * sums of their block, not each weight (the weights' own rounding to bf16 is then only that of the 16 NF4 levels).
 *
 * few_product, up to 8 rows: a block makes 16 MT outputs of all rows; its 8 warps share the width. Each lane keeps its next bytes under
 * way to shared memory (cp.async) and starts before the kernel in front has ended: at wait_for_input the weights are there already.
 * wide_product, up to 64 rows: a block makes 64 outputs; 4 warps take 16 each, twice, for halves of the width; the activations come
 * through shared memory, once for all four. Narrow matrices are cut along the width too; the last block to arrive adds the parts. */
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
    /* wide only */
    int splits;
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

static __device__ inline void wait_stage(int stages) {
    if (stages == 1) copy_async_wait<0>();
    else if (stages == 2) copy_async_wait<1>();
    else copy_async_wait<3>();
}

template <int KIND, int MT, bool SILU, int W>
__global__ void __launch_bounds__(W * 32, W == 16 ? 1 : KIND == STORAGE_NF4 ? 2 : 3) few_product(const struct few_args a) {
    enum { WARPS = W, VALUES = kind<KIND>::values, STEP = VALUES * 8, OUTS = SILU ? 16 : MT * 16 };
    DYNAMIC_SHARED(shared);
    __shared__ float factor[FEW];
    let_next_start();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint4 *ring = (uint4 *)shared;
    uint32_t *lut = (uint32_t *)(ring + WARPS * a.stages * MT * 128);
    float *side = (float *)(lut + (KIND == STORAGE_NF4 ? LUT_WORDS : 0)); /* NF4: absmax (MT * 16, in / 64 + 1); FP8: factors (MT, steps) */
    struct dlinear w = a.w[0];
    int tile = blockIdx.x * (SILU ? 1 : MT), at = 0;
    for (int s = 0; s + 1 < a.count && tile * 16 >= w.out; s++) tile -= w.out / 16, at += w.out, w = a.w[s + 1];
    int steps = w.in / STEP, blocks = w.in / NF4_BLOCK, side_count = KIND == STORAGE_NF4 ? MT * 16 * (blocks + 1) : KIND == STORAGE_FP8_BLOCK ? MT * steps : 0;
    bf16 *xs = (bf16 *)((char *)side + (side_count * 4 + 15) / 16 * 16);
    size_t row_bytes = (size_t)w.in * 16 / VALUES;
    ring += warp * a.stages * MT * 128;

    auto first_row = [&](int i) { return (SILU ? tile : tile + i) * 16; };
    auto place = [&](int row, int chunk) { return row * 8 + (chunk ^ (row & 3) * 2); }; /* NF4: no two rows of a quarter warp in one bank */
    auto fetch = [&](int stage, int step) {
#pragma unroll
        for (int i = 0; i < MT; i++) {
            const char *from = (const char *)(SILU && i == 1 ? a.up.data : w.data) + first_row(i) * row_bytes + (size_t)step * 128;
            uint4 *to = ring + (stage * MT + i) * 128;
#pragma unroll
            for (int u = 0; u < 4; u++) {
                if (KIND == STORAGE_NF4) {
                    int row = lane / 8 + u * 4, chunk = lane % 8;
                    copy_async_16(to + place(row, chunk), from + row * row_bytes + chunk * 16);
                } else {
                    copy_async_16(to + u * 32 + lane, from + (g + u / 2 * 8) * row_bytes + (u % 2 * 4 + t) * 16);
                }
            }
        }
    };
    for (int i = 0; i < a.stages; i++) {
        if (warp + i * WARPS < steps) fetch(i, warp + i * WARPS);
        copy_async_commit();
    }
    for (int s = warp + a.stages * WARPS; s < steps; s += WARPS)
        if (lane < 16)
#pragma unroll
            for (int i = 0; i < MT; i++) prefetch_l2((const char *)(SILU && i == 1 ? a.up.data : w.data) + (first_row(i) + lane) * row_bytes + (size_t)s * 128);
    if (KIND == STORAGE_NF4) {
        fill_lut(lut, w.quant_map);
        for (int e = threadIdx.x; e < MT * 4 * blocks; e += blockDim.x) {
            int row = e / (blocks / 4), b = e % (blocks / 4) * 4;
            nf4_absmax4(SILU && row >= 16 ? a.up : w, (int64_t)(SILU ? first_row(0) + row % 16 : first_row(0) + row) * blocks + b, &side[row * (blocks + 1) + b]);
        }
    }
    if (KIND == STORAGE_FP8_BLOCK)
        for (int e = threadIdx.x; e < MT * steps; e += blockDim.x) {
            const struct dlinear &from = SILU && e >= steps ? a.up : w;
            side[e] = from.scale[(int64_t)(first_row(e / steps) / 128) * from.scale_columns + e % steps];
        }

    wait_for_input();
    const bf16 *x = a.x;
    int64_t ldx = a.ldx;
    if (a.staged) {
        int wide = w.in + (KIND == STORAGE_BF16 ? 32 : 8), chunks = w.in / 8; /* rows end in other banks */
        for (int e = threadIdx.x; e < a.rows * chunks; e += blockDim.x)
            *(uint4 *)(xs + e / chunks * wide + e % chunks * 8) = *(const uint4 *)(a.x + e / chunks * a.ldx + e % chunks * 8);
        x = xs, ldx = wide;
    }
    if (a.squares) row_factors<32>(a, factor);
    __syncthreads();

    float acc[MT][4] = {};
    for (int s = warp, i = 0; s < steps; s += WARPS, i++) {
        const uint4 *now = ring + i % a.stages * MT * 128;
        wait_stage(a.stages);
        if (KIND == STORAGE_NF4) __syncwarp();
        float part[MT][4] = {};
        if (KIND == STORAGE_NF4) {
#pragma unroll
            for (int b = 0; b < 4; b++) {
                uint2 raw[MT][2];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) raw[m][r] = ((const uint2 *)(now + m * 128 + place(g + r * 8, b * 2 + t / 2)))[t % 2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    uint4 v = g < a.rows ? *(const uint4 *)(x + g * ldx + s * STEP + b * 64 + t * 16 + j * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        uint32_t p[4], q[4], words[2] = {j ? raw[m][0].y : raw[m][0].x, j ? raw[m][1].y : raw[m][1].x};
                        unpack8<KIND>(p, &words[0], lut + lane);
                        unpack8<KIND>(q, &words[1], lut + lane);
                        const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
                        mma_bf16(part[m], a0, v.x, v.y);
                        mma_bf16(part[m], a1, v.z, v.w);
                    }
                }
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    float lo = side[(m * 16 + g) * (blocks + 1) + s * 4 + b], hi = side[(m * 16 + g + 8) * (blocks + 1) + s * 4 + b];
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[m][c] += part[m][c] * (c < 2 ? lo : hi), part[m][c] = 0;
                }
            }
        } else {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t raw[MT][2][4];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        uint4 v = now[m * 128 + (r * 2 + h) * 32 + lane];
                        raw[m][r][0] = v.x, raw[m][r][1] = v.y, raw[m][r][2] = v.z, raw[m][r][3] = v.w;
                    }
#pragma unroll
                for (int j = 0; j < VALUES / 8; j++) {
                    uint4 v = g < a.rows ? *(const uint4 *)(x + g * ldx + s * STEP + h * (STEP / 2) + t * VALUES + j * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        uint32_t p[4], q[4];
                        unpack8<KIND>(p, raw[m][0] + j * 2, lut);
                        unpack8<KIND>(q, raw[m][1] + j * 2, lut);
                        const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
                        mma_bf16(KIND == STORAGE_BF16 ? acc[m] : part[m], a0, v.x, v.y);
                        mma_bf16(KIND == STORAGE_BF16 ? acc[m] : part[m], a1, v.z, v.w);
                    }
                }
            }
            if (KIND == STORAGE_FP8_BLOCK) {
                float fx[2] = {1, 1};
                if (a.factors)
#pragma unroll
                    for (int c = 0; c < 2; c++)
                        if (t * 2 + c < a.rows) fx[c] = a.factors[(int64_t)(t * 2 + c) * steps + s];
#pragma unroll
                for (int m = 0; m < MT; m++)
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[m][c] += part[m][c] * (side[m * steps + s] * fx[c % 2]);
            }
        }
        if (KIND == STORAGE_NF4) __syncwarp();
        if (s + a.stages * WARPS < steps) fetch(i % a.stages, s + a.stages * WARPS);
        copy_async_commit();
    }
    copy_async_wait<0>();
    __syncthreads();

    /* The warps' sums come together where the ring was; element c of a lane: output g + c / 2 * 8, row 2 t + c % 2. */
    float *sums = (float *)shared, *square = sums + WARPS * MT * 128;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int c = 0; c < 4; c++) sums[((warp * MT + m) * 4 + c) * 32 + lane] = acc[m][c];
    __syncthreads();
    for (int e = threadIdx.x; e < OUTS * a.rows; e += blockDim.x) {
        int o = e % OUTS, row = e / OUTS, from = o / 16 * 128 + (o / 8 % 2 * 2 + row % 2) * 32 + o % 8 * 4 + row / 2;
        float sum = 0, up = 0, f = a.squares ? factor[row] : 1.0f;
#pragma unroll
        for (int v = 0; v < WARPS; v++) {
            sum += sums[v * MT * 128 + from];
            if (SILU) up += sums[v * MT * 128 + 128 + from];
        }
        int column = first_row(0) + o;
        sum *= f, up *= f;
        if (w.bias) sum += w.bias[column];
        float s2 = finish_one(a, row, at + column, sum, up);
        if (a.next_weight) square[row * OUTS + o] = s2;
    }
    if (!a.next_weight) return;
    __syncthreads();
    if ((int)threadIdx.x < a.rows) {
        float sum = 0;
        for (int o = 0; o < OUTS; o++) sum += square[threadIdx.x * OUTS + o];
        a.next_squares[threadIdx.x * MOST_SQUARES + blockIdx.x] = sum;
    }
}

/* ---- up to 64 rows ---- */

template <int KIND, int NT>
__global__ void __launch_bounds__(WARPS * 32, 2) wide_product(const struct few_args a) {
    enum { VALUES = kind<KIND>::values, CHUNKS = WIDE_STEP / VALUES, HALVES = CHUNKS / 4, ROWS = NT * 8, LDX = WIDE_STEP + (KIND == STORAGE_BF16 ? 32 : 8) };
    DYNAMIC_SHARED(shared);
    __shared__ float factor[FEW_ROWS];
    __shared__ unsigned arrived;
    let_next_start();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, wm = warp % 4, wk = warp / 4;
    bool silu = a.out == OUT_SILU;
    uint4 *ring = (uint4 *)shared + warp * 2 * 16 * CHUNKS;                   /* (2, 16 rows, CHUNKS) of this warp */
    bf16 *xs = (bf16 *)((uint4 *)shared + WARPS * 2 * 16 * CHUNKS);           /* (2, 2 halves of the width, ROWS, LDX) */
    uint32_t *lut = (uint32_t *)(xs + 4 * ROWS * LDX);
    float *side = (float *)(lut + (KIND == STORAGE_NF4 ? LUT_WORDS : 0));
    struct dlinear w = a.w[0];
    int tile = blockIdx.x, at = 0, steps = w.in / WIDE_STEP;
    if (!silu)
        for (int s = 0; s + 1 < a.count && tile * WIDE_OUT >= w.out; s++) tile -= w.out / WIDE_OUT, at += w.out, w = a.w[s + 1];
    int outs = silu ? WIDE_OUT / 2 : WIDE_OUT;
    const struct dlinear &mine = silu && wm >= 2 ? a.up : w;
    int first = tile * outs + (silu ? wm % 2 : wm) * 16;
    int each = (steps + a.splits - 1) / a.splits, k0 = blockIdx.y * each, k1 = k0 + each < steps ? k0 + each : steps;
    int blocks = w.in / NF4_BLOCK, own = each * 2 + 1; /* NF4 blocks of this part, one more: other banks */
    size_t row_bytes = (size_t)w.in * 16 / VALUES;
    const char *from = (const char *)mine.data + first * row_bytes;

    auto place = [&](int row, int chunk) { return row * 4 + (chunk ^ (row >> 1 & 1) * 2); };
    auto fetch = [&](int stage, int step) {
        uint4 *to = ring + stage * 16 * CHUNKS;
#pragma unroll
        for (int u = 0; u < CHUNKS / 2; u++) {
            if (KIND == STORAGE_NF4) {
                int row = lane / 4 + u * 8, chunk = lane % 4;
                copy_async_16(to + place(row, chunk), from + row * row_bytes + (size_t)step * CHUNKS * 16 + chunk * 16);
            } else {
                int r = u / HALVES, h = u % HALVES;
                copy_async_16(to + u * 32 + lane, from + (g + r * 8) * row_bytes + (size_t)step * CHUNKS * 16 + (h * 4 + t) * 16);
            }
        }
    };
    /* Rows of activations: a thread has column c of rows r0 + 16 i, for both halves of the warps. */
    int c = threadIdx.x % 16, r0 = threadIdx.x / 16;
    int row_at[ROWS / 16];
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++) row_at[i] = (int)((r0 + i * 16 < a.rows ? r0 + i * 16 : a.rows - 1) * a.ldx) + c * 8;
    auto fetch_x = [&](int stage, int step) {
#pragma unroll
        for (int half = 0; half < 2; half++)
            if (step + half < k1)
#pragma unroll
                for (int i = 0; i < ROWS / 16; i++)
                    copy_async_16(xs + ((stage * 2 + half) * ROWS + r0 + i * 16) * LDX + c * 8, a.x + row_at[i] + (step + half) * WIDE_STEP);
    };
    if (k0 + wk < k1) fetch(0, k0 + wk);
    for (int s = k0 + wk + 2; s < k1; s += 2)
        if (lane < 16) prefetch_l2(from + lane * row_bytes + (size_t)s * CHUNKS * 16);
    if (KIND == STORAGE_NF4) {
        fill_lut(lut, w.quant_map);
        int count = (k1 - k0) * 2;
        for (int e = threadIdx.x; e < WIDE_OUT * count; e += blockDim.x) {
            int row = e / count, b = e % count;
            bool up = silu && row >= 32;
            side[row * own + b] = nf4_absmax(up ? a.up : w, (int64_t)(tile * outs + (up ? row - 32 : row)) * blocks + k0 * 2 + b);
        }
    }
    wait_for_input();
    fetch_x(0, k0);
    copy_async_commit();
    if (a.squares) row_factors<4>(a, factor);

    float acc[NT][4] = {};
    for (int s = k0, i = 0; s < k1; s += 2, i++) {
        copy_async_wait<0>();
        __syncthreads();
        if (s + 2 < k1) {
            if (s + 2 + wk < k1) fetch((i + 1) % 2, s + 2 + wk);
            fetch_x((i + 1) % 2, s + 2);
        }
        copy_async_commit();
        int step = s + wk;
        if (step >= k1) continue;
        const uint4 *now = ring + i % 2 * 16 * CHUNKS;
        const bf16 *x = xs + ((i % 2 * 2 + wk) * ROWS + g) * LDX;
        float part[NT][4] = {};
        if (KIND == STORAGE_NF4) {
#pragma unroll
            for (int b = 0; b < 2; b++) {
                uint2 raw[2];
#pragma unroll
                for (int r = 0; r < 2; r++) raw[r] = ((const uint2 *)(now + place(g + r * 8, b * 2 + t / 2)))[t % 2];
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    uint32_t p[4], q[4], words[2] = {j ? raw[0].y : raw[0].x, j ? raw[1].y : raw[1].x};
                    unpack8<KIND>(p, &words[0], lut + lane);
                    unpack8<KIND>(q, &words[1], lut + lane);
                    const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        uint4 v = *(const uint4 *)(x + n * 8 * LDX + b * 64 + t * 16 + j * 8);
                        mma_bf16(part[n], a0, v.x, v.y);
                        mma_bf16(part[n], a1, v.z, v.w);
                    }
                }
                float lo = side[(wm * 16 + g) * own + (step - k0) * 2 + b], hi = side[(wm * 16 + g + 8) * own + (step - k0) * 2 + b];
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int c = 0; c < 4; c++) acc[n][c] += part[n][c] * (c < 2 ? lo : hi), part[n][c] = 0;
            }
        } else {
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                uint32_t raw[2][4];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    uint4 v = now[(r * HALVES + h) * 32 + lane];
                    raw[r][0] = v.x, raw[r][1] = v.y, raw[r][2] = v.z, raw[r][3] = v.w;
                }
#pragma unroll
                for (int j = 0; j < VALUES / 8; j++) {
                    uint32_t p[4], q[4];
                    unpack8<KIND>(p, raw[0] + j * 2, lut);
                    unpack8<KIND>(q, raw[1] + j * 2, lut);
                    const uint32_t a0[4] = {p[0], q[0], p[1], q[1]}, a1[4] = {p[2], q[2], p[3], q[3]};
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        uint4 v = *(const uint4 *)(x + n * 8 * LDX + h * (4 * VALUES) + t * VALUES + j * 8);
                        mma_bf16(KIND == STORAGE_BF16 ? acc[n] : part[n], a0, v.x, v.y);
                        mma_bf16(KIND == STORAGE_BF16 ? acc[n] : part[n], a1, v.z, v.w);
                    }
                }
            }
            if (KIND == STORAGE_FP8_BLOCK) {
                float scale = mine.scale[(int64_t)(first / 128) * mine.scale_columns + step];
                if (!a.factors) {
#pragma unroll
                    for (int n = 0; n < NT; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++) acc[n][e] += part[n][e] * scale;
                } else {
#pragma unroll
                    for (int n = 0; n < NT; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            int row = n * 8 + t * 2 + e % 2;
                            if (row < a.rows) acc[n][e] += part[n][e] * (scale * a.factors[(int64_t)row * steps + step]);
                        }
                }
            }
        }
    }
    copy_async_wait<0>();
    __syncthreads();

    /* The halves come together where the activations were: sums (64, ROWS + 1). */
    float *sums = (float *)xs;
    enum { LDS = ROWS + 1 };
    for (int half = 0; half < 2; half++) {
        if (wk == half)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    float *to = &sums[(wm * 16 + g + c / 2 * 8) * LDS + n * 8 + t * 2 + c % 2];
                    *to = half ? *to + acc[n][c] : acc[n][c];
                }
        __syncthreads();
    }
    if (a.splits > 1) {
        float *parts = a.parts + (int64_t)blockIdx.x * a.splits * WIDE_OUT * ROWS;
        for (int e = threadIdx.x; e < WIDE_OUT * ROWS; e += blockDim.x) parts[blockIdx.y * WIDE_OUT * ROWS + e] = sums[e / ROWS * LDS + e % ROWS];
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) arrived = atomicAdd(&a.counters[blockIdx.x], 1u);
        __syncthreads();
        if (arrived != (unsigned)a.splits - 1) return;
        __threadfence();
        if (threadIdx.x == 0) a.counters[blockIdx.x] = 0;
#pragma unroll 4
        for (int e = threadIdx.x; e < WIDE_OUT * ROWS; e += WARPS * 32) { /* all loads of several sums on their way at once */
            float v[MOST_SPLIT], sum = 0;
#pragma unroll
            for (int s = 0; s < MOST_SPLIT; s++) v[s] = s < a.splits ? __ldcg(&parts[s * WIDE_OUT * ROWS + e]) : 0;
#pragma unroll
            for (int s = 0; s < MOST_SPLIT; s++) sum += v[s];
            sums[e / ROWS * LDS + e % ROWS] = sum;
        }
        __syncthreads();
    }
#pragma unroll 4
    for (int e = threadIdx.x; e < outs * ROWS; e += WARPS * 32) {
        int o = e % outs, row = e / outs, column = tile * outs + o;
        if (row >= a.rows) continue;
        float f = a.squares ? factor[row] : 1.0f, sum = sums[o * LDS + row] * f;
        if (w.bias) sum += w.bias[column];
        float s2 = finish_one(a, row, at + column, sum, silu ? sums[(o + 32) * LDS + row] * f : 0);
        if (a.next_weight) sums[o * LDS + row] = s2;
    }
    if (!a.next_weight) return;
    __syncthreads();
    if ((int)threadIdx.x < a.rows) {
        float sum = 0;
        for (int o = 0; o < WIDE_OUT; o++) sum += sums[o * LDS + threadIdx.x];
        a.next_squares[threadIdx.x * MOST_SQUARES + blockIdx.x] = sum;
    }
}

/* ---- choice ---- */

static bool two_tiles(const struct product *p) { /* so many outputs that blocks of 32 still fill the device */
    for (int i = 0; i < p->count; i++)
        if (p->w[i]->out % 32) return false;
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    return p->out == OUT_F32 && all >= (p->w[0]->storage == STORAGE_NF4 ? 4096 : 16384);
}

static bool wide_fit(const struct product *p) {
    for (int i = 0; i < p->count; i++)
        if (p->w[i]->in % WIDE_STEP || p->w[i]->out % (p->out == OUT_SILU ? WIDE_OUT / 2 : WIDE_OUT)) return false;
    return true;
}

int product_squares(const struct product *p) { return p->w[0]->out / (p->rows > FEW && wide_fit(p) ? WIDE_OUT : 16); }

bool few_rows_fit(const struct product *p) {
    for (int i = 0; i < p->count; i++)
        if (!p->w[i]->fast || p->w[i]->storage != p->w[0]->storage || p->w[i]->in != p->w[0]->in) return false;
    if (p->factors && p->w[0]->storage != STORAGE_FP8_BLOCK) return false;
    if (p->rows > FEW_ROWS || p->ldx % 8 || (p->out == OUT_SILU && (!p->up->fast || p->up->storage != p->w[0]->storage || p->count > 1))) return false;
    return !p->next_weight || (p->count == 1 && (p->rows <= FEW || wide_fit(p)) && product_squares(p) <= MOST_SQUARES);
}

template <int KIND, int MT, bool SILU, int W>
static void run_few(struct backend_model *m, struct few_args *a, int blocks) {
    enum { WARPS = W, STEP = kind<KIND>::values * 8 };
    int in = a->w[0].in, steps = in / STEP, turns = (steps + WARPS - 1) / WARPS, most = MT == 1 && KIND != STORAGE_NF4 && W == 8 ? 4 : 2;
    a->stages = turns >= 3 && most == 4 ? 4 : turns >= 2 ? 2 : 1;
    size_t ring = (size_t)WARPS * a->stages * MT * 2048, sums = (size_t)(WARPS * MT * 128 + FEW * MT * 16) * 4;
    size_t side = KIND == STORAGE_NF4 ? (size_t)LUT_WORDS * 4 + (size_t)MT * 16 * (in / NF4_BLOCK + 1) * 4 : KIND == STORAGE_FP8_BLOCK ? (size_t)MT * steps * 4 : 0;
    size_t x = (size_t)a->rows * (in + 32) * 2, limit = blocks <= m->sm_count ? 200 << 10 : 104 << 10;
    a->staged = ring + side + 16 + x <= limit;
    size_t shared = ring + side + 16 + (a->staged ? x : 0);
    launch(m, few_product<KIND, MT, SILU, W>, dim3((unsigned)blocks), dim3(WARPS * 32), shared > sums ? shared : sums, *a);
}

template <int KIND, int NT>
static void run_wide(struct backend_model *m, struct few_args *a, int tiles) {
    enum { CHUNKS = WIDE_STEP / kind<KIND>::values, LDX = WIDE_STEP + (KIND == STORAGE_BF16 ? 32 : 8) };
    int steps = a->w[0].in / WIDE_STEP;
    a->splits = 1;
    while (a->splits < MOST_SPLIT && tiles * a->splits < m->sm_count && steps / (a->splits * 2) >= 4 && (int64_t)tiles * a->splits * 2 <= MOST_PARTS) a->splits *= 2;
    a->parts = m->split_parts, a->counters = m->split_counters;
    size_t shared = (size_t)WARPS * 2 * 16 * CHUNKS * 16 + (size_t)4 * NT * 8 * LDX * 2;
    if (KIND == STORAGE_NF4) shared += (size_t)LUT_WORDS * 4 + (size_t)WIDE_OUT * ((steps + a->splits - 1) / a->splits * 2 + 1) * 4;
    launch(m, wide_product<KIND, NT>, dim3((unsigned)tiles, (unsigned)a->splits), dim3(WARPS * 32), shared, *a);
}

template <int KIND>
static void run_kind(struct backend_model *m, const struct product *p, struct few_args *a) {
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    if (p->rows > FEW) {
        int tiles = (int)(all / (p->out == OUT_SILU ? WIDE_OUT / 2 : WIDE_OUT));
        if (p->rows <= 16) run_wide<KIND, 2>(m, a, tiles);
        else if (p->rows <= 32) run_wide<KIND, 4>(m, a, tiles);
        else run_wide<KIND, 8>(m, a, tiles);
    } else if (p->out == OUT_SILU) run_few<KIND, 2, true, 8>(m, a, (int)all / 16);
    else if (two_tiles(p)) run_few<KIND, 2, false, 8>(m, a, (int)all / 32);
    else if (all / 16 <= m->sm_count) run_few<KIND, 1, false, 16>(m, a, (int)all / 16); /* one block a multiprocessor: more warps */
    else run_few<KIND, 1, false, 8>(m, a, (int)all / 16);
}

void few_rows_run(struct backend_model *m, const struct product *p) {
    if (p->rows > FEW && !wide_fit(p)) { /* odd shapes: slices */
        size_t element = p->out == OUT_F32 || p->out == OUT_ADD ? 4 : 2;
        for (int r = 0; r < p->rows; r += FEW) {
            struct product slice = *p;
            slice.x += r * p->ldx, slice.y = (char *)p->y + (size_t)r * p->ldy * element;
            slice.rows = p->rows - r < FEW ? p->rows - r : FEW;
            if (p->squares) slice.squares += (int64_t)r * MOST_SQUARES;
            if (p->factors) slice.factors += (int64_t)r * (p->w[0]->in / 128);
            few_rows_run(m, &slice);
        }
        return;
    }
    struct few_args a = {};
    for (int i = 0; i < p->count; i++) a.w[i] = *p->w[i];
    if (p->up) a.up = *p->up;
    a.count = p->count, a.rows = p->rows, a.out = p->out, a.x = p->x, a.ldx = p->ldx, a.y = p->y, a.ldy = p->ldy;
    a.squares = p->squares, a.squares_count = p->squares_count, a.norm_n = (float)p->norm_n, a.eps = m->w.config.text.rms_eps;
    a.factors = p->factors, a.next_weight = p->next_weight, a.next_x = p->next_x, a.next_squares = p->next_squares;
    if (a.w[0].storage == STORAGE_BF16) run_kind<STORAGE_BF16>(m, p, &a);
    else if (a.w[0].storage == STORAGE_FP8_BLOCK) run_kind<STORAGE_FP8_BLOCK>(m, p, &a);
    else run_kind<STORAGE_NF4>(m, p, &a);
}
