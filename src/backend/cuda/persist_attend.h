/* Attention within the kernel of persist.cu: heads (norm, rotation, keys and values to the pages), a share of a row's tokens for one kv head at
 * a time, and the shares put together by the block that has the row's first. Device code. The arithmetic is that of attend_few.cu and rows.cu. */
#ifndef BACKEND_CUDA_PERSIST_ATTEND_H
#define BACKEND_CUDA_PERSIST_ATTEND_H

#include "backend/cuda/persist_ring.h"

/* ROUND: tokens that a warp takes at a time, four of each quarter of a page. Keys and values come through the ring like weights, a page's keys in halves,
 * its values in quarters that are shifted against each other, so that lanes that read at the same time find different banks (values: two of them the same;
 * each further copy costs the producer what it saves). */
enum { ROUND = 16, PAGE_ROUNDS = PAGE / ROUND, TOGETHER = MULTIPLIERS / PAGE_ROUNDS /* pages that warps are at */, LD_VALUES = 128 + 4, QUARTER = PAGE / 4, KEYS_HALF = PAGE / 2 * 256 + 64, VALUES_QUARTER = QUARTER * 256 + 32 };
enum { PAGE_VALUES = KEYS_HALF + PAGE / 2 * 256, PAGE_SLOT = PAGE_VALUES + 3 * VALUES_QUARTER + QUARTER * 256 };
__device__ static inline unsigned key_place(unsigned token) { return token / (PAGE / 2) * KEYS_HALF + token % (PAGE / 2) * 256; }
__device__ static inline unsigned value_place(unsigned token) { return PAGE_VALUES + token / QUARTER * VALUES_QUARTER + token % QUARTER * 256; }
/* The token of the tensor cores' row m, m < 8, in a round; of row m + 8: the next. */
__device__ static inline unsigned token_of(unsigned m, unsigned round) { return m % 2 * (PAGE / 2) + m / 2 % 2 * QUARTER + m / 4 * (QUARTER / 2) + round * 2; }

/* Working memory of a block in shared memory. */
struct attend_work {
    bf16 query[8][128], key[128], value[128]; /* of odd queries the quarters stand as 1, 0, 3, 2: other banks than their neighbours' */
    float merged[MULTIPLIERS][8][2]; /* maximum, sum */
    float values[1];                 /* (MULTIPLIERS, group, LD_VALUES) */
};
__host__ __device__ static inline size_t attend_work_bytes(int group) { return sizeof(struct attend_work) + (size_t)MULTIPLIERS * group * LD_VALUES * 4; }

/* Where a column of a product's input lies in the exchange: a lane's two pieces of 16 bytes of a unit are 64 bytes apart, so that four lanes
 * read whole sectors. */
__device__ static inline int place_of(int column) { return (column & ~(UNIT - 1)) + (column >> 3 & 1) * 32 + (column >> 4 & 3) * 8 + (column & 7); }

__device__ static inline uint32_t seal(uint32_t v) { return v == NOT_YET ? 0x7FFFFFFFu : v; } /* a NaN stays one */
__device__ static inline uint32_t seal(float v) { return seal(__float_as_uint(v)); }
/* By the largest, so that no branch parts the lanes of a warp. */
__device__ static inline uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
__device__ static inline uint32_t largest(uint4 v) { return larger(larger(v.x, v.y), larger(v.z, v.w)); }
__device__ static inline bool there(uint4 v) { return largest(v) != NOT_YET; }
__device__ static inline bool there(uint2 v) { return larger(v.x, v.y) != NOT_YET; }

__device__ static inline void mark_attention(const struct persist_args &a, int layer, int what, long long v) {
    if (a.trace) a.trace[(int64_t)gridDim.x * (a.layer_count * 4 + 1) * 4 + ((int64_t)blockIdx.x * a.layer_count + layer) * ATTEND_MARKS + what] = v;
}
__device__ static inline void mark_attention(const struct persist_args &a, int layer, int what) {
    if (a.trace) mark_attention(a, layer, what, clock_now());
}

