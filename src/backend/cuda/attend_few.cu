/* Attention of few rows (decoding) over KV pages, heads of 128, on the tensor cores.
 *
 * The time to beat is bytes of KV over memory bandwidth; each page is read once for all query heads that share its kv head, and once for
 * all rows that share it (best-of-n, a common system prompt). The host cuts the work into items: some rows, a range of tokens that all
 * of them see. A block takes an item for one kv head; its warps take 16 tokens at a time with running maximum and sum. Keys and values
 * go from memory straight to registers: S^T = K Q^T with the tokens as M and the query rows as N, so that eight rows cost no more than
 * one; S^T is turned in registers (movmatrix) and O^T = V^T P^T. e4m3 pages: bytes become f16 in registers (exact), factors multiply scores and
 * weights; fewer registers hold what is under way, so one block more fits. A row whose work was cut is put together by the block that ends last. */
#include <string.h>

#include "backend/cuda/room.h"

enum { HEAD = 128, ITEM_WARPS = 4, TILE = 16, AHEAD = 128 }; /* AHEAD: tokens asked for before the input is there */
#define BLOCKS(queries, kv8) (((queries) == 8 ? 3 : 2) + ((kv8) ? 1 : 0)) /* that fit on a multiprocessor: registers */

struct items_args {
    const struct step_head *head;
    const bf16 *q;
    bf16 *out;
    const char *kv;
    size_t page_bytes;
    int64_t layer_at, half; /* in units of two bytes */
    int heads, kv_heads;
    int tiled;
    float scale;
    float *partial;     /* (parts, heads, 2 + HEAD): sum, maximum, weighted values */
    unsigned *counters; /* (rows, kv_heads) */
};

__device__ static inline int64_t place_out(const struct items_args &a, int row, int column) {
    return a.tiled ? tiled_place(row, column, a.tiled) : (int64_t)row * a.heads * HEAD + column;
}

/* 16 tokens of e4m3 keys and values as a lane has them: of tokens g and g + 8 the keys' dimensions 64 c + 16 t.., of tokens 2t, 2t + 1, 2t + 8,
 * 2t + 9 the values' 16 g..; factors of tokens g and g + 8. */
struct bytes_tile {
    uint4 k[2][2], v[4];
    float key[2], value[2];
};
__device__ static inline struct bytes_tile load_bytes(const uint8_t *keys, int64_t half, int at, int g, int t) {
    struct bytes_tile b;
    const uint8_t *values = keys + half;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int c = 0; c < 2; c++) b.k[r][c] = load_streamed(keys + (at + g + r * 8) * HEAD + (c * 4 + t) * 16);
#pragma unroll
    for (int r = 0; r < 4; r++) b.v[r] = load_streamed(values + (at + t * 2 + r % 2 + r / 2 * 8) * HEAD + g * 16);
#pragma unroll
    for (int r = 0; r < 2; r++) b.key[r] = ((const float *)(keys + PAGE * HEAD))[at + g + r * 8], b.value[r] = ((const float *)(values + PAGE * HEAD))[at + g + r * 8];
    return b;
}
__device__ static inline void f16_of_16(uint32_t to[8], uint4 bytes) {
    e4m3_as_f16(bytes.x, &to[0], &to[1]), e4m3_as_f16(bytes.y, &to[2], &to[3]);
    e4m3_as_f16(bytes.z, &to[4], &to[5]), e4m3_as_f16(bytes.w, &to[6], &to[7]);
}
/* Queries at 1/16 of their size, so that none is too large; f16 has what bf16 has down to 2^-10. */
__device__ static inline uint32_t query_f16(uint32_t pair) { return pack_f16(low_bf16(pair) * 0.0625f, high_bf16(pair) * 0.0625f); }
enum { VALUE_UNIT = 256 }; /* weights times factors as f16 are multiplied by it: rows.cu keeps factors below 256 */

