/* The ring of weights in shared memory and what is multiplied out of it. Device code of persist.cu.
 *
 * A chunk of a tile is some of its 16 rows as they lie in memory, or a piece of their width. Rows come in two halves, of NF4 in four quarters, which
 * are shifted against each other so that lanes that read at the same time find different banks: the 8 lanes of a quarter warp two rows, one of each
 * half; NF4's 16 lanes of half a warp four. Row m of the tensor cores' tile is row m / 2 of half m % 2 and, from 8 on, the rows 4 further (NF4: m / 4 of
 * quarter m % 4; 2 further), so nothing has to be repacked. A lane takes the same 16 values of a UNIT as it holds of x. */
#ifndef BACKEND_CUDA_PERSIST_RING_H
#define BACKEND_CUDA_PERSIST_RING_H

#include "backend/cuda/persist.h"
#include "backend/cuda/unpack.h"

template <int S> struct packed;
template <> struct packed<STORAGE_BF16> { enum { unit = 128, shift = 16, parts = 2, number = 0 }; }; /* bytes of a UNIT in a row; of a part's shift; parts of 16 rows */
template <> struct packed<STORAGE_FP8_BLOCK> { enum { unit = 64, shift = 64, parts = 2, number = 1 }; };
template <> struct packed<STORAGE_NF4> { enum { unit = 32, shift = 32, parts = 4, number = 2 }; };

struct ring {
    char *slots;
    uint64_t *full, *empty;
    int count, bytes, flight; /* slots; bytes of one; chunks under way at most, fewer than slots */
    int slot;
    unsigned parity, number;  /* of chunks so far */
    unsigned bytes_so_far;    /* of weights and pages */
    volatile unsigned *asked; /* the same, for the warp that runs ahead */
};
__device__ static inline void ring_next(struct ring *r) {
    r->number++;
    if (++r->slot == r->count) r->slot = 0, r->parity ^= 1;
}
__device__ static inline void ring_skip(struct ring *r, int chunks) {
    r->number += (unsigned)chunks, r->slot += chunks;
#pragma unroll 1
    while (r->slot >= r->count) r->slot -= r->count, r->parity ^= 1;
}
/* Until the next slot is empty, and no more than `flight` chunks are under way. bytes: that come then. */
__device__ static inline void ring_claim(struct ring *r, unsigned bytes) {
    if (r->number >= (unsigned)r->flight) {
        int slot = r->slot - r->flight;
        gate_wait(&r->full[slot < 0 ? slot + r->count : slot], slot < 0 ? r->parity ^ 1 : r->parity);
    }
    gate_wait(&r->empty[r->slot], r->parity ^ 1);
    *r->asked = r->bytes_so_far += bytes;
}
/* A multiplying warp is done with the slot. */
__device__ static inline void ring_release(struct ring *r, int lane) {
    __syncwarp();
    if (lane == 0) gate_arrive(&r->empty[r->slot]);
    ring_next(r);
}

/* FP8 weights become f16 (one instruction for two); so x is f16 there as well, 2^-6 as large, so that it overflows at four million only and keeps
 * more bits than bf16 down to 2^-8 and an error below 2^-18 under that. */
#define F16_SCALE 0.015625f
#define F16_REST 64.0f
__device__ static inline float f16_range(float v) {
    v *= F16_SCALE;
    return v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v;
}
__device__ static inline uint32_t pack_input(float a, float b, bool f16) { return f16 ? pack_f16(f16_range(a), f16_range(b)) : pack_bf16(a, b); }

/* The first of a lane's two rows of a tile; the second is 8 / parts further. */
template <int S> __device__ static inline int low_row(int lane) {
    int g = lane / 4, parts = packed<S>::parts;
    return g % parts * (16 / parts) + g / parts;
}

/* The matrix and first row of one half of a tile. */
__device__ static inline int half_of_tile(const struct pshape &s, int kind, int tile, int half, int *row) {
    if (kind == PHASE_UP) return *row = tile * 8, half;
    int m = kind != PHASE_QKV ? 0 : tile >= s.first[1] ? 2 : tile >= s.first[0] ? 1 : 0;
    *row = (tile - (m == 2 ? s.first[1] : m == 1 ? s.first[0] : 0)) * 16 + half * 8;
    return m;
}
__device__ static inline int scale_columns(const struct pshape &s) { return (s.units / 2 + 3) / 4 * 4; }

