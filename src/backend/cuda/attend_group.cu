/* Attention of decode rows on Hopper where rows have beginnings in common (best-of-n): a block takes some pages of a unit, which is a group of
 * rows and a kv head.
 *
 * The time to beat is bytes of KV that are needed once over memory bandwidth (8 prompts x best-of-8 of 1,024 tokens, 8 kv heads: 34 MB a layer,
 * 11 us), but a block's latencies behind its input, one after the other, are of the same size. So there is little of that kind: pages are under way
 * before the input is there; what the warps of a block have is added up in shared memory, and so is what the two blocks of a cluster have, which work on
 * a piece together; only a unit that is cut into several pieces (in best-of none is) goes through memory, and the cluster that ends last adds it up. And
 * the program is short: what is run once a layer costs what it takes to fetch it, so that steps that are alike are one loop.
 *
 * A unit's pages are those that its rows share and then each row's own, each with the rows that see it: to a warp they are all alike. It has all
 * queries of the unit (or 16 of them: TEAM warps then work on a page together) and takes every TEAMS-th page, by tiles of eight queries: S^T = K Q^T
 * with tokens as M and queries as N, S^T turned in registers (movmatrix), O^T = V^T P^T. Scores of queries that do not see a page weigh nothing.
 * One warp more asks for the pages. Sums are taken in the order of warps and pieces: results do not depend on chance. */
#include <math.h>
#include <string.h>

#include "backend/cuda/attend_pages.h"