template <int NQ, bool KV8>
__global__ void __launch_bounds__(ITEM_WARPS * 32, BLOCKS(NQ * 8, KV8)) items_kernel(const struct items_args a) {
    enum { QUERIES = NQ * 8, LDO = HEAD + 4 };
    __shared__ float merged[ITEM_WARPS][QUERIES][2], values[ITEM_WARPS][QUERIES][LDO];
    __shared__ float weights[QUERIES][MOST_PIECES];
    __shared__ int ended[QUERIES];
    let_next_start();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, group = a.heads / a.kv_heads;
    const struct step_head *head = a.head;
    const char *base = (const char *)head;
    const struct attend_item *items = (const struct attend_item *)(base + STEP_ITEMS_AT);
    int units = head->item_count * a.kv_heads;
    const struct attend_part *parts = (const struct attend_part *)(base + head->parts_at);
    /* What is to be read was written in earlier steps but for the newest tokens: on its way to the second-level cache while the kernels in
     * front still run. The tables were uploaded before the first of them. */
    if ((int)blockIdx.x < units && units <= (int)gridDim.x) {
        struct attend_item item = items[blockIdx.x / a.kv_heads];
        const int32_t *page_list = (const int32_t *)base + item.pages;
        int end = item.end - item.begin < AHEAD ? item.end : item.begin + AHEAD;
        for (int at = item.begin + (int)threadIdx.x / 2; at < end; at += ITEM_WARPS * 16) {
            const bf16 *layer = (const bf16 *)(a.kv + (size_t)page_list[at / PAGE] * a.page_bytes) + a.layer_at;
            if (KV8) {
                prefetch_l2((const uint8_t *)(layer + threadIdx.x % 2 * a.half) + (int64_t)(blockIdx.x % a.kv_heads) * head_block_bytes(HEAD, true) + at % PAGE * HEAD);
                continue;
            }
            const bf16 *key = layer + ((int64_t)(blockIdx.x % a.kv_heads) * PAGE + at % PAGE) * HEAD;
            prefetch_l2(key + threadIdx.x % 2 * (HEAD / 2));
            prefetch_l2(key + a.half + threadIdx.x % 2 * (HEAD / 2));
        }
    }
    wait_for_input();
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
        struct attend_item item = items[unit / a.kv_heads];
        int kv = unit % a.kv_heads, queries = item.rows * group;
        const int32_t *page_list = (const int32_t *)base + item.pages;
        uint4 q[NQ][4];
        float most[NQ][2], total[NQ][2], o[NQ][8][4];
#pragma unroll
        for (int n = 0; n < NQ; n++) {
            int query = n * 8 + g;
            const bf16 *from = a.q + ((int64_t)(item.first + (query < queries ? query / group : 0)) * a.heads + kv * group + query % group) * HEAD;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                q[n][c] = query < queries ? *(const uint4 *)(from + (KV8 ? (c / 2 * 4 + t) * 16 + c % 2 * 8 : (c * 4 + t) * 8)) : make_uint4(0, 0, 0, 0);
                if (KV8) q[n][c] = make_uint4(query_f16(q[n][c].x), query_f16(q[n][c].y), query_f16(q[n][c].z), query_f16(q[n][c].w));
            }
#pragma unroll
            for (int e = 0; e < 2; e++) most[n][e] = -INFINITY, total[n][e] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) o[n][i][e] = 0;
        }
        auto bytes_at = [&](int at) {
            const bf16 *layer = (const bf16 *)(a.kv + (size_t)page_list[at / PAGE] * a.page_bytes) + a.layer_at;
            return load_bytes((const uint8_t *)layer + (int64_t)kv * head_block_bytes(HEAD, true), a.half * 2, at % PAGE, g, t);
        };
        for (int at = item.begin + warp * TILE; at < item.end; at += ITEM_WARPS * TILE) {
            uint4 k[2][4], v[4][2];
            float key_factor[2] = {a.scale, a.scale}, value_factor[2] = {1, 1};
            struct bytes_tile now;
            if (KV8) {
                now = bytes_at(at);
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    key_factor[r] = now.key[r] * (16 * a.scale);
                    value_factor[r] = at + g + r * 8 < item.end ? now.value[r] * VALUE_UNIT : 0;
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        uint32_t w[8];
                        f16_of_16(w, now.k[r][c]);
                        k[r][2 * c] = make_uint4(w[0], w[1], w[2], w[3]), k[r][2 * c + 1] = make_uint4(w[4], w[5], w[6], w[7]);
                    }
                }
            } else {
                const bf16 *keys = (const bf16 *)(a.kv + (size_t)page_list[at / PAGE] * a.page_bytes) + a.layer_at + ((int64_t)kv * PAGE + at % PAGE) * HEAD;
#pragma unroll
                for (int r = 0; r < 2; r++)
#pragma unroll
                    for (int c = 0; c < 4; c++) k[r][c] = load_streamed(keys + (g + r * 8) * HEAD + (c * 4 + t) * 8);
#pragma unroll
                for (int r = 0; r < 4; r++)
#pragma unroll
                    for (int c = 0; c < 2; c++) v[r][c] = load_streamed(keys + a.half + (t * 2 + r % 2 + r / 2 * 8) * HEAD + (c * 8 + g) * 8);
            }
            if (at + TILE > item.end) /* what lies behind the end may be anything */
