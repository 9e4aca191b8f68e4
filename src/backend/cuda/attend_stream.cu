/* Attention of decode rows on Hopper: pages come by bulk copies into shared memory, every warp by itself.
 *
 * The time to beat is bytes of KV over memory bandwidth (64 rows of 1,024 tokens, 8 kv heads: 268 MB a layer, 86 us at 3.14 TB/s), so the
 * memory system must always have enough to do: 132 multiprocessors need about 24 KiB each under way, and four warps with three slots of a
 * page of one kv head (32 tokens, 16 KiB) each keep up to 192. A block is one warp with its own slots: it asks for its next page when it
 * has read one, over the ends of rows, and never waits for another warp. Its first pages are asked for before the kernels in front have
 * ended: all but the newest tokens are there already.
 *
 * The host (stream_fill) puts all pages of all rows' kv heads into a line and gives each block a share of it: pieces of consecutive pages. The
 * heads of a kv head are worked on together, by tiles of eight: S^T = K Q^T with tokens as M and queries as N, S^T turned in registers
 * (movmatrix), O^T = V^T P^T. What was cut is put together by the block that ends last, in the order of the pieces: results do not
 * depend on chance. Rows that share beginnings: attend_group.cu.
 *
 * Which token is which row of S^T is free, and so is the order of the head's dimensions in both products: lanes read 16 consecutive bytes.
 * Values lie in quarters of a page that are shifted by 32 bytes against each other; lanes 4 g + t read tokens of quarter t, so that eight
 * lanes find eight different groups of banks. (Keys: two lanes meet.) */
#include <math.h>
#include <string.h>

#include "backend/cuda/attend_pages.h"

