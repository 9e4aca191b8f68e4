/* KV pages: one allocation of as many pages as the budget holds. Within a page, layer after layer, keys (kv_heads, 32, head_dim) then
 * values (same), bf16; or, where the model was loaded so, e4m3: of each kv head 32 x head_dim bytes, then 32 factors in fp32, one a token, so
 * that a token is written without touching what lies before it (value = byte * factor, factor = max |x| / 448). Copies run on a stream of their own, so that they do not wait for a pass under way; one that the host does not wait
 * for is waited for by the next pass (copies_wait). */
#include "backend/cuda/room.h"

int kv_open(struct backend_model *m, size_t budget, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    m->layer_stride = (int64_t)t->kv_heads * head_block_bytes(t->head_dim, m->kv8); /* keys and values, two bytes each */
    m->page_bytes = (size_t)m->layer_stride * (size_t)t->layers * 2;
    size_t count = budget / m->page_bytes;
    if (count == 0)
        return err_set(err, ERR_LIMIT, "the budget for KV pages is %zu bytes, but one page of %d tokens takes %zu bytes", budget, PAGE, m->page_bytes);
    if (count > (size_t)1 << 21) count = (size_t)1 << 21; /* 64 M tokens: more than any use, keeps the tables small */
    m->capacity = (int32_t)count;
    m->free_pages = (int32_t *)malloc(count * sizeof *m->free_pages);
    if (!m->free_pages) return err_set(err, ERR_MEMORY, "out of memory for a table of %zu KV pages", count);
    int r = cuda_failed(cudaMalloc((void **)&m->kv, count * m->page_bytes), "memory for KV pages", err);
    /* Slots not yet written may be read (and discarded) by a blocked kernel: let them hold numbers. */
    if (!r) r = cuda_failed(cudaMemsetAsync(m->kv, 0, count * m->page_bytes, m->stream), "clearing KV pages", err);

    return r;
}

int32_t cuda_page_alloc(struct backend_model *m) {
    if (m->free_count > 0) return m->free_pages[--m->free_count];
    if (m->used_high == m->capacity) return -1;
    __atomic_store_n(&m->used_high, m->used_high + 1, __ATOMIC_RELEASE);
    return m->used_high - 1;
}

void cuda_page_free(struct backend_model *m, int32_t page) { m->free_pages[m->free_count++] = page; }

size_t cuda_page_bytes(const struct backend_model *m) { return m->page_bytes; }

static int page_check(const struct backend_model *m, int32_t page, struct err *err) {
    int32_t high = __atomic_load_n(&m->used_high, __ATOMIC_ACQUIRE);
    if (page < 0 || page >= high) return err_set(err, ERR_ARGUMENT, "KV page %d does not exist (%d pages in use)", page, high);
    return 0;
}

static char *page_at(const struct backend_model *m, int32_t page) { return m->kv + (size_t)page * m->page_bytes; }

/* What `from` holds was written by passes that have ended: forward waits for the device. Whatever is imported into `from` later runs on
 * the same stream. */
int cuda_page_copy(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    int r = page_check(m, to, err);
    if (!r) r = page_check(m, from, err);
    if (r) return r;
    if (tokens < 0 || tokens > PAGE) return err_set(err, ERR_ARGUMENT, "copy of %d tokens of a KV page of %d", tokens, PAGE);
    if (tokens == 0) return 0;
    size_t heads = 2 * (size_t)t->layers * (size_t)t->kv_heads, whole = m->page_bytes / heads; /* of one head's 32 slots */
    size_t slot = (size_t)t->head_dim * (m->kv8 ? 1 : 2), factors = slot * PAGE; /* what else there is lies behind all slots */
    r = cuda_failed(cudaMemcpy2DAsync(page_at(m, to), whole, page_at(m, from), whole, slot * (size_t)tokens, heads, cudaMemcpyDeviceToDevice, m->copy_stream),
                    "copying a KV page", err);
    if (!r && m->kv8)
        r = cuda_failed(cudaMemcpy2DAsync(page_at(m, to) + factors, whole, page_at(m, from) + factors, whole, 4 * (size_t)tokens, heads, cudaMemcpyDeviceToDevice, m->copy_stream),
                        "copying a KV page", err);
    if (!r) r = cuda_failed(cudaEventRecord(m->copied, m->copy_stream), "copying a KV page", err);
    __atomic_store_n(&m->copies, 1, __ATOMIC_RELEASE);
    return r;
}

int copies_wait(struct backend_model *m, struct err *err) {
    if (!__atomic_exchange_n(&m->copies, 0, __ATOMIC_ACQ_REL)) return 0;
    return cuda_failed(cudaStreamWaitEvent(m->stream, m->copied, 0), "waiting for copies of KV pages", err);
}

int cuda_page_export(struct backend_model *m, int32_t page, void *out, struct err *err) {
    int r = page_check(m, page, err);
    if (!r) r = cuda_failed(cudaMemcpyAsync(out, page_at(m, page), m->page_bytes, cudaMemcpyDeviceToHost, m->copy_stream), "reading a KV page", err);
    return r ? r : cuda_failed(cudaStreamSynchronize(m->copy_stream), "reading a KV page", err);
}

int cuda_page_import(struct backend_model *m, int32_t page, const void *in, struct err *err) {
    int r = page_check(m, page, err);
    if (!r) r = cuda_failed(cudaMemcpyAsync(page_at(m, page), in, m->page_bytes, cudaMemcpyHostToDevice, m->copy_stream), "writing a KV page", err);
    return r ? r : cuda_failed(cudaStreamSynchronize(m->copy_stream), "writing a KV page", err);
}

int cuda_pages_import(struct backend_model *m, const int32_t *pages, const void *const *in, int count, struct err *err) {
    int r = 0;
    for (int i = 0; i < count && !r; i++) {
        r = page_check(m, pages[i], err);
        if (!r) r = cuda_failed(cudaMemcpyAsync(page_at(m, pages[i]), in[i], m->page_bytes, cudaMemcpyHostToDevice, m->copy_stream), "writing KV pages", err);
    }
    int late = cuda_failed(cudaStreamSynchronize(m->copy_stream), "writing KV pages", r ? NULL : err);
    return r ? r : late;
}

void *cuda_host_alloc(struct backend_model *m, size_t bytes) {
    void *p = NULL;
    cudaSetDevice(m->device);
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault)) cudaGetLastError();
    return p;
}

void cuda_host_free(struct backend_model *m, void *memory) {
    (void)m;
    if (memory) cudaFreeHost(memory);
}