#pragma unroll
                for (int r = 0; r < 4; r++)
                    if (at + t * 2 + r % 2 + r / 2 * 8 >= item.end) v[r][0] = v[r][1] = now.v[r] = make_uint4(0, 0, 0, 0);
            uint32_t p[NQ][2];
#pragma unroll
            for (int n = 0; n < NQ; n++) {
                float s[4] = {};
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const uint32_t a0[4] = {k[0][c].x, k[1][c].x, k[0][c].y, k[1][c].y}, a1[4] = {k[0][c].z, k[1][c].z, k[0][c].w, k[1][c].w};
                    if (KV8) mma_f16(s, a0, q[n][c].x, q[n][c].y), mma_f16(s, a1, q[n][c].z, q[n][c].w);
                    else mma_bf16(s, a0, q[n][c].x, q[n][c].y), mma_bf16(s, a1, q[n][c].z, q[n][c].w);
                }
                float keep[2];
#pragma unroll
                for (int e = 0; e < 4; e++) s[e] = at + g + e / 2 * 8 < item.end ? s[e] * key_factor[e / 2] : -INFINITY;
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float top = fmaxf(s[e], s[e + 2]);
#pragma unroll
                    for (int d = 4; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
                    top = fmaxf(top, most[n][e]); /* finite: the first token of a tile is seen */
                    keep[e] = exp2f(most[n][e] - top);
                    most[n][e] = top;
                    s[e] = exp2f(s[e] - top), s[e + 2] = exp2f(s[e + 2] - top);
                    total[n][e] = total[n][e] * keep[e] + s[e] + s[e + 2];
                }
#pragma unroll
                for (int r = 0; r < 2; r++)
                    p[n][r] = turn_matrix(KV8 ? pack_f16(s[2 * r] * value_factor[r], s[2 * r + 1] * value_factor[r]) : pack_bf16(s[2 * r], s[2 * r + 1]));
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) o[n][i][e] *= keep[e % 2];
            }
            uint32_t flat[4][2][4];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                uint32_t made[8];
                if (KV8) f16_of_16(made, now.v[r]);
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    if (KV8) v[r][c] = make_uint4(made[4 * c], made[4 * c + 1], made[4 * c + 2], made[4 * c + 3]);
                    flat[r][c][0] = v[r][c].x, flat[r][c][1] = v[r][c].y, flat[r][c][2] = v[r][c].z, flat[r][c][3] = v[r][c].w;
                }
            }
