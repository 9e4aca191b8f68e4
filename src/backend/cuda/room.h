/* What the files of the CUDA backend share. Private to this room.
 *
 * Activations: the residual stream is fp32, what enters a linear layer is bf16, sums are fp32. Weights lie on the device as they are
 * stored in the file. Everything runs on one stream; the host waits once a pass. */
#ifndef BACKEND_CUDA_ROOM_H
#define BACKEND_CUDA_ROOM_H

extern "C" {
#include "backend/cuda/cuda.h"
#include "backend/cuda/door.h"
#include "backend/weights.h"
}
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "backend/cuda/ptx.h"

typedef __nv_bfloat16 bf16;

enum { PAGE = BACKEND_PAGE_TOKENS };
enum { MOST_HEAD = 256 }; /* values of an attention head */
enum { LOGITS_ROWS = 256 }; /* rows of a pass whose logits are made at once */
enum { FEW_ROWS = 64 }; /* up to so many rows a product reads the weights as they are stored; above, they are unpacked to bf16 first */

/* A page's keys, or values, of one kv head and layer. */
__host__ __device__ static inline int head_block_bytes(int head_dim, bool kv8) { return kv8 ? PAGE * (head_dim + 4) : PAGE * head_dim * 2; }

/* A linear layer's matrix in device memory; fields as in struct linear_weight. */
struct dlinear {
    int storage, out, in;
    const void *data;
    const float *scale;
    int scale_columns;
    const float *quant_map, *absmax_f32, *nested_absmax, *nested_map;
    const uint8_t *absmax_u8;
    const uint32_t *absmax_pairs; /* made by tiled_absmax: (out / 32, in / 128, 32) absmax of two neighbours as bf16; or NULL */
    float nested_offset;
    int block, nested_block;
    int rounding;      /* enum dtype: dequantised values are rounded to it once */
    const float *bias; /* (out) or NULL */
    int fast;          /* the tensor-core kernel for few rows takes it */
};

struct dlayer {
    const float *input_norm, *post_norm, *q_norm, *k_norm;
    struct dlinear q, k, v, o, gate, up, down;
};
struct dblock {
    const float *norm1_w, *norm1_b, *norm2_w, *norm2_b;
    struct dlinear qkv, proj, fc1, fc2;
};
struct dmerger {
    const float *norm_w, *norm_b;
    bool after;
    struct dlinear fc1, fc2;
};

/* One row of a batch, as the kernels read it. */
struct drow {
    int32_t id, slot, position[3];
    int32_t pages;  /* where its sequence's page numbers begin */
    int32_t visual; /* row of the uploaded image features, -1 none */
    int32_t block;  /* prefill attention: first row of its run, -1: the row stands alone */
};

struct device_buffer {
    void *data;
    size_t bytes;
};
enum { BUFFER_ROWS, BUFFER_HIDDEN, BUFFER_NORMED, BUFFER_QKV, BUFFER_QUERIES, BUFFER_ATTENDED, BUFFER_WIDE, BUFFER_PRODUCT, BUFFER_LOGITS, BUFFER_UNPACKED,
       BUFFER_PARTIAL, BUFFER_VISUAL, BUFFER_COMPACT, BUFFER_QUANTISED, BUFFER_PIXELS, BUFFER_STEP, BUFFER_STEP_WORK, BUFFER_PICKS, BUFFER_TURNED, BUFFER_ALONE, BUFFER_KV, BUFFER_COUNT };
enum { PINNED_BATCH, PINNED_PICKS, PINNED_ALONE, PINNED_COUNT };

struct persist; /* the step as one kernel; NULL: the graph of step.cu */
struct lt; /* cublasLt, loaded at run time; NULL: own kernels serve large products too */

/* Work for attend_few.cu: the `rows` rows of the batch from `first` on see the tokens [begin, end) of the pages they share, whose numbers lie
 * from `pages` on; their entries of the parts table begin at `parts`. */
struct attend_item {
    int32_t parts, rows, begin, end, pages, first;
};
/* One row's share of an item: the number-th of `of` shares of that row; shares lie from `first` on in the working memory. */
struct attend_part {
    int32_t row, number, of, first;
};
/* What a decode step uploads: this head, the rows at STEP_ROWS_AT, items at STEP_ITEMS_AT, then parts and page numbers. Places of page numbers
 * (drow.pages, attend_item.pages) are counted from the beginning of it all. */
