/* KV pages of the CPU backend: 32 tokens of every layer in one block of memory,
 *     layer 0 keys (kv_heads, 32, head_dim), layer 0 values (same), layer 1 keys, ...
 * in bf16, or fp32 with exact products. A page gets its memory when it is first used and keeps it for the next user, so
 * that steady play allocates nothing; the budget is a number of pages. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/model.h"

_Static_assert((int)KV_PAGE_TOKENS == (int)BACKEND_PAGE_TOKENS, "one page size for engine and operations");

int kv_pages_init(struct backend_model *m, size_t budget, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    struct kv_pages *kv = &m->kv;
    kv->layer_stride = 2 * (int64_t)t->kv_heads * KV_PAGE_TOKENS * t->head_dim;
    size_t element = m->precision == PRECISION_F32 ? 4 : 2;
    kv->page_bytes = (size_t)kv->layer_stride * (size_t)t->layers * element;
    size_t count = budget / kv->page_bytes;
    if (count == 0)
        return err_set(err, ERR_LIMIT, "the budget for KV pages is %zu bytes, but one page of %d tokens takes %zu bytes", budget,
                       KV_PAGE_TOKENS, kv->page_bytes);
    if (count > INT32_MAX / 2) count = INT32_MAX / 2;
    size_t useful = ((size_t)1 << 26) / KV_PAGE_TOKENS; /* 64 M tokens: more than any use, keeps the tables small */
    if (count > useful) count = useful;
    kv->capacity = (int32_t)count;
    kv->pages = calloc(count, sizeof *kv->pages);
    kv->free_list = malloc(count * sizeof *kv->free_list);
    if (!kv->pages || !kv->free_list) return err_set(err, ERR_MEMORY, "out of memory for a table of %zu KV pages", count);
    return 0;
}

void kv_pages_free(struct kv_pages *kv) {
    for (int32_t i = 0; i < kv->used_high; i++) free(kv->pages[i]);
    free(kv->pages);
    free(kv->free_list);
    memset(kv, 0, sizeof *kv);
}

int32_t cpu_page_alloc(struct backend_model *m) {
    struct kv_pages *kv = &m->kv;
    if (kv->free_count > 0) return kv->free_list[--kv->free_count];
    if (kv->used_high == kv->capacity) return -1;
    void *page = NULL;
    if (posix_memalign(&page, 64, kv->page_bytes)) return -1;
    /* Positions not yet written may be read (and discarded) by a blocked kernel: let them hold numbers. */
    memset(page, 0, kv->page_bytes);
    kv->pages[kv->used_high] = page;
    __atomic_store_n(&kv->used_high, kv->used_high + 1, __ATOMIC_RELEASE);
    return kv->used_high - 1;
}

void cpu_page_free(struct backend_model *m, int32_t page) { m->kv.free_list[m->kv.free_count++] = page; }

static int page_check(const struct backend_model *m, int32_t page, struct err *err) {
    if (page < 0 || page >= kv_pages_high(&m->kv))
        return err_set(err, ERR_ARGUMENT, "KV page %d does not exist (%d pages in use)", page, kv_pages_high(&m->kv));
    return 0;
}

int cpu_page_copy(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err) {
    const struct text_config *t = &m->w.config.text;
    int r = page_check(m, to, err);
    if (!r) r = page_check(m, from, err);
    if (r) return r;
    if (tokens < 0 || tokens > KV_PAGE_TOKENS)
        return err_set(err, ERR_ARGUMENT, "copy of %d tokens of a KV page of %d", tokens, KV_PAGE_TOKENS);
    size_t heads = 2 * (size_t)t->layers * (size_t)t->kv_heads, whole = m->kv.page_bytes / heads; /* of one head's 32 slots */
    char *out = m->kv.pages[to];
    const char *in = m->kv.pages[from];
    for (size_t h = 0; h < heads; h++) memcpy(out + h * whole, in + h * whole, whole / KV_PAGE_TOKENS * (size_t)tokens);
    return 0;
}

size_t cpu_page_bytes(const struct backend_model *m) { return m->kv.page_bytes; }

int cpu_page_export(struct backend_model *m, int32_t page, void *out, struct err *err) {
    int r = page_check(m, page, err);
    if (!r) memcpy(out, m->kv.pages[page], m->kv.page_bytes);
    return r;
}

int cpu_page_import(struct backend_model *m, int32_t page, const void *in, struct err *err) {
    int r = page_check(m, page, err);
    if (!r) memcpy(m->kv.pages[page], in, m->kv.page_bytes);
    return r;
}
