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

__device__ static inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xFFFF) | b << 16; }
__device__ static inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xFFFF0000u); }
__device__ static inline uint32_t word_of(const uint4 &v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

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