/* A warp's units of a tile: [from, from + own) of the pass' n; before: units of the passes before; blocks: in a row. */
struct tile_place {
    int from, own, n, before, blocks;
};
/* A lane's factors of the tile at hand, from the warp's first unit of a pass on. FP8: scales of its half's outputs; row counts from the first that
 * factors holds. NF4: codes of its first row, whose absmax blocks begin with `row`; nested absmax from `first` on. until: the tile where another
 * matrix begins. */
struct lane_side {
    const char *codes;
    const float *factors;
    int row, step, first, until; /* FP8: first: scales of a row of blocks. bf16: step is 0 */
    float offset;
};
template <int S>
__device__ static inline struct lane_side find_side(const struct pshape &s, const struct side_head &head, const char *buffer, int kind, int tile, int number, int tiles, int unit, int lane) {
    struct lane_side l = {};
    int in_tile = low_row<S>(lane), half = in_tile / 8, row, m = half_of_tile(s, kind, tile, half, &row), tall = kind == PHASE_UP ? 8 : 16;
    l.until = kind == PHASE_QKV && m < 2 ? s.first[m] : 1 << 30;
    if (S == STORAGE_FP8_BLOCK) {
        l.factors = (const float *)(buffer + head.base[m]) + unit / 2;
        l.row = row - head.first[m] * 128, l.step = tall, l.first = scale_columns(s);
    } else if (S == STORAGE_NF4) {
        l.codes = buffer + ((kind == PHASE_UP ? half * tiles * 8 + number * 8 : number * 16 + half * 8) + in_tile % 8) * s.units + unit;
        l.factors = (const float *)(buffer + head.base[m]), l.first = head.first[m], l.offset = head.offset[m];
        l.row = (row + in_tile % 8) * s.units + unit, l.step = tall * s.units;
    }
    return l;
}
/* Of the next tile of the same matrix. */
template <int S> __device__ static inline void next_side(struct lane_side *l) {
    l->row += l->step;
    if (S == STORAGE_NF4) l->codes += l->step;
}

/* How a warp goes through tiles of one storage in one pass: pieces; which of them has its units; where the lane's two rows begin, chunk of the
 * piece and bytes in its slot. */
struct walk {
    int pieces, mine, chunks, low_chunk, high_chunk, low, high;
};
/* Warps share out the pieces of a pass, and the units of a piece, which are multiplied in pairs or one by one: each has units of one piece only,
 * WARP_UNITS at most (of a single row ROW_SETS times as many). */
__device__ static inline struct tile_place place_warp(const struct pcut &cut, int units, int pass, int warp, bool pairs) {
    struct tile_place p;
    p.before = pass * cut.pass_units, p.n = units - p.before < cut.pass_units ? units - p.before : cut.pass_units, p.blocks = units;
    if (p.n <= cut.piece_units && pairs) { /* the longer shares to different quarters of the multiprocessor */
        int all = (p.n + 1) / 2, place = warp < MULTIPLIERS / 2 ? warp : warp ^ 1, end = all * (place + 1) / MULTIPLIERS * 2;
        p.from = all * place / MULTIPLIERS * 2, p.own = (end < p.n ? end : p.n) - p.from;
        return p;
    }
    if (p.n <= cut.piece_units) {
        p.from = p.n * warp / MULTIPLIERS, p.own = p.n * (warp + 1) / MULTIPLIERS - p.from;
        return p;
    }
    int pieces = (p.n + cut.piece_units - 1) / cut.piece_units, mine = warp * pieces / MULTIPLIERS;
    int first = (mine * MULTIPLIERS + pieces - 1) / pieces, warps = ((mine + 1) * MULTIPLIERS + pieces - 1) / pieces - first, begin = mine * cut.piece_units;
    int wide = p.n - begin < cut.piece_units ? p.n - begin : cut.piece_units;
    p.from = begin + wide * (warp - first) / warps, p.own = begin + wide * (warp - first + 1) / warps - p.from;
    return p;
}
template <int S> __device__ static inline struct walk make_walk(const struct pcut &cut, const struct tile_place &p, int lane) {
    enum { BYTES = packed<S>::unit, SHIFT = packed<S>::shift };
    struct walk w;
    int t = lane % 4, part = lane / 4 % packed<S>::parts, low = low_row<S>(lane), high = low + 8 / packed<S>::parts, rows = 1 << cut.row_bits;
    w.chunks = 16 >> cut.row_bits, w.pieces = 1, w.mine = 0;
    if (p.n > cut.piece_units) w.pieces = (p.n + cut.piece_units - 1) / cut.piece_units, w.mine = p.from / cut.piece_units;
    int begin = w.mine * cut.piece_units, wide = p.n - begin < cut.piece_units ? p.n - begin : cut.piece_units;
    int at = part * SHIFT + (p.from - begin) * BYTES + t * (BYTES / 4);
    w.low_chunk = low >> cut.row_bits, w.low = (low & (rows - 1)) * wide * BYTES + at;
    w.high_chunk = high >> cut.row_bits, w.high = (high & (rows - 1)) * wide * BYTES + at;
    return w;
}