__device__ static inline void multipliers_sync() { some_sync<1, MULTIPLIERS * 32>(); }

__device__ static inline const bf16 *page_of(const struct persist_args &a, int row, int token, int layer) {
    int at = a.row[row].pages + token / PAGE;
    return (const bf16 *)(a.kv + (size_t)(a.pages ? a.pages[at] : a.inline_pages[at]) * a.page_bytes) + layer * a.layer_stride;
}

/* Norm weights of query and key heads, asked for when the product in front of attention begins: they take two trips to memory. One lane. */
struct head_gains {
    float gain[2][128];
    uint64_t full; /* one phase a layer */
};
__device__ static inline void ask_gains(struct head_gains *h, const struct player *l) {
    gate_expect(&h->full, sizeof h->gain);
    copy_bulk_kept(h->gain[0], l->q_norm, sizeof h->gain[0], &h->full);
    copy_bulk_kept(h->gain[1], l->k_norm, sizeof h->gain[1], &h->full);
}
/* A warp makes one head out of the sums of q, k, v: to shared memory, keys and values to their page too. turn: (rows, 64) cosine and sine. */
__device__ static inline void make_head(const struct persist_args &a, struct head_gains *gains, int layer, const char *exchange, int row, int kv, int number, const float2 *turn, struct attend_work *w, int lane) {
    bool query = number < a.group, value = number > a.group;
    int head = query ? kv * a.group + number : a.heads + (value ? a.kv_heads : 0) + kv;
    float x[4];
    const char *from = exchange + a.at.qkv + ((int64_t)row * (a.q + 2 * a.k) + head * 128 + lane) * 4;
    uint32_t word[4];
    bf16 *to = query ? w->query[number] : value ? w->value : w->key;
    int odd = query ? number & 1 : 0;
    bf16 *page = query ? NULL : (bf16 *)page_of(a, row, a.row[row].slot, layer) + (value ? a.half : 0) + ((int64_t)kv * PAGE + a.row[row].slot % PAGE) * 128;
    float2 cs[2] = {turn[row * 64 + lane], turn[row * 64 + lane + 32]};
    if (!value) gate_wait(&gains->full, layer & 1);
    for (bool again = false;; again = true) {
        if (again) wait_a_little();
#pragma unroll
        for (int i = 0; i < 4; i++) word[i] = load_relaxed_4(from + i * 128);
        if (word[0] != NOT_YET && word[1] != NOT_YET && word[2] != NOT_YET && word[3] != NOT_YET) break;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = __uint_as_float(word[i]);
    if (number == 0 && lane == 0) mark_attention(a, layer, MARK_WORDS);
    if (!value) {
        float sum = x[0] * x[0];
#pragma unroll
        for (int i = 1; i < 4; i++) sum += x[i] * x[i];
        for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
        float f = rsqrtf(sum / 128 + a.eps);
        const float *gain = gains->gain[!query] + lane;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float lo = gain[i * 32] * (x[i] * f), hi = gain[i * 32 + 64] * (x[i + 2] * f);
            x[i] = lo * cs[i].x - hi * cs[i].y, x[i + 2] = hi * cs[i].x + lo * cs[i].y;
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        bf16 v = __float2bfloat16_rn(x[i]);
        to[lane + (i ^ odd) * 32] = v;
        if (page) page[lane + i * 32] = v;
    }
}

/* A page of a share, to the ring, as far as it holds tokens older than the row's newest; one lane. */
__device__ static inline void fill_page(const struct persist_args &a, struct ring *r, int layer, int row, int kv, int page) {
    char *slot = r->slots + r->slot * r->bytes;
    const char *keys = (const char *)(page_of(a, row, page * PAGE, layer) + (int64_t)kv * PAGE * 128);
    int tokens = a.row[row].slot - page * PAGE;
    if (tokens > PAGE) tokens = PAGE;
    uint64_t *full = &r->full[r->slot];
    ring_claim(r, (unsigned)tokens * 512);
    gate_expect(full, (unsigned)tokens * 512);
    const char *values = keys + a.half * 2;
    if (tokens == PAGE) { /* unrolled: an instruction of the copy engine takes 100 to 150 clocks with what is around it in a loop */
        copy_bulk(slot, keys, PAGE / 2 * 256, full);
        copy_bulk(slot + KEYS_HALF, keys + PAGE / 2 * 256, PAGE / 2 * 256, full);
#pragma unroll
        for (int i = 0; i < 4; i++) copy_bulk(slot + PAGE_VALUES + i * VALUES_QUARTER, values + i * QUARTER * 256, QUARTER * 256, full);
    } else {
#pragma unroll 1
        for (int first = 0; first < tokens; first += QUARTER) {
            unsigned bytes = (unsigned)(tokens - first < QUARTER ? tokens - first : QUARTER) * 256;
            copy_bulk(slot + key_place((unsigned)first), keys + first * 256, bytes, full);
            copy_bulk(slot + value_place((unsigned)first), values + first * 256, bytes, full);
        }
    }
    ring_next(r);
}

/* What the copy of a page does not have: the newest token's key and value go to their places in the slot, values past the end become zeros (what
 * lies there may be no number). By each warp that reads the page: they write the same. */
__device__ static inline void mend_page(char *slot, const struct attend_work *w, int tokens, int lane) {
    int last = tokens - 1, at = (lane & 15) * 16;
    if (lane < 16) *(uint4 *)(slot + key_place(last) + at) = *(const uint4 *)((const char *)w->key + at);
    else *(uint4 *)(slot + value_place(last) + at) = *(const uint4 *)((const char *)w->value + at);
#pragma unroll 1
    for (int i = tokens + (lane >> 4); i < PAGE; i += 2) *(uint4 *)(slot + value_place(i) + at) = make_uint4(0, 0, 0, 0);
    fence_copies();
    __syncwarp();
}

/* 16 tokens of a page for all query heads of a kv head: running maximum and sum, weighted values (dimensions 16 i + g and 16 i + 8 + g). tokens: of
 * the page. */
struct attend_sums {
    float most[2], total[2], o[8][4];
};
/* What a lane takes of a round, so that the page can be given back before anything is computed. */
struct attend_held {
    uint4 keys[4][2];
    uint32_t values[8][4];
};
__device__ static inline void attend_take(struct attend_held *h, const char *slot, int round, int thread_lane) {
    unsigned lane = (unsigned)renewed(thread_lane), later = lane / 16; /* the lane's row of values for load_matrices_turned: 8 tokens of 8 dimensions, the same of the next 8, later tokens */
    const char *keys = slot + key_place(token_of(lane / 4, (unsigned)round)) + lane % 4 * 16, *values = slot + value_place(token_of(lane % 8, (unsigned)round) + later) + (lane / 8 & 1) * 16;
#pragma unroll
    for (int c = 0; c < 4; c++) h->keys[c][0] = load_shared_16(keys + c * 64), h->keys[c][1] = load_shared_16(keys + 256 + c * 64);
#pragma unroll
    for (int i = 0; i < 8; i++) load_matrices_turned(h->values[i], values + i * 32);
}
__device__ static inline void attend_round(const struct persist_args &a, struct attend_sums *s, const struct attend_held &h, int round, int tokens, const struct attend_work *w, int thread_lane) {
    unsigned lane = (unsigned)renewed(thread_lane), g = lane / 4, t = lane % 4, row = token_of(g, (unsigned)round);
    float p[4], even[4] = {}, odd[4] = {}, keep[2];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        const uint4 lo = h.keys[c][0], hi = h.keys[c][1];
        const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};
        const uint4 q = g < (unsigned)a.group ? *(const uint4 *)&w->query[g][((c ^ (g & 1)) * 4 + t) * 8] : make_uint4(0, 0, 0, 0);
        mma_bf16(even, a0, q.x, q.y);
        mma_bf16(odd, a1, q.z, q.w);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) p[i] = (int)row + i / 2 < tokens ? (even[i] + odd[i]) * a.scale : -INFINITY;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float top = fmaxf(p[i], p[i + 2]);