struct step_head {
    int32_t item_count, parts_at;
};
enum { STEP_ROWS_AT = 64, STEP_ITEMS_AT = STEP_ROWS_AT + FEW_ROWS * (int)sizeof(struct drow) };
/* The same on Hopper (attend_stream.cu), in the place of items and parts: attend_block, pieces at STEP_PIECES_AT, attend_both of all rows and kv
 * heads at parts_at. A piece: `tokens` tokens of a row's kv head from the page on whose number lies at `pages`; pages from `settled` on may still be
 * written by the pass at hand; results go to working memory from slot `partial` on, a slot a query, or (whole) are all that there is of the row. */
struct attend_piece {
    int32_t pages, tokens, settled, partial;
    int16_t row, kv, whole, unused;
};
/* A block's pieces, once more the first of them, and its first pages' numbers: one load before the first keys are asked for. */
enum { BLOCK_PAGES = 4 };
struct attend_block {
    int32_t first, count;
    struct attend_piece piece;
    int32_t number[BLOCK_PAGES];
};
/* The pieces of a row and kv head: slot of the first one's first query, pieces; they follow each other without gaps. */
struct attend_both {
    int32_t own, own_count;
};
/* The same where rows share beginnings (attend_group.cu): group_block, pieces at STEP_PIECES_AT, group_page of all groups at parts_at. A piece:
 * `count` pages of a kv head from entry `pages` on, for `rows` rows from `row` on; one of `pieces` of them, whose results go to the working
 * memory's place `partial`, where there are several. Rows [from, to) of the group see the first `tokens` tokens of a page; fresh: the pass at
 * hand writes to it. */
struct group_piece {
    int32_t pages, partial, count;
    int16_t row, rows, kv, number, pieces, unused;
};
struct group_page {
    int32_t number;
    uint8_t from, to, tokens, fresh;
};
struct group_block {
    int32_t first, count;
};
enum { MOST_STREAM_BLOCKS = 640, MOST_STREAM_PIECES = 2048, MOST_BOTH = 1024, STEP_PIECES_AT = STEP_ITEMS_AT + MOST_STREAM_BLOCKS * (int)sizeof(struct attend_block) };
enum { MOST_ITEMS = 2048, MOST_PIECES = 64, MIN_SHARED_PAGES = 4, SHARED_WORTH = 1000, MOST_PARTS = 512 }; /* MOST_PIECES: of one row */

/* Events at the changes between a pass's kinds of work (decoder.cu); the benchmark reads them. From event i on, part[i] is at work. */
enum { PASS_PRODUCTS, PASS_HEADS, PASS_ATTEND, PASS_ROWS, PASS_REST, PASS_PARTS, PASS_MARKS = 1024 };
struct pass_times {
    int count, part[PASS_MARKS];
    cudaEvent_t event[PASS_MARKS];
};

/* What the vision tower works on at once: rows are patches, picture after picture, group after group, in merge-block order. Passed to kernels by value. */
enum { MOST_PICTURES = 32, MOST_TOWER_GRAPHS = 8 };
struct pictures {
    int count, rows, groups, merge, side; /* groups: temporal groups of all pictures; side: of the table of learned positions */
    struct {
        int row, group, t, h, w; /* its first row, its first group, its grid of patches */
    } at[MOST_PICTURES];
};
/* The tower's kernels for some pictures, captured: blocks up to each tap, and beside the blocks that follow, on the other stream, what is made of
 * the tap. */
struct tower_graph {
    struct pictures pictures;
    int uses; /* 0: empty; captured from the second use on */
    uint64_t last;
    cudaGraphExec_t blocks[1 + CONFIG_MAX_DEEPSTACK], level[1 + CONFIG_MAX_DEEPSTACK];
};

struct backend_model {
    struct model_weights w;
    cudaStream_t stream, copy_stream;
    cudaEvent_t copied;      /* the last copy of a page that nobody has waited for, when copies is set (atomic) */
    int copies;
    int device, sm_count, arch;
    void *weights; /* one allocation */
    size_t weight_bytes, buffer_bytes;

