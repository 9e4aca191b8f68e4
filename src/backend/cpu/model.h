/* The CPU backend's model: a Qwen3-VL checkpoint whose matrices are read where they are mapped, the team of threads, the KV pages
 * and the working memory. Private to src/backend/cpu and its tests.
 * Activations are fp32; what enters a linear layer is rounded as ops.h says. */
#ifndef BACKEND_CPU_MODEL_H
#define BACKEND_CPU_MODEL_H

#include "backend/weights.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/pool.h"

/* Working memory that only grows; 64-byte aligned. */
struct workspace {
    void *data;
    size_t bytes;
};

struct kv_pages {
    void **pages;          /* (capacity) NULL until first used */
    int32_t *free_list;    /* (capacity) numbers of free pages that have memory */
    int32_t free_count, used_high, capacity;
    size_t page_bytes;
    int64_t layer_stride;  /* elements of one layer within a page: K then V */
};

/* Pages are taken while a pass runs on others. */
static inline int32_t kv_pages_high(const struct kv_pages *kv) { return __atomic_load_n(&kv->used_high, __ATOMIC_ACQUIRE); }

/* Called with each stage's result, for tests: rows x cols floats. */
typedef void cpu_tap(void *user, const char *stage, const float *values, int64_t rows, int64_t cols);

struct backend_model {
    struct model_weights w;
    const struct cpu_ops *ops;
    struct pool *pool;
    enum precision precision;      /* of everything but FP8 layers when fp8_activations */
    bool fp8_activations;

    float *angles;                    /* cos then sin of the first angle_rows positions: (angle_rows, 2, head_dim / 2) */
    int angle_rows;

    void *held;                       /* memory of hold_weights, NULL: the matrices lie in the mapped files */
    size_t held_bytes;

    struct kv_pages kv;
    struct workspace work[16];
    struct workspace scratch;         /* threads * scratch_bytes */
    size_t scratch_bytes;             /* of one thread */
    int64_t widest_input;             /* of any linear layer */

    cpu_tap *tap;
    void *tap_user;
};

/* Space for `bytes` in slot; the content of an earlier, smaller request is lost. NULL when out of memory. */
void *workspace_get(struct backend_model *m, int slot, size_t bytes);
/* Makes every thread's scratch large enough. */
int scratch_reserve(struct backend_model *m, int64_t max_in, int head_dim, int64_t max_patches, struct err *err);
static inline void *scratch_of(const struct backend_model *m, int thread) {
    return (char *)m->scratch.data + (size_t)thread * m->scratch_bytes;
}

/* What a linear layer reads: rows of n channels in the forms that the precision in use needs. */
struct activation {
    float *x;        /* (rows, n) fp32 */
    uint16_t *xb;    /* (rows, n) bf16; NULL when nothing reads it */
    uint16_t *q;     /* (rows, n) e4m3 values, only with fp8_activations */
    float *factors;  /* (rows, ceil(n / 128)) */
    int64_t n;
};
/* Working memory for an activation; uses slots slot .. slot + 3. */
int activation_get(struct backend_model *m, int slot, int64_t rows, int64_t n, bool quantised, struct activation *a,
                   struct err *err);
/* Fills the rounded forms of row r, columns [c0, c1) from x; the quantised form needs whole rows: activation_quantise. */
void activation_round(const struct backend_model *m, const struct activation *a, int64_t r, int64_t c0, int64_t c1);
void activation_quantise(const struct backend_model *m, const struct activation *a, int64_t r);

/* After a linear layer's block of outputs is computed, what happens to it before the region ends. */
enum epilogue { EPILOGUE_NONE, EPILOGUE_ADD, EPILOGUE_GELU_TANH, EPILOGUE_GELU_ERF, EPILOGUE_SILU_MUL };

/* y = W x for several layers that share a parallel region. */
struct linear_job {
    const struct linear_weight *w;
    const struct activation *in;
    float *y;                       /* (rows, ldy) */
    int64_t ldy;
    int rows;
    enum epilogue epilogue;
    float *add_to;                  /* EPILOGUE_ADD: add_to[r * ldy + o] += y */
    const struct linear_weight *up; /* EPILOGUE_SILU_MUL: y = silu(W x) * (up x), y2 is its working memory, like y */
    float *y2;
    const struct activation *out;   /* y rounded for the next layer (y == out->x), or NULL */
};
void linear_run(struct backend_model *m, struct linear_job *jobs, int count);

int cpu_encode_image(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err);
int cpu_forward(struct backend_model *m, const struct span *spans, int count, struct err *err);

int kv_pages_init(struct backend_model *m, size_t budget, struct err *err);
void kv_pages_free(struct kv_pages *kv);
int32_t cpu_page_alloc(struct backend_model *m);
void cpu_page_free(struct backend_model *m, int32_t page);
int cpu_page_copy(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err);
size_t cpu_page_bytes(const struct backend_model *m);
int cpu_page_export(struct backend_model *m, int32_t page, void *out, struct err *err);
int cpu_page_import(struct backend_model *m, int32_t page, const void *in, struct err *err);

static inline void tap(const struct backend_model *m, const char *stage, const float *values, int64_t rows, int64_t cols) {
    if (m->tap) m->tap(m->tap_user, stage, values, rows, cols);
}

#endif