#pragma unroll
        for (int d = 4; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
        top = fmaxf(top, s->most[i]); /* finite: the first token of a round is seen */
        keep[i] = exp2_near(s->most[i] - top);
        s->most[i] = top;
        p[i] = exp2_near(p[i] - top), p[i + 2] = exp2_near(p[i + 2] - top);
        s->total[i] = s->total[i] * keep[i] + p[i] + p[i + 2];
    }
    uint32_t p0 = turn_matrix(pack_bf16(p[0], p[1])), p1 = turn_matrix(pack_bf16(p[2], p[3]));
#pragma unroll
    for (int i = 0; i < 8; i++) {
#pragma unroll
        for (int c = 0; c < 4; c++) s->o[i][c] *= keep[c % 2];
        mma_bf16(s->o[i], h.values[i], p0, p1);
    }
}

/* The first of a block's shares of a layer's attention. Where there are fewer shares than blocks, other blocks have them in the next layer. */
__device__ static inline int first_share(const struct persist_args &a, int layer) {
    unsigned n = blockIdx.x + (unsigned)(layer * a.entries * a.kv_heads);
    return (int)(n - __umulhi(n, a.of_blocks) * gridDim.x);
}
/* The entry whose share it is, and the kv head. */
__device__ static inline int share_entry(const struct persist_args &a, int share) { return (int)__umulhi((unsigned)share, a.of_kv_heads); }
__device__ static inline int share_head(const struct persist_args &a, int share) { return share - share_entry(a, share) * a.kv_heads; }