#pragma unroll
            for (int i = 0; i < 8; i++) { /* dimensions 8 g + i and 64 + 8 g + i; of e4m3 16 g + i and 16 g + 8 + i */
                uint32_t x[4];
#pragma unroll
                for (int e = 0; e < 4; e++) { /* e % 2: which of the two dimensions, e / 2: tokens 2t.. or 2t + 8.. */
                    uint32_t lo = flat[e / 2 * 2][e % 2][i / 2], hi = flat[e / 2 * 2 + 1][e % 2][i / 2];
                    x[e] = i % 2 ? high_halves(lo, hi) : low_halves(lo, hi);
                }
#pragma unroll
                for (int n = 0; n < NQ; n++) {
                    if (KV8) mma_f16(o[n][i], x, p[n][0], p[n][1]);
                    else mma_bf16(o[n][i], x, p[n][0], p[n][1]);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < NQ; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
#pragma unroll
                for (int d = 4; d < 32; d *= 2) total[n][e] += __shfl_xor_sync(~0u, total[n][e], d);
                if (g == 0) merged[warp][n * 8 + t * 2 + e][0] = most[n][e], merged[warp][n * 8 + t * 2 + e][1] = total[n][e];
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int c = 0; c < 2; c++) values[warp][n * 8 + t * 2 + e][KV8 ? g * 16 + c * 8 + i : c * 64 + g * 8 + i] = o[n][i][c * 2 + e] * (KV8 ? 1.0f / VALUE_UNIT : 1);
            }
        __syncthreads();
        for (int e = threadIdx.x; e < queries * HEAD; e += blockDim.x) {
            int query = e / HEAD, d = e % HEAD, h = kv * group + query % group;
            struct attend_part part = parts[item.parts + query / group];
            float top = -INFINITY, all = 0, value = 0;
            for (int w = 0; w < ITEM_WARPS; w++) top = fmaxf(top, merged[w][query][0]);
            for (int w = 0; w < ITEM_WARPS; w++) {
                float f = exp2f(merged[w][query][0] - top); /* a warp without tokens: 0 */
                all += merged[w][query][1] * f, value += values[w][query][d] * f;
            }
            if (part.of == 1) {
                a.out[place_out(a, part.row, h * HEAD + d)] = __float2bfloat16_rn(value / all);
            } else {
                float *to = a.partial + ((int64_t)(part.first + part.number) * a.heads + h) * (HEAD + 2);
                if (d == 0) to[0] = all, to[1] = top;
                to[2 + d] = value;
            }
        }
        if ((int)threadIdx.x < item.rows) ended[threadIdx.x] = 0;
        __threadfence();
        __syncthreads();
        if ((int)threadIdx.x < item.rows) {
            struct attend_part part = parts[item.parts + threadIdx.x];
            if (part.of > 1) {
                unsigned *c = &a.counters[part.row * a.kv_heads + kv];
                if (atomicAdd(c, 1u) == (unsigned)part.of - 1) *c = 0, ended[threadIdx.x] = 1;
            }
        }
        __syncthreads();
        __threadfence();
        for (int query = warp; query < queries; query += ITEM_WARPS) { /* what each share weighs: a warp takes a query, a lane two shares */
            if (!ended[query / group]) continue;
            struct attend_part part = parts[item.parts + query / group];
            const float *from = a.partial + ((int64_t)part.first * a.heads + kv * group + query % group) * (HEAD + 2);
            int64_t stride = (int64_t)a.heads * (HEAD + 2);
            float sum[2], top[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                bool there = lane + i * 32 < part.of;
                sum[i] = there ? __ldcg(&from[(lane + i * 32) * stride]) : 0, top[i] = there ? __ldcg(&from[(lane + i * 32) * stride + 1]) : -INFINITY;
            }
            float most = fmaxf(top[0], top[1]);
            for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
            float f[2] = {exp2f(top[0] - most), exp2f(top[1] - most)}, all = sum[0] * f[0] + sum[1] * f[1];
            for (int d = 16; d; d /= 2) all += __shfl_xor_sync(~0u, all, d);
            weights[query][lane] = f[0] / all, weights[query][lane + 32] = f[1] / all;
        }
        __syncthreads();
        for (int e = threadIdx.x; e < queries * HEAD; e += blockDim.x) {
            int query = e / HEAD, d = e % HEAD;
            if (!ended[query / group]) continue;
            struct attend_part part = parts[item.parts + query / group];
            const float *from = a.partial + ((int64_t)part.first * a.heads + kv * group + query % group) * (HEAD + 2) + 2 + d;
            int64_t stride = (int64_t)a.heads * (HEAD + 2);
            float value = 0;
#pragma unroll 8
            for (int s = 0; s < part.of; s++) value += __ldcg(&from[s * stride]) * weights[query][s];
            a.out[place_out(a, part.row, (kv * group + query % group) * HEAD + d)] = __float2bfloat16_rn(value);
        }
        __syncthreads();
    }
}