/* NF4: a byte's two weights come out of a table at the beginning of shared memory, 32 copies of it, one for each lane's bank. Byte b's lie at
 * (b & 127) * 256 + (b >> 7) * 128 + lane * 4: one instruction puts a place together out of two bytes, of which one instruction makes four. */
__device__ static inline void nf4_table(uint4 *table, const float *quant_map) {
    for (int i = threadIdx.x; i < LUT_WORDS / 4; i += blockDim.x) {
        int place = i / 8, byte = place >> 1 | (place & 1) << 7;
        uint32_t v = pack_bf16(quant_map[byte >> 4], quant_map[byte & 15]);
        table[i] = make_uint4(v, v, v, v);
    }
}
__device__ static inline uint32_t nf4_spread(int lane) { return (uint32_t)lane * 0x04040404u; }
__device__ static inline void nf4_places(uint32_t four, uint32_t spread, uint32_t *high, uint32_t *low) { *high = four & 0x7F7F7F7Fu, *low = (four & 0x80808080u) | spread; }

/* GROUP units are read together, while the products of those before end; each goes into sums of its own, so that products do not wait for one
 * another. Past the warp's last unit that unit is read again, for inputs and factors of nothing. */
template <int S> struct group { enum { units = S == STORAGE_BF16 ? 1 : 2, words = packed<S>::unit / 16 }; };
template <int S>
__device__ static inline void read_units(uint32_t (&w)[group<S>::units][2][group<S>::words], const char *low, const char *high, int unit, int own) {
#pragma unroll
    for (int u = 0; u < group<S>::units; u++) {
        int at = (unit + u < own ? unit + u : own - 1) * packed<S>::unit;
        if (S == STORAGE_NF4) {
            uint2 lo = *(const uint2 *)(low + at), hi = *(const uint2 *)(high + at);
            w[u][0][0] = lo.x, w[u][0][1] = lo.y, w[u][1][0] = hi.x, w[u][1][1] = hi.y;
        } else
#pragma unroll
            for (int i = 0; i < group<S>::words; i += 4) {
                uint4 lo = *(const uint4 *)(low + at + i * 4), hi = *(const uint4 *)(high + at + i * 4);
                w[u][0][i] = lo.x, w[u][0][i + 1] = lo.y, w[u][0][i + 2] = lo.z, w[u][0][i + 3] = lo.w;
                w[u][1][i] = hi.x, w[u][1][i + 1] = hi.y, w[u][1][i + 2] = hi.z, w[u][1][i + 3] = hi.w;
            }
    }
}
/* sum: of the four products of a unit; b: the unit's inputs. Product i of a unit: the lane's columns 4 i to 4 i + 3 of both rows. */
template <int S> __device__ static inline void multiply_part(float c[4], const uint32_t (&w)[2][group<S>::words], int i, const uint32_t b[8], const char *table, int lane) {
    uint32_t a[4];
    if (S == STORAGE_BF16) {
        a[0] = w[0][i * 2], a[1] = w[1][i * 2], a[2] = w[0][i * 2 + 1], a[3] = w[1][i * 2 + 1];
        mma_bf16(c, a, b[i * 2], b[i * 2 + 1]);
    } else if (S == STORAGE_FP8_BLOCK) {
        e4m3_as_f16(w[0][i], &a[0], &a[2]);
        e4m3_as_f16(w[1][i], &a[1], &a[3]);
        mma_f16(c, a, b[i * 2], b[i * 2 + 1]);
    } else {
        uint32_t high[2], low[2];
#pragma unroll
        for (int k = 0; k < 2; k++) nf4_places(w[k][i / 2], nf4_spread(lane), &high[k], &low[k]);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (i % 2) a[k] = look_up_bytes<2>(table, low[k], high[k]), a[2 + k] = look_up_bytes<3>(table, low[k], high[k]);
            else a[k] = look_up_bytes<0>(table, low[k], high[k]), a[2 + k] = look_up_bytes<1>(table, low[k], high[k]);
        }
        mma_bf16(c, a, b[i * 2], b[i * 2 + 1]);
    }
}