/* Eight parts of a head's attention become one, for a quarter of its dimensions: lane 4 e + c holds of part e the maximum, the sum and 8 weighted
 * values, of dimensions 8 c on. Then v[0] and v[1] are those of 8 c + 2 (2 e16 + e8) on, not yet divided by total; most and total of all parts.
 * Parts that are not there have a maximum of minus infinity and zeros. */
__device__ static inline void fold_parts(float *most, float *total, float v[8], int lane) {
    float top = *most;
#pragma unroll
    for (int d = 4; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    float f = exp2_near(*most - top), sum = *total * f;
    *most = top;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = v[i] * f, high = v[i + 4] * f;
        v[i] = (lane & 16 ? high : low) + __shfl_xor_sync(~0u, lane & 16 ? low : high, 16);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) v[i] = (lane & 8 ? v[i + 2] : v[i]) + __shfl_xor_sync(~0u, lane & 8 ? v[i] : v[i + 2], 8);
#pragma unroll
    for (int i = 0; i < 2; i++) v[i] += __shfl_xor_sync(~0u, v[i], 4);
#pragma unroll
    for (int d = 4; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    *total = sum;
}
__device__ static inline int folded_place(int quarter, int lane) { return quarter * 32 + (lane & 3) * 8 + (lane >> 4) * 4 + (lane >> 3 & 1) * 2; } /* dimension of v[0] */

/* A quarter of one head out of its shares, by a warp of the block that has the row's first share. f16: as FP8 weights want it. */
__device__ static inline void merge_head(const struct persist_args &a, char *exchange, int row, int head, int quarter, bool f16, int lane) {
    static_assert(MOST_SHARES <= 16, "a lane has two shares");
    int part = (lane >> 2), left = a.count[row] - part, at = head * MOST_ENTRIES + a.first[row] + part;
    const char *shares = exchange + a.at.shares + at * 256 + quarter * 64 + (lane & 3) * 16, *stats = exchange + a.at.stats + at * 8;
    uint4 value[2] = {};
    uint2 stat[2] = {{0xFF800000u, 0}, {0xFF800000u, 0}};
    bool missing = left > 0;
    while (__ballot_sync(~0u, missing)) { /* few warps ask: all of it each time */
        if (left > 0) value[0] = load_relaxed_16(shares), stat[0] = load_relaxed_8(stats);
        if (left > 8) value[1] = load_relaxed_16(shares + 8 * 256), stat[1] = load_relaxed_8(stats + 8 * 8);
        missing = larger(larger(largest(value[0]), largest(value[1])), larger(larger(stat[0].x, stat[0].y), larger(stat[1].x, stat[1].y))) == NOT_YET;
        if (missing) wait_a_little();
    }
    float most = fmaxf(__uint_as_float(stat[0].x), __uint_as_float(stat[1].x)), weight[2], v[8] = {}, total = 0;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        weight[k] = __uint_as_float(stat[k].y) == 0 ? 0 : exp2_near(__uint_as_float(stat[k].x) - most) * __uint_as_float(stat[k].y);
        const uint32_t pair[4] = {value[k].x, value[k].y, value[k].z, value[k].w};
#pragma unroll
        for (int e = 0; e < 4; e++) v[e * 2] += low_bf16(pair[e]) * weight[k], v[e * 2 + 1] += high_bf16(pair[e]) * weight[k];
        total += weight[k];
    }
    fold_parts(&most, &total, v, lane);
    float scale = __fdividef(1, total);
    if (!(lane & 4)) store_relaxed_4(exchange + a.at.heads + ((int64_t)row * a.q + place_of(head * 128 + folded_place(quarter, lane))) * 2, seal(pack_input(v[0] * scale, v[1] * scale, f16)));
}

