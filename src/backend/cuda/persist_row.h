/* Products of a single row, for the kernel of persist.cu: the tensor cores' eight columns hold eight units of the row, not eight rows. Device code.
 *
 * Column g of b is the row's unit g (of eight: a set), which lane 4 g + t loads and keeps: 8 registers for 512 columns, and nothing to hand around.
 * The weights of unit u meet all eight, into sums of their own, of which column u is wanted: it lies in lanes with t = u / 2. So a lane multiplies
 * sums of two units only by their factors, and the four lanes of a row add up at the end of a tile. */
#ifndef BACKEND_CUDA_PERSIST_ROW_H
#define BACKEND_CUDA_PERSIST_ROW_H

#include "backend/cuda/persist_attend.h"

/* Units [from, from + own) of the row in the exchange: lane 4 g + t's 16 values of unit g of each set, zeros past the last. squares: of the residual
 * stream, four a unit, or NULL; returns the sum of the warp's. */
__device__ static inline float take_row(uint32_t (&x)[ROW_SETS][8], const bf16 *row, const char *squares, int from, int own, int lane) {
    const uint4 *p = (const uint4 *)(row + (from + lane / 4) * UNIT + lane % 4 * 8);
    bool missing = lane / 4 < own, ask = squares && lane / 4 < own && lane % 4 == 0; /* squares: with one set at most */
    uint4 square = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int k = 0; k < ROW_SETS; k++)
#pragma unroll
        for (int i = 0; i < 8; i++) x[k][i] = 0;
    while (__ballot_sync(~0u, missing)) {
        if (missing) {
#pragma unroll
            for (int k = 0; k < ROW_SETS; k++)
                if (k * 8 + lane / 4 < own) {
                    uint4 v = load_relaxed_16(p + k * 64), w = load_relaxed_16(p + k * 64 + 4);
                    x[k][0] = v.x, x[k][1] = v.y, x[k][2] = v.z, x[k][3] = v.w, x[k][4] = w.x, x[k][5] = w.y, x[k][6] = w.z, x[k][7] = w.w;
                }
            if (ask) square = load_relaxed_16(squares + (from + lane / 4) * 16);
        }
        uint32_t top = largest(square);
#pragma unroll
        for (int k = 0; k < ROW_SETS; k++)
#pragma unroll
            for (int i = 0; i < 8; i++) top = larger(top, x[k][i]);
        missing = top == NOT_YET;
        if (missing) wait_a_little();
    }
    float sum = (__uint_as_float(square.x) + __uint_as_float(square.y)) + (__uint_as_float(square.z) + __uint_as_float(square.w));
    if (squares)
#pragma unroll
        for (int d = 4; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return sum;
}

/* The next set takes the first place; three times, and all are where they were. */
__device__ static inline void next_set(uint32_t (&x)[ROW_SETS][8]) {
    x[0][0] = (uint32_t)renewed((int)x[0][0]); /* a branch for those who have several sets, not selections for all */
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t v = x[0][i];
#pragma unroll
        for (int k = 0; k + 1 < ROW_SETS; k++) x[k][i] = x[k + 1][i];
        x[ROW_SETS - 1][i] = v;
    }
}

template <int S> __device__ static inline void read_unit(uint32_t (&w)[2][group<S>::words], const char *low, const char *high) {
    if (S == STORAGE_NF4) {
        uint2 lo = *(const uint2 *)low, hi = *(const uint2 *)high;
        w[0][0] = lo.x, w[0][1] = lo.y, w[1][0] = hi.x, w[1][1] = hi.y;
    } else
#pragma unroll
        for (int i = 0; i < group<S>::words; i += 4) {
            uint4 lo = *(const uint4 *)(low + i * 4), hi = *(const uint4 *)(high + i * 4);
            w[0][i] = lo.x, w[0][i + 1] = lo.y, w[0][i + 2] = lo.z, w[0][i + 3] = lo.w;
            w[1][i] = hi.x, w[1][i + 1] = hi.y, w[1][i + 2] = hi.z, w[1][i + 3] = hi.w;
        }
}

/* The warp's part of TILES tiles of one matrix, one behind the other in the ring (which stands behind them then): acc is the sum of the lane's
 * first row of each where lane % 4 is even, of its second where it is odd. side: of the first tile. */