namespace {

enum { SLOTS = 3, MOST_QUERIES = 16 };
enum { BLOCKS = 4 }; /* a multiprocessor */

struct room {
    char page[SLOTS][SLOT_BYTES];
    uint64_t full[SLOTS];
};

/* The next page to ask for. */
struct ahead {
    const struct attend_piece *piece, *last; /* last: behind the block's pieces */
    int page, pages;                         /* of the piece */
    struct attend_piece now;
    int32_t number, next_number; /* of page (page / 32 * 32 + lane), and of the 32 pages behind those */
};

__device__ inline int pages_of(const struct attend_piece &p) { return (p.tokens + PAGE - 1) / PAGE; }

__device__ inline void ahead_numbers(struct ahead *c, const int32_t *list, int lane) {
    if (c->page + 32 < c->pages) {
        if (c->page + 32 + lane < c->pages) c->next_number = list[c->now.pages + c->page + 32 + lane];
    } else if (c->piece + 1 < c->last && lane < pages_of(c->piece[1])) c->next_number = list[c->piece[1].pages + lane];
}
/* Asks for a page of a piece. One lane. */
__device__ inline void copy_page(const struct stream_args &a, const struct attend_piece &p, int page, int number, struct room *s, int slot) {
    int tokens = p.tokens - page * PAGE;
    if (tokens > PAGE) tokens = PAGE;
    const char *from = a.kv + (size_t)number * a.page_bytes + a.layer_at + (int64_t)p.kv * KEY_BYTES;
    char *to = s->page[slot];
    uint64_t *gate = &s->full[slot];
    gate_expect(gate, (unsigned)tokens * (2 * TOKEN_BYTES));
    copy_bulk(to, from, (unsigned)tokens * TOKEN_BYTES, gate);
    from += a.half, to += KEY_BYTES;
#pragma unroll 1
    for (int left = tokens; left > 0; left -= QUARTER, from += QUARTER * TOKEN_BYTES, to += QUARTER_BYTES)
        copy_bulk(to, from, (unsigned)(left < QUARTER ? left : QUARTER) * TOKEN_BYTES, gate);
}
/* Goes on to the next page, whose number is known to the lane that has it. */
__device__ inline void ahead_step(struct ahead *c, const int32_t *list, int lane) {
    if (++c->page == c->pages) {
        c->page = 0, c->piece++;
        if (c->piece == c->last) return;
        c->now = *c->piece, c->pages = pages_of(c->now); /* in the first-level cache since the numbers were asked for */
    }
    if (c->page % 32 == 0) {
        c->number = c->next_number;
        ahead_numbers(c, list, lane);
    }
}
__device__ inline void ahead_copy(const struct stream_args &a, struct ahead *c, const int32_t *list, struct room *s, int slot, int lane) {
    int number = __shfl_sync(~0u, c->number, c->page % 32);
    if (lane == 0) copy_page(a, c->now, c->page, number, s, slot);
    ahead_step(c, list, lane);
}
/* What all pieces of a row and kv head make together, for two query heads from `first` on; a lane has four dimensions. Values are asked for
 * many at a time, the first ones before it is known what they weigh. (One place in the program: code that was not run lately is far.) */
__device__ inline void put_together(const struct stream_args &a, const struct attend_both b, int row, int kv, int first, int lane) {
    enum { HEADS = 2, AT_ONCE = 12 };
    bool two = first + 1 < a.group;
    int n = b.own_count;
    float top[HEADS], all[HEADS], value[HEADS][4];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        top[h] = -INFINITY, all[h] = 0;
#pragma unroll
        for (int e = 0; e < 4; e++) value[h][e] = 0;
    }
#pragma unroll 1
    for (int base = 0; base < n; base += 32) {
        int here = n - base < 32 ? n - base : 32, at = base + lane;
        int slot = b.own + at * a.group + first; /* the lane's piece */
        float f[HEADS];
        float2 sum[HEADS];
        float4 v[AT_ONCE][HEADS];
        auto ask = [&](int from) {
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++) {
                const float4 *values = (const float4 *)a.values + (int64_t)__shfl_sync(~0u, slot, from + j) * (HEAD / 4) + lane;
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    v[j][h] = make_float4(0, 0, 0, 0);
                    if (from + j < here && (h == 0 || two)) v[j][h] = __ldcg(values + h * (HEAD / 4));
                }
            }
        };
        auto weigh = [&]() {
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float most = sum[h].x, part;
#pragma unroll
                for (int d = 16; d; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
                most = fmaxf(most, top[h]);
                f[h] = exp2_near(sum[h].x - most), part = f[h] * sum[h].y;
#pragma unroll
                for (int d = 16; d; d /= 2) part += __shfl_xor_sync(~0u, part, d);
                float keep = exp2_near(top[h] - most);
                all[h] = all[h] * keep + part, top[h] = most;
#pragma unroll
                for (int e = 0; e < 4; e++) value[h][e] *= keep;
            }
        };
        auto add = [&](int from) {
#pragma unroll
            for (int j = 0; j < AT_ONCE; j++)
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    float w = __shfl_sync(~0u, f[h], from + j); /* behind the last one: of values that are zero */
                    value[h][0] += v[j][h].x * w, value[h][1] += v[j][h].y * w, value[h][2] += v[j][h].z * w, value[h][3] += v[j][h].w * w;
                }
        };
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            sum[h] = make_float2(-INFINITY, 0);
            if (lane < here) sum[h] = __ldcg(&a.sums[slot + (two ? h : 0)]);
        }
#pragma unroll 1
        for (int from = 0; from < here; from += AT_ONCE) {
            ask(from);
            if (from == 0) weigh();
            add(from);
        }
    }
    const struct places to = places_of(a, row, lane % 16 * 4);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h && !two) continue;
        float f = 1 / all[h];
        store_four(a, to, (kv * a.group + first + h) * 2 + lane / 16, value[h][0] * f, value[h][1] * f, value[h][2] * f, value[h][3] * f);
    }
}

/* Tells that a piece is there, and puts the row together where it was the last. */
__device__ inline void arrive(const struct stream_args &a, const struct attend_piece &p, const struct attend_both *both, int lane) {
    int at = p.row * a.kv_heads + p.kv;
    const struct attend_both b = both[at];
    unsigned old = 0;
    __syncwarp();
    __threadfence();
    __syncwarp();
    if (lane == 0) old = atomicAdd(&a.counters[at], 1u);
    if (__shfl_sync(~0u, old, 0) != (unsigned)b.own_count - 1) return;
    __threadfence();
    if (lane == 0) a.counters[at] = 0;
#pragma unroll 1
    for (int first = 0; first < a.group; first += 2) put_together(a, b, p.row, p.kv, first, lane);
}

