/* Linear layers over the team of threads: the outputs are cut into blocks, one work item each; what follows a layer element
 * by element (residual addition, activation function, rounding for the next layer) happens in the item while its block is
 * in the cache. Several layers with the same input share one parallel region. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/model.h"

void *workspace_get(struct backend_model *m, int slot, size_t bytes) {
    struct workspace *w = &m->work[slot];
    if (w->bytes >= bytes) return w->data;
    size_t want = bytes + bytes / 8 + 4096;
    free(w->data);
    w->data = NULL;
    w->bytes = 0;
    if (want < bytes || posix_memalign(&w->data, 64, want)) return w->data = NULL;
    w->bytes = want;
    return w->data;
}

int scratch_reserve(struct backend_model *m, int64_t max_in, int head_dim, int64_t max_patches, struct err *err) {
    size_t bytes = (cpu_ops_scratch_bytes(max_in, head_dim, max_patches) + 4095) & ~(size_t)4095;
    if (bytes <= m->scratch_bytes) return 0;
    free(m->scratch.data);
    m->scratch = (struct workspace){0};
    m->scratch_bytes = 0;
    size_t all = bytes * (size_t)pool_threads(m->pool);
    if (posix_memalign(&m->scratch.data, 4096, all)) {
        m->scratch.data = NULL;
        return err_set(err, ERR_MEMORY, "out of memory: %zu bytes of scratch for %d threads", all, pool_threads(m->pool));
    }
    m->scratch.bytes = all;
    m->scratch_bytes = bytes;
    return 0;
}

int activation_get(struct backend_model *m, int slot, int64_t rows, int64_t n, bool quantised, struct activation *a,
                   struct err *err) {
    memset(a, 0, sizeof *a);
    a->n = n;
    size_t count = (size_t)rows * (size_t)n;
    a->x = workspace_get(m, slot, count * sizeof *a->x);
    bool ok = a->x != NULL;
    if (ok && (m->precision != PRECISION_F32 || (quantised && m->fp8_activations)))
        ok = (a->xb = workspace_get(m, slot + 1, count * sizeof *a->xb)) != NULL;
    if (ok && quantised && m->fp8_activations) {
        a->q = workspace_get(m, slot + 2, count * sizeof *a->q);
        a->factors = workspace_get(m, slot + 3, (size_t)rows * (size_t)((n + 127) / 128) * sizeof *a->factors);
        ok = a->q && a->factors;
    }
    return ok ? 0 : err_set(err, ERR_MEMORY, "out of memory for activations: %lld rows of %lld", (long long)rows, (long long)n);
}

void activation_round(const struct backend_model *m, const struct activation *a, int64_t r, int64_t c0, int64_t c1) {
    if (a->xb) m->ops->round_bf16(a->xb + r * a->n + c0, a->x + r * a->n + c0, c1 - c0);
}

void activation_quantise(const struct backend_model *m, const struct activation *a, int64_t r) {
    if (a->q) m->ops->quantise_e4m3(a->q + r * a->n, a->factors + r * ((a->n + 127) / 128), a->xb + r * a->n, a->n);
}

struct linear_region {
    struct backend_model *m;
    const struct linear_job *jobs;
    int count;
    int64_t block[4], end[4]; /* outputs of one item; items up to and including job j */
};

static void multiply(const struct backend_model *m, const struct linear_weight *w, const struct activation *in, float *y,
                     int64_t ldy, int rows, int64_t o0, int64_t o1, void *scratch) {
    if (in->q && w->storage == STORAGE_FP8_BLOCK)
        m->ops->linear(y, ldy, in->factors, in->q, in->n, rows, w, o0, o1, PRECISION_FP8_E4M3, scratch);
    else
        m->ops->linear(y, ldy, in->x, in->xb, in->n, rows, w, o0, o1, m->precision, scratch);
}

static void linear_item(void *context, int64_t i, int thread) {
    const struct linear_region *g = context;
    struct backend_model *m = g->m;
    int j = 0;
    while (i >= g->end[j]) j++;
    const struct linear_job *job = &g->jobs[j];
    int64_t o0 = (i - (j ? g->end[j - 1] : 0)) * g->block[j], o1 = o0 + g->block[j];
    if (o1 > job->w->out) o1 = job->w->out;
    void *scratch = scratch_of(m, thread);
    multiply(m, job->w, job->in, job->y, job->ldy, job->rows, o0, o1, scratch);
    if (job->epilogue == EPILOGUE_SILU_MUL) multiply(m, job->up, job->in, job->y2, job->ldy, job->rows, o0, o1, scratch);
    for (int64_t r = 0; r < job->rows; r++) {
        float *y = job->y + r * job->ldy + o0;
        switch (job->epilogue) {
        case EPILOGUE_NONE: break;
        case EPILOGUE_ADD: {
            float *h = job->add_to + r * job->ldy + o0;
            for (int64_t o = 0; o < o1 - o0; o++) h[o] += y[o];
            break;
        }
        case EPILOGUE_GELU_TANH: m->ops->gelu_tanh(y, o1 - o0); break;
        case EPILOGUE_GELU_ERF: m->ops->gelu_erf(y, o1 - o0); break;
        case EPILOGUE_SILU_MUL: m->ops->silu_mul(y, y, job->y2 + r * job->ldy + o0, o1 - o0); break;
        }
        if (job->out) activation_round(m, job->out, r, o0, o1);
    }
}

void linear_run(struct backend_model *m, struct linear_job *jobs, int count) {
    struct linear_region g = {.m = m, .jobs = jobs, .count = count};
    int threads = pool_threads(m->pool);
    int64_t items = 0, work = 0;
    for (int j = 0; j < count; j++) {
        int64_t out = jobs[j].w->out;
        /* A few items a thread, for balance; not so small that packing the rows once an item costs more than the product. */
        int64_t block = out / (threads * (jobs[j].rows < 8 ? 8 : m->ops->decode_outputs ? 2 : 4)), least = jobs[j].rows >= 8 ? 64 : 16;
        /* FP8: a block row of 128 outputs shares its look-up tables. */
        if (jobs[j].w->storage == STORAGE_FP8_BLOCK && out >= 128 * threads) least = 128;
        if (m->ops->decode_outputs && jobs[j].rows < 8 && out >= m->ops->decode_outputs * threads) {
            /* A megabyte at most, so that the threads end together; of small matrices half as many outputs, for the same reason. */
            for (block = m->ops->decode_outputs; block > 32 && linear_weight_bytes(jobs[j].w) / out * block > 1 << 20;) block /= 2;
            if (linear_weight_bytes(jobs[j].w) < 1 << 20) block = m->ops->decode_outputs / 2;
            least = block;
        }
        block = (block + least - 1) / least * least;
        if (block < least) block = least;
        if (jobs[j].rows > 0) items += (out + block - 1) / block;
        g.block[j] = block;
        g.end[j] = items;
        work += jobs[j].rows * out * jobs[j].w->in;
    }
    if (work < 40000) /* less than a thread's waking costs */
        for (int64_t i = 0; i < items; i++) linear_item(&g, i, 0);
    else
        pool_run(m->pool, items, linear_item, &g);
}
