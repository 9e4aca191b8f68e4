/* Attention over KV pages.
 *
 * attend_rows: any row, any head size up to 256. A block takes one row, one kv head and a piece of the sequence; its warps take pages in
 * turn with running maximum and sum. Pieces are put together by the block that finishes last.
 * attend_runs: runs of rows of one sequence with heads of 128, on the tensor cores (online softmax, blocks of 64 queries and one page
 * of keys; the algorithm of FlashAttention-2, Dao 2023). attend_warpgroup.cu takes its place on Hopper. */
#include "backend/cuda/room.h"


struct attend_args {
    const struct drow *rows;
    const int32_t *pages;
    const bf16 *q;
    bf16 *out;
    const char *kv;
    size_t page_bytes;
    int64_t layer_at, half;
    int heads, kv_heads, n, splits;
    float scale;
    float *partial; /* (rows, heads, splits, n + 2): sum, maximum, weighted values */
    unsigned *counters; /* (rows, kv_heads) */
    int row0;
};

/* G heads share a kv head at most, D * 32 dimensions. A warp takes a page at a time: for the scores a lane has a token, for the sums of the
 * values it has the dimensions lane + 32 i. */
template <int D, int G>
__global__ void __launch_bounds__(128) attend_kernel(const struct attend_args a) {
    enum { ATTEND_WARPS = D * G > 32 ? 2 : 4 };
    __shared__ float merged[ATTEND_WARPS][G][2], values[ATTEND_WARPS][G][32 * D], query[G][32 * D], weights[ATTEND_WARPS][G][PAGE];
    __shared__ unsigned arrived;
    let_next_start();
    wait_for_input();
    int row = blockIdx.x, kv = blockIdx.y, split = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = a.n;
    struct drow r = a.rows[row];
    if (r.block >= 0) return; /* its run is attended elsewhere */
    int length = r.slot + 1, chunk = ((length + a.splits - 1) / a.splits + PAGE - 1) / PAGE * PAGE;
    int begin = split * chunk, end = begin + chunk < length ? begin + chunk : length, group = a.heads / a.kv_heads;
    for (int e = threadIdx.x; e < group * n; e += blockDim.x)
        query[e / n][e % n] = __bfloat162float(a.q[((int64_t)row * a.heads + kv * group + e / n) * n + e % n]) * a.scale;
    __syncthreads();
    float sum[G][D] = {}, most[G], total[G] = {};
#pragma unroll
    for (int h = 0; h < G; h++) most[h] = -INFINITY;
    for (int at = begin + warp * PAGE; at < end; at += ATTEND_WARPS * PAGE) {
        const bf16 *keys = (const bf16 *)(a.kv + (size_t)a.pages[r.pages + at / PAGE] * a.page_bytes) + a.layer_at + (int64_t)kv * PAGE * n;
        const bf16 *key = keys + lane * n, *value = keys + a.half;
        int count = end - at < PAGE ? end - at : PAGE; /* what lies behind may be anything */
        float score[G] = {}, keep[G];
        for (int d = 0; d < n; d++) {
            float k = __bfloat162float(key[d]);
#pragma unroll
            for (int h = 0; h < G; h++)
                if (h < group) score[h] += query[h][d] * k;
        }
#pragma unroll
        for (int h = 0; h < G; h++) {
            if (h >= group) break;
            float s = lane < count ? score[h] : -INFINITY, top = s;
            for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
            top = fmaxf(top, most[h]);
            keep[h] = __expf(most[h] - top), most[h] = top;
            weights[warp][h][lane] = s = __expf(s - top);
            total[h] = total[h] * keep[h] + s;
        }
        __syncwarp();
#pragma unroll
        for (int h = 0; h < G; h++)
#pragma unroll
            for (int i = 0; i < D; i++) sum[h][i] *= h < group ? keep[h] : 1.0f;
        for (int j = 0; j < count; j++)
#pragma unroll
            for (int i = 0; i < D; i++) {
                int d = lane + i * 32;
                float v = d < n ? __bfloat162float(value[j * n + d]) : 0;
#pragma unroll
                for (int h = 0; h < G; h++)
                    if (h < group) sum[h][i] += weights[warp][h][j] * v;
            }
        __syncwarp();
    }
#pragma unroll
    for (int h = 0; h < G; h++) {
        if (h >= group) break;
        for (int d = 16; d; d /= 2) total[h] += __shfl_xor_sync(~0u, total[h], d);
        if (lane == 0) merged[warp][h][0] = most[h], merged[warp][h][1] = total[h];
#pragma unroll
        for (int i = 0; i < D; i++) values[warp][h][lane + i * 32] = sum[h][i];
    }
    __syncthreads();
    for (int e = threadIdx.x; e < group * n; e += blockDim.x) {
        int h = e / n, d = e % n, head = kv * group + h;
        float top = -INFINITY, all = 0, value = 0;
        for (int v = 0; v < ATTEND_WARPS; v++) top = fmaxf(top, merged[v][h][0]);
        for (int v = 0; v < ATTEND_WARPS && top > -INFINITY; v++) {
            float f = __expf(merged[v][h][0] - top);
            all += merged[v][h][1] * f, value += values[v][h][d] * f;
        }
        if (a.splits == 1) {
            a.out[((int64_t)row * a.heads + head) * n + d] = __float2bfloat16_rn(value / all);
        } else {
            float *to = a.partial + (((int64_t)row * a.heads + head) * a.splits + split) * (n + 2);
            if (d == 0) to[0] = all, to[1] = top;
            to[2 + d] = value;
        }
    }
    if (a.splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) arrived = atomicAdd(&a.counters[row * a.kv_heads + kv], 1u);
    __syncthreads();
    if (arrived != (unsigned)a.splits - 1) return;
    __threadfence();
    if (threadIdx.x == 0) a.counters[row * a.kv_heads + kv] = 0;
    for (int e = threadIdx.x; e < group * n; e += blockDim.x) {
        int h = e / n, d = e % n, head = kv * group + h;
        const volatile float *from = a.partial + ((int64_t)row * a.heads + head) * a.splits * (n + 2);
        float top = -INFINITY, all = 0, value = 0;
        for (int s = 0; s < a.splits; s++) top = fmaxf(top, from[s * (n + 2) + 1]);
        for (int s = 0; s < a.splits; s++) {
            if (from[s * (n + 2) + 1] == -INFINITY) continue;
            float f = __expf(from[s * (n + 2) + 1] - top);
            all += from[s * (n + 2)] * f, value += from[s * (n + 2) + 2 + d] * f;
        }
        a.out[((int64_t)row * a.heads + head) * n + d] = __float2bfloat16_rn(value / all);
    }
}