/* A piece, whose pages are in the slots from `slot` on, or will be. NQ: tiles of eight queries. */
template <int NQ>
__device__ inline void take(const struct stream_args &a, const struct attend_piece &p, const int32_t *list, struct ahead *next, struct room *s, int *slot_at, unsigned *parity_at, int lane) {
    enum { AT_ONCE = 2, CHAINS = NQ == 1 ? 2 : 1 }; /* tiles of tokens at once; sums of a score */
    int g = lane / 4, t = lane % 4, queries = a.group, pages = pages_of(p), slot = *slot_at;
    unsigned parity = *parity_at;
    uint4 q[NQ][4];
    float most[NQ][2], total[NQ][2], o[NQ][8][4];
#pragma unroll
    for (int n = 0; n < NQ; n++) {
        int query = n * 8 + g;
        const bf16 *from = a.q + ((int64_t)p.row * a.heads + p.kv * a.group + query) * HEAD;
#pragma unroll
        for (int c = 0; c < 4; c++)
            q[n][c] = query < queries ? *(const uint4 *)(from + (c * 4 + t) * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int e = 0; e < 2; e++) most[n][e] = -INFINITY, total[n][e] = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[n][i][e] = 0;
    }
#pragma unroll 1
    for (int page = 0; page < pages; page++) {
        gate_wait(&s->full[slot], parity);
        char *keys = s->page[slot], *vals = keys + KEY_BYTES;
        int left = p.tokens - page * PAGE; /* tokens from this page on */
        if (left < PAGE) {                 /* values behind the end may be anything, and a weight of 0 does not make a number of them */
#pragma unroll 1
            for (int i = left; i < PAGE; i++) *(uint2 *)(vals + i / QUARTER * QUARTER_BYTES + i % QUARTER * TOKEN_BYTES + lane * 8) = make_uint2(0, 0);
            fence_copies();
            __syncwarp();
        }
        /* Row g + 8 h of tile i of S^T is token 8 (g / 2) + 4 i + 2 h + g % 2. */
        int first = g / 2 * 8 + g % 2;
#pragma unroll 1
        for (int part = 0; part < 2; part += AT_ONCE) {
            float x[AT_ONCE][NQ][4], other[AT_ONCE][4] = {};
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                for (int n = 0; n < NQ; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) x[i][n][e] = 0;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                uint4 k[AT_ONCE][2];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++) k[i][h] = *(const uint4 *)(keys + (first + (part + i) * 4 + h * 2) * TOKEN_BYTES + (c * 4 + t) * 16);
#pragma unroll
                for (int n = 0; n < NQ; n++) {
                    uint4 v = q[n][c];
#pragma unroll
                    for (int i = 0; i < AT_ONCE; i++) {
                        const uint32_t a0[4] = {k[i][0].x, k[i][1].x, k[i][0].y, k[i][1].y}, a1[4] = {k[i][0].z, k[i][1].z, k[i][0].w, k[i][1].w};
                        mma_bf16(x[i][n], a0, v.x, v.y);
                        mma_bf16(CHAINS == 1 ? x[i][n] : other[i], a1, v.z, v.w);
                    }
                }
            }
            if (CHAINS == 2)
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) x[i][0][e] += other[i][e];
            uint32_t prob[NQ][AT_ONCE][2];
#pragma unroll
            for (int n = 0; n < NQ; n++) /* the first token of a page is in tile 0: the maximum is finite */
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) x[i][n][e] = first + (part + i) * 4 + e / 2 * 2 < left ? x[i][n][e] * a.scale : -INFINITY;
            weigh_scores<NQ, AT_ONCE>(x, most, total, o, prob);
            add_values<NQ, AT_ONCE>(o, vals, prob, part, lane);
        }
        __syncwarp(); /* all have read the slot */
        if (next->piece < next->last) ahead_copy(a, next, list, s, slot, lane);
        if (++slot == SLOTS) slot = 0, parity ^= 1;
    }
    *slot_at = slot, *parity_at = parity;
    const struct places to[2] = {places_of(a, p.row, g * 8), places_of(a, p.row, g * 8 + 4)};