namespace {

/* Blocks that work on a piece together: the two of a cluster take every second page each, and in the end half of the head's dimensions. The emulation has no
 * clusters. */
#ifdef CUDA_EMULATION
enum { BLOCKS = 1 };
#else
enum { BLOCKS = 2 };
#endif
enum { NQ = 2, QUERIES = NQ * 8, HALF = HEAD / 2, LEAST_SLOTS = 4 };
const float NOTHING = -1e30f; /* the maximum of no score: finite, so that differences are numbers */

enum { MOST_SLOTS = 12, SHARED_ROOM = 227 << 10 };
template <int WARPS, int TEAM>
struct results {
    float values[WARPS][QUERIES][HALF]; /* half of the dimensions at a time; fours of them change places by query (swizzled) */
    /* From the other block of a pair: what it has of this one's half of the dimensions, piece by piece in turns. */
    float theirs[BLOCKS == 2 ? 2 : 1][BLOCKS == 2 ? TEAM * QUERIES : 1][HALF];
    float2 their_sums[2][TEAM * QUERIES];
    float2 sums[WARPS][QUERIES]; /* maximum, sum */
    float2 all[TEAM * QUERIES];  /* of all warps */
    uint64_t there[2];           /* what comes from the other block */
    unsigned last;
};
template <int WARPS, int TEAM>
struct group_room {
    enum { ROOM = (SHARED_ROOM - (int)sizeof(struct results<WARPS, TEAM>) - MOST_SLOTS * 28 - 16) / SLOT_BYTES, SLOTS = ROOM < MOST_SLOTS ? ROOM : MOST_SLOTS };
    char page[SLOTS][SLOT_BYTES];
    struct results<WARPS, TEAM> r;
    struct group_page info[SLOTS];
    int round[SLOTS]; /* of the page that a slot holds or waits for: j / SLOTS of the block's page j. A team does not see each of a slot's turns. */
    uint64_t full[SLOTS], empty[SLOTS];
};

/* The warp that asks for pages. */
template <int WARPS, int TEAM>
__device__ inline void produce(const struct stream_args &a, const struct group_piece *piece, int count, const struct group_page *list, struct group_room<WARPS, TEAM> *s, int rank, int lane) {
    enum { SLOTS = group_room<WARPS, TEAM>::SLOTS };
    bool waited = false;
    int j = 0;
    for (; count; piece++, count--) {
        const struct group_piece p = *piece;
        int64_t head_at = a.layer_at + (int64_t)p.kv * KEY_BYTES;
        int pages = (p.count - rank + BLOCKS - 1) / BLOCKS;
        for (int base = 0; base < pages; base += 32) {
            struct group_page mine = {};
            if (base + lane < pages) mine = list[p.pages + rank + (base + lane) * BLOCKS];
            int here = pages - base < 32 ? pages - base : 32;
            for (int k = 0; k < here; k++, j++) {
                int slot = j % SLOTS;
                struct group_page page;
                uint32_t rest;
                memcpy(&rest, &mine.from, 4);
                page.number = __shfl_sync(~0u, mine.number, k), rest = __shfl_sync(~0u, rest, k);
                memcpy(&page.from, &rest, 4);
                if (j >= SLOTS) gate_wait(&s->empty[slot], (j / SLOTS - 1) & 1);
                if (page.fresh && !waited) wait_for_input(), waited = true;
                const char *from = a.kv + (size_t)page.number * a.page_bytes + head_at;
                char *to = s->page[slot];
                if (lane == 0) {
                    s->info[slot] = page, *(volatile int *)&s->round[slot] = j / SLOTS;
                    gate_expect(&s->full[slot], page.tokens * (2 * TOKEN_BYTES));
                    copy_bulk(to, from, page.tokens * TOKEN_BYTES, &s->full[slot]);
                }
                __syncwarp();
                int left = page.tokens - (lane - 1) * QUARTER;
                if (lane >= 1 && lane <= 4 && left > 0)
                    copy_bulk(to + KEY_BYTES + (lane - 1) * QUARTER_BYTES, from + a.half + (lane - 1) * QUARTER * TOKEN_BYTES, (left < QUARTER ? left : QUARTER) * TOKEN_BYTES, &s->full[slot]);
            }
        }
    }
}

/* query / a.group, up to 64 queries. */
__device__ inline int row_of(const struct stream_args &a, int query) { return query * a.inverse >> 16; }

/* Where a query has the four dimensions of this number: eight lanes, which hold two of those of four queries each, find eight groups of banks. */
__device__ inline int swizzled(int four, int query) { return four ^ ((query >> 1 & 1) | (query >> 2 & 1) << 2); }

/* A page in a slot. see[n][e]: 0 where query 8 n + 2 t + e sees the page, minus infinity where not. */
__device__ inline void take_page(char *keys, int tokens, float scale, const uint4 q[NQ][4], const float see[NQ][2], float most[NQ][2], float total[NQ][2], float o[NQ][8][4], int lane) {
    int g = lane / 4, t = lane % 4;
    char *vals = keys + KEY_BYTES;
    if (tokens < PAGE) { /* values behind the end may be anything, and a weight of 0 does not make a number of them */
#pragma unroll 1
        for (int i = tokens; i < PAGE; i++) *(uint2 *)(vals + i / QUARTER * QUARTER_BYTES + i % QUARTER * TOKEN_BYTES + lane * 8) = make_uint2(0, 0);
        fence_copies();
        __syncwarp();
    }
    /* Row g + 8 h of tile i of S^T is token 8 (g / 2) + 4 i + 2 h + g % 2. Lanes of odd g read two pieces of a key in the other order, so that eight
     * lanes find eight different groups of banks. */
    int first = g / 2 * 8 + g % 2;
    bool odd = g % 2;
    float x[2][NQ][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < NQ; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) x[i][n][e] = 0;
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 k[2][2]; /* of the pair m of pieces; h */
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const char *token = keys + (first + i * 4 + h * 2) * TOKEN_BYTES + m * 128 + t * 16;
                uint4 u = *(const uint4 *)(token + odd * 64), v = *(const uint4 *)(token + !odd * 64);
                k[0][h] = make_uint4(odd ? v.x : u.x, odd ? v.y : u.y, odd ? v.z : u.z, odd ? v.w : u.w);
                k[1][h] = make_uint4(odd ? u.x : v.x, odd ? u.y : v.y, odd ? u.z : v.z, odd ? u.w : v.w);
            }
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const uint32_t a0[4] = {k[c][0].x, k[c][1].x, k[c][0].y, k[c][1].y}, a1[4] = {k[c][0].z, k[c][1].z, k[c][0].w, k[c][1].w};
#pragma unroll
                for (int n = 0; n < NQ; n++) mma_bf16(x[i][n], a0, q[n][m * 2 + c].x, q[n][m * 2 + c].y);
#pragma unroll
                for (int n = 0; n < NQ; n++) mma_bf16(x[i][n], a1, q[n][m * 2 + c].z, q[n][m * 2 + c].w);
            }
        }
    uint32_t prob[NQ][2][2];
