/* Speed of the CPU operations at real shapes, each beside its yardstick measured in the same run:
 *   decode   one row; stored bytes per second against the bandwidth at which the same threads read memory (xor of 64-byte loads)
 *   prefill  512 rows; against oneDNN's bf16 product of the same shape
 *   attention and the vision tower's attention; GFLOP/s and, for decoding at long context, bytes per second
 * The best of several passes; matrices are copied until a pass is larger than the caches. Random data.
 * BENCH_CLOCK=cpu counts CPU time (for one thread on a busy machine).
 * Usage: bench_ops [threads] [variant] [decode|prefill|attend|vision|pool] */
#include <stdio.h>
#include <time.h>

#include "backend/cpu/pool.h"
#include "onednn.h"
#include "ops_data.h"

/* Wall time, or with BENCH_CLOCK=cpu the CPU time of this process: with one thread that measures what a core does on a machine that
 * others are using. */
double bench_seconds(void) {
    static int cpu = -1;
    if (cpu < 0) cpu = getenv("BENCH_CLOCK") && !strcmp(getenv("BENCH_CLOCK"), "cpu");
    struct timespec t;
    clock_gettime(cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct pool *pool;
static const struct cpu_ops *ops;
static void **scratches;

enum { MAX_IN = 12288, MAX_PATCHES = 2400 };
static const size_t pass_bytes = (size_t)384 << 20;

/* ---- read bandwidth ---------------------------------------------------------------------------------------------------------- */

struct reading {
    const char *data;
    size_t piece;
    uint64_t sums[1024];
};

typedef uint64_t line __attribute__((vector_size(64), aligned(64)));

static void read_piece(void *context, int64_t i, int thread) {
    struct reading *r = context;
    const line *p = (const line *)(r->data + (size_t)i * r->piece), *end = (const line *)((const char *)p + r->piece);
    line a = {0}, b = a, c = a, d = a;
    for (; p < end; p += 4) a ^= p[0], b ^= p[1], c ^= p[2], d ^= p[3];
    a ^= b ^ c ^ d;
    r->sums[thread] ^= a[0] ^ a[7];
}

static double read_bandwidth(void) {
    size_t bytes = (size_t)1 << 30;
    struct reading r = {.data = cache_lines(bytes), .piece = 1 << 20};
    memset((void *)r.data, 1, bytes);
    double best = 0;
    for (int pass = 0; pass < 8; pass++) {
        double t = bench_seconds();
        pool_run(pool, (int64_t)(bytes / r.piece), read_piece, &r);
        t = bench_seconds() - t;
        if ((double)bytes / t > best) best = (double)bytes / t;
    }
    free((void *)r.data);
    return best;
}

/* ---- linear ------------------------------------------------------------------------------------------------------------------ */

struct product {
    const struct linear_weight *w;
    const uint16_t *xb;
    float *y;
    int rows, outputs; /* outputs an item */
};

static void product_item(void *context, int64_t i, int thread) {
    struct product *p = context;
    int64_t o0 = i * p->outputs, o1 = o0 + p->outputs < p->w->out ? o0 + p->outputs : p->w->out;
    ops->linear(p->y, p->w->out, NULL, p->xb, p->w->in, p->rows, p->w, o0, o1, PRECISION_BF16, scratches[thread]);
}

static double multiply(struct product *p) {
    double t = bench_seconds();
    pool_run(pool, (p->w->out + p->outputs - 1) / p->outputs, product_item, p);
    return bench_seconds() - t;
}

static const struct shape {
    const char *what;
    int64_t out, in;
} shapes[] = {{"2B gate", 6144, 2048}, {"2B down", 2048, 6144}, {"4B gate", 9728, 2560}, {"4B down", 2560, 9728}, {"8B o", 4096, 4096}, {"8B down", 4096, 12288}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static uint16_t *random_rows(int rows, int64_t in) {
    uint16_t *x = cache_lines((size_t)rows * (size_t)in * 2);
    for (int64_t i = 0; i < rows * in; i++) x[i] = f32_to_bf16(random_float());
    return x;
}

static void bench_decode(double bandwidth) {
    printf("\ndecode, 1 row\n%-10s %6s %7s %6s %9s %9s\n", "matrix", "stored", "out", "in", "GB/s", "of read");
    for (int s = STORAGE_BF16; s <= STORAGE_NF4; s++)
        for (int k = 0; k < SHAPES; k++) {
            struct matrix m[64];
            matrix_new(&m[0], (enum storage)s, shapes[k].out, shapes[k].in, 0, 1);
            size_t bytes = linear_weight_bytes(&m[0].w);
            int copies = (int)(pass_bytes / bytes) + 1;
            if (copies > 64) copies = 64;
            for (int c = 1; c < copies; c++) { /* the same matrix elsewhere in memory */
                size_t n = s == STORAGE_BF16 ? (size_t)(m[0].w.out * m[0].w.in * 2) : s == STORAGE_NF4 ? (size_t)(m[0].w.out * m[0].w.in / 2) : (size_t)(m[0].w.out * m[0].w.in);
                m[c] = m[0];
                m[c].w.data = m[c].data = malloc(n);
                memcpy(m[c].data, m[0].data, n);
            }
            struct product p = {.xb = random_rows(1, shapes[k].in), .y = malloc((size_t)shapes[k].out * 4), .rows = 1, .outputs = 64};
            double best = 1e9;
            for (int pass = 0; pass < 5; pass++) {
                double t = 0;
                for (int c = 0; c < copies; c++) p.w = &m[c].w, t += multiply(&p);
                if (t < best) best = t;
            }
            double rate = (double)bytes * copies / best;
            printf("%-10s %6s %7d %6d %9.1f %8.0f%%\n", shapes[k].what, storage_names[s], (int)shapes[k].out, (int)shapes[k].in, rate * 1e-9, 100 * rate / bandwidth);
            fflush(stdout);
            for (int c = 1; c < copies; c++) free(m[c].data);
            matrix_free(&m[0]);
            free((void *)p.xb);
            free(p.y);
        }
}

/* Ours and oneDNN take turns, so that a moment in which one of two threads is kept waiting (by other programs, or by the threads of the other) spoils no figure. */
static void bench_prefill(int rows) {
    enum { ROUNDS = 4, PASSES = 4, KINDS = STORAGE_NF4 - STORAGE_BF16 + 1 };
    printf("\nprefill, %d rows\n%-10s %6s %7s %6s %9s %9s %9s\n", rows, "matrix", "stored", "out", "in", "GFLOP/s", "oneDNN", "of it");
    for (int k = 0; k < SHAPES; k++) {
        double work = 2.0 * rows * (double)shapes[k].out * (double)shapes[k].in, reference = 1e9, best[KINDS];
        uint16_t *x = random_rows(rows, shapes[k].in);
        float *y = malloc((size_t)rows * (size_t)shapes[k].out * sizeof *y);
        struct matrix m[KINDS];
        for (int s = 0; s < KINDS; s++) matrix_new(&m[s], (enum storage)(STORAGE_BF16 + s), shapes[k].out, shapes[k].in, 0, 1), best[s] = 1e9;
        for (int round = 0; round < ROUNDS; round++) {
            double t = onednn_seconds(rows, shapes[k].out, shapes[k].in, PASSES);
            if (t < reference) reference = t;
            for (int s = 0; s < KINDS; s++) {
                struct product p = {.w = &m[s].w, .xb = x, .y = y, .rows = rows, .outputs = (int)((shapes[k].out / (pool_threads(pool) * 4) + 63) / 64 * 64)};
                for (int pass = 0; pass < PASSES; pass++)
                    if ((t = multiply(&p)) < best[s]) best[s] = t;
            }
        }
        for (int s = 0; s < KINDS; s++) {
            printf("%-10s %6s %7d %6d %9.1f ", shapes[k].what, storage_names[STORAGE_BF16 + s], (int)shapes[k].out, (int)shapes[k].in, work / best[s] * 1e-9);
            if (reference > 0) printf("%9.1f %8.0f%%\n", work / reference * 1e-9, 100 * reference / best[s]);
            else printf("%9s %9s\n", "-", "-");
            matrix_free(&m[s]);
        }
        fflush(stdout);
        free(x);
        free(y);
    }
}

/* ---- attention --------------------------------------------------------------------------------------------------------------- */

struct attention {
    struct kv_view kv;
    float *q, *out;
    int q_heads, rows;
    int64_t length;
};

static void attention_item(void *context, int64_t i, int thread) {
    struct attention *a = context;
    int64_t ld = (int64_t)a->q_heads * a->kv.head_dim;
    if (a->rows == 1) ops->attend(a->out, a->q, a->q_heads, &a->kv, a->length, (int)i, (int)i + 1, scratches[thread]);
    else ops->attend_rows(a->out, ld, a->q, ld, a->rows, a->q_heads, &a->kv, a->length, (int)i, (int)i + 1, scratches[thread]);
}

static void bench_attend(double bandwidth) {
    printf("\ndecoder attention, 8 kv heads of 128, bf16\n%7s %6s %6s %9s %9s %9s\n", "context", "heads", "rows", "GFLOP/s", "GB/s", "of read");
    static const struct { int q_heads, rows; int64_t context; } cases[] = {{16, 1, 4096}, {32, 1, 4096}, {16, 1, 65536}, {32, 1, 65536}, {16, 256, 1024}, {32, 256, 1024}, {32, 256, 8192}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int64_t pages = (cases[k].context + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS, elements = 2 * 8 * KV_PAGE_TOKENS * 128;
        struct attention a = {.kv = {.v_offset = elements / 2, .kv_heads = 8, .head_dim = 128, .precision = PRECISION_BF16},
                              .q_heads = cases[k].q_heads, .rows = cases[k].rows, .length = cases[k].context - cases[k].rows + 1};
        void **page = malloc((size_t)pages * sizeof *page);
        for (int64_t p = 0; p < pages; p++) page[p] = random_rows(1, elements);
        a.kv.pages = page;
        size_t floats = (size_t)a.rows * (size_t)a.q_heads * 128;
        a.q = malloc(floats * 4);
        a.out = malloc(floats * 4);
        for (size_t i = 0; i < floats; i++) a.q[i] = random_float();
        double best = 1e9;
        for (int pass = 0; pass < 8; pass++) {
            double t = bench_seconds();
            pool_run(pool, 8, attention_item, &a);
            t = bench_seconds() - t;
            if (t < best) best = t;
        }
        double work = 4.0 * 128 * a.q_heads * a.rows * ((double)a.length + 0.5 * (a.rows - 1)), bytes = (double)pages * (double)elements * 2;
        printf("%7d %6d %6d %9.1f ", (int)cases[k].context, a.q_heads, a.rows, work / best * 1e-9);
        if (a.rows == 1) printf("%9.1f %8.0f%%%s\n", bytes / best * 1e-9, 100 * bytes / best / bandwidth, bytes < 64e6 ? " (fits the L3 cache)" : "");
        else printf("%9s %9s\n", "", "");
        fflush(stdout);
        for (int64_t p = 0; p < pages; p++) free(page[p]);
        free(page);
        free(a.q);
        free(a.out);
    }
}

struct vision {
    float *qkv, *out;
    int n, heads, head_dim;
};

static void vision_item(void *context, int64_t i, int thread) {
    struct vision *v = context;
    int64_t width = (int64_t)v->heads * v->head_dim;
    ops->attend_full(v->out, width, v->qkv, v->qkv + width, v->qkv + 2 * width, 3 * width, v->n, v->head_dim, (int)i, 0, v->n, PRECISION_BF16, scratches[thread]);
}

static void bench_vision(void) {
    printf("\nvision attention, 16 heads\n%8s %8s %9s %9s\n", "patches", "head_dim", "ms", "GFLOP/s");
    static const int cases[][2] = {{280, 64}, {600, 64}, {2400, 64}, {280, 72}, {2400, 72}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct vision v = {.n = cases[k][0], .heads = 16, .head_dim = cases[k][1]};
        size_t floats = (size_t)v.n * 16 * (size_t)v.head_dim;
        v.qkv = malloc(floats * 12);
        v.out = malloc(floats * 4);
        for (size_t i = 0; i < 3 * floats; i++) v.qkv[i] = random_float();
        double best = 1e9;
        for (int pass = 0; pass < 6; pass++) {
            double t = bench_seconds();
            pool_run(pool, 16, vision_item, &v);
            t = bench_seconds() - t;
            if (t < best) best = t;
        }
        printf("%8d %8d %9.2f %9.1f\n", v.n, v.head_dim, best * 1e3, 4.0 * v.n * v.n * v.head_dim * 16 / best * 1e-9);
        fflush(stdout);
        free(v.qkv);
        free(v.out);
    }
}

static void nothing(void *context, int64_t i, int thread) { (void)context, (void)i, (void)thread; }

static void bench_pool(void) {
    enum { N = 20000 };
    double best = 1e9;
    for (int pass = 0; pass < 5; pass++) {
        double t = bench_seconds();
        for (int i = 0; i < N; i++) pool_run(pool, pool_threads(pool), nothing, NULL);
        t = bench_seconds() - t;
        if (t < best) best = t;
    }
    printf("\nempty parallel region, hot: %.2f us\n", best / N * 1e6);
}

int main(int argc, char **argv) {
    struct err err = {0};
    const char *only = argc > 3 ? argv[3] : "";
    if (pool_new(argc > 1 ? atoi(argv[1]) : 0, &pool, &err) || !(ops = cpu_ops_select(argc > 2 && strcmp(argv[2], "best") ? argv[2] : NULL, &err))) {
        fprintf(stderr, "bench_ops: %s\n", err.message);
        return 1;
    }
    int threads = pool_threads(pool);
    size_t bytes = cpu_ops_scratch_bytes(MAX_IN, 128, MAX_PATCHES);
    scratches = malloc((size_t)threads * sizeof *scratches);
    for (int t = 0; t < threads; t++) memset(scratches[t] = cache_lines(bytes), 0, bytes);
    double bandwidth = read_bandwidth();
    printf("variant %s, %d threads, read bandwidth %.1f GB/s\n", ops->name, threads, bandwidth * 1e-9);
    if (!*only || !strcmp(only, "pool")) bench_pool();
    if (!*only || !strcmp(only, "decode")) bench_decode(bandwidth);
    if (!*only || !strcmp(only, "prefill")) bench_prefill(512);
    if (!*only || !strcmp(only, "attend")) bench_attend(bandwidth);
    if (!*only || !strcmp(only, "vision")) bench_vision();
    double after = read_bandwidth();
    printf("\nread bandwidth at the end %.1f GB/s\n", after * 1e-9);
    for (int t = 0; t < threads; t++) free(scratches[t]);
    free(scratches);
    pool_free(pool);
    return 0;
}