#pragma unroll
    for (int n = 0; n < NQ; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
#pragma unroll
            for (int d = 4; d < 32; d *= 2) total[n][e] += __shfl_xor_sync(~0u, total[n][e], d);
            int query = n * 8 + t * 2 + e;
            if (query >= queries) continue;
            if (NQ == 1 && p.whole) {
                float f = 1 / total[n][e];
#pragma unroll
                for (int c = 0; c < 2; c++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        store_four(a, to[h], (p.kv * a.group + query) * 2 + c, o[n][c * 4][h * 2 + e] * f, o[n][c * 4 + 1][h * 2 + e] * f, o[n][c * 4 + 2][h * 2 + e] * f,
                                   o[n][c * 4 + 3][h * 2 + e] * f);
                continue;
            }
            float *values = a.values + (int64_t)(p.partial + query) * HEAD + g * 8;
#pragma unroll
            for (int c = 0; c < 2; c++)
#pragma unroll
                for (int h = 0; h < 2; h++) *(float4 *)(values + c * 64 + h * 4) = make_float4(o[n][c * 4][h * 2 + e], o[n][c * 4 + 1][h * 2 + e], o[n][c * 4 + 2][h * 2 + e], o[n][c * 4 + 3][h * 2 + e]);
            if (g == 0) a.sums[p.partial + query] = make_float2(most[n][e], total[n][e]);
        }
}

template <int NQ>
__global__ void __launch_bounds__(32) stream_kernel(const struct stream_args a) {
    DYNAMIC_SHARED(shared);
    struct room *s = (struct room *)shared;
    int lane = threadIdx.x, slot = 0;
    unsigned parity = 0;
    let_next_start();
    /* The tables were uploaded before the first of the kernels in front. */
    const char *base = (const char *)a.head;
    const int32_t *list = (const int32_t *)base;
    const struct attend_block *at = (const struct attend_block *)(base + STEP_ITEMS_AT) + blockIdx.x, block = *at;
    if (!block.count) return;
    const struct attend_piece *piece = (const struct attend_piece *)(base + STEP_PIECES_AT) + block.first, *first = piece, *last = piece + block.count;
    const struct attend_both *both = (const struct attend_both *)(base + a.head->parts_at);
    struct ahead next;
    next.piece = piece, next.last = last, next.now = block.piece, next.pages = pages_of(block.piece), next.page = 0, next.next_number = 0;
    next.number = lane < BLOCK_PAGES ? at->number[lane] : 0;
    if (lane == 0) {
#pragma unroll 1
        for (int i = 0; i < SLOTS; i++) gate_init(&s->full[i], 1);
        gate_init_done();
    }
    __syncwarp();
    ahead_numbers(&next, list, lane);
    bool waited = false;
#pragma unroll 1
    for (int i = 0; i < SLOTS && next.piece < last; i++) {
        if (!waited && next.page >= next.now.settled) wait_for_input(), waited = true;
        ahead_copy(a, &next, list, s, i, lane);
    }
    if (next.piece == first && lane < next.pages) next.number = list[block.piece.pages + next.page / 32 * 32 + lane];
    if (!waited) wait_for_input();
#pragma unroll 1
    for (; piece < last; piece++) {
        struct attend_piece p = piece == first ? block.piece : *piece;
        take<NQ>(a, p, list, &next, s, &slot, &parity, lane);
        if (!p.whole) arrive(a, p, both, lane);
    }
}

} // namespace

void attend_stream(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled) {
    const struct stream_args a = stream_args_of(m, layer, head, q, out, tiled);
    dim3 grid((unsigned)(m->sm_count * BLOCKS)), block(32);
    if (a.group <= 8) launch(m, stream_kernel<1>, grid, block, sizeof(struct room), a);
    else launch(m, stream_kernel<2>, grid, block, sizeof(struct room), a);
}

/* ---- the plan, on the host ---- */

bool attend_stream_fit(const struct backend_model *m) {
    const struct text_config *t = &m->w.config.text;
    if (m->arch != 90 || m->kv8 || t->head_dim != HEAD || t->heads % t->kv_heads || t->heads / t->kv_heads > MOST_QUERIES || m->sm_count * BLOCKS > MOST_STREAM_BLOCKS) return false;
    int64_t kv = t->kv_heads, group = t->heads / t->kv_heads, pieces = m->sm_count * BLOCKS + FEW_ROWS * kv; /* at most */
    return pieces <= MOST_STREAM_PIECES && FEW_ROWS * kv <= MOST_BOTH && pieces * group <= (int64_t)MOST_ITEMS * t->heads;
}

