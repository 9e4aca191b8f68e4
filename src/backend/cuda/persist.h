/* A decode step of up to 8 rows as one kernel that stays on every multiprocessor: what persist.cu lays out and the kernel reads.
 *
 * Weights do not depend on activations: one warp of each block streams its share of all matrices of the step, layer after layer, through a
 * ring in shared memory (bulk copies), never waiting for results. Eight warps multiply; each owns a piece of the width and keeps the
 * activations of that piece in registers. Their sums meet in shared memory; one more warp finishes them, or,
 * of a single row, all of them together, a group of tiles at a time.
 *
 * Blocks hand activations to each other through memory without barriers or flags: every word of the exchange reads NOT_YET (a NaN no kernel
 * makes) until its value is there, so that a reader needs one round trip to the second-level cache. There is a place for each layer's values,
 * used once a step; the exchange of the next step is wiped while this one runs, and the end of the kernel is the only barrier. */
#ifndef BACKEND_CUDA_PERSIST_H
#define BACKEND_CUDA_PERSIST_H

#include "backend/cuda/room.h"

enum { PERSIST_ROWS = 8, MULTIPLIERS = 8, PERSIST_WARPS = MULTIPLIERS + 4 }; /* + producer, finisher, one that wipes, one that makes them a warpgroup; 168 registers a thread */
enum { SUM_BUFFERS = 2 };   /* tiles whose sums are under way between multiplying warps and the finisher */
enum { UNIT = 64, WARP_UNITS = 8, PASS_UNITS = MULTIPLIERS * WARP_UNITS }; /* UNIT: width that is handled at once; a warp keeps WARP_UNITS of them */
enum { ROW_SETS = 3 };      /* a single row: times WARP_UNITS */
enum { MOST_OWN = 4 };      /* tiles of the residual stream that a block owns at most */
enum { MOST_ENTRIES = 16, MOST_SHARES = 16 }; /* shares of all rows' attention together, of one row */
enum { MOST_PHASES = 256 };
enum { INLINE_PAGES = 256 };
enum { PHASE_QKV, PHASE_O, PHASE_UP, PHASE_DOWN, PHASE_HEAD, PHASE_KINDS };

/* What the benchmark may ask for: clocks of every block, (blocks, phases, 4) as persist_trace says, then (blocks, layers, ATTEND_MARKS) within
 * attention. */
enum { MARK_WORDS, MARK_HEADS, MARK_PAGE, MARK_SCORES, MARK_MERGED, MARK_STORED, MARK_JOINED, MARK_FIRST_ASKED, MARK_LAST_ASKED, MARK_QKV_STORED, ATTEND_MARKS };

#define NOT_YET 0xFFFFFFFFu

/* A matrix, as the producer needs it. */
struct pmatrix {
    const char *data;
    const float *scale;   /* FP8: (out / 128, scale_columns) */
    const uint8_t *codes; /* NF4: absmax (out, in / 64), nested blocks of 256 */
    const float *nested;
    float offset;
    int storage, scale_columns, out;
};
/* One product of a layer: q, k, v below each other; o; gate and up side by side; down; the head. */
struct pphase {
    struct pmatrix m[3];
};
struct player {
    const float *input_norm, *post_norm, *q_norm, *k_norm;
};

/* A tile is 16 outputs: two halves of 8 rows of a matrix, or 8 of gate and the same 8 of up. How one storage's tiles are cut: the width into
 * passes (what the multiplying warps can keep of the activations), a pass into pieces (what the ring can hold of a tile), a piece into chunks of
 * so many rows (1 << row_bits), which each fill a slot. */
struct pcut {
    int passes, pass_units, piece_units, row_bits;
};
/* What the products of one kind have in common in all layers. */
struct pshape {
    int in, units, tiles, first[2]; /* first: tiles before the second and third matrix */
    struct pcut cut[3];             /* by storage: bf16, FP8, NF4 */
};

/* Where things lie within one layer's part of the exchange, bytes. */
struct pexchange {
    size_t x[2], squares[2], qkv, shares, stats, heads, wide, layer; /* x[0]: what q, k, v read, x[1]: gate and up, heads: o */
};

/* Factors of a block's tiles of one product, in shared memory (FP8: rows of scales; NF4: absmax codes of all rows, then nested absmax), by matrix:
 * where a matrix' part begins, the first row of scales or the first nested absmax that it holds. */
struct side_head {
    float offset[3];
    int base[3], first[3];
};

/* A share of one row's attention: tokens [begin, end), for one kv head after the other. */
struct pentry {
    int32_t row, last; /* last: holds the newest token */
    int32_t begin, end;
};

struct persist_args {
    const struct pphase *phases; /* (layers * 4 + 1) */
    const struct player *layers;
    const int2 *share;           /* (PHASE_KINDS, blocks): first tile, count */
    const uint32_t *storages;    /* (layers * 4 + 1): of the three matrices, 2 bits each */
    struct pshape shape[PHASE_KINDS];
    struct pexchange at;
    uint32_t of_blocks, of_kv_heads; /* 2^32 / n, rounded up: high words of products are quotients, of numbers up to 65,535 */
    char *now, *next; /* the exchange of this step, and that of the next */
    int next_rows, next_entries; /* of it, what is to be wiped */
    int layer_count, rows, heads, kv_heads, group, hidden, wide, q, k, vocab, entries, most_shares;
    int slots, slot_bytes, flight[PHASE_KINDS]; /* flight: chunks under way, while those of a product of this kind are asked for */
    int ahead, pace; /* ahead: bytes that are brought nearer while the ring is full, in `pace` clocks a KB */
    int sum_tiles; /* of a single row: tiles whose outputs are put together at once, at most */
    int own_at, red_at, work_at, ring_at, side_at[PHASE_KINDS]; /* places in shared memory */
    struct dlinear embed;
    const float *norm, *frequency, *quant_map, *nested_map;
    const int *axis;
    char *kv;
    size_t page_bytes;
    int64_t layer_stride, half;
    float eps, scale, hidden_part; /* 1 / hidden */
    float *logits;
    int host_row;         /* whose logits go to pinned host memory, too, while the rest is made; -1: nobody's */
    int64_t to_host;      /* bytes from their place on the device to that in host memory */
    long long *trace; /* clocks, or NULL */
    const int32_t *pages;       /* on the device; NULL: inline_pages */
    struct drow row[PERSIST_ROWS];
    struct pentry entry[MOST_ENTRIES];
    int32_t first[PERSIST_ROWS], count[PERSIST_ROWS]; /* each row's shares: entries [first, first + count) */
    int32_t inline_pages[INLINE_PAGES];
};

/* persist_start; host_logits: pinned host memory that gets the logits of that row, too, or NULL. */
int persist_start_to(struct backend_model *m, const struct batch *b, float *logits, int host_row, float *host_logits, struct err *err);

#endif
