/* What Hopper's kernels for the attention of decode rows share (attend_stream.cu, attend_group.cu): how a page of a kv head lies in shared memory, and
 * where results go. Device code.
 *
 * Which token is which row of S^T is free, and so is the order of the head's dimensions in both products: lanes read 16 consecutive bytes.
 * Values lie in quarters of a page that are shifted by 32 bytes against each other; lanes 4 g + t read tokens of quarter t, so that eight
 * lanes find eight different groups of banks. */
#ifndef BACKEND_CUDA_ATTEND_PAGES_H
#define BACKEND_CUDA_ATTEND_PAGES_H

#include <math.h>

#include "backend/cuda/room.h"

enum { HEAD = 128, TOKEN_BYTES = HEAD * 2, KEY_BYTES = PAGE * TOKEN_BYTES, QUARTER = PAGE / 4, QUARTER_BYTES = QUARTER * TOKEN_BYTES + 32, SLOT_BYTES = KEY_BYTES + 4 * QUARTER_BYTES };

struct stream_args {
    const struct step_head *head;
    const bf16 *q;
    bf16 *out;
    const char *kv;
    size_t page_bytes;
    int64_t layer_at, half; /* bytes: from a page's beginning to this layer's keys; from keys to values */
    int heads, kv_heads, group;
    int tiled, inverse; /* of group: query * inverse >> 16 = query / group, up to 64 queries */
    float scale;
    float *values;      /* (slots, HEAD): weighted values of one query and piece */
    float2 *sums;       /* (slots): maximum, sum */
    unsigned *counters; /* (2, FEW_ROWS, kv_heads) zero between kernels: pieces that are there, by the (first) row; of a pair each block has its own */
};

__device__ static inline uint32_t word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/* The softmax's running step of TILES tiles of scores, already masked (minus infinity where a query does not see a token): x[i][n]: S^T of eight queries;
 * most, total: maximum and sum of weights so far, of queries 2 t and 2 t + 1; o is scaled to the new maximum; prob: the weights, turned. */
template <int NQ, int TILES>
__device__ static inline void weigh_scores(float (*x)[NQ][4], float (*most)[2], float (*total)[2], float (*o)[8][4], uint32_t (*prob)[TILES][2]) {
#pragma unroll
    for (int n = 0; n < NQ; n++) {
        float keep[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float top = -INFINITY, sum = 0;
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) top = fmaxf(top, x[i][n][h * 2 + e]);
#pragma unroll
            for (int d = 4; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
            top = fmaxf(top, most[n][e]);
            keep[e] = exp2_near(most[n][e] - top);
            most[n][e] = top;
#pragma unroll
            for (int i = 0; i < TILES; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float &v = x[i][n][h * 2 + e];
                    v = exp2_near(v - top);
                    sum += v;
                }
            total[n][e] = total[n][e] * keep[e] + sum;
        }
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) prob[n][i][h] = turn_matrix(pack_bf16(x[i][n][h * 2], x[i][n][h * 2 + 1]));
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[n][i][e] *= keep[e % 2];
    }
}

/* O^T += V^T P^T for TILES tiles of 16 tokens of a page, from tile `first` on. vals: the page's, as they lie in the slot; prob: weights of each tile's
 * two halves, turned; o[n][i]: dimensions 64 (i / 4) + 8 g + i % 4 and 4 further on, of eight queries. */
template <int NQ, int TILES>
__device__ static inline void add_values(float (*o)[8][4], const char *vals, const uint32_t (&prob)[NQ][TILES][2], int first, int lane) {
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int c = 0; c < 2; c++) { /* dimensions 64 c + 8 g on */
            uint4 v[4];               /* tokens of the products' inputs 2t, 2t + 1, 2t + 8, 2t + 9 */
#pragma unroll
            for (int r = 0; r < 4; r++) v[r] = *(const uint4 *)(vals + t * QUARTER_BYTES + ((first + i) * 4 + r) * TOKEN_BYTES + (c * 8 + g) * 16);
#pragma unroll
            for (int j = 0; j < 4; j++) { /* dimensions j and j + 4 of those */
                uint32_t y[4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int word = (j + e % 2 * 4) / 2;
                    uint32_t lo = word_of(v[e / 2 * 2], word), hi = word_of(v[e / 2 * 2 + 1], word);
                    y[e] = j % 2 ? high_halves(lo, hi) : low_halves(lo, hi);
                }
#pragma unroll
                for (int n = 0; n < NQ; n++) mma_bf16(o[n][c * 4 + j], y, prob[n][i][0], prob[n][i][1]);
            }
        }
}

/* Where four columns of a row begin, of the first 64 of the first head (column: a multiple of four), as two pairs; `half` further on the same of
 * its other 64, `head` further on of the next head. */
struct places {
    int64_t first, second, half, head;
    bool crossed; /* pairs of columns 0 2 and 1 3 */
};
__device__ static inline struct places places_of(const struct stream_args &a, int row, int column) {
    if (!a.tiled) return {(int64_t)row * a.heads * HEAD + column, (int64_t)row * a.heads * HEAD + column + 2, HEAD / 2, HEAD, false};
    bool crossed = a.tiled == TILED_CROSSED;
    int64_t first = tiled_place(row, column, a.tiled);
    return {first, tiled_place(row, column + (crossed ? 1 : 2), a.tiled), tiled_place(row, column + HEAD / 2, a.tiled) - first, HEAD * FEW_ROWS, crossed};
}
__device__ static inline void store_four(const struct stream_args &a, const struct places &to, int halves, float x, float y, float z, float w) {
    bf16 *out = a.out + halves / 2 * to.head + halves % 2 * to.half;
    *(uint32_t *)(out + to.first) = pack_bf16(x, to.crossed ? z : y);
    *(uint32_t *)(out + to.second) = pack_bf16(to.crossed ? y : z, w);
}

static inline struct stream_args stream_args_of(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled) {
    const struct text_config *t = &m->w.config.text;
    struct stream_args a = {};
    a.head = head, a.q = q, a.out = out, a.tiled = tiled, a.kv = m->kv, a.page_bytes = m->page_bytes;
    a.layer_at = layer * m->layer_stride * 2, a.half = m->layer_stride;
    a.heads = t->heads, a.kv_heads = t->kv_heads, a.group = t->heads / t->kv_heads, a.inverse = 65535 / a.group + 1;
    a.scale = (float)(1.4426950408889634 / sqrt((double)HEAD)); /* exp2 from here on */
    a.values = m->attend_partial, a.sums = (float2 *)(m->attend_partial + (size_t)MOST_ITEMS * t->heads * HEAD), a.counters = m->attend_counters;
    return a;
}

#endif