static struct attend_args attend_args_of(struct backend_model *m, int layer, const struct drow *rows, const int32_t *pages, const bf16 *q, bf16 *out) {
    const struct text_config *t = &m->w.config.text;
    struct attend_args a = {};
    a.rows = rows, a.pages = pages, a.q = q, a.out = out, a.kv = m->kv, a.page_bytes = m->page_bytes;
    a.layer_at = layer * m->layer_stride, a.half = m->layer_stride / 2;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.n = t->head_dim, a.splits = 1, a.scale = (float)(1.0 / sqrt((double)t->head_dim));
    return a;
}

template <int D, int G>
static void attend_some(struct backend_model *m, const struct attend_args *a, int count) {
    launch(m, attend_kernel<D, G>, dim3((unsigned)count, (unsigned)a->kv_heads, (unsigned)a->splits), dim3(D * G > 32 ? 64 : 128), 0, *a);
}

void attend_rows(struct backend_model *m, int layer, const struct drow *rows, int count, const int32_t *pages, const bf16 *q, bf16 *out, int splits,
                 float *partial, unsigned *counters) {
    struct attend_args a = attend_args_of(m, layer, rows, pages, q, out);
    a.splits = splits, a.partial = partial, a.counters = counters;
    int group = a.heads / a.kv_heads;
    if (a.n > 128) group <= 2 ? attend_some<8, 2>(m, &a, count) : attend_some<8, 8>(m, &a, count);
    else if (group <= 2) attend_some<4, 2>(m, &a, count);
    else if (group <= 4) attend_some<4, 4>(m, &a, count);
    else attend_some<4, 16>(m, &a, count);
}

/* ---- runs ---- */

enum { RUN_ROWS = 64, HEAD = 128, PAD = 8, RUN_LEAST = 16 }; /* shorter runs are attended row by row */

struct kv_tile {
    bf16 k[PAGE][HEAD + PAD], v[PAGE][HEAD + PAD];
};