    bool part, first, last;  /* part: not the whole decoder; the first holds the vocabulary's embedding and the tower, the last the head */
    int layer_from;

    struct dlinear embed, head, patch_embed;
    const float *norm, *pos_embed, *inverse_frequency, *vision_frequency;
    const int *axis;
    struct dlayer *layers;
    struct dblock *blocks;
    struct dmerger merger, deepstack[CONFIG_MAX_DEEPSTACK];

    char *kv; /* (capacity) pages of page_bytes; within a page: layer, K then V, kv head, token, head_dim; bf16 */
    size_t page_bytes;
    int64_t layer_stride; /* of one layer within a page, in units of two bytes: elements of bf16 */
    bool kv8;             /* e4m3 instead: of each kv head 32 x head_dim bytes, then 32 fp32 factors (head_block_bytes) */
    int32_t *free_pages;
    int32_t free_count, used_high, capacity;

    struct device_buffer buffer[BUFFER_COUNT];
    struct device_buffer pinned[PINNED_COUNT]; /* host side of uploads and of results */

    /* Decode steps (step.cu). */
    bool few_fit;                /* every product of the decoder has a kernel for few rows */
    int tiled;                   /* TILED_...: and one of wide_tiled.cu */
    float *split_parts;          /* (MOST_PARTS, 64, 64) */
    unsigned *split_counters;    /* (MOST_PARTS) zero between kernels */
    float *attend_partial;       /* (MOST_ITEMS, heads, 2 + head_dim) */
    unsigned *attend_counters;   /* (2, FEW_ROWS, kv_heads) zero between kernels */
    bool step_shared;            /* rows of the step at hand have a beginning in common */
    int shared_worth;            /* pages of a kv head that reading it once must save (attend_group.cu); 0: any */
    cudaGraphExec_t graphs[FEW_ROWS + 1][2]; /* by rows and step_shared; NULL: not yet made */
    struct tower_graph towers[MOST_TOWER_GRAPHS];
    uint64_t tower_clock;
    cudaEvent_t tower_event[2 * (1 + CONFIG_MAX_DEEPSTACK)]; /* of each level: its blocks done, and in host memory */
    bool e4m3;                   /* FP8 layers see quantised activations in passes of more than FEW_ROWS rows */
    struct persist *persist;
    struct lt *lt;
    void *encode_map;            /* the driver's cuTensorMapEncodeTiled (warpgroup.h); NULL: not yet asked for */
    struct pass_times *times;    /* the benchmark's, or NULL */
    double load_seconds;
    char kernels[64];
};

/* Fills err with what CUDA says; memory that is used up becomes ERR_MEMORY. */
int cuda_failed(cudaError_t e, const char *what, struct err *err);
/* Device memory that grows; earlier content is lost and captured graphs with it. NULL with err filled. */
void *buffer_get(struct backend_model *m, int which, size_t bytes, struct err *err);
void *pinned_get(struct backend_model *m, int which, size_t bytes, struct err *err);

/* ---- linear.cu ---- */

enum { OUT_F32, OUT_ADD, OUT_SILU, OUT_BF16, OUT_GELU_TANH, OUT_GELU_ERF, /* the last four write bf16 */
       OUT_PARTS, OUT_HEADS };                                            /* tower_warpgroup.cu */
enum { MOST_SQUARES = 256 }; /* partial sums of squares of one row */
/* Products of one input with up to three matrices; y of each begins `at` columns into a row.
 *
 * The norm before a product can be left to it: x holds h * weight in bf16, and each product is multiplied by
 * 1 / sqrt(sum of squares of h / n + eps), whose sum comes in `squares_count` parts a row from the product before (OUT_ADD with
 * next_weight). Only for rows that few_rows_fit. */