#pragma unroll
    for (int n = 0; n < NQ; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float &v = x[i][n][h * 2 + e];
                    v = first + i * 4 + h * 2 < tokens ? v * scale + see[n][e] : -INFINITY;
                }
    weigh_scores<NQ, 2>(x, most, total, o, prob);
    add_values<NQ, 2>(o, vals, prob, 0, lane);
}

__device__ inline void store_row_four(const struct stream_args &a, const struct group_piece &p, int query, int d4, float4 v, float f) {
    const struct places to = places_of(a, p.row + row_of(a, query), d4 * 4 % HALF);
    store_four(a, to, (p.kv * a.group + query - row_of(a, query) * a.group) * 2 + d4 * 4 / HALF, v.x * f, v.y * f, v.z * f, v.w * f);
}

/* Four dimensions of a query of all pieces of a unit, in order, and (all) the sum of their weights. */
__device__ inline float4 join(const float2 *sums, const float4 *values, int pieces, int all_queries, float *all_at) {
    enum { AT_ONCE = 2 };
    float top = NOTHING, all = 0;
    float4 value = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int k0 = 0; k0 < pieces; k0 += AT_ONCE, sums += AT_ONCE * all_queries, values += AT_ONCE * all_queries * (HEAD / 4)) {
        float2 sum[AT_ONCE];
        float4 v[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            sum[k] = make_float2(NOTHING, 0), v[k] = make_float4(0, 0, 0, 0);
            if (k0 + k < pieces) sum[k] = __ldcg(&sums[k * all_queries]), v[k] = __ldcg(&values[k * all_queries * (HEAD / 4)]);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            float most = fmaxf(top, sum[k].x), keep = exp2_near(top - most), f = exp2_near(sum[k].x - most);
            top = most, all = all * keep + sum[k].y * f;
            value.x = value.x * keep + v[k].x * f, value.y = value.y * keep + v[k].y * f, value.z = value.z * keep + v[k].z * f, value.w = value.w * keep + v[k].w * f;
        }
    }
    *all_at = all;
    return value;
}

template <int WARPS, int TEAM>
__global__ void __launch_bounds__((WARPS + 1) * 32, 1) group_kernel(const struct stream_args a) {
    enum { SLOTS = group_room<WARPS, TEAM>::SLOTS, TEAMS = WARPS / TEAM, THREADS = WARPS * 32, ALL = TEAM * QUERIES, FOURS = HALF / 4 };
    static_assert((int)SLOTS >= (int)LEAST_SLOTS && WARPS % TEAM == 0 && (int)ALL <= (int)THREADS, "what a block has room for");
    DYNAMIC_SHARED(shared);
    struct group_room<WARPS, TEAM> *s = (struct group_room<WARPS, TEAM> *)shared;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, rank = BLOCKS == 2 ? blockIdx.x % 2 : 0;
    let_next_start();
    /* The tables were uploaded before the first of the kernels in front. */
    const char *base = (const char *)a.head;
    const struct group_block block = ((const struct group_block *)(base + STEP_ITEMS_AT))[blockIdx.x / BLOCKS];
    const struct group_piece *piece = (const struct group_piece *)(base + STEP_PIECES_AT) + block.first;
    const struct group_page *list = (const struct group_page *)(base + a.head->parts_at);
    if (!block.count) return; /* both of a pair */
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (int i = 0; i < SLOTS; i++) gate_init(&s->full[i], 1), gate_init(&s->empty[i], TEAM), s->round[i] = -1;
        for (int i = 0; i < 2; i++) gate_init(&s->r.there[i], 1);
        gate_init_done();
    }
    __syncthreads();
    if (warp == WARPS) {
        if (BLOCKS == 2) pair_arrive();
        produce<WARPS, TEAM>(a, piece, block.count, list, s, rank, lane);
        if (BLOCKS == 2) pair_wait();
        return;
    }
    if (BLOCKS == 2) pair_arrive();
    int team = warp / TEAM, half = warp % TEAM, j = 0;
    struct group_piece p = *piece;
    if (BLOCKS == 2) pair_wait(); /* the other one's barriers are there */
    wait_for_input();