/* This block's shares of one layer's attention, and the heads that it puts together; the multiplying warps. */
__device__ static inline void attend_shares(const struct persist_args &a, struct ring *ring, struct head_gains *gains, int layer, char *exchange, bool f16, const float2 *turn, struct attend_work *w, int warp, int lane) {
    int g = (lane >> 2), t = (lane & 3);
#pragma unroll 1
    for (int share = first_share(a, layer); share < a.entries * a.kv_heads; share += gridDim.x) {
        const struct pentry e = a.entry[share_entry(a, share)];
        int kv = share_head(a, share), pages = (e.end - e.begin + PAGE - 1) / PAGE;
        /* Where a slot is used twice, a warp must not take what was in it the lap before for its page (a gate tells odd laps from even ones only). That has
         * come for certain where it lies as far behind the warp's last page as chunks are under way; else every warp waits for every page. */
        bool wraps = pages > ring->count && ring->count < TOGETHER + ring->flight;
        int step = wraps ? 1 : TOGETHER, round = warp % PAGE_ROUNDS, page = wraps ? 0 : warp / PAGE_ROUNDS;
        struct ring at = *ring;
        ring_skip(&at, page);
        /* While heads are awaited, each warp's first round goes to registers, which leaves its place in the ring to pages further back. */
        struct attend_held h = {};
        int held = !wraps && page < pages && e.begin + page * PAGE + round * 2 < e.end && !(e.last && page + 1 == pages);
        if (held) {
            gate_wait(&at.full[at.slot], at.parity);
            attend_take(&h, at.slots + at.slot * at.bytes, round, lane);
            __syncwarp();
            if (lane == 0) gate_arrive_for(&at.empty[at.slot], e.begin + page * PAGE + 2 < e.end ? MULTIPLIERS / PAGE_ROUNDS : MULTIPLIERS);
        }
#pragma unroll 1
        for (int number = warp; number < a.group + (e.last ? 2 : 0); number += MULTIPLIERS) make_head(a, gains, layer, exchange, e.row, kv, number, turn, w, lane);
        multipliers_sync();
        lane = renewed(lane), g = (lane >> 2), t = (lane & 3);
        if (warp == 0 && lane == 0) mark_attention(a, layer, MARK_HEADS);
        struct attend_sums s = {{-INFINITY, -INFINITY}};
#pragma unroll 1
        for (; page < pages; page += step, ring_skip(&at, step)) { /* else the warps that have a round of the page wait for it and give it back, for all */
            int first = e.begin + page * PAGE, rounds = first + 2 < e.end ? PAGE_ROUNDS : 1;
            bool mine = (page - warp / PAGE_ROUNDS) % TOGETHER == 0 && round < rounds;
            if (!mine && !wraps) continue;
            if (!held) {
                char *slot = at.slots + at.slot * at.bytes;
                gate_wait(&at.full[at.slot], at.parity);
                if (warp == 0 && lane == 0 && page == 0) mark_attention(a, layer, MARK_PAGE);
                if (mine && e.last && page + 1 == pages) mend_page(slot, w, e.end - first, lane);
                if (mine) attend_take(&h, slot, round, lane);
                __syncwarp();
                if (lane == 0) gate_arrive_for(&at.empty[at.slot], wraps ? 1 : MULTIPLIERS / rounds);
            }
            held = 0;
            if (mine) attend_round(a, &s, h, round, e.end - first, w, lane);
        }
        ring_skip(ring, pages);
        if (warp == 0 && lane == 0) mark_attention(a, layer, MARK_SCORES);
        int tail = (e.end - e.begin - 1) % PAGE + 1, warps = (pages - 1) * PAGE_ROUNDS + (tail > 2 ? 2 : 1); /* that had tokens */
        if (warps > MULTIPLIERS) warps = MULTIPLIERS;
        if (warp < warps)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int query = t * 2 + i;
#pragma unroll
                for (int d = 4; d < 32; d *= 2) s.total[i] += __shfl_xor_sync(~0u, s.total[i], d);
                if (query >= a.group) continue;
                if (g == 0) w->merged[warp][query][0] = s.most[i], w->merged[warp][query][1] = s.total[i];
                float *to = w->values + (warp * a.group + query) * LD_VALUES + g;
#pragma unroll
                for (int j = 0; j < 8; j++) to[j * 16] = s.o[j][i], to[j * 16 + 8] = s.o[j][2 + i];
            }
        multipliers_sync();
        if (warp == 0 && lane == 0) mark_attention(a, layer, MARK_MERGED);
#pragma unroll 1
        for (int unit = warp; unit < a.group * 4; unit += MULTIPLIERS) {
            int query = unit / 4, part = (lane >> 2);
            float v[8] = {}, most = -INFINITY, total = 0;
            if (part < warps) {
                const float *from = w->values + (part * a.group + query) * LD_VALUES + unit % 4 * 32 + (lane & 3) * 8;
                const float4 lo = *(const float4 *)from, hi = *(const float4 *)(from + 4);
                most = w->merged[part][query][0], total = w->merged[part][query][1];
                v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
            }
            fold_parts(&most, &total, v, lane);
            float scale = __fdividef(1, total);
            int at = (kv * a.group + query) * MOST_ENTRIES + share_entry(a, share);
            if (!(lane & 4)) store_relaxed_4(exchange + a.at.shares + at * 256 + folded_place(unit % 4, lane) * 2, seal(pack_bf16(v[0] * scale, v[1] * scale)));
            if (lane == 0 && unit % 4 == 0) store_relaxed_8(exchange + a.at.stats + at * 8, make_uint2(seal(most), seal(total)));
        }
        multipliers_sync();
        if (warp == 0 && lane == 0) mark_attention(a, layer, MARK_STORED);
    }
#pragma unroll 1
    for (int share = first_share(a, layer); share < a.entries * a.kv_heads; share += gridDim.x) { /* after all own shares: blocks wait for one another here */
        int row = a.entry[share_entry(a, share)].row, heads = share_head(a, share) * a.group;
        if (share_entry(a, share) != a.first[row]) continue;
#pragma unroll 1
        for (int unit = warp; unit < a.group * 4; unit += MULTIPLIERS) merge_head(a, exchange, row, heads + unit / 4, unit % 4, f16, lane);
        if (warp == 0 && lane == 0) mark_attention(a, layer, MARK_JOINED);
    }
}

#endif