/* acc (16 outputs x 8 rows) += this warp's units of a tile; the ring stands behind the tile then. */
template <int S>
__device__ static inline void multiply_tile(float acc[4], struct ring *r, const uint32_t (&b)[WARP_UNITS][8], const struct tile_place &p, const struct walk &walk, const struct lane_side &side,
                                            const char *table, const float *nested_map, int lane) {
    enum { GROUP = group<S>::units };
    const float *factors = S == STORAGE_FP8_BLOCK ? side.factors + (side.row >> 7) * side.first : NULL;
    int odd = (p.before + p.from) & 1;
#pragma unroll 1
    for (int piece = 0; piece < walk.pieces; piece++) {
        int slot = r->slot + lane, low = r->slot + walk.low_chunk, high = r->slot + walk.high_chunk;
        unsigned parity = r->parity;
        if (slot >= r->count) slot -= r->count, parity ^= 1;
        if (lane < walk.chunks) gate_wait(&r->full[slot], parity);
        __syncwarp();
        if (piece == walk.mine && p.own) {
            const char *a = r->slots + (low >= r->count ? low - r->count : low) * r->bytes + walk.low, *c = r->slots + (high >= r->count ? high - r->count : high) * r->bytes + walk.high;
            uint32_t w[GROUP][2][group<S>::words];
            float sum[4][4] = {};
            read_units<S>(w, a, c, 0, p.own);
            float absmax[WARP_UNITS / 2]; /* NF4: lane t's are those of unit 2 i + t / 2, first or second row by t % 2 */
            if (S == STORAGE_NF4) {
                int t = lane % 4, ahead = (t & 1) * (8 / packed<S>::parts) * p.blocks;
#pragma unroll
                for (int i = 0; i < WARP_UNITS / 2; i++) {
                    if (i == WARP_UNITS / 4 && p.own <= WARP_UNITS / 2) break; /* one branch, not four */
                    int block = ahead + (i * 2 + t / 2 < p.own ? i * 2 + t / 2 : p.own - 1);
                    absmax[i] = __fadd_rn(__fmul_rn(nested_map[(uint8_t)side.codes[block]], side.factors[((side.row + block) >> 8) - side.first]), side.offset);
                }
            }
#pragma unroll
            for (int first = 0; first < WARP_UNITS; first += GROUP) {
                if (first >= p.own) break;
                if (S == STORAGE_BF16) {
#pragma unroll
                    for (int i = 0; i < 4; i++) multiply_part<S>(sum[i], w[0], i, b[first], table, lane);
                    if (first + GROUP < p.own) read_units<S>(w, a, c, first + GROUP, p.own);
                    continue;
                }
                float part[GROUP][2][4] = {}, factor[GROUP][2];
                if (S == STORAGE_FP8_BLOCK) { /* a factor serves two units */
                    factor[0][0] = factors[first / 2], factor[GROUP - 1][0] = first + 1 < p.own ? factors[first / 2 + odd] : 0;
#pragma unroll
                    for (int u = 0; u < GROUP; u++) factor[u][1] = factor[u][0];
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int u = 0; u < GROUP; u++) multiply_part<S>(part[u][i % 2], w[u], i, b[first + u], table, lane);
                if (first + GROUP < p.own) read_units<S>(w, a, c, first + GROUP, p.own); /* while the products end */
#pragma unroll
                for (int u = 0; u < GROUP; u++) {
                    if (S == STORAGE_NF4)
#pragma unroll
                        for (int i = 0; i < 2; i++) factor[u][i] = __shfl_sync(~0u, absmax[(first + u) / 2], (lane & ~3) | ((first + u) % 2 * 2 + i));
#pragma unroll
                    for (int i = 0; i < 4; i++) acc[i] += (part[u][0][i] + part[u][1][i]) * factor[u][i / 2];
                }
            }
            if (S == STORAGE_BF16)
#pragma unroll
                for (int i = 0; i < 4; i++) acc[i] += (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
        }
        __syncwarp();
        if (lane < walk.chunks) gate_arrive(&r->empty[slot]);
        r->slot += walk.chunks;
        if (r->slot >= r->count) r->slot -= r->count, r->parity ^= 1;
    }
    if (S == STORAGE_FP8_BLOCK)
#pragma unroll
        for (int c = 0; c < 4; c++) acc[c] *= F16_REST;
}

/* ---- the lane that fills it ---- */

__device__ static inline int storage_number(int storage) { return storage == STORAGE_BF16 ? 0 : storage == STORAGE_FP8_BLOCK ? 1 : 2; }

/* The factors of a block's tiles of one product: bytes that arrive at `full`, beside those of a chunk. */
__device__ static inline unsigned fill_side(struct side_head *head, char *buffer, const struct pphase *phase, const struct pshape &s, int kind, int2 share, uint64_t *full) {
    unsigned all = 0;
    int at = 0, nested_at = (share.y * 16 * s.units + 15) / 16 * 16;
    for (int m = 0; m < (kind == PHASE_QKV ? 3 : kind == PHASE_UP ? 2 : 1); m++) {
        const struct pmatrix &w = phase->m[m];
        int begin = kind == PHASE_QKV ? (m ? s.first[m - 1] : 0) : 0, end = kind == PHASE_QKV && m < 2 ? s.first[m] : s.tiles; /* tiles of the matrix */
        int first = share.x > begin ? share.x : begin, last = share.x + share.y < end ? share.x + share.y : end;
        if (first >= last || w.storage == STORAGE_BF16) continue;
        int tall = kind == PHASE_UP ? 8 : 16, row = (first - begin) * tall, rows = (last - first) * tall;
        if (w.storage == STORAGE_FP8_BLOCK) {
            int scale = row / 128, columns = scale_columns(s);
            unsigned bytes = (unsigned)(((row + rows - 1) / 128 - scale + 1) * columns * 4);
            head->base[m] = at, head->first[m] = scale;
            copy_bulk(buffer + at, w.scale + (int64_t)scale * columns, bytes, full);
            at += (int)bytes, all += bytes;
        } else {
            unsigned bytes = (unsigned)(rows * s.units);
            int nested = row * s.units / 256 & ~3, count = (((row + rows) * s.units - 1) / 256 | 3) + 1 - nested;
            head->offset[m] = w.offset, head->base[m] = nested_at, head->first[m] = nested;
            copy_bulk(buffer + (kind == PHASE_UP ? m * rows : (first - share.x) * 16) * s.units, w.codes + (int64_t)row * s.units, bytes, full);
            copy_bulk(buffer + nested_at, w.nested + nested, (unsigned)count * 4, full);
            nested_at += count * 4, all += bytes + (unsigned)count * 4;
        }
    }
    return all;
}

/* The pieces of one pass of a tile: units [before, before + n). One lane. side: bytes of factors that come with its first chunk. */
__device__ static inline void fill_tile(struct ring *r, const struct pphase *phase, const struct pshape &s, int kind, int tile, int before, int n, unsigned side) {
    int row0, row1;
    const struct pmatrix *m0 = &phase->m[half_of_tile(s, kind, tile, 0, &row0)], *m1 = &phase->m[half_of_tile(s, kind, tile, 1, &row1)];
    int number = storage_number(m0->storage), unit = 128 >> number, shift = number == 0 ? 16 : number == 1 ? 64 : 32, tall = number == 2 ? 4 : 8; /* tall: rows of a part */
    int bits = s.cut[number].row_bits, rows = 1 << bits, piece_units = s.cut[number].piece_units;
    size_t row_bytes = (size_t)s.units * unit;
    const char *data0 = m0->data + (size_t)row0 * row_bytes + (size_t)before * unit, *data1 = m1->data + (size_t)row1 * row_bytes + (size_t)before * unit;
#pragma unroll 1
    for (int piece = 0; piece < n; piece += piece_units) {
        int wide = n - piece < piece_units ? n - piece : piece_units, pitch = wide * unit;
#pragma unroll 1
        for (int at = 0; at < 16; at += rows) {
            char *to = r->slots + r->slot * r->bytes;
            uint64_t *full = &r->full[r->slot];
            ring_claim(r, (unsigned)(rows * pitch));
            gate_expect(full, (unsigned)(rows * pitch) + side);
            side = 0;
#pragma unroll 1
            for (int part = at / tall; part <= (at + rows - 1) / tall; part++) {
                int row = rows < tall ? at : part * tall, count = rows < tall ? rows : tall;
                const char *from = (row < 8 ? data0 : data1) + (size_t)piece * unit + (size_t)(row % 8) * row_bytes;
                char *first = to + part * shift + (row - at) * pitch;
                if (wide == s.units) copy_bulk(first, from, (unsigned)(count * pitch), full); /* whole rows lie one behind the other */
                else
#pragma unroll 1
                    for (int i = 0; i < count; i++) copy_bulk(first + i * pitch, from + i * row_bytes, (unsigned)pitch, full);
            }
            ring_next(r);
        }
    }
}

#endif
