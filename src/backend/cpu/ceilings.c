/* What this machine can do at best, measured now: reads from memory, and bf16 products of the shape that prefill has. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/bandwidth.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/pool.h"
#include "base/clock.h"

enum { ROWS = 512, OUT = 6144, IN = 2048, BLOCK = 128, PASSES = 3 }; /* the 2B model's gate over one chunk */

struct product {
    const struct cpu_ops *ops;
    struct linear_weight w;
    const uint16_t *x;
    float *y;
    char *scratch;
    size_t scratch_bytes; /* of one thread */
};

static void item_product(void *context, int64_t i, int thread) {
    const struct product *p = context;
    p->ops->linear(p->y, OUT, NULL, p->x, IN, ROWS, &p->w, i * BLOCK, (i + 1) * BLOCK, PRECISION_BF16,
                   p->scratch + (size_t)thread * p->scratch_bytes);
}

static double product_rate(struct pool *pool, struct product *p) {
    double best = 0;
    for (int i = 0; i < PASSES; i++) {
        double start = clock_seconds();
        pool_run(pool, OUT / BLOCK, item_product, p);
        double rate = 2.0 * ROWS * OUT * IN / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

int cpu_ceilings(const struct backend_options *o, struct backend_ceilings *out, struct err *err) {
    struct product p = {.w = {.storage = STORAGE_BF16, .out = OUT, .in = IN, .name = "ceiling"},
                        .scratch_bytes = (cpu_ops_scratch_bytes(IN, 128, 1024) + 4095) & ~(size_t)4095};
    struct pool *pool = NULL;
    void *scratch = NULL;
    *out = (struct backend_ceilings){0};
    int r = cpu_read_bandwidth(o->threads, &out->read_bytes, err);
    if (r || !(p.ops = cpu_ops_select(o->cpu_limit, err))) return r ? r : ERR_ARGUMENT;
    if ((r = pool_new(o->threads, &pool, err))) return r;
    uint16_t *matrix = malloc((size_t)OUT * IN * sizeof *matrix), *x = malloc((size_t)ROWS * IN * sizeof *x);
    p.y = malloc((size_t)ROWS * OUT * sizeof *p.y);
    if (!matrix || !x || !p.y || posix_memalign(&scratch, 4096, p.scratch_bytes * (size_t)pool_threads(pool))) {
        r = err_set(err, ERR_MEMORY, "out of memory for measuring products");
    } else {
        for (size_t i = 0; i < (size_t)OUT * IN; i++) matrix[i] = (uint16_t)(0x3c00 + i % 251); /* about 0.01 */
        for (size_t i = 0; i < (size_t)ROWS * IN; i++) x[i] = (uint16_t)(0x3f80 + i % 127);     /* about 1 */
        p.w.data = matrix;
        p.x = x;
        p.scratch = scratch;
        out->product_flops = product_rate(pool, &p);
    }
    free(matrix);
    free(x);
    free(p.y);
    free(scratch);
    pool_free(pool);
    return r;
}