void attend_items(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled) {
    if (attend_stream_fit(m)) return m->step_shared ? attend_group(m, layer, head, q, out, tiled) : attend_stream(m, layer, head, q, out, tiled);
    const struct text_config *t = &m->w.config.text;
    struct items_args a = {};
    a.head = head, a.q = q, a.out = out, a.tiled = tiled, a.kv = m->kv, a.page_bytes = m->page_bytes;
    a.layer_at = layer * m->layer_stride, a.half = m->layer_stride / 2;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.scale = (float)(1.4426950408889634 / sqrt((double)t->head_dim)); /* exp2 from here on */
    a.partial = m->attend_partial, a.counters = m->attend_counters;
    dim3 grid((unsigned)(m->sm_count * BLOCKS(attend_queries(m), m->kv8))), block(ITEM_WARPS * 32);
    bool one = attend_queries(m) == 8;
    if (m->kv8) one ? launch(m, items_kernel<1, true>, grid, block, 0, a) : launch(m, items_kernel<2, true>, grid, block, 0, a);
    else one ? launch(m, items_kernel<1, false>, grid, block, 0, a) : launch(m, items_kernel<2, false>, grid, block, 0, a);
}

/* ---- the plan, on the host ---- */

bool attend_few_fit(const struct backend_model *m) {
    const struct text_config *t = &m->w.config.text;
    return t->head_dim == HEAD && t->heads / t->kv_heads <= 16;
}

int attend_queries(const struct backend_model *m) { return m->w.config.text.heads / m->w.config.text.kv_heads <= 8 && !m->step_shared ? 8 : 16; }

int attend_common_pages(const struct drow *a, const struct drow *b, const int32_t *pages) {
    int most = (a->slot < b->slot ? a->slot + 1 : b->slot + 1) / PAGE, n = 0;
    while (n < most && pages[a->pages + n] == pages[b->pages + n]) n++;
    return n;
}

bool attend_shared(const struct backend_model *m, const struct batch *b) {
    if (attend_stream_fit(m)) return attend_group_worth(m, b);
    for (int i = 0; i + 1 < b->rows; i++)
        if (attend_common_pages(&b->row[i], &b->row[i + 1], b->page) >= MIN_SHARED_PAGES) return true;
    return false;
}

/* A run of tokens that some rows see together. */
struct range {
    int row, rows, begin, end;
};

/* What every row sees, beginnings that neighbours share once. */
static int make_ranges(const struct drow *rows, int count, const int32_t *pages, int most_rows, struct range *to) {
    int n = 0;
    for (int i = 0; i < count;) {
        int together = 1, shared = rows[i].slot / PAGE;
        while (i + together < count && together < most_rows) {
            int c = attend_common_pages(&rows[i], &rows[i + together], pages);
            if (c > shared) c = shared;
            if (c < MIN_SHARED_PAGES) break;
            shared = c, together++;
        }
        int from = together > 1 ? shared * PAGE : 0;
        if (from) to[n++] = {i, together, 0, from};
        for (int r = i; r < i + together; r++)
            if (rows[r].slot + 1 > from) to[n++] = {r, 1, from, rows[r].slot + 1};
        i += together;
    }
    return n;
}

static int pieces_of(const struct range *r, int chunk) {
    int n = (r->end - r->begin + chunk - 1) / chunk;
    return n > MOST_PIECES / 2 ? MOST_PIECES / 2 : n; /* a row has at most two ranges */
}

/* The length of a piece at which blocks that run side by side end soonest: turns of all blocks times a piece and what it costs to begin and
 * end one (measured: 400 tokens' time does best; with 200, eight groups of eight rows that share their beginning took 22 % longer). */