#pragma unroll 1
    for (int number = 0; number < block.count; number++) {
        if (number > 0) p = piece[number];
        int queries = p.rows * a.group, pages = (p.count - rank + BLOCKS - 1) / BLOCKS, turn = number & 1;
        uint4 q[NQ][4];
        float most[NQ][2], total[NQ][2], o[NQ][8][4];
#pragma unroll
        for (int n = 0; n < NQ; n++) {
            int query = half * QUERIES + n * 8 + g;
            const bf16 *from = a.q + ((int64_t)(p.row + row_of(a, query < queries ? query : 0)) * a.heads + p.kv * a.group + query - row_of(a, query) * a.group) * HEAD;
#pragma unroll
            for (int c = 0; c < 4; c++) q[n][c] = query < queries ? *(const uint4 *)(from + (c * 4 + t) * 8) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int e = 0; e < 2; e++) most[n][e] = NOTHING, total[n][e] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) o[n][i][e] = 0;
        }
#pragma unroll 1
        for (int i = team; i < pages; i += TEAMS) {
            int slot = (j + i) % SLOTS, round = (j + i) / SLOTS;
            while (*(volatile int *)&s->round[slot] != round) wait_a_little();
            gate_wait(&s->full[slot], round & 1);
            const struct group_page page = s->info[slot];
            int low = page.from * a.group - half * QUERIES, high = page.to * a.group - half * QUERIES;
            if (low < QUERIES && high > 0) {
                float see[NQ][2];
#pragma unroll
                for (int n = 0; n < NQ; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++) see[n][e] = n * 8 + t * 2 + e >= low && n * 8 + t * 2 + e < high ? 0 : -INFINITY;
                take_page(s->page[slot], page.tokens, a.scale, q, see, most, total, o, lane);
            }
            __syncwarp(); /* all have read the slot */
            if (lane == 0) gate_arrive(&s->empty[slot]);
        }
        j += pages;
        /* What the warps have together. */
#pragma unroll
        for (int n = 0; n < NQ; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
#pragma unroll
                for (int d = 4; d < 32; d *= 2) total[n][e] += __shfl_xor_sync(~0u, total[n][e], d);
                if (g == 0) s->r.sums[warp][n * 8 + t * 2 + e] = make_float2(most[n][e], total[n][e]);
            }
        some_sync<1, THREADS>();
#pragma unroll
        for (int n = 0; n < NQ; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float top = NOTHING;
#pragma unroll
                for (int k = 0; k < TEAMS; k++) top = fmaxf(top, s->r.sums[k * TEAM + half][n * 8 + t * 2 + e].x);
                most[n][e] = exp2_near(most[n][e] - top); /* what the warp's sums weigh */
            }
        if ((int)threadIdx.x < ALL) {
            float top = NOTHING, all = 0;
#pragma unroll 1
            for (int k = 0; k < TEAMS; k++) top = fmaxf(top, s->r.sums[k * TEAM + threadIdx.x / QUERIES][threadIdx.x % QUERIES].x);
#pragma unroll 1
            for (int k = 0; k < TEAMS; k++) {
                float2 sum = s->r.sums[k * TEAM + threadIdx.x / QUERIES][threadIdx.x % QUERIES];
                all += sum.y * exp2_near(sum.x - top);
            }
            s->r.all[threadIdx.x] = make_float2(top, all);
            if (BLOCKS == 2) {
                if (threadIdx.x == 0) gate_expect(&s->r.there[turn], (unsigned)queries * (HALF * 4 + 8));
                if ((int)threadIdx.x < queries) pair_send_8(&s->r.their_sums[turn][threadIdx.x], __float_as_uint(top), __float_as_uint(all), &s->r.there[turn], rank ^ 1);
            }
        }
        float2 *sums = a.sums + ((int64_t)(p.partial - p.number) * BLOCKS + rank * p.pieces) * ALL;
        float *values = a.values + (int64_t)(p.partial - p.number) * ALL * HEAD;
        /* Half of the dimensions after the other; in a pair first what the other one is to have. Then, where others had pieces of the unit and this is the
         * last, all pieces. One loop, so that there is one copy of what all of this has in common. */
