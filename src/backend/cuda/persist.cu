/* The step as one kernel (persist.h): the roles of its warps, and the host's side.
 *
 * The time to beat: bytes of weights and KV over memory bandwidth. 2B FP8, one row: 2.15 GB, 0.68 ms at 3.14 TB/s. A chain of kernels loses
 * about 3 us at each of its 170 ends. Here a layer has six exchanges, each about 1 us (a store, a load from the second-level cache, the sums of
 * the multiplying warps), and the copy engine goes on meanwhile: up to 200 KB a multiprocessor, 8 us of memory time, are under way or waiting. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(__CUDACC__)
#pragma nv_diag_suppress 177 /* before sm_90 the kernel is empty and nothing calls its parts */
#endif
#include "backend/cuda/persist_attend.h"
#include "backend/cuda/persist_row.h"

enum { LD_SUMS = 20, LD_ROW = MULTIPLIERS * 16 + 4 }; /* a row of sums: 16 of one warp; of a single row, 16 of each warp; and what keeps banks apart */

/* What outputs of a single row's products need beside their sums: of the residual stream's squares each warp's sum; the gains of the next norm. Two
 * of them in turn: what was there before the last product of the kind, nobody reads any more. */
struct prepared {
    float squares[MULTIPLIERS], gain[MOST_OWN * 16]; /* 16 bytes aligned */
};

/* The block's own memory at own_at. */
struct own {
    uint64_t full[16], empty[16];
    struct head_gains gains; /* 16 bytes aligned */
    volatile unsigned sums_read; /* tiles whose sums the finisher has taken */
    volatile unsigned asked;     /* bytes that the producer has asked for */
    float nested_map[256];
    alignas(16) float h[MOST_OWN][PERSIST_ROWS][16]; /* the residual stream of this block's tiles */
    uint32_t storages[MOST_PHASES];
    int2 share[PHASE_KINDS];
    struct side_head side[PHASE_KINDS];
    alignas(16) struct pphase phase[2]; /* the producer's: of the product at hand and the next */
    union {
        float2 turn[PERSIST_ROWS * 64]; /* cosine and sine of each row's rotation */
        struct {
            float2 turn[64];
            struct prepared prepared[2]; /* 16 bytes aligned */
        } row; /* a single row: its memory ends here */
    };
    float kept[MOST_OWN][128]; /* sums between passes: a lane of a finisher its own four */
};

/* The input of [from, from + own) units of x (rows, ldx) in the exchange: each lane's 16 values of a unit, zeros past the last unit. Of rows that
 * are not there: anything that does not wait. b: zeros. */
__device__ static inline void take_input(uint32_t (&b)[WARP_UNITS][8], const bf16 *x, int64_t ldx, int from, int own, int rows, int lane) {
    int g = lane / 4, t = lane % 4;
    bool mine = g < rows, missing = mine;
    const uint4 *p = (const uint4 *)(x + (mine ? g : 0) * ldx + from * UNIT + t * 8);
    if (mine && rows > 2) /* many words: one of them tells when it is worth asking for all */
        while (!there(load_relaxed_16(p))) wait_a_little();
    while (__ballot_sync(~0u, missing)) {
        if (missing)
#pragma unroll
            for (int u = 0; u < WARP_UNITS; u++)
                if (u < own)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        uint4 v = load_relaxed_16(p + u * 8 + i * 4);
                        b[u][i * 4] = v.x, b[u][i * 4 + 1] = v.y, b[u][i * 4 + 2] = v.z, b[u][i * 4 + 3] = v.w;
                    }
        uint32_t top = 0;
#pragma unroll
        for (int u = 0; u < WARP_UNITS; u++)
#pragma unroll
            for (int i = 0; i < 8; i++) top = larger(top, b[u][i]);
        missing = top == NOT_YET;
        if (missing) wait_a_little();
    }
}

/* Sums go from the multiplying warps to the finisher by the block's numbered barriers (a third of a gate's latency), a barrier for each buffer. */
enum { SUMS_BARRIER = 2, SUMS_THREADS = (MULTIPLIERS + 1) * 32 };
__device__ static inline void sums_given(int buffer) { __syncwarp(), some_arrive_at<SUMS_THREADS>(SUMS_BARRIER + buffer); }
__device__ static inline void sums_await(int buffer) { __syncwarp(), some_sync_at<SUMS_THREADS>(SUMS_BARRIER + buffer); }

/* Of a single row: what the preparing warp brings for a product is there: it and the multiplying warps meet here, once a product. */
__device__ static inline void prepared_sync() { some_sync<2, (MULTIPLIERS + 1) * 32>(); }

static_assert(offsetof(struct own, turn) % 16 == 0 && offsetof(struct own, h) % 8 == 0, "read by 16 and 8 bytes");

struct block_parts {
    struct own *own;
    float *sums; /* (SUM_BUFFERS, MULTIPLIERS, rows, LD_SUMS); of a single row (2, tiles of a group, LD_ROW) */
    char *base, *work;
    struct ring ring;
};

/* Does the product with these storages want its input as f16? */
template <int QUANT> __device__ static inline bool wants_f16(uint32_t storages) { return QUANT == STORAGE_FP8_BLOCK && (storages & 3) == packed<STORAGE_FP8_BLOCK>::number; }

__device__ static inline char *exchange_of(const struct persist_args &a, int layer) { return a.now + (size_t)layer * a.at.layer; }

__device__ static inline void mark(const struct persist_args &a, int phase, int what) {
    if (a.trace) a.trace[((int64_t)blockIdx.x * (a.layer_count * 4 + 1) + phase) * 4 + what] = clock_now();
}

/* Four values of a product's input. */
__device__ static inline void give_four(char *to, float v0, float v1, float v2, float v3, bool f16) {
    store_relaxed_8(to, make_uint2(seal(pack_input(v0, v1, f16)), seal(pack_input(v2, v3, f16))));
}

/* The new residual of a tile, and what the norm and the product after it want of it: h * weight, and the sum of squares. */
__device__ static inline void give_residual(const struct persist_args &a, const float h[4], float4 weight, bool f16, char *x, char *squares, int tile, int row, int quarter) {
    float sum = (h[0] * h[0] + h[1] * h[1]) + (h[2] * h[2] + h[3] * h[3]);
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row >= a.rows) return;
    give_four(x + ((int64_t)row * a.hidden + place_of(tile * 16 + quarter * 4)) * 2, h[0] * weight.x, h[1] * weight.y, h[2] * weight.z, h[3] * weight.w, f16);
    if (quarter == 0) store_relaxed_4(squares + ((size_t)row * MOST_SQUARES + tile) * 4, seal(sum));
}

/* Of a single row: where a thread's two outputs of a group of tiles come from and go to; eight threads have a tile. Nothing of this waits for the
 * sums, so that little is left to do once they are there. */