template <int S, int TILES>
__device__ static inline void multiply_row(float (&acc)[TILES], struct ring *r, uint32_t (&x)[ROW_SETS][8], const struct tile_place &p, const struct walk &walk, const struct lane_side &side, const char *table,
                                           const float *nested_map, int lane) {
    enum { GROUP = S == STORAGE_BF16 || TILES == 2 ? 2 : 4, PARTS = packed<S>::parts, SPLIT = S == STORAGE_NF4 ? 2 : 1 };
    int t = lane % 4, odd = (p.before + p.from) & 1;
    float sum[TILES][2] = {};
#pragma unroll 1
    for (int piece = 0; piece < walk.pieces; piece++) {
        int slot = r->slot + lane;
        unsigned parity = r->parity;
        if (slot >= r->count) slot -= r->count, parity ^= 1;
        if (lane < walk.chunks * TILES) gate_wait(&r->full[slot], parity);
        __syncwarp();
        if (piece == walk.mine && p.own) {
            const char *at[TILES][2];
#pragma unroll
            for (int n = 0; n < TILES; n++) {
                int low = r->slot + n * walk.chunks + walk.low_chunk, high = r->slot + n * walk.chunks + walk.high_chunk;
                at[n][0] = r->slots + (low >= r->count ? low - r->count : low) * r->bytes + walk.low, at[n][1] = r->slots + (high >= r->count ? high - r->count : high) * r->bytes + walk.high;
            }
#pragma unroll 1
            for (int set = 0; set < p.own; set += 8) {
                int end = p.own - set - 1; /* the last unit: read again past it, for inputs of nothing */
                float keep[TILES][4] = {}, factor[TILES][4]; /* first row, units 2 t and 2 t + 1, second row */
                if (S == STORAGE_FP8_BLOCK) { /* a factor serves two units */
                    int u0 = set + (t * 2 < end ? t * 2 : end), u1 = set + (t * 2 + 1 < end ? t * 2 + 1 : end);
#pragma unroll
                    for (int n = 0; n < TILES; n++) {
                        const float *f = side.factors + ((side.row + n * side.step) >> 7) * side.first;
                        factor[n][0] = factor[n][2] = f[(odd + u0) >> 1], factor[n][1] = factor[n][3] = f[(odd + u1) >> 1];
                    }
                }
                /* NF4: two codes at once where they lie so: rows' codes are in each other's banks. */
                bool pairs = ((p.before + p.from) | p.blocks) % 2 == 0;
                uint32_t codes[TILES][4];
                if (S == STORAGE_NF4)
#pragma unroll
                    for (int n = 0; n < TILES; n++)
#pragma unroll
                        for (int i = 0; i < 4; i += 2) {
                            const char *at = side.codes + n * side.step + i / 2 * (8 / PARTS) * p.blocks + set + t * 2; /* past the last: whatever lies there */
                            if (pairs) codes[n][i] = *(const uint16_t *)at;
                            else codes[n][i] = (uint8_t)at[0], codes[n][i + 1] = (uint8_t)at[1];
                        }
                uint32_t w[TILES][GROUP][2][group<S>::words];
                auto read = [&](int first) {
#pragma unroll
                    for (int u = 0; u < GROUP; u++)
#pragma unroll
                        for (int n = 0; n < TILES; n++) {
                            int by = (set + (first + u < end ? first + u : end)) * packed<S>::unit;
                            read_unit<S>(w[n][u], at[n][0] + by, at[n][1] + by);
                        }
                };
                read(0);
                if (S == STORAGE_NF4)
#pragma unroll
                    for (int n = 0; n < TILES; n++)
#pragma unroll
                        for (int i = 0; i < 4; i += 2) {
                            int block = side.row + n * side.step + i / 2 * (8 / PARTS) * p.blocks + set, u = t * 2 < end ? t * 2 : end;
                            const float *nested = side.factors - side.first;
                            float near = nested[(block + u) >> 8], far = pairs ? near : nested[(block + (u < end ? u + 1 : u)) >> 8];
                            uint32_t second = pairs ? codes[n][i] >> 8 : codes[n][i + 1];
                            factor[n][i] = __fadd_rn(__fmul_rn(nested_map[codes[n][i] & 0xFF], near), side.offset), factor[n][i + 1] = __fadd_rn(__fmul_rn(nested_map[second], far), side.offset);
                        }
#pragma unroll(S == STORAGE_FP8_BLOCK ? 4 : 1)
                for (int first = 0; first < 8 && first <= end; first += GROUP) { /* of NF4 a loop: the code is long, and most of it runs once a product */
                    float part[TILES][GROUP][SPLIT][4] = {};
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int u = 0; u < GROUP; u++)
#pragma unroll
                            for (int n = 0; n < TILES; n++) multiply_part<S>(part[n][u][i % SPLIT], w[n][u], i, x[0], table, lane);
                    if (first + GROUP < 8 && first + GROUP <= end) read(first + GROUP); /* while the products end */
#pragma unroll
                    for (int u = 0; u < GROUP; u++)
#pragma unroll
                        for (int n = 0; n < TILES; n++)
                            if (t == (first + u) / 2) {
                                keep[n][u % 2] = part[n][u][0][u % 2], keep[n][2 + u % 2] = part[n][u][0][2 + u % 2];
                                if (SPLIT == 2) keep[n][u % 2] += part[n][u][1][u % 2], keep[n][2 + u % 2] += part[n][u][1][2 + u % 2];
                            }
                }
#pragma unroll
                for (int n = 0; n < TILES; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++) sum[n][i] += S == STORAGE_BF16 ? keep[n][i * 2] + keep[n][i * 2 + 1] : keep[n][i * 2] * factor[n][i * 2] + keep[n][i * 2 + 1] * factor[n][i * 2 + 1];
                if (p.own > 8) next_set(x);
            }
            if (p.own > 8 && p.own <= 16) next_set(x); /* around */
        }
        __syncwarp();
        if (lane < walk.chunks * TILES) gate_arrive(&r->empty[slot]);
        r->slot += walk.chunks * TILES;
        if (r->slot >= r->count) r->slot -= r->count, r->parity ^= 1;
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        float mine = (t & 1 ? sum[n][1] : sum[n][0]) + __shfl_xor_sync(~0u, t & 1 ? sum[n][0] : sum[n][1], 1);
        mine += __shfl_xor_sync(~0u, mine, 2);
        acc[n] = S == STORAGE_FP8_BLOCK ? mine * F16_REST : mine;
    }
}

#endif