#pragma unroll 1
        for (int part = 0; part < (p.pieces > 1 ? BLOCKS == 1 ? 4 : 3 : 2); part++) {
            int c = BLOCKS == 1 ? part & 1 : part == 2 ? rank : rank ^ 1 ^ part;
            if (part == 2) {
                __threadfence();
                some_sync<1, THREADS>();
                unsigned *counter = &a.counters[(rank * FEW_ROWS + p.row) * a.kv_heads + p.kv];
                if (threadIdx.x == 0) {
                    s->r.last = atomicAdd(counter, 1u) == (unsigned)p.pieces - 1;
                    if (s->r.last) *counter = 0;
                }
                some_sync<1, THREADS>();
                if (!s->r.last) break;
                __threadfence();
            } else if (part < 2) {
                if (part) some_sync<1, THREADS>();
#pragma unroll
                for (int n = 0; n < NQ; n++)
#pragma unroll
                    for (int e = 0; e < 2; e++)
#pragma unroll
                        for (int h = 0; h < 2; h++) {
                            float f = most[n][e];
                            *(float4 *)&s->r.values[warp][n * 8 + t * 2 + e][swizzled(g * 2 + h, n * 8 + t * 2 + e) * 4] =
                                make_float4((c ? o[n][4][h * 2 + e] : o[n][0][h * 2 + e]) * f, (c ? o[n][5][h * 2 + e] : o[n][1][h * 2 + e]) * f,
                                            (c ? o[n][6][h * 2 + e] : o[n][2][h * 2 + e]) * f, (c ? o[n][7][h * 2 + e] : o[n][3][h * 2 + e]) * f);
                        }
                some_sync<1, THREADS>();
                if (BLOCKS == 2 && part) gate_wait(&s->r.there[turn], (number / 2) & 1);
            }
#pragma unroll 1
            for (int e = threadIdx.x; e < queries * FOURS; e += THREADS) {
                int query = e / FOURS, d = c * FOURS + e % FOURS; /* dimensions 4 d on */
                float2 all;
                float4 v = make_float4(0, 0, 0, 0);
                if (part >= 2) v = join(sums + query, (const float4 *)values + query * (HEAD / 4) + d, p.pieces, ALL, &all.y);
                else {
                    const float *from = &s->r.values[query / QUERIES][query % QUERIES][swizzled(e % FOURS, query) * 4];
#pragma unroll
                    for (int k = 0; k < TEAMS; k++) {
                        float4 w = *(const float4 *)(from + k * TEAM * (QUERIES * HALF));
                        v.x += w.x, v.y += w.y, v.z += w.z, v.w += w.w;
                    }
                    if (BLOCKS == 2 && !part) {
                        pair_send_16(&s->r.theirs[turn][query][e % FOURS * 4], make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)),
                                         &s->r.there[turn], rank ^ 1);
                        continue;
                    }
                    all = s->r.all[query];
                    if (BLOCKS == 2) {
                        float2 there = s->r.their_sums[turn][query];
                        float4 w = *(const float4 *)&s->r.theirs[turn][query][e % FOURS * 4];
                        float top = fmaxf(all.x, there.x), f = exp2_near(all.x - top), h = exp2_near(there.x - top);
                        v = make_float4(v.x * f + w.x * h, v.y * f + w.y * h, v.z * f + w.z * h, v.w * f + w.w * h);
                        all = make_float2(top, all.y * f + there.y * h);
                    }
                    if (p.pieces > 1) {
                        *(float4 *)(values + (p.number * ALL + query) * HEAD + d * 4) = v;
                        if (e % FOURS == 0) sums[p.number * ALL + query] = all;
                        continue;
                    }
                }
                store_row_four(a, p, query, d, v, 1 / all.y);
            }
        }
        if (number + 1 < block.count) some_sync<1, THREADS>(); /* sums and values are read */
    }
}

