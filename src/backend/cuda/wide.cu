/* Products of 9 to 64 rows where there is no wgmma (wide_tiled.cu): weights unpacked in registers as in few.cu. A block makes 64 outputs; 4
 * warps take 16 each, twice, for halves of the width; the activations come through shared memory, once for all four. Narrow matrices are
 * cut along the width too; the last block to arrive adds the parts. */
#include "backend/cuda/few.h"

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

bool wide_fit(const struct product *p) {
    for (int i = 0; i < p->count; i++)
        if (p->w[i]->in % WIDE_STEP || p->w[i]->out % (p->out == OUT_SILU ? WIDE_OUT / 2 : WIDE_OUT)) return false;
    return true;
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
static void run_rows(struct backend_model *m, struct few_args *a, int tiles) {
    if (a->rows <= 16) run_wide<KIND, 2>(m, a, tiles);
    else if (a->rows <= 32) run_wide<KIND, 4>(m, a, tiles);
    else run_wide<KIND, 8>(m, a, tiles);
}

void wide_run(struct backend_model *m, const struct product *p, struct few_args *a) {
    int64_t all = 0;
    for (int i = 0; i < p->count; i++) all += p->w[i]->out;
    int tiles = (int)(all / (p->out == OUT_SILU ? WIDE_OUT / 2 : WIDE_OUT));
    if (p->w[0]->storage == STORAGE_BF16) run_rows<STORAGE_BF16>(m, a, tiles);
    else if (p->w[0]->storage == STORAGE_FP8_BLOCK) run_rows<STORAGE_FP8_BLOCK>(m, a, tiles);
    else run_rows<STORAGE_NF4>(m, a, tiles);
}