/* Block: 64 query rows of one head; a warp 16 of them. */
__global__ void __launch_bounds__(128) run_kernel(const struct attend_args a, int first, int count) {
    DYNAMIC_SHARED(shared);
    struct kv_tile *tile = (struct kv_tile *)shared; /* two, one is filled while the other is read */
    wait_for_input();
    int head = blockIdx.y, kv = head / (a.heads / a.kv_heads), warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int block = (gridDim.x - 1 - blockIdx.x) * RUN_ROWS; /* the longest first */
    struct drow r0 = a.rows[first];
    int slot0 = r0.slot + block + warp * 16, last = r0.slot + (block + RUN_ROWS < count ? block + RUN_ROWS : count) - 1, tiles = last / PAGE + 1;
    auto fill = [&](struct kv_tile *to, int page_number) {
        const bf16 *page = (const bf16 *)(a.kv + (size_t)a.pages[r0.pages + page_number] * a.page_bytes) + a.layer_at + (int64_t)kv * PAGE * HEAD;
        for (int i = threadIdx.x; i < PAGE * HEAD / 8; i += blockDim.x) {
            int row = i / (HEAD / 8), column = i % (HEAD / 8) * 8;
            copy_async_16(&to->k[row][column], page + row * HEAD + column);
            copy_async_16(&to->v[row][column], page + a.half + row * HEAD + column);
        }
        copy_async_commit();
    };
    fill(&tile[0], 0);
    uint32_t q[HEAD / 16][4];
#pragma unroll
    for (int c = 0; c < HEAD / 16; c++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = block + warp * 16 + g + e % 2 * 8;
            const bf16 *from = a.q + ((int64_t)(first + row) * a.heads + head) * HEAD + c * 16 + t * 2 + e / 2 * 8;
            q[c][e] = row < count ? *(const uint32_t *)from : 0;
        }
    }
    float o[HEAD / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const float scale = a.scale * 1.4426950408889634f; /* exp2 from here on */
    for (int i = 0; i < tiles; i++) {
        if (i + 1 < tiles) {
            fill(&tile[(i + 1) % 2], i + 1);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        const struct kv_tile *now = &tile[i % 2];
        float s[PAGE / 8][4] = {};
#pragma unroll
        for (int c = 0; c < HEAD / 16; c++) {
#pragma unroll
            for (int j = 0; j < PAGE / 16; j++) { /* 16 keys: matrices (keys 0-7, dims 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15) */
                uint32_t b[4];
                load_matrices(b, &now->k[j * 16 + lane % 8 + lane / 16 * 8][c * 16 + lane / 8 % 2 * 8]);
                mma_bf16(s[2 * j], q[c], b[0], b[1]);
                mma_bf16(s[2 * j + 1], q[c], b[2], b[3]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int reach = slot0 + g + r * 8 - i * PAGE; /* keys up to here */
            float top = most[r];
#pragma unroll
            for (int j = 0; j < PAGE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float *x = &s[j][r * 2 + e];
                    *x = j * 8 + t * 2 + e <= reach ? *x * scale : -INFINITY;
                    top = fmaxf(top, *x);
                }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            float base = top == -INFINITY ? 0 : top, keep = exp2f(most[r] - base), sum = 0;
            most[r] = top;
#pragma unroll
            for (int j = 0; j < PAGE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) sum += s[j][r * 2 + e] = exp2f(s[j][r * 2 + e] - base);
            total[r] = total[r] * keep + sum;
#pragma unroll
            for (int d = 0; d < HEAD / 8; d++) o[d][r * 2] *= keep, o[d][r * 2 + 1] *= keep;
        }
#pragma unroll
        for (int j = 0; j < PAGE / 16; j++) {
            const uint32_t p[4] = {pack_bf16(s[2 * j][0], s[2 * j][1]), pack_bf16(s[2 * j][2], s[2 * j][3]), pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]),
                                   pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3])};
#pragma unroll
            for (int d = 0; d < HEAD / 16; d++) {
                uint32_t b[4];
                load_matrices_turned(b, &now->v[j * 16 + lane % 16][d * 16 + lane / 16 * 8]);
                mma_bf16(o[2 * d], p, b[0], b[1]);
                mma_bf16(o[2 * d + 1], p, b[2], b[3]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(~0u, total[r], 1);
        total[r] += __shfl_xor_sync(~0u, total[r], 2);
        int row = block + warp * 16 + g + r * 8;
        if (row >= count) continue;
        float f = 1 / total[r];
        bf16 *to = a.out + ((int64_t)(first + row) * a.heads + head) * HEAD + t * 2;
#pragma unroll
        for (int d = 0; d < HEAD / 8; d++) *(uint32_t *)(to + d * 8) = pack_bf16(o[d][r * 2] * f, o[d][r * 2 + 1] * f);
    }
}

bool attend_run_fit(const struct backend_model *m, int count) { return m->w.config.text.head_dim == HEAD && count >= RUN_LEAST; }

void attend_runs(struct backend_model *m, int layer, const struct drow *rows, const struct attend_run *runs, int count, const int32_t *pages, const bf16 *q, bf16 *out) {
    if (attend_warpgroup_fit(m) && attend_warpgroup(m, layer, rows, runs, count, pages, q, out)) return;
    struct attend_args a = attend_args_of(m, layer, rows, pages, q, out);
    for (int i = 0; i < count; i++)
        launch(m, run_kernel, dim3((unsigned)(runs[i].count + RUN_ROWS - 1) / RUN_ROWS, (unsigned)a.heads), dim3(128), 2 * sizeof(struct kv_tile), a, runs[i].first, runs[i].count);
}