/* Warps that work on a page together, so that eight rows of up to four heads for a kv head, and four of up to eight and more, make a unit. */
int team_of(int group) { return group <= 2 ? 1 : group <= 4 ? 2 : 4; }

/* Queries of pieces of cut units, at most: a cut makes two of a piece, and a block (or pair) has one cut. Their values and, for each block of a pair, maxima
 * and sums fill the working memory from its beginning. */
int64_t slots_of(const struct backend_model *m) {
    const struct text_config *t = &m->w.config.text;
    return (int64_t)2 * (m->sm_count / BLOCKS) * team_of(t->heads / t->kv_heads) * QUERIES;
}

template <int WARPS, int TEAM>
void start(const struct backend_model *m, const struct stream_args &a) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute how[2];
    void (*kernel)(struct stream_args) = group_kernel<WARPS, TEAM>;
    c.gridDim = dim3((unsigned)m->sm_count), c.blockDim = dim3((WARPS + 1) * 32), c.dynamicSmemBytes = sizeof(struct group_room<WARPS, TEAM>), c.stream = m->stream;
    how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization, how[0].val.programmaticStreamSerializationAllowed = 1;
    c.attrs = how, c.numAttrs = 1;
#ifndef CUDA_EMULATION
    how[1].id = cudaLaunchAttributeClusterDimension, how[1].val.clusterDim.x = BLOCKS, how[1].val.clusterDim.y = how[1].val.clusterDim.z = 1;
    c.numAttrs = 2;
#endif
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.dynamicSmemBytes);
    cudaLaunchKernelEx(&c, kernel, a);
}

} // namespace

void attend_group(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled) {
    struct stream_args a = stream_args_of(m, layer, head, q, out, tiled);
    a.sums = (float2 *)(a.values + slots_of(m) * HEAD);
    switch (team_of(a.group)) {
    case 1: start<4, 1>(m, a); break;
    case 2: start<6, 2>(m, a); break;
    default: start<8, 4>(m, a);
    }
}

/* ---- the plan, on the host ---- */

namespace {

struct group {
    int row, rows, common; /* pages in common */
    int list, count;       /* of group_page */
};

/* What rows have in common with their neighbours. Another row joins a group when that saves pages: it reads the beginning no more, but the others
 * read again what it does not share. */
int make_groups(const struct backend_model *m, const struct batch *b, struct group *to) {
    const struct text_config *t = &m->w.config.text;
    const struct drow *rows = b->row;
    int group = t->heads / t->kv_heads, most_rows = team_of(group) * QUERIES / group, n = 0;
    for (int i = 0; i < b->rows; i += to[n++].rows) {
        int together = 1, common = rows[i].slot / PAGE + 1;
        while (i + together < b->rows && together < most_rows) {
            int c = attend_common_pages(&rows[i], &rows[i + together], b->page);
            if (c > common) c = common;
            if (c < MIN_SHARED_PAGES || (together > 1 && c <= (together - 1) * (common - c))) break;
            common = c, together++;
        }
        to[n] = {i, together, together > 1 ? common : 0, 0, 0};
    }
    return n;
}

/* Is a page written by the pass at hand, by one of its rows? */
bool is_fresh(const struct batch *b, int32_t number) {
    for (int r = 0; r < b->rows; r++)
        if (b->page[b->row[r].pages + b->row[r].slot / PAGE] == number) return true;
    return false;
}

} // namespace

bool attend_group_worth(const struct backend_model *m, const struct batch *b) {
    const struct text_config *t = &m->w.config.text;
    int64_t saved = 0;
    if (m->sm_count % BLOCKS || slots_of(m) * (HEAD + 2 * BLOCKS) > (int64_t)MOST_ITEMS * t->heads * (HEAD + 2)) return false;
    struct group group[FEW_ROWS];
    bool any = false;
    for (int i = 0, count = make_groups(m, b, group); i < count; i++) saved += (int64_t)(group[i].rows - 1) * group[i].common, any |= group[i].rows > 1;
    return any && saved * t->kv_heads >= m->shared_worth;
}

