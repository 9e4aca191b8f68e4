/* Attention over KV pages.
 *
 * attend_rows: any row, any head size up to 256. A block takes one row, one kv head and a piece of the sequence; its warps take pages in
 * turn with running maximum and sum. Pieces are put together by the block that finishes last.
 * attend_runs: runs of rows of one sequence with heads of 128, on the tensor cores (online softmax, blocks of 64 queries and one page
 * of keys; the algorithm of FlashAttention-2, Dao 2023). attend_warpgroup.cu takes its place on Hopper. Neither reads e4m3 pages: those are
 * unpacked to bf16 in front: 6 KB moved a token and layer at 8 kv heads, a hundredth of what a chunk of 1,024 rows takes to attend to it. */
#include "backend/cuda/room.h"


struct attend_args {
    const struct drow *rows;
    const int32_t *pages;
    const bf16 *q;
    bf16 *out;
    const char *kv;
    size_t page_bytes;
    int64_t layer_at, half; /* in units of two bytes */
    int heads, kv_heads, n, splits;
    float scale;
    float *partial; /* (rows, heads, splits, n + 2): sum, maximum, weighted values */
    unsigned *counters; /* (rows, kv_heads) */
    int row0;
};

/* G heads share a kv head at most, D * 32 dimensions. A warp takes a page at a time: for the scores a lane has a token, for the sums of the
 * values it has the dimensions lane + 32 i. */
template <int D, int G, bool KV8>
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
        const bf16 *layer_keys = (const bf16 *)(a.kv + (size_t)a.pages[r.pages + at / PAGE] * a.page_bytes) + a.layer_at;
        const uint8_t *keys = (const uint8_t *)layer_keys + (int64_t)kv * head_block_bytes(n, KV8), *values_at = keys + a.half * 2;
        const bf16 *key = (const bf16 *)keys + lane * n, *value = (const bf16 *)values_at; /* of bf16 */
        float key_factor = KV8 ? ((const float *)(keys + PAGE * n))[lane] : 1, value_factor = KV8 ? ((const float *)(values_at + PAGE * n))[lane] : 1;
        int count = end - at < PAGE ? end - at : PAGE; /* what lies behind may be anything */
        float score[G] = {}, keep[G];
        for (int d = 0; d < n; d++) {
            float k = KV8 ? e4m3_pair(keys[lane * n + d]).x : __bfloat162float(key[d]);
#pragma unroll
            for (int h = 0; h < G; h++)
                if (h < group) score[h] += query[h][d] * k;
        }
