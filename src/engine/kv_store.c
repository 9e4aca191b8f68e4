#include "engine/kv_store.h"

#include <stdlib.h>

int kv_store_init(struct kv_store *s, const struct backend *backend, struct backend_model *device, int32_t pages, int vocab,
                  size_t logits_limit, struct err *err) {
    *s = (struct kv_store){.backend = backend, .device = device, .page_limit = pages, .bucket_count = 1024,
                           .logits_limit = logits_limit, .logits_size = (size_t)vocab * sizeof(float)};
    logits_rows_init(&s->rows, backend, device, vocab);
    s->pages = calloc((size_t)pages, sizeof *s->pages);
    s->buckets = calloc(s->bucket_count, sizeof(struct kv_entry *));
    if (!s->pages || !s->buckets) return err_set(err, ERR_MEMORY, "out of memory for a table of %d KV pages", pages);
    return 0;
}

void kv_store_free(struct kv_store *s) {
    if (s->buckets) kv_forget(s);
    logits_rows_free(&s->rows);
    free(s->pages);
    free(s->buckets);
    *s = (struct kv_store){0};
}

/* ---- the list by use ---- */

static void unlink_entry(struct kv_store *s, struct kv_entry *e) {
    if (e->newer) e->newer->older = e->older;
    else s->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else s->oldest = e->newer;
}

static void link_newest(struct kv_store *s, struct kv_entry *e) {
    e->newer = NULL;
    e->older = s->newest;
    if (s->newest) s->newest->newer = e;
    else s->oldest = e;
    s->newest = e;
}

static struct kv_entry **bucket_of(const struct kv_store *s, struct hash128 key) {
    return &s->buckets[key.low & (s->bucket_count - 1)];
}

static void drop_logits(struct kv_store *s, struct kv_entry *e) {
    if (!e->logits) return;
    logits_row_drop(&s->rows, e->logits);
    e->logits = NULL;
    s->logits_bytes -= s->logits_size;
}

static void drop_entry(struct kv_store *s, struct kv_entry *e) {
    struct kv_entry **at = bucket_of(s, e->key);
    while (*at != e) at = &(*at)->next_in_bucket;
    *at = e->next_in_bucket;
    unlink_entry(s, e);
    drop_logits(s, e);
    kv_page_drop(s, e->page);
    free(e);
    s->entry_count--;
}

void kv_forget(struct kv_store *s) {
    while (s->oldest) drop_entry(s, s->oldest);
}

/* ---- pages ---- */

int32_t kv_page_take(struct kv_store *s, const void *writer) {
    int32_t page = s->pages_used < s->page_limit ? s->backend->page_alloc(s->device) : -1;
    for (struct kv_entry *e = s->oldest; page < 0 && e;) {
        struct kv_entry *newer = e->newer;
        int refs = s->pages[e->page].refs;
        drop_entry(s, e); /* even when another reference keeps the page: a second, shorter key often follows */
        s->evicted++;
        if (refs == 1) page = s->backend->page_alloc(s->device);
        e = newer;
    }
    if (page < 0) return -1;
    s->pages_used++;
    s->pages[page] = (struct kv_page){.refs = 1, .writer = writer};
    return page;
}

void kv_page_hold(struct kv_store *s, int32_t page) { s->pages[page].refs++; }

void kv_page_drop(struct kv_store *s, int32_t page) {
    if (--s->pages[page].refs > 0) return;
    s->pages_used--;
    s->backend->page_free(s->device, page);
}

/* ---- entries ---- */

struct kv_entry *kv_peek(const struct kv_store *s, struct hash128 key) {
    struct kv_entry *e = *bucket_of(s, key);
    while (e && !hash_equal(e->key, key)) e = e->next_in_bucket;
    return e;
}

struct kv_entry *kv_find(struct kv_store *s, struct hash128 key) {
    struct kv_entry *e = kv_peek(s, key);
    if (!e) return NULL;
    unlink_entry(s, e);
    link_newest(s, e);
    return e;
}

static void grow(struct kv_store *s) {
    size_t count = s->bucket_count * 4;
    struct kv_entry **more = calloc(count, sizeof(struct kv_entry *));
    if (!more) return; /* longer chains, same answers */
    for (size_t i = 0; i < s->bucket_count; i++)
        for (struct kv_entry *e = s->buckets[i], *next; e; e = next) {
            next = e->next_in_bucket;
            struct kv_entry **to = &more[e->key.low & (count - 1)];
            e->next_in_bucket = *to;
            *to = e;
        }
    free(s->buckets);
    s->buckets = more;
    s->bucket_count = count;
}

void kv_trim_logits(struct kv_store *s) {
    for (struct kv_entry *old = s->oldest; old && s->logits_bytes > s->logits_limit; old = old->newer) drop_logits(s, old);
}

static void keep_logits(struct kv_store *s, struct kv_entry *e, struct logits_row *logits) {
    if (e->logits || s->logits_size > s->logits_limit) return;
    for (struct kv_entry *old = s->oldest; old && s->logits_bytes + s->logits_size > s->logits_limit; old = old->newer)
        drop_logits(s, old);
    logits_row_hold(e->logits = logits);
    s->logits_bytes += s->logits_size;
}

void kv_publish(struct kv_store *s, struct hash128 key, int32_t page, int tokens, struct logits_row *logits) {
    struct kv_entry *e = kv_find(s, key);
    if (!e) {
        if (s->entry_count > 2 * s->bucket_count) grow(s);
        e = calloc(1, sizeof *e);
        if (!e) return;
        e->key = key;
        e->page = page;
        e->tokens = tokens;
        kv_page_hold(s, page);
        struct kv_entry **bucket = bucket_of(s, key);
        e->next_in_bucket = *bucket;
        *bucket = e;
        link_newest(s, e);
        s->entry_count++;
    }
    if (logits) keep_logits(s, e, logits);
}