size_t group_fill(const struct backend_model *m, const struct batch *b, char *host) {
    enum { END = 2, LEAST = 4 }; /* pages that the end of a unit costs beside its own, about; of a share */
    const struct text_config *t = &m->w.config.text;
    struct group group[FEW_ROWS];
    int count = make_groups(m, b, group), kv_heads = t->kv_heads, blocks = m->sm_count / BLOCKS, n = 0, pieces = 0, partial = 0, s = 0;
    struct group_block *block = (struct group_block *)(host + STEP_ITEMS_AT);
    struct group_piece *piece = (struct group_piece *)(host + STEP_PIECES_AT);
    int64_t length = 0, all = 0, at = 0;
    for (int i = 0; i < count; i++) {
        int64_t pages = group[i].common;
        for (int r = group[i].row; r < group[i].row + group[i].rows; r++) pages += b->row[r].slot / PAGE + 1 - group[i].common;
        length += (pages + END) * kv_heads, all += pages * kv_heads;
        group[i].count = (int)pages, group[i].list = n, n += (int)pages;
    }
    int units = count * kv_heads, shares = blocks;
    if (shares > (all + LEAST - 1) / LEAST) shares = (int)((all + LEAST - 1) / LEAST);
    if (units <= shares && shares / units * units >= shares * 7 / 8) shares = shares / units * units; /* units of one length are cut alike */
    int snap = (int)(length / shares / 16);
    memset(block, 0, (size_t)blocks * sizeof *block);
    for (int i = 0; i < count; i++) {
        const struct group *g = &group[i];
        for (int kv = 0; kv < kv_heads; kv++, at += g->count + END) {
            int first = pieces;
            for (int page = 0; page < g->count;) {
                int64_t cut = length * (s + 1) / shares - at;
                if (s == shares - 1 || cut >= g->count - snap) cut = g->count;
                else if (cut <= page + (page ? 0 : snap)) {
                    s++;
                    continue;
                }
                if (!block[s].count) block[s].first = pieces;
                block[s].count++;
                piece[pieces++] = {g->list + page, 0, (int32_t)cut - page, (int16_t)g->row, (int16_t)g->rows, (int16_t)kv, 0, 0, 0};
                page = (int)cut;
                if (page < g->count) s++;
            }
            for (int k = first; k < pieces; k++) piece[k].number = (int16_t)(k - first), piece[k].pieces = (int16_t)(pieces - first), piece[k].partial = partial + k - first;
            if (pieces - first > 1) partial += pieces - first;
        }
    }
    struct group_page *list = (struct group_page *)(piece + pieces), *to = list;
    for (int i = 0; i < count; i++)
        for (int k = -1; k < group[i].rows; k++) { /* -1: what they share */
            const struct group *g = &group[i];
            const struct drow *row = &b->row[g->row + (k < 0 ? 0 : k)];
            int tokens = k < 0 ? g->common * PAGE : row->slot + 1, settled = (row->slot - (FEW_ROWS - 1)) / PAGE; /* a sequence has 64 new tokens at most */
            for (int page = k < 0 ? 0 : g->common; page * PAGE < tokens; page++) {
                int32_t number = b->page[row->pages + page];
                int left = tokens - page * PAGE;
                *to++ = {number, (uint8_t)(k < 0 ? 0 : k), (uint8_t)(k < 0 ? g->rows : k + 1), (uint8_t)(left < PAGE ? left : PAGE), page >= settled && is_fresh(b, number)};
            }
        }
    int32_t *pages = (int32_t *)to, pages_at = (int32_t)(pages - (int32_t *)host);
    memcpy(pages, b->page, (size_t)b->pages * sizeof *pages);
    struct drow *rows = (struct drow *)(host + STEP_ROWS_AT);
    memcpy(rows, b->row, (size_t)b->rows * sizeof *rows);
    for (int r = 0; r < b->rows; r++) rows[r].pages += pages_at;
    struct step_head *head = (struct step_head *)host;
    head->item_count = pieces, head->parts_at = (int32_t)((char *)list - host);
    return (size_t)((char *)(pages + b->pages) - host);
}