#pragma unroll
        for (int h = 0; h < G; h++) {
            if (h >= group) break;
            float s = lane < count ? score[h] * key_factor : -INFINITY, top = s;
            for (int d = 16; d; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
            top = fmaxf(top, most[h]);
            keep[h] = __expf(most[h] - top), most[h] = top;
            s = __expf(s - top);
            weights[warp][h][lane] = s * value_factor; /* behind the end it may be anything, and is not read */
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
                float v = d >= n ? 0 : KV8 ? e4m3_pair(values_at[j * n + d]).x : __bfloat162float(value[j * n + d]);
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

static struct run_pages model_view(const struct backend_model *m, int layer, const int32_t *pages) {
    return {m->kv, m->page_bytes, m->layer_stride, layer * m->layer_stride, m->capacity, pages};
}

static struct attend_args attend_args_of(struct backend_model *m, const struct run_pages *v, const struct drow *rows, const bf16 *q, bf16 *out) {
    const struct text_config *t = &m->w.config.text;
    struct attend_args a = {};
    a.rows = rows, a.pages = v->pages, a.q = q, a.out = out, a.kv = v->kv, a.page_bytes = v->page_bytes;
    a.layer_at = v->layer_at, a.half = v->layer_stride / 2;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.n = t->head_dim, a.splits = 1, a.scale = (float)(1.0 / sqrt((double)t->head_dim));
    return a;
}

template <int D, int G>
static void attend_some(struct backend_model *m, const struct attend_args *a, int count) {
    dim3 grid((unsigned)count, (unsigned)a->kv_heads, (unsigned)a->splits), block(D * G > 32 ? 64 : 128);
    if (m->kv8) launch(m, attend_kernel<D, G, true>, grid, block, 0, *a);
    else launch(m, attend_kernel<D, G, false>, grid, block, 0, *a);
}

void attend_rows(struct backend_model *m, int layer, const struct drow *rows, int count, const int32_t *pages, const bf16 *q, bf16 *out, int splits,
                 float *partial, unsigned *counters) {
    struct run_pages v = model_view(m, layer, pages);
    struct attend_args a = attend_args_of(m, &v, rows, q, out);
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

static void attend_viewed(struct backend_model *m, const struct run_pages *v, const struct drow *rows, const struct attend_run *runs, int count, const bf16 *q, bf16 *out) {
    if (attend_warpgroup_fit(m) && attend_warpgroup(m, v, rows, runs, count, q, out)) return;
    struct attend_args a = attend_args_of(m, v, rows, q, out);
    for (int i = 0; i < count; i++)
        launch(m, run_kernel, dim3((unsigned)(runs[i].count + RUN_ROWS - 1) / RUN_ROWS, (unsigned)a.heads), dim3(128), 2 * sizeof(struct kv_tile), a, runs[i].first, runs[i].count);
}

/* ---- e4m3 pages as bf16 ones of a single layer, run after run ---- */

struct unpack_args {
    const struct drow *rows;
    const int32_t *pages;
    const char *kv;
    size_t page_bytes;
    int64_t layer_at, half;
    bf16 *to;
    int32_t *numbers; /* what drow.pages finds there, where it found a page's number: the number of the page made of it */
    struct {
        int row, pages, before; /* a row of the run; its pages; those of the runs in front */
    } run[MOST_RUNS];
};

/* A block makes a kv head's keys and values of one page: (keys, values) x (kv head, token, 128). */
__global__ void __launch_bounds__(256) unpack_kernel(const struct unpack_args a) {
    wait_for_input();
    int r = 0, kv = blockIdx.y, kv_heads = gridDim.y;
    while (a.run[r].before + a.run[r].pages <= (int)blockIdx.x) r++;
    int32_t at = a.rows[a.run[r].row].pages + (int)blockIdx.x - a.run[r].before;
    if (kv == 0 && threadIdx.x == 0) a.numbers[at] = blockIdx.x;
    const uint8_t *head = (const uint8_t *)((const bf16 *)(a.kv + (size_t)a.pages[at] * a.page_bytes) + a.layer_at) + (int64_t)kv * head_block_bytes(HEAD, true);
    bf16 *to = a.to + ((int64_t)blockIdx.x * 2 * kv_heads + kv) * PAGE * HEAD;
    for (int i = threadIdx.x; i < 2 * PAGE * HEAD / 16; i += blockDim.x) {
        int value = i >= PAGE * HEAD / 16, e = i % (PAGE * HEAD / 16);
        const uint8_t *from = head + value * a.half * 2;
        uint4 raw = load_streamed(from + e * 16);
        float f = ((const float *)(from + PAGE * HEAD))[e / (HEAD / 16)];
        const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
        uint32_t made[8];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            float2 lo = e4m3_pair(word[w] & 0xFFFF), hi = e4m3_pair(word[w] >> 16);
            made[2 * w] = pack_bf16(lo.x * f, lo.y * f), made[2 * w + 1] = pack_bf16(hi.x * f, hi.y * f);
        }
        uint4 *place = (uint4 *)(to + (int64_t)value * kv_heads * PAGE * HEAD + e * 16);
        place[0] = make_uint4(made[0], made[1], made[2], made[3]), place[1] = make_uint4(made[4], made[5], made[6], made[7]);
    }
}

/* Some of the runs, whose pages are unpacked together. */
static int attend_unpacked(struct backend_model *m, const struct run_pages *v, const struct drow *rows, const struct attend_run *runs, int count, int page_count, const bf16 *q,
                           bf16 *out, struct err *err) {
    int kv_heads = m->w.config.text.kv_heads;
    struct unpack_args a = {};
    struct run_pages made = {};
    int pages = 0;
    for (int i = 0; i < count; i++) {
        a.run[i].row = runs[i].first, a.run[i].pages = (int)((runs[i].length + PAGE - 1) / PAGE), a.run[i].before = pages;
        pages += a.run[i].pages;
    }
    made.layer_stride = (int64_t)2 * kv_heads * PAGE * HEAD, made.page_bytes = (size_t)made.layer_stride * 2, made.capacity = pages;
    made.kv = (char *)buffer_get(m, BUFFER_KV, (size_t)pages * made.page_bytes + (size_t)page_count * 4, err);
    if (!made.kv) return ERR_MEMORY;
    made.pages = a.numbers = (int32_t *)(made.kv + (size_t)pages * made.page_bytes);
    a.rows = rows, a.pages = v->pages, a.kv = v->kv, a.page_bytes = v->page_bytes, a.layer_at = v->layer_at, a.half = v->layer_stride / 2, a.to = (bf16 *)made.kv;
    launch(m, unpack_kernel, dim3((unsigned)pages, (unsigned)kv_heads), dim3(256), 0, a);
    attend_viewed(m, &made, rows, runs, count, q, out);
    return 0;
}

int attend_runs(struct backend_model *m, int layer, const struct drow *rows, const struct attend_run *runs, int count, const int32_t *pages, const bf16 *q, bf16 *out, int page_count,
                struct err *err) {
    struct run_pages v = model_view(m, layer, pages);
    if (!m->kv8) return attend_viewed(m, &v, rows, runs, count, q, out), 0;
    int r = 0;
    for (int i = 0, n; i < count && !r; i += n) {
        int64_t tokens = runs[i].length;
        for (n = 1; i + n < count && tokens + runs[i + n].length <= RUN_SCRATCH_TOKENS; n++) tokens += runs[i + n].length;
        r = attend_unpacked(m, &v, rows, runs + i, n, page_count, q, out, err);
    }
    return r;
}