struct product {
    const struct dlinear *w[3];
    int count;
    const struct dlinear *up; /* OUT_SILU: y = silu(w x) * (up x) */
    const bf16 *x;
    int64_t ldx;
    int rows;
    int padded;  /* large products: rows that x and y have room for, of which the last ones may be anything; 0: rows */
    int out;     /* OUT_... */
    void *y;     /* fp32, or bf16 */
    int64_t ldy;
    const float *squares; /* (rows, MOST_SQUARES) or NULL */
    int squares_count, norm_n;
    const float *factors; /* (rows, in / 128): x holds e4m3 values, FP8 weights only; or NULL */
    const uint8_t *x8;    /* (padded, in) e4m3 bytes with factors8 (in / 128, padded): what FP8 weights see in a large product; or NULL */
    const float *factors8;
    const float *next_weight; /* OUT_ADD: (ldy) the weight of the norm after this product */
    bf16 *next_x;             /* (rows, ldy) */
    float *next_squares;      /* (rows, MOST_SQUARES) */
    int tiled;                /* TILED_...: x, next_x and the y of OUT_SILU are laid out by tiled_place; needs tiled_fit */
};
/* Rows that a large product makes of so many: few different shapes, so that plans are kept, and none that tiles of 128 rows do not make anyway. */
static inline int padded_rows(int rows) { return rows <= FEW_ROWS ? rows : rows <= 512 ? (rows + 63) / 64 * 64 : (rows + 127) / 128 * 128; }
/* Where wide_tiled.cu has column `column` of a row of bf16 activations, in elements: tiles of 64 columns x FEW_ROWS rows, each 128 bytes a row;
 * two for 128 columns; within a row the pieces of 16 bytes change places by row (the 128-byte swizzle of shared memory), and columns stand in
 * the order in which the lanes that hold 32 consecutive weights each give them to the tensor cores: pairs of neighbours, or crossed
 * (0 2, 1 3) as FP8 weights are unpacked. 128 must divide the columns. */
enum { TILED_NO, TILED_STRAIGHT, TILED_CROSSED };
__host__ __device__ static inline int64_t tiled_place(int row, int column, int tiled) {
    int c = column % 128, low = tiled == TILED_CROSSED ? c % 2 * 2 + c / 2 % 2 : c % 4, piece = c % 16 / 4 * 2 + low / 2;
    return (int64_t)(column / 128 * 2 + c % 32 / 16) * (64 * FEW_ROWS) + row * 64 + (piece ^ (row & 7)) * 8 + c / 32 * 2 + low % 2;
}
/* How many parts of next_squares product_run fills for a row. */
int product_squares(const struct product *p);
/* Is there a kernel that reads these weights as stored, for up to FEW_ROWS rows? */
bool few_rows_fit(const struct product *p);
void few_rows_run(struct backend_model *m, const struct product *p); /* few.cu; p must fit */
bool tiled_fit(const struct product *p);                             /* wide_tiled.cu, sm_90a, 9 to FEW_ROWS rows */
int tiled_squares(const struct product *p);
/* What tiled_fit wants of NF4 beside the file's own: bytes on the device (0 where there is nothing to make), and makes it in `to` on m->stream. */
size_t tiled_absmax_bytes(const struct dlinear *w);
void tiled_absmax(struct backend_model *m, struct dlinear *w, void *to);
int product_run(struct backend_model *m, const struct product *p, struct err *err);
/* Is product_run's way that of the library (rows above FEW_ROWS)? */
bool library_fit(const struct backend_model *m, const struct product *p);
/* fp32 rows picked by drow.id, or from the image features. weight, x, squares: the norm that follows is left to the product; or NULL. */
void embed_rows(struct backend_model *m, const struct drow *rows, int count, const float *visual, float *h, const float *weight, bf16 *x, float *squares);
/* fp32 rows picked by drow.id, or from the image features. weight, x (tiled: by tiled_place), squares: the norm that follows is left to the
 * product; or NULL. */
void embed_rows(struct backend_model *m, const struct drow *rows, int count, const float *visual, float *h, const float *weight, bf16 *x, float *squares, int tiled);

/* many.cu: NF4 on Hopper, where it is faster than unpacking; the product's matrices [first, first + count), y: the first one's results, bf16.
 * many_rows_run: false: could not be started. */
bool many_rows_fit(struct backend_model *m, const struct product *p, int first, int count);
bool many_rows_run(struct backend_model *m, const struct product *p, int first, int count, void *y);

/* ---- lt.cu ---- */