namespace {

struct plan {
    const struct batch *b;
    int kv_heads, group, shares;
    int count;   /* of pieces */
    int partial; /* slots given away */
    struct attend_piece piece[MOST_STREAM_PIECES];
    int16_t share[MOST_STREAM_PIECES];
    struct attend_both both[MOST_BOTH]; /* (rows, kv_heads) */
};

/* Cuts the line of all rows' kv heads into shares of about the same length. */
void cut_line(struct plan *p) {
    enum { END = 16, LEAST = 2 }; /* tokens that the end of a row costs beside its tokens, about; pages of a share */
    const struct batch *b = p->b;
    int64_t length = 0, pages_all = 0;
    for (int i = 0; i < b->rows; i++) length += b->row[i].slot + 1 + END, pages_all += b->row[i].slot / PAGE + 1;
    length *= p->kv_heads, pages_all *= p->kv_heads;
    int units = b->rows * p->kv_heads, shares = p->shares;
    if (shares > (pages_all + LEAST - 1) / LEAST) shares = (int)((pages_all + LEAST - 1) / LEAST);
    if (units <= shares && shares / units * units >= shares * 7 / 8) shares = shares / units * units; /* units of one length are cut alike */
    int snap = (int)(length / shares / PAGE / 16), s = 0;
    int64_t at = 0;
    for (int i = 0; i < b->rows; i++) {
        const struct drow *row = &b->row[i];
        int tokens = row->slot + 1, pages = row->slot / PAGE + 1, settled = (row->slot - (FEW_ROWS - 1)) / PAGE; /* the newest tokens of a sequence, one a row, are written in this pass */
        for (int kv = 0; kv < p->kv_heads; kv++, at += tokens + END) {
            int first = p->partial, n = 0;
            for (int page = 0; page < pages;) {
                int64_t cut = (length * (s + 1) / shares - at + PAGE / 2) / PAGE;
                if (s == shares - 1 || cut >= pages - snap) cut = pages;
                else if (cut <= page + (page ? 0 : snap)) {
                    s++;
                    continue;
                }
                struct attend_piece *to = &p->piece[p->count];
                *to = {};
                to->pages = row->pages + page, to->tokens = (cut == pages ? tokens : (int)cut * PAGE) - page * PAGE, to->settled = settled - page, to->partial = p->partial;
                to->row = (int16_t)i, to->kv = (int16_t)kv;
                p->share[p->count++] = (int16_t)s;
                p->partial += p->group, n++;
                page = (int)cut;
                if (page < pages) s++;
            }
            p->both[i * p->kv_heads + kv] = {first, n};
            if (n == 1 && p->group <= 8) p->piece[p->count - 1].whole = 1;
        }
    }
}

} // namespace

size_t stream_fill(const struct backend_model *m, const struct batch *b, char *host) {
    const struct text_config *t = &m->w.config.text;
    struct plan plan, *p = &plan;
    int shares = m->sm_count * BLOCKS, both_count = b->rows * t->kv_heads;
    p->b = b, p->kv_heads = t->kv_heads, p->group = t->heads / t->kv_heads, p->shares = shares, p->count = p->partial = 0;
    cut_line(p);

    struct attend_block *block = (struct attend_block *)(host + STEP_ITEMS_AT);
    struct attend_piece *to = (struct attend_piece *)(host + STEP_PIECES_AT);
    struct attend_both *both = (struct attend_both *)(to + p->count);
    int32_t *pages = (int32_t *)(both + both_count), pages_at = (int32_t)(pages - (int32_t *)host), n = 0;
    for (int s = 0; s < shares; s++) {
        block[s].first = n;
        while (n < p->count && p->share[n] == s) to[n] = p->piece[n], n++;
        block[s].count = n - block[s].first;
    }
    for (int s = 0; s < shares; s++) {
        struct attend_block *o = &block[s];
        if (!o->count) continue;
        for (int i = 0; i < BLOCK_PAGES; i++) o->number[i] = i * PAGE < to[o->first].tokens ? b->page[to[o->first].pages + i] : 0;
        for (int i = 0; i < o->count; i++) to[o->first + i].pages += pages_at;
        o->piece = to[o->first];
    }
    memcpy(both, p->both, (size_t)both_count * sizeof *both);
    memcpy(pages, b->page, (size_t)b->pages * sizeof *pages);
    struct drow *rows = (struct drow *)(host + STEP_ROWS_AT);
    memcpy(rows, b->row, (size_t)b->rows * sizeof *rows);
    for (int r = 0; r < b->rows; r++) rows[r].pages += pages_at;
    struct step_head *head = (struct step_head *)host;
    head->item_count = n, head->parts_at = (int32_t)((char *)both - host);
    return (size_t)((char *)(pages + b->pages) - host);
}