static int best_chunk(const struct range *r, int n, int kv_heads, int slots) {
    int best = 0;
    double least = INFINITY;
    for (int chunk = ITEM_WARPS * TILE; chunk <= 1 << 18; chunk += chunk / 8 / TILE * TILE + TILE) {
        int64_t items = 0, parts = 0;
        int longest = 0;
        for (int i = 0; i < n; i++) {
            int pieces = pieces_of(&r[i], chunk), each = (r[i].end - r[i].begin + pieces - 1) / pieces;
            items += pieces, parts += (int64_t)pieces * r[i].rows;
            if (each > longest) longest = each;
        }
        if (items > MOST_ITEMS || parts > MOST_ITEMS) continue;
        double cost = (double)((items * kv_heads + slots - 1) / slots) * (longest + 400);
        if (cost < least) least = cost, best = chunk;
        if (items <= n) break;
    }
    return best;
}

size_t step_bytes(const struct batch *b) {
    enum { ITEMS = STEP_ITEMS_AT + MOST_ITEMS * (sizeof(struct attend_item) + sizeof(struct attend_part)),
           PIECES = STEP_PIECES_AT + MOST_STREAM_PIECES * sizeof(struct attend_piece) + MOST_BOTH * sizeof(struct attend_both) };
    return ((size_t)PIECES > (size_t)ITEMS ? (size_t)PIECES : (size_t)ITEMS) + (size_t)b->pages * (4 + sizeof(struct group_page)) + 64;
}

size_t step_fill(const struct backend_model *m, const struct batch *b, char *host) {
    if (attend_stream_fit(m)) return m->step_shared ? group_fill(m, b, host) : stream_fill(m, b, host);
    const struct text_config *t = &m->w.config.text;
    int group = t->heads / t->kv_heads, wide = attend_queries(m), item_count = 0, part_count = 0;
    struct range range[2 * FEW_ROWS];
    int ranges = make_ranges(b->row, b->rows, b->page, wide / group, range);
    int chunk = best_chunk(range, ranges, t->kv_heads, m->sm_count * BLOCKS(wide, m->kv8));
    struct attend_item *items = (struct attend_item *)(host + STEP_ITEMS_AT);
    for (int i = 0; i < ranges; i++) {
        const struct range *r = &range[i];
        int pieces = pieces_of(r, chunk), each = ((r->end - r->begin + pieces - 1) / pieces + TILE - 1) / TILE * TILE;
        for (int at = r->begin; at < r->end; at += each, part_count += r->rows)
            items[item_count++] = {part_count, r->rows, at, at + each < r->end ? at + each : r->end, b->row[r->row].pages, r->row};
    }
    struct attend_part *parts = (struct attend_part *)(items + item_count);
    int of[FEW_ROWS] = {}, first[FEW_ROWS], next = 0;
    for (int i = 0; i < item_count; i++)
        for (int k = 0; k < items[i].rows; k++) {
            int row = items[i].first + k;
            parts[items[i].parts + k] = {row, of[row]++, 0, 0};
        }
    for (int r = 0; r < b->rows; r++) first[r] = next, next += of[r]; /* a row's shares lie side by side in the working memory */
    for (int i = 0; i < part_count; i++) parts[i].of = of[parts[i].row], parts[i].first = first[parts[i].row];
    int32_t *pages = (int32_t *)(parts + part_count), pages_at = (int32_t)(pages - (int32_t *)host);
    memcpy(pages, b->page, (size_t)b->pages * sizeof *pages);
    for (int i = 0; i < item_count; i++) items[i].pages += pages_at;
    struct drow *rows = (struct drow *)(host + STEP_ROWS_AT);
    memcpy(rows, b->row, (size_t)b->rows * sizeof *rows);
    for (int r = 0; r < b->rows; r++) rows[r].pages += pages_at;
    struct step_head *head = (struct step_head *)host;
    head->item_count = item_count, head->parts_at = (int32_t)((char *)parts - host);
    return (size_t)((char *)(pages + b->pages) - host);
}