struct lt *lt_open(void); /* NULL when the library is not there */
void lt_close(struct lt *lt);
/* y (rows, out) = x (rows, in) W^T [+ y], operands bf16, y fp32 or bf16; 0 or negative. */
int lt_product(struct lt *lt, cudaStream_t s, const bf16 *w, int out, int in, const bf16 *x, int64_t ldx, int rows, void *y, int64_t ldy, bool y_bf16, bool add);
/* The same with e4m3 operands: scale (ceil(out / 128), scale_columns) of w, factors (in / 128, rows) of x, y bf16. */
int lt_product_fp8(struct lt *lt, cudaStream_t s, const void *w, const float *scale, int out, int in, const void *x, const float *factors, int rows, void *y,
                   int64_t ldy, bool y_bf16, bool add);

/* ---- rows.cu ---- */

void norm_rows(struct backend_model *m, const float *h, const float *weight, bf16 *out, int rows, int n);
void norm_rows_f32(struct backend_model *m, const float *h, const float *weight, float *out, int rows, int n);
void layer_norm_rows(struct backend_model *m, const float *h, const float *weight, const float *bias, bf16 *out, int rows, int n);
/* q and k heads: norm, rotation; q stays as bf16 in q_out, k and v go to the pages. */
void heads_rows(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, int count, const int32_t *pages, const float *qkv,
                bf16 *q_out);
void heads_rows_bf16(struct backend_model *m, const struct dlayer *l, int layer, const struct drow *rows, int count, const int32_t *pages, const bf16 *qkv,
                     bf16 *q_out);
void gather_rows(struct backend_model *m, const float *h, const int32_t *which, int count, int n, float *out);
void to_bf16(struct backend_model *m, const float *x, bf16 *out, int64_t count);
/* x (rows, n) as e4m3 values in groups of 128 (facts §2.3): values as bf16 and factors (rows, n / 128), or bytes and factors (n / 128, rows). */
void quantise_rows(struct backend_model *m, const bf16 *x, int rows, int n, bf16 *values, float *factors, uint8_t *bytes, float *factors8);

/* Where rows go that a large product is to read: as bf16 in x (rows, n); as e4m3 bytes in x8 (rows, n) with factors8 (n / 128, padded), which
 * wants n to be a multiple of 128; or both. NULL: not wanted. */
struct row_input {
    bf16 *x;
    uint8_t *x8;
    float *factors8;
    int padded; /* rows that x8 and factors8 have room for */
};
/* h (rows, n) += delta, += level of the rows with image features; then its norm. delta, level: NULL for nothing to add. */
void add_norm_rows(struct backend_model *m, float *h, const bf16 *delta, const float *level, const struct drow *which, const float *weight, const struct row_input *to, int rows,
                   int n);
/* silu(gate) * up; gate_up (rows, 2n). */
void silu_rows(struct backend_model *m, const bf16 *gate_up, const struct row_input *to, int rows, int n);
void quantise_eight_rows(struct backend_model *m, const bf16 *x, const struct row_input *to, int rows, int n);

/* ---- attend.cu ---- */

enum { MOST_SPLITS = 64 };
/* Rows attend to their own sequences' pages; any head size up to 256. partial: working memory for splits > 1 (rows, heads, splits, 2 + head_dim),
 * counters (rows, kv_heads) zero between calls. */
void attend_rows(struct backend_model *m, int layer, const struct drow *rows, int count, const int32_t *pages, const bf16 *q, bf16 *out, int splits,
                 float *partial, unsigned *counters);
/* Runs of consecutive rows of one sequence each, rows [first, first + count) of the batch; only where they fit. length: tokens of the sequence
 * with the run (decides how the work is cut, not what is computed). */
enum { MOST_RUNS = 64 };
struct attend_run {
    int32_t first, count;
    int64_t length;
};
bool attend_run_fit(const struct backend_model *m, int count);
/* Pages of bf16 as the kernels for runs read them: the model's own, or what was made of e4m3 ones. Fields as in struct backend_model; pages: the
 * numbers that drow.pages points into. */
struct run_pages {
    char *kv;
    size_t page_bytes;
    int64_t layer_stride, layer_at;
    int32_t capacity;
    const int32_t *pages;
};
/* e4m3 pages are first unpacked to bf16 in working memory, those of RUN_SCRATCH_TOKENS tokens at a time or of one longer run; page_count:
 * how many numbers `pages` has, asked for then. 0, or out of memory. */