struct outlet {
    const float *sums;
    char *to;
    int number; /* tile of the group; -1 for threads that have nothing to do */
};
/* first: number of the group's first tile among the block's. */
__device__ static inline struct outlet find_outlet(const struct persist_args &a, int kind, int2 share, int first, char *exchange, const float *sums, int thread) {
    struct outlet o;
    int pair = thread & 7, number = thread >> 3, tile = share.x + first + number;
    o.number = number < a.sum_tiles && first + number < share.y ? number : -1;
    o.sums = sums + number * LD_ROW + pair * 2;
    int column = (kind == PHASE_UP ? tile * 8 : tile * 16) + pair * 2;
    if (kind == PHASE_HEAD) o.to = (char *)(a.logits + column);
    else if (kind == PHASE_QKV) o.to = exchange + (unsigned)a.at.qkv + (unsigned)column * 4;
    else o.to = exchange + (unsigned)(kind == PHASE_UP ? a.at.wide : kind == PHASE_O ? a.at.x[1] : a.at.layer + a.at.x[0]) + (unsigned)place_of(column) * 2;
    return o;
}
/* Sums of a group of tiles become results, by all multiplying warps. */
__device__ static inline void finish_row(const struct persist_args &a, struct own *own, const struct prepared *ready, const struct outlet &o, int kind, bool f16, char *exchange, int thread) {
    int pair = thread & 7;
    float2 v = make_float2(0, 0);
    if (o.number >= 0) {
        float2 part[MULTIPLIERS];
#pragma unroll
        for (int w = 0; w < MULTIPLIERS; w++) part[w] = *(const float2 *)(o.sums + w * 16);
#pragma unroll
        for (int n = MULTIPLIERS / 2; n; n /= 2)
#pragma unroll
            for (int w = 0; w < n; w++) part[w].x += part[w + n].x, part[w].y += part[w + n].y;
        v = part[0];
    }
    if (kind == PHASE_O || kind == PHASE_DOWN) { /* the residual stream, and what the norm and the product after it want of it: h * gain, the sum of squares */
        if (o.number >= 0) {
            float2 *h = (float2 *)&own->h[o.number][0][pair * 2], gain = *(const float2 *)&ready->gain[o.number * 16 + pair * 2];
            v.x += h->x, v.y += h->y, *h = v;
            store_relaxed_4(o.to, seal(pack_input(v.x * gain.x, v.y * gain.y, f16)));
        }
        float sum = v.x * v.x + v.y * v.y;
#pragma unroll
        for (int d = 1; d < 8; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if (o.number >= 0 && pair == 0) store_relaxed_4(exchange + (unsigned)(kind == PHASE_O ? a.at.squares[1] : a.at.layer + a.at.squares[0]) + (unsigned)(own->share[kind].x + o.number) * 4, seal(sum));
        return;
    }
    const float4 low = *(const float4 *)ready->squares, high = *(const float4 *)(ready->squares + 4);
    float factor = rsqrtf((((low.x + low.y) + (low.z + low.w)) + ((high.x + high.y) + (high.z + high.w))) * a.hidden_part + a.eps);
    v.x *= factor, v.y *= factor;
    if (kind == PHASE_UP) {
        float2 up = make_float2(__shfl_down_sync(~0u, v.x, 4), __shfl_down_sync(~0u, v.y, 4));
        if (o.number < 0 || pair >= 4) return;
        v.x = __fdividef(v.x, 1 + __expf(-v.x)) * up.x, v.y = __fdividef(v.y, 1 + __expf(-v.y)) * up.y; /* a true division has a slow way of its own */
        store_relaxed_4(o.to, seal(pack_input(v.x, v.y, f16)));
    } else if (o.number >= 0) {
        if (kind == PHASE_HEAD) {
            *(float2 *)o.to = v;
            if (a.host_row == 0) *(float2 *)(o.to + a.to_host) = v;
        } else store_relaxed_8(o.to, make_uint2(seal(v.x), seal(v.y)));
    }
}

/* ONE: of a single row. */
template <int QUANT, bool ONE>
__device__ static inline void multiply(const struct persist_args &a, struct block_parts *s, int thread_warp, int thread_lane) {
    int last = a.layer_count * 4;
    unsigned given = 0, normed = 0, added = 0, groups = 0; /* tiles, products of normed input, the others, groups of tiles so far */
#pragma unroll 1
    for (int phase = 0; phase <= last; phase++) {
        int kind = phase == last ? PHASE_HEAD : phase % 4, layer = phase / 4;
        const struct pshape &shape = a.shape[kind];
        char *exchange = exchange_of(a, layer);
        int2 share = s->own->share[kind];
        uint32_t storages = s->own->storages[phase];
        int lane = renewed(thread_lane), warp = renewed(thread_warp);
        if (warp == 0 && lane == 0) mark(a, phase, 0);
        if (kind == PHASE_QKV && warp == 0 && lane == 0) ask_gains(&s->own->gains, &a.layers[layer]);
        if (kind == PHASE_O) attend_shares(a, &s->ring, &s->own->gains, layer, exchange, wants_f16<QUANT>(storages), s->own->turn, (struct attend_work *)s->work, warp, lane);
        if (warp == 0 && lane == 0) mark(a, phase, 1);
        lane = renewed(lane), warp = renewed(warp);
        int t = lane % 4;
        int passes = shape.cut[storages & 3].passes;
        bool f16 = phase < last && wants_f16<QUANT>(s->own->storages[phase + 1]); /* the next product */
#pragma unroll 1
        for (int pass = 0; pass < passes && share.y; pass++) {
            const struct tile_place p = place_warp(shape.cut[storages & 3], shape.units, pass, warp, QUANT == STORAGE_NF4 && (storages & 3) == packed<STORAGE_NF4>::number);
            struct walk walk;
            struct lane_side side = {};
            if (QUANT != STORAGE_BF16 && kind != PHASE_HEAD && pass == 0) { /* with the first chunk come all factors */
                if (lane == 0) gate_wait(&s->ring.full[s->ring.slot], s->ring.parity);
                __syncwarp();
            }
            uint32_t b[ONE ? (int)ROW_SETS : (int)WARP_UNITS][8] = {}; /* begins here in any case: or its registers would live through attention */
            int first = 0; /* tile of the group */
            struct outlet outlet = {};
#pragma unroll 1
            for (int i = -1, taken = 1; i < share.y;) {
                if (i >= 0) {
                    bool plain = QUANT == STORAGE_BF16 || side.step == 0, parts = QUANT == STORAGE_NF4 && !plain; /* rows of NF4 lie in other lanes */
                    if constexpr (ONE) {
                        float acc[2]; /* of two tiles, each the lane's first row or its second */
                        if (!plain && walk.pieces == 1 && walk.chunks * 4 <= s->ring.count + 1 && i + 1 < share.y && i + 1 - first < a.sum_tiles && share.x + i + 1 != side.until) {
                            if constexpr (QUANT != STORAGE_BF16) multiply_row<QUANT, 2>(acc, &s->ring, b, p, walk, side, s->base, s->own->nested_map, lane);
                            taken = 2;
                        } else {
                            float one[1];
                            if (plain) multiply_row<STORAGE_BF16, 1>(one, &s->ring, b, p, walk, side, s->base, s->own->nested_map, lane);
                            else multiply_row<QUANT, 1>(one, &s->ring, b, p, walk, side, s->base, s->own->nested_map, lane);
                            acc[0] = one[0], taken = 1;
                        }
                        /* Groups take two places in turn: the other's sums may still be read. */
                        float *to = s->sums + ((groups & 1) * a.sum_tiles + i - first) * LD_ROW + warp * 16 + (parts ? low_row<STORAGE_NF4>(lane) + t * 2 : low_row<STORAGE_BF16>(lane) + t * 4);
#pragma unroll
                        for (int c = 0; c < 2; c++)
                            if (c < taken && t < 2) to[c * LD_ROW] = pass ? to[c * LD_ROW] + acc[c] : acc[c]; /* a warp's sums of all passes */
                        if (pass + 1 == passes && (i + taken == share.y || i + taken - first == a.sum_tiles)) {
                            bool adds = kind == PHASE_O || kind == PHASE_DOWN;
                            __syncwarp();
                            if (adds) prepared_sync();
                            else multipliers_sync();
                            finish_row(a, s->own, &s->own->row.prepared[(adds ? added : normed) & 1], outlet, kind, f16, exchange, warp * 32 + lane);
                            first = i + taken, groups++;
                        }
                    } else {
                        float acc[4] = {};
                        if (plain) multiply_tile<STORAGE_BF16>(acc, &s->ring, b, p, walk, side, s->base, s->own->nested_map, lane);
                        else multiply_tile<QUANT>(acc, &s->ring, b, p, walk, side, s->base, s->own->nested_map, lane);
                        int f = given % SUM_BUFFERS;
                        while (given - s->own->sums_read >= SUM_BUFFERS) wait_a_little();
                        __syncwarp();
                        float *to = s->sums + ((f * MULTIPLIERS + warp) * a.rows) * LD_SUMS + (parts ? low_row<STORAGE_NF4>(lane) : low_row<STORAGE_BF16>(lane));
#pragma unroll
                        for (int c = 0; c < 4; c++)
                            if (t * 2 + c % 2 < a.rows) to[(t * 2 + c % 2) * LD_SUMS + c / 2 * (parts ? 2 : 4)] = acc[c];
                        sums_given(f);
                        given++;
                    }
                }
                if ((i += taken) == share.y) break;
                if (ONE && i == first) outlet = find_outlet(a, kind, share, first, exchange, s->sums + (groups & 1) * a.sum_tiles * LD_ROW, warp * 32 + lane);
                /* What the next tile needs beside its weights: of the first tile before its input, which takes longest. */
                int tile = share.x + i;
                if (i > 0 && tile != side.until) {
                    for (int n = 0; n < taken; n++) next_side<QUANT>(&side);
                    continue;
                }
                int m = kind == PHASE_QKV ? (tile >= shape.first[1] ? 2 : tile >= shape.first[0]) : 0, storage = storages >> m * 2 & 3;
                if (QUANT == STORAGE_BF16 || storage == 0) {
                    walk = make_walk<STORAGE_BF16>(shape.cut[0], p, lane);
                    side = find_side<STORAGE_BF16>(shape, s->own->side[kind], NULL, kind, tile, i, share.y, 0, lane);
                } else {
                    walk = make_walk<QUANT>(shape.cut[storage], p, lane);
                    side = find_side<QUANT>(shape, s->own->side[kind], s->base + a.side_at[kind], kind, tile, i, share.y, p.before + p.from, lane);
                }
                if (i > 0) continue;
                const char *x = exchange + (kind == PHASE_O ? a.at.heads : kind == PHASE_UP ? a.at.x[1] : kind == PHASE_DOWN ? a.at.wide : a.at.x[0]);
                if constexpr (ONE) {
                    const char *squares = kind == PHASE_O || kind == PHASE_DOWN ? NULL : exchange + a.at.squares[kind == PHASE_UP];
                    float square = take_row(b, (const bf16 *)x, squares, p.before + p.from, p.own, lane);
                    if (squares && lane == 0) s->own->row.prepared[normed & 1].squares[warp] = square;
                } else if (p.own) take_input(b, (const bf16 *)x, shape.in, p.before + p.from, p.own, a.rows, lane);
                __syncwarp();
                if (warp == 0 && lane == 0 && pass == 0) mark(a, phase, 2);
            }
        }
        if (share.y && (kind == PHASE_O || kind == PHASE_DOWN)) added++;
        else if (share.y) normed++;
        if (ONE && kind == PHASE_QKV && warp == 0 && lane == 0) mark_attention(a, layer, MARK_QKV_STORED);
        if (warp == 0 && lane == 0) mark(a, phase, 3);
    }
}

/* One warp, one lane of it to do it: everything that this block reads, in the order in which it is used. */
__device__ static inline void produce(const struct persist_args &a, struct block_parts *s, int lane) {
    enum { WORDS = sizeof(struct pphase) / 8 };
    static_assert(WORDS <= 32 && sizeof(struct pphase) % 8 == 0, "a lane takes one word");
    int last = a.layer_count * 4;
    unsigned behind[PHASE_HEAD] = {}; /* number of the last chunk that used a kind's factors, + 1 */
    uint2 word = lane < WORDS ? ((const uint2 *)a.phases)[lane] : make_uint2(0, 0);
#pragma unroll 1
    for (int phase = 0; phase <= last; phase++) {
        int kind = phase == last ? PHASE_HEAD : phase % 4;
        const struct pshape &shape = a.shape[kind];
        int2 share = s->own->share[kind];
        s->ring.flight = a.flight[kind];
        struct pphase *now = &s->own->phase[phase & 1];
        if (lane < WORDS) ((uint2 *)now)[lane] = word;
        __syncwarp();
        if (lane < WORDS && phase < last) word = ((const uint2 *)&a.phases[phase + 1])[lane];
        if (kind == PHASE_O && lane == 0) /* keys and values of earlier tokens depend on nothing either */
#pragma unroll 1
            for (int i = first_share(a, phase / 4); i < a.entries * a.kv_heads; i += gridDim.x) {
                const struct pentry &e = a.entry[share_entry(a, i)];
#pragma unroll 1
                for (int page = e.begin / PAGE; page * PAGE < e.end; page++) {
                    fill_page(a, &s->ring, phase / 4, e.row, share_head(a, i), page);
                    if (page * PAGE == e.begin) mark_attention(a, phase / 4, MARK_FIRST_ASKED);
                    if (page * PAGE + PAGE >= e.end) mark_attention(a, phase / 4, MARK_LAST_ASKED);
                }
            }
        if (lane == 0) {
            const struct pcut &cut = shape.cut[s->own->storages[phase] & 3];
            unsigned side = 0;
            if (share.y && kind != PHASE_HEAD) {
                unsigned from = kind == 0 ? behind[0] : kind == 1 ? behind[1] : kind == 2 ? behind[2] : behind[3]; /* registers, not memory */
                if (from && s->ring.number - from < (unsigned)a.slots) { /* not yet known to be read: the chunk's slot was not filled again */
                    int back = (int)(s->ring.number - from) + 1, slot = s->ring.slot - back;
                    gate_wait(&s->ring.empty[slot < 0 ? slot + a.slots : slot], slot < 0 ? s->ring.parity ^ 1 : s->ring.parity);
                }
                gate_wait(&s->ring.empty[s->ring.slot], s->ring.parity ^ 1); /* the slot's barrier is that of the next chunk */
                side = fill_side(&s->own->side[kind], s->base + a.side_at[kind], now, shape, kind, share, &s->ring.full[s->ring.slot]);
            }
            for (int pass = 0; pass < cut.passes; pass++) {
                int before = pass * cut.pass_units, n = shape.units - before < cut.pass_units ? shape.units - before : cut.pass_units;
                for (int i = 0; i < share.y; i++) fill_tile(&s->ring, now, shape, kind, share.x + i, before, n, side), side = 0;
            }
            if (kind == 0) behind[0] = s->ring.number;
            if (kind == 1) behind[1] = s->ring.number;
            if (kind == 2) behind[2] = s->ring.number;
            if (kind == 3) behind[3] = s->ring.number;
        }
        __syncwarp();
    }
}

/* The residual stream begins with the embedding: lane 4 r + q has of row r the columns 4 q to 4 q + 3 of a tile. */
template <int QUANT>
__device__ static inline void embed_rows(const struct persist_args &a, struct block_parts *s, int lane) {
    int row = lane / 4, quarter = lane % 4;
    int2 mine = s->own->share[PHASE_O];
    for (int i = 0; i < mine.y; i++) {
        int column = (mine.x + i) * 16 + quarter * 4;
        float h[4] = {};
        if (row < a.rows)
#pragma unroll
            for (int k = 0; k < 4; k++) s->own->h[i][row][quarter * 4 + k] = h[k] = weight_at(a.embed, a.row[row].id, column + k);
        give_residual(a, h, *(const float4 *)(a.layers[0].input_norm + column), wants_f16<QUANT>(s->own->storages[0]), exchange_of(a, 0) + a.at.x[0], exchange_of(a, 0) + a.at.squares[0], mine.x + i, row, quarter);
    }
}

/* One lane. While the ring is full, waiting for results, the memory would rest: what lies behind the ring is brought to the second-level cache, at most
 * a.ahead bytes in front of the copies and no faster than the memory gives it, so that what blocks say to each other does not stand behind much. Tiles
 * go as they lie in memory, not by passes: a hint needs no better order. Of several shares of a block the first. */
__device__ static inline void run_ahead(const struct persist_args &a, struct block_parts *s) {
    enum { SLICE = 16 << 10 };
    unsigned done = 0, seen = 0, moved = 0, last = 0, before = 0; /* bytes brought or overtaken, asked for when last looked at; clocks; bytes brought last */
#pragma unroll 1
    for (int phase = 0; phase <= a.layer_count * 4; phase++) {
        int kind = phase == a.layer_count * 4 ? PHASE_HEAD : phase % 4, layer = phase / 4, share = first_share(a, layer), pages = 0, from = 0;
        const struct pshape &shape = a.shape[kind];
        bool shared = kind == PHASE_O && share < a.entries * a.kv_heads;
        const struct pentry &e = a.entry[shared ? share_entry(a, share) : 0];
        if (shared) from = e.begin / PAGE, pages = (e.end + PAGE - 1) / PAGE - from;
        int tile = s->own->share[kind].x - pages, items = pages + s->own->share[kind].y;
#pragma unroll 1
        for (int i = 0; i < items * 2; i++) { /* keys and values, the two halves of a tile */
            const char *p;
            int bytes, row, half = i % 2;
            if (i / 2 < pages) {
                int tokens = a.row[e.row].slot - (from + i / 2) * PAGE;
                p = (const char *)(page_of(a, e.row, (from + i / 2) * PAGE, layer) + (half ? a.half : 0) + (int64_t)share_head(a, share) * PAGE * 128), bytes = (tokens < PAGE ? tokens : PAGE) * 256;
            } else {
                const struct pmatrix &m = a.phases[phase].m[half_of_tile(shape, kind, tile + i / 2, half, &row)];
                bytes = shape.units * (128 >> storage_number(m.storage)), p = m.data + (size_t)row * (size_t)bytes, bytes *= 8;
            }
#pragma unroll 1
            for (; bytes > 0; bytes -= SLICE, p += SLICE) {
                unsigned slice = bytes < SLICE ? (unsigned)bytes : (unsigned)SLICE;
#pragma unroll 1
                for (;; rest(100)) {
                    unsigned asked = s->own->asked, now = (unsigned)clock_now(), pace = (before * (unsigned)a.pace) >> 10;
                    if (asked != seen) seen = asked, moved = now;
                    if ((int)(asked - done) > 0) break; /* overtaken */
                    if (done - asked + slice > (unsigned)a.ahead || now - last < pace || (now - moved < pace && done - asked < SLICE)) continue;
                    bring_nearer(p, slice);
                    last = now, before = slice;
                    break;
                }
                done += slice;
            }
        }
    }
}

/* 1 / rms of the row that the lane works for. */
__device__ static inline float row_factor(const struct persist_args &a, const char *squares, int row, int quarter) {
    if (row >= a.rows) return 0;
    int count = a.hidden / 16 / 4;
    const uint4 *p = (const uint4 *)(squares + (size_t)row * MOST_SQUARES * 4);
    float sum = 0;
    for (int i = quarter; i < count; i += 32) { /* eight at a time */
        uint4 v[8];
        bool all = false;
        for (bool again = false; !all; again = true) {
            if (again) wait_a_little();
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (i + k * 4 < count) v[k] = load_relaxed_16(p + i + k * 4);
            all = true;
#pragma unroll
            for (int k = 0; k < 8; k++)
                if (i + k * 4 < count) all = all && there(v[k]);
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (i + k * 4 < count) sum += (__uint_as_float(v[k].x) + __uint_as_float(v[k].y)) + (__uint_as_float(v[k].z) + __uint_as_float(v[k].w));
    }
    return sum;
}

/* Sums of the multiplying warps become results. Lane 4 r + q works for row r, outputs 4 q to 4 q + 3 of a tile. */
template <int QUANT>
__device__ static inline void finish(const struct persist_args &a, struct block_parts *s, int lane) {
    int row = lane / 4, quarter = lane % 4, last = a.layer_count * 4;
    unsigned taken = 0;
    embed_rows<QUANT>(a, s, lane);
#pragma unroll 1
    for (int phase = 0; phase <= last; phase++) {
        int kind = phase == last ? PHASE_HEAD : phase % 4, layer = phase / 4;
        const struct pshape &shape = a.shape[kind];
        char *exchange = exchange_of(a, layer);
        int2 share = s->own->share[kind];
        float factor = 1;
        bool f16 = phase < last && wants_f16<QUANT>(s->own->storages[phase + 1]);
        if (!share.y) continue;
        if (kind != PHASE_O && kind != PHASE_DOWN) {
            factor = row_factor(a, exchange + a.at.squares[kind == PHASE_UP], row, quarter);
            factor += __shfl_xor_sync(~0u, factor, 1);
            factor += __shfl_xor_sync(~0u, factor, 2);
            factor = rsqrtf(__fdividef(factor, (float)a.hidden) + a.eps);
        }
        const float *weight = kind == PHASE_O ? a.layers[layer].post_norm : kind == PHASE_DOWN ? (layer + 1 < a.layer_count ? a.layers[layer + 1].input_norm : a.norm) : NULL;
        int passes = shape.cut[s->own->storages[phase] & 3].passes;
#pragma unroll 1
        for (int pass = 0; pass < passes; pass++)
#pragma unroll 1
            for (int i = 0; i < share.y; i++) {
                int tile = share.x + i, number = taken % SUM_BUFFERS;
                float4 gain = weight ? *(const float4 *)(weight + tile * 16 + quarter * 4) : make_float4(1, 1, 1, 1);
                float v[4] = {};
                sums_await(number);
                if (row < a.rows) {
                    const float *from = s->sums + (number * MULTIPLIERS * a.rows + row) * LD_SUMS + quarter * 4;
#pragma unroll
                    for (int w = 0; w < MULTIPLIERS; w++) {
                        float4 p = *(const float4 *)(from + w * a.rows * LD_SUMS);
                        v[0] += p.x, v[1] += p.y, v[2] += p.z, v[3] += p.w;
                    }
                }
                __syncwarp();
                taken++;
                if (lane == 0) s->own->sums_read = taken;
                float *kept = &s->own->kept[i][lane * 4];
                if (pass)
#pragma unroll
                    for (int k = 0; k < 4; k++) v[k] += kept[k];
                if (pass + 1 < passes) {
#pragma unroll
                    for (int k = 0; k < 4; k++) kept[k] = v[k];
                    continue;
                }
                if (weight) {
                    float *h = &s->own->h[i][row][quarter * 4];
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        if (row < a.rows) h[k] += v[k], v[k] = h[k];
                        else v[k] = 0;
                    }
                    char *to = kind == PHASE_O ? exchange : exchange_of(a, layer + 1);
                    give_residual(a, v, gain, f16, to + a.at.x[kind == PHASE_O], to + a.at.squares[kind == PHASE_O], tile, row, quarter);
                    continue;
                }
#pragma unroll
                for (int k = 0; k < 4; k++) v[k] *= factor;
                if (kind == PHASE_UP) {
                    float up[4];
#pragma unroll
                    for (int k = 0; k < 4; k++) up[k] = __shfl_down_sync(~0u, v[k], 2), v[k] = __fdividef(v[k], 1 + __expf(-v[k])) * up[k]; /* a true division takes its slow way for rows that are not there */
                    if (row < a.rows && quarter < 2)
                        give_four(exchange + a.at.wide + ((int64_t)row * a.wide + place_of(tile * 8 + quarter * 4)) * 2, v[0], v[1], v[2], v[3], f16);
                } else if (row < a.rows) {
                    if (kind == PHASE_HEAD) {
                        float *to = a.logits + (int64_t)row * a.vocab + tile * 16 + quarter * 4;
                        *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
                        if (row == a.host_row) *(float4 *)((char *)to + a.to_host) = make_float4(v[0], v[1], v[2], v[3]);
                    } else store_relaxed_16(exchange + a.at.qkv + ((int64_t)row * (a.q + 2 * a.k) + tile * 16 + quarter * 4) * 4, make_uint4(seal(v[0]), seal(v[1]), seal(v[2]), seal(v[3])));
                }
            }
        if (kind == PHASE_QKV && lane == 0) mark_attention(a, layer, MARK_QKV_STORED);
    }
}

/* Of a single row: one warp brings the gains for the outputs of o and down, while the others multiply. It is a product ahead of them at most: what it wrote for
 * the one before last, nobody reads any more. */
template <int QUANT>
__device__ static inline void prepare(const struct persist_args &a, struct block_parts *s, int lane) {
    int last = a.layer_count * 4;
    unsigned products = 0; /* of o and down */
    embed_rows<QUANT>(a, s, lane);
#pragma unroll 1
    for (int phase = PHASE_O; phase < last; phase += 2) {
        int kind = phase % 4, layer = phase / 4;
        int2 share = s->own->share[kind];
        if (!share.y) continue;
        const float *weight = kind == PHASE_O ? a.layers[layer].post_norm : layer + 1 < a.layer_count ? a.layers[layer + 1].input_norm : a.norm;
        for (int i = lane; i < share.y * 16; i += 32) s->own->row.prepared[products & 1].gain[i] = weight[share.x * 16 + i];
        products++;
        __syncwarp();
        prepared_sync();
    }
}

/* The exchange of the next step reads NOT_YET everywhere once this kernel has ended. */
__device__ static inline void wipe(const struct persist_args &a, int lane) {
    size_t rows = (size_t)a.next_rows;
    const size_t at[] = {a.at.x[0], a.at.x[1], a.at.squares[0], a.at.squares[1], a.at.qkv, a.at.heads, a.at.wide};
    const size_t bytes[] = {rows * a.hidden * 2, rows * a.hidden * 2, rows * MOST_SQUARES * 4, rows * MOST_SQUARES * 4, rows * (a.q + 2 * a.k) * 4, rows * a.q * 2, rows * a.wide * 2};
    const uint4 nothing = make_uint4(NOT_YET, NOT_YET, NOT_YET, NOT_YET);
    if (!rows) return;
    for (int layer = 0; layer <= a.layer_count; layer++) {
        char *to = a.next + (size_t)layer * a.at.layer;
#pragma unroll
        for (int i = 0; i < 7; i++)
            for (size_t b = (blockIdx.x * 32 + (size_t)lane) * 16; b < bytes[i]; b += (size_t)gridDim.x * 512) store_relaxed_16(to + at[i] + b, nothing);
        for (int head = blockIdx.x; head < a.heads; head += gridDim.x) {
            for (int b = lane * 16; b < a.next_entries * 256; b += 512) store_relaxed_16(to + a.at.shares + head * MOST_ENTRIES * 256 + b, nothing);
            if (lane < a.next_entries) store_relaxed_8(to + a.at.stats + (head * MOST_ENTRIES + lane) * 8, make_uint2(NOT_YET, NOT_YET));
        }
    }
}

template <int QUANT, bool ONE>
__global__ void __launch_bounds__(PERSIST_WARPS * 32, 1) step_kernel(const __grid_constant__ struct persist_args a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    DYNAMIC_SHARED(shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    struct block_parts s;
    s.base = shared;
    s.own = (struct own *)(shared + a.own_at);
    s.sums = (float *)(shared + a.red_at), s.work = shared + a.work_at;
    s.ring.slots = shared + a.ring_at, s.ring.full = s.own->full, s.ring.empty = s.own->empty, s.ring.count = a.slots, s.ring.bytes = a.slot_bytes;
    s.ring.flight = a.flight[PHASE_O]; /* the producer's changes with the product; attention asks for that of its pages */
    s.ring.slot = 0, s.ring.parity = 0, s.ring.number = 0, s.ring.bytes_so_far = 0, s.ring.asked = &s.own->asked;
    if (QUANT == STORAGE_NF4) {
        if (!shared_begins(shared)) stop_kernel(); /* look_up_bytes */
        nf4_table((uint4 *)shared, a.quant_map);
        for (int i = threadIdx.x; i < 256; i += blockDim.x) s.own->nested_map[i] = a.nested_map[i];
    }
    for (int i = threadIdx.x; i < a.rows * 64; i += blockDim.x) {
        float sine, cosine;
        sincosf((float)a.row[i / 64].position[a.axis[i % 64]] * a.frequency[i % 64], &sine, &cosine);
        s.own->turn[i] = make_float2(cosine, sine);
    }
    for (int i = threadIdx.x; i <= a.layer_count * 4; i += blockDim.x) s.own->storages[i] = a.storages[i];
    if (threadIdx.x < PHASE_KINDS) s.own->share[threadIdx.x] = a.share[threadIdx.x * gridDim.x + blockIdx.x];
    if (threadIdx.x == 0) {
        for (int i = 0; i < a.slots; i++) gate_init(&s.own->full[i], 1), gate_init(&s.own->empty[i], MULTIPLIERS);
        gate_init(&s.own->gains.full, 1);
        s.own->sums_read = s.own->asked = 0;
        gate_init_done();
    }
    __syncthreads();
    if (warp < MULTIPLIERS) {
        if (QUANT == STORAGE_NF4 && !ONE) more_registers<200>();
        multiply<QUANT, ONE>(a, &s, warp, lane);
    } else {
        if (QUANT == STORAGE_NF4 && !ONE) fewer_registers<96>();
        if (warp == MULTIPLIERS) produce(a, &s, lane);
        else if (warp == MULTIPLIERS + 1 && ONE) prepare<QUANT>(a, &s, lane);
        else if (warp == MULTIPLIERS + 1) finish<QUANT>(a, &s, lane);
        else if (warp == MULTIPLIERS + 2) {
            wipe(a, lane);
            if (lane == 0 && a.ahead) run_ahead(a, &s);
        }
    }
#endif
}

/* ---- the host's side ---- */

struct persist {
    char *exchange[2]; /* that of even and of odd steps, NOT_YET where no values of the last use are left */
    char *tables;
    struct persist_args args; /* what does not change from step to step */
    struct pshape row_shape[PHASE_KINDS]; /* in place of args.shape where there is one row */
    int rows[2], entries[2];  /* values left in each */
    int step, quant, blocks, shared_limit, most_tiles[PHASE_KINDS]; /* most_tiles: that a block has of a product */
    int most_ahead;           /* bytes in front of the ring for which the second-level cache has room, a block */
    int2 *share;              /* (PHASE_KINDS, blocks) */
    long long *trace;
};

static int storage_kind(const struct dlinear *w) { return w->storage == STORAGE_BF16 ? 0 : w->storage == STORAGE_FP8_BLOCK ? 1 : 2; }

/* The three matrices of product `phase`; count of them. */
static int phase_matrices(const struct backend_model *m, int phase, const struct dlinear *w[3]) {
    if (phase == m->w.config.text.layers * 4) return w[0] = &m->head, 1;
    const struct dlayer *l = &m->layers[phase / 4];
    if (phase % 4 == PHASE_QKV) return w[0] = &l->q, w[1] = &l->k, w[2] = &l->v, 3;
    if (phase % 4 == PHASE_UP) return w[0] = &l->gate, w[1] = &l->up, 2;
    return w[0] = phase % 4 == PHASE_O ? &l->o : &l->down, 1;
}

/* Do the kernel's assumptions hold for every matrix? quant: the storage beside bf16. */
static bool matrices_fit(const struct backend_model *m, int *quant, const struct dlinear **nf4) {
    int phases = m->w.config.text.layers * 4 + 1;
    const struct linear_weight *first = NULL;
    *quant = STORAGE_BF16, *nf4 = NULL;
    for (int p = 0; p < phases; p++) {
        const struct dlinear *w[3];
        int count = phase_matrices(m, p, w), fp8 = 0;
        for (int i = 0; i < count; i++) {
            if (!w[i]->fast || w[i]->bias || w[i]->in != w[0]->in) return false;
            if (w[i]->storage != STORAGE_BF16) {
                if (*quant != STORAGE_BF16 && *quant != w[i]->storage) return false;
                *quant = w[i]->storage;
            }
            fp8 += w[i]->storage == STORAGE_FP8_BLOCK;
            if (w[i]->storage == STORAGE_FP8_BLOCK && p == phases - 1) return false;
            if (w[i]->storage != STORAGE_NF4) continue;
            const struct decoder_layer *l = p / 4 < m->w.config.text.layers ? &m->w.layers[p / 4] : NULL;
            const struct linear_weight *host = !l ? &m->w.head : p % 4 == PHASE_O ? &l->o : p % 4 == PHASE_DOWN ? &l->down : p % 4 == PHASE_UP ? (i ? &l->up : &l->gate) : i == 0 ? &l->q : i == 1 ? &l->k : &l->v;
            if (!l || !w[i]->absmax_u8 || w[i]->nested_block != 256) return false; /* the head's factors would take too much room */
            if (!first) first = host, *nf4 = w[i];
            if (memcmp(first->quant_map, host->quant_map, 16 * 4) || memcmp(first->nested_map, host->nested_map, 256 * 4)) return false; /* one table serves all */
        }
        if (fp8 && fp8 != count) return false;
    }
    return true;
}

/* Tiles of each kind of product to blocks: evenly, but gate and up make good what o and down leave uneven. */
static void share_tiles(const struct persist_args *a, const size_t tile_bytes[PHASE_KINDS], int blocks, int2 *share) {
    for (int kind = 0; kind < PHASE_KINDS; kind++) {
        int tiles = a->shape[kind].tiles, at = 0;
        for (int b = 0; b < blocks; b++) {
            int other = kind == PHASE_QKV ? blocks - 1 - b : b; /* what is over goes to those who have less of o and down */
            int count = tiles / blocks + (other < tiles % blocks);
            share[kind * blocks + b] = make_int2(at, count), at += count;
        }
    }
    int tiles = a->shape[PHASE_UP].tiles, most = (int)((int64_t)tiles * 6 / 5 / blocks), placed = 0;
    if (most < (tiles + blocks - 1) / blocks) most = (tiles + blocks - 1) / blocks;
    size_t all = 0;
    for (int kind = 0; kind < PHASE_HEAD; kind++) all += tile_bytes[kind] * (size_t)a->shape[kind].tiles;
    for (int pass = 0; pass < 2; pass++) /* first what is left to an even share, then one by one */
        for (int b = 0; b < blocks; b++) {
            int2 *mine = &share[PHASE_UP * blocks + b];
            size_t other = 0;
            for (int kind = 0; kind < PHASE_HEAD; kind++)
                if (kind != PHASE_UP) other += tile_bytes[kind] * (size_t)share[kind * blocks + b].y;
            int want = (int)(((double)all / blocks - (double)other) / (double)tile_bytes[PHASE_UP]);
            if (pass == 0) {
                mine->y = want < 0 ? 0 : want > most ? most : want;
                if (mine->y > tiles - placed) mine->y = tiles - placed;
                placed += mine->y;
            }
        }
    for (int limit = 0; placed < tiles; limit++) /* the least laden first */
        for (int b = blocks - 1; b >= 0 && placed < tiles; b--) {
            int2 *mine = &share[PHASE_UP * blocks + b];
            if (mine->y < most + limit / blocks) mine->y++, placed++;
        }
    for (int b = 0, at = 0; b < blocks; b++) share[PHASE_UP * blocks + b].x = at, at += share[PHASE_UP * blocks + b].y;
}

static size_t round_to(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* PMD_CUDA_STEP: "graph" keeps the graph of step.cu; "pass=UNITS", "piece=UNITS" and "chunk=BYTES" cut finer, "group=TILES" are finished together, "flight=N" ("rush=N"
 * of q, k, v and down of a single row) chunks are under way, "slots=N" (at most 16) shortens the ring, "ahead=N" units of 16 KB are brought to the second-level cache in
 * front of it, in "pace=N" clocks a KB, which tests ask for. */
static int tuning(const char *name, int otherwise) {
    const char *s = getenv("PMD_CUDA_STEP"), *at = s ? strstr(s, name) : NULL;
    return at ? atoi(at + strlen(name)) : otherwise;
}

enum { AHEAD_UNIT = 16 << 10 }; /* bytes in which PMD_CUDA_STEP counts ahead= */
enum { TILE_BYTES = 96 << 10 }; /* of a piece of a tile, at most: the ring holds it and more */

/* like: the storage whose pieces these are to equal. */
static void make_cut(struct pcut *c, int units, int number, int like, bool whole, int pass_units, int chunk_bytes) {
    int unit = 128 >> number, most = tuning("pass=", pass_units), piece = tuning("piece=", TILE_BYTES / 16 / (128 >> like));
    c->passes = whole ? 1 : (units + most - 1) / most, c->pass_units = (units + c->passes - 1) / c->passes;
    int pieces = 1;
    while (pieces < MULTIPLIERS && pieces * piece < c->pass_units) pieces *= 2; /* a warp has units of one of them */
    c->piece_units = (c->pass_units + pieces - 1) / pieces;
    for (c->row_bits = 4; c->row_bits > 0 && (c->piece_units * unit) << c->row_bits > chunk_bytes;) c->row_bits--;
}

/* shape: of products of up to pass_units in one pass. */
static void make_shapes(const struct backend_model *m, struct persist_args *a, struct pshape shape[PHASE_KINDS], int pass_units, size_t tile_bytes[PHASE_KINDS]) {
    const struct text_config *t = &m->w.config.text;
    const int in[] = {t->hidden, a->q, t->hidden, a->wide, t->hidden};
    const int outs[] = {a->q + 2 * a->k, t->hidden, 2 * a->wide, t->hidden, t->vocab};
    int chunk = tuning("chunk=", t->hidden == 2560 ? 20 << 10 : 16 << 10); /* 2,560: rows of 1,280 and 5,120 bytes */
    bool mixed = false; /* q, k, v of several storages: a warp's units are the same for all */
    for (int p = 0; p < t->layers * 4; p += 4) {
        const struct dlinear *w[3];
        phase_matrices(m, p, w);
        mixed = mixed || w[0]->storage != w[1]->storage || w[0]->storage != w[2]->storage;
    }
    for (int kind = 0; kind < PHASE_KINDS; kind++) {
        struct pshape *s = &shape[kind];
        s->in = in[kind], s->units = in[kind] / UNIT, s->tiles = outs[kind] / 16;
        if (kind == PHASE_QKV) s->first[0] = a->q / 16, s->first[1] = (a->q + a->k) / 16;
        for (int n = 0; n < 3; n++) make_cut(&s->cut[n], s->units, n, kind == PHASE_QKV && mixed ? 0 : n, kind != PHASE_O && kind != PHASE_DOWN, pass_units, chunk);
    }
    size_t slot = (size_t)a->slot_bytes > PAGE_SLOT ? (size_t)a->slot_bytes : (size_t)PAGE_SLOT;
    for (int p = 0; p <= t->layers * 4; p++) {
        const struct dlinear *w[3];
        int kind = p == t->layers * 4 ? PHASE_HEAD : p % 4, count = phase_matrices(m, p, w);
        for (int i = 0; i < count; i++) {
            int n = storage_kind(w[i]);
            const struct pcut *c = &shape[kind].cut[n];
            size_t need = ((size_t)(c->piece_units * (128 >> n)) << c->row_bits) + 96; /* and the shifts of parts */
            if (need > slot) slot = need;
            if (p >= 4 || !tile_bytes[kind]) tile_bytes[kind] = (size_t)(w[i]->in / UNIT) * (size_t)(128 >> n) * 16;
        }
    }
    a->slot_bytes = (int)round_to(slot, 128);
}

/* Slots of the ring that a piece of a tile fills, at most. */
static int most_chunks(const struct backend_model *m, const struct pshape shape[PHASE_KINDS]) {
    int most = 0, phases = m->w.config.text.layers * 4;
    for (int phase = 0; phase <= phases; phase++) {
        const struct dlinear *w[3];
        int count = phase_matrices(m, phase, w);
        for (int i = 0; i < count; i++) {
            int chunks = 16 >> shape[phase == phases ? PHASE_HEAD : phase % 4].cut[storage_kind(w[i])].row_bits;
            if (chunks > most) most = chunks;
        }
    }
    return most;
}

/* Shared memory for so many rows: the ring takes what is left. */
static bool lay_out(const struct persist *p, struct persist_args *a) {
    size_t at = p->quant == STORAGE_NF4 ? (size_t)LUT_WORDS * 4 : 0, work = attend_work_bytes(a->group);
    a->own_at = (int)at, at = round_to(at + (a->rows == 1 ? offsetof(struct own, turn) + sizeof(((struct own *)0)->row) : sizeof(struct own)), 128);
    int most_own = p->most_tiles[PHASE_O] > p->most_tiles[PHASE_DOWN] ? p->most_tiles[PHASE_O] : p->most_tiles[PHASE_DOWN]; /* which need all their passes */
    bool fp8 = p->quant == STORAGE_FP8_BLOCK, nf4 = p->quant == STORAGE_NF4, one = a->rows == 1;
    a->sum_tiles = tuning("group=", fp8 ? 4 : nf4 ? 6 : 8); /* of a single row; with eight 2B NF4 has a slot of its ring less, and down two passes instead of one */
    if (a->sum_tiles > MULTIPLIERS * 4) a->sum_tiles = MULTIPLIERS * 4; /* two outputs a thread */
    if (a->sum_tiles < most_own) a->sum_tiles = most_own;
    a->red_at = (int)at, at = round_to(at + (a->rows == 1 ? (size_t)2 * (size_t)a->sum_tiles * LD_ROW : (size_t)SUM_BUFFERS * MULTIPLIERS * (size_t)a->rows * LD_SUMS) * 4, 128);
    a->work_at = (int)at, at = round_to(at + work, 128);
    for (int kind = 0; kind < PHASE_HEAD && p->quant != STORAGE_BF16; kind++) {
        const struct pshape *s = &a->shape[kind];
        size_t tiles = (size_t)p->most_tiles[kind], rows = tiles * 16, units = (size_t)s->units;
        a->side_at[kind] = (int)at;
        at = round_to(at + (p->quant == STORAGE_NF4 ? round_to(rows * units, 16) + (rows * units / 256 + 3 * 8) * 4 : (rows / 128 + 6) * ((units / 2 + 3) / 4 * 4) * 4), 128);
    }
    a->ring_at = (int)at;
    a->slots = at < (size_t)p->shared_limit ? (int)(((size_t)p->shared_limit - at) / (size_t)a->slot_bytes) : 0;
    if (a->slots > tuning("slots=", 16)) a->slots = tuning("slots=", 16);
    /* As measured (bench/LOG.md). FP8 waits most for exchanges, which stand behind what is under way; NF4 of few rows multiplies longer than the memory takes. A single
     * row is through gate and up before the ring is full again. */
    int rush_chunks = a->slot_bytes < 18 << 10 ? 4 : 3; /* about 64 KB */
    for (int kind = 0; kind < PHASE_KINDS; kind++) {
        bool rush = one && (kind == PHASE_DOWN || kind == PHASE_QKV);
        a->flight[kind] = tuning(rush ? "rush=" : "flight=", rush ? rush_chunks : fp8 ? 2 : nf4 && !one ? 4 : 3);
        if (a->flight[kind] >= a->slots) a->flight[kind] = a->slots - 1;
    }
    a->ahead = tuning("ahead=", nf4 && a->rows <= 2 ? 0 : p->most_ahead / AHEAD_UNIT) * AHEAD_UNIT, a->pace = tuning("pace=", fp8 ? 90 : 75);
    for (int kind = 0; kind < PHASE_KINDS; kind++)
        for (int n = 0; n < 3; n++)
            if (a->slots < 16 >> a->shape[kind].cut[n].row_bits) return false; /* a piece of a tile is there as a whole */
    return a->slots >= 2;
}

static void lay_exchange(struct persist_args *a) {
    size_t at = 0, rows = PERSIST_ROWS;
    for (int i = 0; i < 2; i++) {
        a->at.x[i] = at, at += round_to(rows * (size_t)a->hidden * 2, 256);
        a->at.squares[i] = at, at += rows * MOST_SQUARES * 4;
    }
    a->at.qkv = at, at += round_to(rows * (size_t)(a->q + 2 * a->k) * 4, 256);
    a->at.heads = at, at += round_to(rows * (size_t)a->q * 2, 256);
    a->at.wide = at, at += round_to(rows * (size_t)a->wide * 2, 256);
    a->at.shares = at, at += (size_t)MOST_ENTRIES * (size_t)a->heads * 256;
    a->at.stats = at, at += (size_t)MOST_ENTRIES * (size_t)a->heads * 8;
    a->at.layer = round_to(at, 256);
}

size_t persist_work_bytes(const struct text_config *t) {
    struct persist_args a = {};
    a.hidden = t->hidden, a.q = t->heads * 128, a.k = t->kv_heads * 128, a.wide = t->intermediate, a.heads = t->heads;
    lay_exchange(&a);
    return 2 * a.at.layer * (size_t)(t->layers + 1);
}

static struct pmatrix as_pmatrix(const struct dlinear *w) {
    struct pmatrix p = {};
    p.data = (const char *)w->data, p.scale = w->scale, p.codes = w->absmax_u8, p.nested = w->nested_absmax, p.offset = w->nested_offset;
    p.storage = w->storage, p.scale_columns = w->scale_columns, p.out = w->out;
    return p;
}

static int make_tables(struct backend_model *m, struct persist *p, struct err *err) {
    int layers = m->w.config.text.layers, phases = layers * 4 + 1;
    size_t phase_bytes = (size_t)phases * sizeof(struct pphase), layer_bytes = (size_t)layers * sizeof(struct player), share_bytes = (size_t)PHASE_KINDS * (size_t)p->blocks * sizeof(int2);
    size_t bytes = phase_bytes + layer_bytes + share_bytes + (size_t)phases * 4;
    char *host = (char *)calloc(1, bytes);
    if (!host) return err_set(err, ERR_MEMORY, "out of memory");
    int r = cuda_failed(cudaMalloc((void **)&p->tables, bytes), "tables of the step", err);
    if (r) return free(host), r;
    struct pphase *phase = (struct pphase *)host;
    struct player *layer = (struct player *)(host + phase_bytes);
    uint32_t *storages = (uint32_t *)(host + phase_bytes + layer_bytes + share_bytes);
    for (int i = 0; i < phases; i++) {
        const struct dlinear *w[3];
        int count = phase_matrices(m, i, w);
        for (int k = 0; k < count; k++) phase[i].m[k] = as_pmatrix(w[k]), storages[i] |= (uint32_t)storage_kind(w[k]) << k * 2;
    }
    for (int i = 0; i < layers; i++) layer[i] = {m->layers[i].input_norm, m->layers[i].post_norm, m->layers[i].q_norm, m->layers[i].k_norm};
    memcpy(host + phase_bytes + layer_bytes, p->share, share_bytes);
    p->args.phases = (const struct pphase *)p->tables, p->args.layers = (const struct player *)(p->tables + phase_bytes);
    p->args.share = (const int2 *)(p->tables + phase_bytes + layer_bytes), p->args.storages = (const uint32_t *)(p->tables + phase_bytes + layer_bytes + share_bytes);
    r = cuda_failed(cudaMemcpy(p->tables, host, bytes, cudaMemcpyHostToDevice), "tables of the step", err);
    free(host);
    m->buffer_bytes += bytes;
    return r;
}

void persist_close(struct backend_model *m) {
    struct persist *p = m->persist;
    if (!p) return;
    for (int i = 0; i < 2; i++) cudaFree(p->exchange[i]);
    cudaFree(p->tables);
    free(p->share);
    free(p);
    m->persist = NULL;
}

int persist_open(struct backend_model *m, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    const struct dlinear *nf4;
    struct cudaDeviceProp prop;
    const char *how = getenv("PMD_CUDA_STEP");
    int quant, r = cuda_failed(cudaGetDeviceProperties(&prop, m->device), "asking for the device's properties", err), blocks = m->sm_count;
    if (r) return r;
    if ((how && !strcmp(how, "graph")) || m->arch != 90 || t->head_dim != 128 || t->heads / t->kv_heads > 8 || t->heads % t->kv_heads || t->kv_heads < 2 || blocks < 2 || !matrices_fit(m, &quant, &nf4)) return 0;
    if (quant == STORAGE_NF4 && prop.reservedSharedMemPerBlock != SHARED_BEGIN) return 0; /* look_up_bytes */
    if (t->hidden % 64 || t->hidden / 16 > MOST_SQUARES || t->hidden / 16 > blocks * MOST_OWN || t->hidden > PASS_UNITS * UNIT || t->intermediate % 64 || t->vocab % 16) return 0;
    if (t->layers * 4 >= MOST_PHASES || PERSIST_ROWS * t->kv_heads > 65535) return 0;
    struct persist *p = (struct persist *)calloc(1, sizeof *p);
    if (!p) return err_set(err, ERR_MEMORY, "out of memory");
    m->persist = p;
    p->quant = quant, p->blocks = blocks, p->shared_limit = (int)prop.sharedMemPerBlockOptin;
    p->most_ahead = prop.l2CacheSize / 2 / blocks / AHEAD_UNIT * AHEAD_UNIT;
    struct persist_args *a = &p->args;
    a->layer_count = t->layers, a->heads = t->heads, a->kv_heads = t->kv_heads, a->group = t->heads / t->kv_heads, a->hidden = t->hidden, a->wide = t->intermediate;
    a->q = t->heads * 128, a->k = t->kv_heads * 128, a->vocab = t->vocab;
    a->of_blocks = (uint32_t)((((uint64_t)1 << 32) + (unsigned)blocks - 1) / (unsigned)blocks), a->of_kv_heads = (uint32_t)((((uint64_t)1 << 32) + (unsigned)t->kv_heads - 1) / (unsigned)t->kv_heads);
    size_t tile_bytes[PHASE_KINDS] = {};
    make_shapes(m, a, p->row_shape, PASS_UNITS * ROW_SETS, tile_bytes);
    make_shapes(m, a, a->shape, PASS_UNITS, tile_bytes);
    lay_exchange(a);
    a->embed = m->embed, a->norm = m->norm, a->frequency = m->inverse_frequency, a->axis = m->axis;
    if (nf4) a->quant_map = nf4->quant_map, a->nested_map = nf4->nested_map;
    a->kv = m->kv, a->page_bytes = m->page_bytes, a->layer_stride = m->layer_stride, a->half = m->layer_stride / 2;
    a->hidden_part = 1.0f / (float)t->hidden, a->eps = t->rms_eps, a->scale = (float)(1.4426950408889634 / sqrt((double)t->head_dim));
    a->rows = PERSIST_ROWS;
    p->share = (int2 *)calloc((size_t)(PHASE_KINDS * blocks), sizeof *p->share);
    if (!p->share) return persist_close(m), err_set(err, ERR_MEMORY, "out of memory");
    share_tiles(a, tile_bytes, blocks, p->share);
    for (int i = 0; i < PHASE_KINDS * blocks; i++)
        if (p->share[i].y > p->most_tiles[i / blocks]) p->most_tiles[i / blocks] = p->share[i].y;
    bool fits = lay_out(p, a);
    struct persist_args row = *a; /* a single row: wider passes, where the ring holds their pieces and something of what follows */
    memcpy(row.shape, p->row_shape, sizeof row.shape), row.rows = 1;
    if (!lay_out(p, &row) || row.slots < most_chunks(m, row.shape) + 2) memcpy(p->row_shape, a->shape, sizeof a->shape);
    size_t bytes = a->at.layer * (size_t)(t->layers + 1);
    for (int i = 0; i < 2 && fits && !r; i++) {
        r = cuda_failed(cudaMalloc((void **)&p->exchange[i], bytes), "working memory", err);
        if (!r) r = cuda_failed(cudaMemset(p->exchange[i], 0xFF, bytes), "working memory", err);
        m->buffer_bytes += bytes;
    }
    if (fits && !r) r = make_tables(m, p, err);
    if (!fits || r) persist_close(m);
    return r;
}

/* Rows do not see what others write in the same step. */
bool persist_fit(const struct backend_model *m, const struct batch *b) {
    if (!m->persist || b->rows > PERSIST_ROWS) return false;
    for (int i = 0; i < b->rows; i++)
        for (int k = 0; k < b->rows; k++) {
            int at = b->row[i].slot / PAGE;
            if (i != k && b->row[k].slot >= b->row[i].slot && b->page[b->row[k].pages + at] == b->page[b->row[i].pages + at]) return false;
        }
    return true;
}

void persist_trace(struct backend_model *m, long long *trace) {
    if (m->persist) m->persist->trace = trace;
}

/* Shares of the rows' attention: as long as needed for about one a block, whole pages. */
static void share_attention(const struct persist *p, struct persist_args *a, const struct batch *b) {
    int units = p->blocks / a->kv_heads, most = tuning("shares=", MOST_SHARES), chunk = MULTIPLIERS / PAGE_ROUNDS - 1; /* units: shares that fill the device */
    if (units > MOST_ENTRIES) units = MOST_ENTRIES;
    if (units < b->rows) units = b->rows;
    for (bool few = false; !few;) {
        int n = 0;
        chunk++, few = true;
        for (int r = 0; r < b->rows; r++) {
            int count = (b->row[r].slot / PAGE + chunk) / chunk;
            n += count, few = few && count <= most;
        }
        few = few && n <= units;
    }
    int longest = 0;
    a->entries = a->most_shares = 0;
    for (int r = 0; r < b->rows; r++) {
        int tokens = b->row[r].slot + 1, pages = (tokens + PAGE - 1) / PAGE, count = (pages + chunk - 1) / chunk;
        a->first[r] = a->entries, a->count[r] = count;
        for (int i = 0; i < count; i++) {
            int begin = pages * i / count * PAGE, end = i + 1 < count ? pages * (i + 1) / count * PAGE : tokens;
            a->entry[a->entries++] = {r, i + 1 == count, begin, end};
        }
        if (count > a->most_shares) a->most_shares = count;
        if ((pages + count - 1) / count > longest) longest = (pages + count - 1) / count;
    }
    if (longest > a->slots && a->slots > TOGETHER + 1 && a->flight[PHASE_O] > a->slots - TOGETHER) a->flight[PHASE_O] = a->slots - TOGETHER; /* see attend_shares */
}

template <int QUANT, bool ONE>
static int start(struct backend_model *m, const struct persist_args *a, int shared, struct err *err) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute attribute[1];
    c.gridDim = dim3((unsigned)m->persist->blocks), c.blockDim = dim3(PERSIST_WARPS * 32), c.dynamicSmemBytes = (size_t)shared, c.stream = m->stream;
    attribute[0].id = cudaLaunchAttributeCooperative; /* all blocks at once or none: they wait for one another */
    attribute[0].val.cooperative = 1;
    c.attrs = attribute, c.numAttrs = 1;
    cudaFuncSetAttribute(step_kernel<QUANT, ONE>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    return cuda_failed(cudaLaunchKernelEx(&c, step_kernel<QUANT, ONE>, *a), "a decode step", err);
}

template <int QUANT>
static int start(struct backend_model *m, const struct persist_args *a, int shared, struct err *err) {
    return a->rows == 1 ? start<QUANT, true>(m, a, shared, err) : start<QUANT, false>(m, a, shared, err);
}

int persist_start_to(struct backend_model *m, const struct batch *b, float *logits, int host_row, float *host_logits, struct err *err) {
    struct persist *p = m->persist;
    struct persist_args a = p->args;
    int set = p->step & 1, r = 0;
    a.rows = b->rows, a.logits = logits, a.trace = p->trace;
    a.host_row = host_logits ? host_row : -1;
    if (host_logits) a.to_host = (char *)host_logits - (char *)(logits + (int64_t)host_row * a.vocab);
    if (a.rows == 1) memcpy(a.shape, p->row_shape, sizeof a.shape);
    if (!lay_out(p, &a)) return err_set(err, ERR_ARGUMENT, "a decode step of %d rows does not fit into shared memory", b->rows);
    memcpy(a.row, b->row, (size_t)b->rows * sizeof *b->row);
    share_attention(p, &a, b);
    if (b->pages <= INLINE_PAGES) memcpy(a.inline_pages, b->page, (size_t)b->pages * sizeof *b->page);
    else {
        size_t bytes = (size_t)b->pages * sizeof *b->page;
        void *host = pinned_get(m, PINNED_BATCH, bytes, err), *device = host ? buffer_get(m, BUFFER_STEP, bytes < 256 << 10 ? 256 << 10 : bytes, err) : NULL;
        if (!device) return ERR_MEMORY;
        memcpy(host, b->page, bytes);
        r = cuda_failed(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, m->stream), "uploading a step", err);
        a.pages = (const int32_t *)device;
    }
    a.now = p->exchange[set], a.next = p->exchange[set ^ 1], a.next_rows = p->rows[set ^ 1], a.next_entries = p->entries[set ^ 1];
    int shared = p->shared_limit;
    if (!r)
        r = p->quant == STORAGE_FP8_BLOCK ? start<STORAGE_FP8_BLOCK>(m, &a, shared, err) : p->quant == STORAGE_NF4 ? start<STORAGE_NF4>(m, &a, shared, err) : start<STORAGE_BF16>(m, &a, shared, err);
    if (r) return r;
    p->rows[set] = b->rows, p->entries[set] = a.entries, p->rows[set ^ 1] = p->entries[set ^ 1] = 0;
    p->step++;
    return 0;
}

int persist_start(struct backend_model *m, const struct batch *b, float *logits, struct err *err) { return persist_start_to(m, b, logits, -1, NULL, err); }