enum { RUN_SCRATCH_TOKENS = 32768 };
int attend_runs(struct backend_model *m, int layer, const struct drow *rows, const struct attend_run *runs, int count, const int32_t *pages, const bf16 *q, bf16 *out,
                int page_count = 0, struct err *err = NULL);

/* ---- attend_warpgroup.cu: the same on Hopper (sm_90a) ---- */

bool attend_warpgroup_fit(struct backend_model *m);
/* False when it could not be started. */
bool attend_warpgroup(struct backend_model *m, const struct run_pages *v, const struct drow *rows, const struct attend_run *runs, int count, const bf16 *q, bf16 *out);

/* ---- the vision tower ---- */

/* tower.cu: graphs that hold addresses of memory about to go; all of it, at the end. */
void tower_graphs_drop(struct backend_model *m);
void tower_close(struct backend_model *m);

/* attend_tower.cu: full attention inside each group, heads of up to 128. qkv (rows, 3V) fp32, rotated here by rotary (rows, head_dim: cosines,
 * sines) with work of attend_groups_bytes; or (work NULL, heads of 64) bf16, rotated. */
size_t attend_groups_bytes(int64_t rows, int heads, int head_dim);
void attend_groups(struct backend_model *m, const struct pictures *p, const void *qkv, const float *rotary, int heads, int head_dim, void *work, bf16 *out);

/* tower_warpgroup.cu: Hopper's kernels. Is the model one for them? */
bool tower_warpgroup_fit(struct backend_model *m);
/* y = x W^T + bias in the way of `how`: OUT_F32, OUT_GELU_..., OUT_HEADS (bf16; q and k rotated, heads of 64), OUT_PARTS (fp32 (parts, rows, out),
 * without bias). The number of parts, 1 for the others; 0: could not be started. ahead: matrix that a later product wants in the second-level
 * cache, or NULL. */
int tower_product(struct backend_model *m, const struct dlinear *w, const bf16 *x, int rows, int how, void *y, const float *rotary, const struct dlinear *ahead);
/* How a product is cut (outputs of a block: 64, 128, 176; splits of the inputs; blocks of a cluster: 1, 2, 4), and one cut so: for the benchmark. */
struct product_cut {
    int n, splits, cluster;
};
struct product_cut tower_product_cut(const struct backend_model *m, const struct dlinear *w, int rows, int how);
bool tower_product_run(struct backend_model *m, const struct dlinear *w, const bf16 *x, int rows, int how, void *y, const float *rotary, const struct dlinear *ahead,
                       const struct product_cut *c);
/* h (rows, n) = [h +] bias + the parts' sum, where there is a bias; x its layer norm, or NULL. n <= 4,096, a multiple of 4. */
void tower_add_norm(struct backend_model *m, float *h, const float *parts, int count, const float *bias, const float *weight, const float *norm_bias, bf16 *x, int rows, int n, bool fresh);

/* y (rows, n) bf16 = gelu_erf(bias + the parts' sum). */
void tower_gelu_parts(struct backend_model *m, const float *parts, int count, const float *bias, bf16 *y, int rows, int n);

/* The rows of a batch as the kernels want them, in host memory, with what the spans ask for. */
struct batch {
    const struct span *spans;
    int count, rows, pages, visual; /* visual: rows with image features */
    struct drow *row;      /* (rows) */
    int32_t *page;         /* (pages) */
};

/* ---- attend_few.cu ---- */

bool attend_few_fit(const struct backend_model *m);
/* Have neighbouring rows a beginning in common that is worth reading once? What m->step_shared has to be for step_fill and attend_items. */
bool attend_shared(const struct backend_model *m, const struct batch *b);
int attend_queries(const struct backend_model *m); /* query rows of one item: 8 or 16, by m->step_shared */
/* Cuts the step's work and lays it out as the kernels read it, in step_bytes(batch) of host memory; returns the bytes in use. */
size_t step_bytes(const struct batch *b);
size_t step_fill(const struct backend_model *m, const struct batch *b, char *host);
/* tiled: out is laid out by tiled_place. */
void attend_items(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled);

/* Pages that two rows have in common from the start, full ones only. */
int attend_common_pages(const struct drow *a, const struct drow *b, const int32_t *pages);

/* ---- attend_stream.cu: step_fill and attend_items on Hopper; attend_few.cu asks ---- */

bool attend_stream_fit(const struct backend_model *m);
size_t stream_fill(const struct backend_model *m, const struct batch *b, char *host);
void attend_stream(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled);

/* ---- attend_group.cu: the same where rows share beginnings (m->step_shared) ---- */

/* Is there enough to be saved? */
bool attend_group_worth(const struct backend_model *m, const struct batch *b);
size_t group_fill(const struct backend_model *m, const struct batch *b, char *host);
void attend_group(struct backend_model *m, int layer, const struct step_head *head, const bf16 *q, bf16 *out, int tiled);

/* ---- decoder.cu, step.cu, tower.cu ---- */

/* Has every product of the decoder a kernel for few rows? */
bool step_products_fit(const struct backend_model *m, int tiled);
/* A decode step: up to FEW_ROWS rows, none with image features, nobody wants hidden states. */
bool step_fit(const struct backend_model *m, const struct batch *b);
int step_run(struct backend_model *m, const struct batch *b, struct err *err);
/* Milliseconds of a step's graph, or of some of its kernels alone (the benchmark asks). */
enum { STEP_EMBED = 1, STEP_QKV = 2, STEP_HEADS = 4, STEP_ATTEND = 8, STEP_O = 16, STEP_UP = 32, STEP_DOWN = 64, STEP_HEAD = 128, STEP_ALL = 255 };
int step_time(struct backend_model *m, const struct batch *b, unsigned parts, int repeats, float *ms, struct err *err);
int batch_make(const struct backend_model *m, const struct span *spans, int count, struct batch *b, struct err *err); /* free(b->row) */

/* ---- persist.cu ---- */

/* m->persist, where the device and the model's matrices are such as the kernel takes; otherwise, and on failure, it stays NULL. */
int persist_open(struct backend_model *m, struct err *err);
void persist_close(struct backend_model *m);
size_t persist_work_bytes(const struct text_config *t); /* device memory that it takes beside the weights, about */
bool persist_fit(const struct backend_model *m, const struct batch *b);
/* Starts the step; logits (rows, vocab) on the device are there when the stream is. On failure nothing was started. */
int persist_start(struct backend_model *m, const struct batch *b, float *logits, struct err *err);
/* The benchmark asks: clocks of every block and product (sm_count, layers * 4 + 1, 4), device memory: when it began, attention and then
 * the input were there, and when its tiles were multiplied; behind them what persist.h says. NULL: none. */
void persist_trace(struct backend_model *m, long long *trace);

/* ---- pick.cu ---- */

struct pick_place {
    const struct pick *pick;
    struct picked *out;
    int row; /* of the logits */
};
/* Waits for the device. Changes the logits where biases and penalties say so. */
int picks_run(struct backend_model *m, const struct pick_place *list, int count, float *logits, struct err *err);

void graphs_drop(struct backend_model *m);

/* ---- pages.cu ---- */

int kv_open(struct backend_model *m, size_t budget, struct err *err);
/* Lets the pass about to begin wait for copies of pages under way. */
int copies_wait(struct backend_model *m, struct err *err);

/* ---- upload.cu ---- */

/* All matrices and vectors into one allocation on the device, read, staged and uploaded by several threads at once. */
int weights_upload(struct backend_model *m, struct err *err);

/* Launch that may begin before the kernel in front of it has ended (programmatic dependent launch, sm_90): the kernel reads only weights
 * before wait_for_input(). */
template <typename... Formal, typename... Actual>
static inline void launch(const struct backend_model *m, void (*kernel)(Formal...), dim3 grid, dim3 block, size_t shared, Actual... actual) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute a[1];
    c.gridDim = grid, c.blockDim = block, c.dynamicSmemBytes = shared, c.stream = m->stream;
    a[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a[0].val.programmaticStreamSerializationAllowed = 1;
    c.attrs = a, c.numAttrs = m->arch >= 90 ? 1 : 0;
    if (shared > 48 << 10) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    cudaLaunchKernelEx(&c, kernel, (Formal)actual...);
}

#endif
