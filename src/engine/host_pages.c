#include "engine/host_pages.h"

#include <stdlib.h>

int host_pages_init(struct host_pages *h, const struct backend *backend, struct backend_model *device, int vocab, size_t limit,
                    struct err *err) {
    *h = (struct host_pages){.backend = backend, .device = device, .page_bytes = backend->page_bytes(device),
                             .logits_bytes = (size_t)vocab * sizeof(float), .limit = limit, .bucket_count = 4096};
    if (limit == 0) return 0;
    h->buckets = calloc(h->bucket_count, sizeof(struct host_entry *));
    return h->buckets ? 0 : err_set(err, ERR_MEMORY, "out of memory for a table of host pages");
}

struct host_blob *host_blob_new(const struct host_pages *h) {
    struct host_blob *b = h->limit >= h->page_bytes ? calloc(1, sizeof *b) : NULL;
    if (!b) return NULL;
    if (h->backend->host_alloc) b->bytes = h->backend->host_alloc(h->device, h->page_bytes);
    else if (posix_memalign(&b->bytes, 4096, h->page_bytes)) b->bytes = NULL;
    if (!b->bytes) {
        free(b);
        return NULL;
    }
    b->refs = 1;
    return b;
}

void host_blob_hold(struct host_blob *b) { b->refs++; }

void host_blob_drop(const struct host_pages *h, struct host_blob *b) {
    if (!b || --b->refs > 0) return;
    if (h->backend->host_alloc) h->backend->host_free(h->device, b->bytes);
    else free(b->bytes);
    free(b);
}

static struct host_entry **bucket_of(const struct host_pages *h, struct hash128 key) {
    return &h->buckets[key.low & (h->bucket_count - 1)];
}

static struct host_entry *look(const struct host_pages *h, struct hash128 key) {
    struct host_entry *e = h->buckets ? *bucket_of(h, key) : NULL;
    while (e && !hash_equal(e->key, key)) e = e->next_in_bucket;
    return e;
}

static void unlink_entry(struct host_pages *h, struct host_entry *e) {
    if (e->newer) e->newer->older = e->older;
    else h->newest = e->older;
    if (e->older) e->older->newer = e->newer;
    else h->oldest = e->newer;
}

static void link_newest(struct host_pages *h, struct host_entry *e) {
    e->newer = NULL;
    e->older = h->newest;
    if (h->newest) h->newest->newer = e;
    else h->oldest = e;
    h->newest = e;
}

static void drop_entry(struct host_pages *h, struct host_entry *e) {
    struct host_entry **at = bucket_of(h, e->key);
    while (*at != e) at = &(*at)->next_in_bucket;
    *at = e->next_in_bucket;
    unlink_entry(h, e);
    if (e->logits) h->bytes -= h->logits_bytes;
    if (--e->blob->entries == 0) h->bytes -= h->page_bytes, h->pages--;
    host_blob_drop(h, e->blob);
    free(e->logits);
    free(e);
}

void host_pages_forget(struct host_pages *h) {
    while (h->oldest) drop_entry(h, h->oldest);
}

void host_pages_free(struct host_pages *h) {
    host_pages_forget(h);
    free(h->buckets);
    *h = (struct host_pages){0};
}

struct host_entry *host_pages_find(struct host_pages *h, struct hash128 key) {
    struct host_entry *e = look(h, key);
    if (!e) return NULL;
    unlink_entry(h, e);
    link_newest(h, e);
    return e;
}

bool host_pages_has(const struct host_pages *h, struct hash128 key) { return look(h, key) != NULL; }

static void add_logits(struct host_pages *h, struct host_entry *e, const float *logits) {
    if (!logits || e->logits || !(e->logits = malloc(h->logits_bytes))) return;
    memcpy(e->logits, logits, h->logits_bytes);
    h->bytes += h->logits_bytes;
}

void host_pages_put(struct host_pages *h, struct hash128 key, int tokens, struct host_blob *blob, const float *logits) {
    struct host_entry *e = host_pages_find(h, key);
    if (!e) {
        if (!h->buckets || !(e = calloc(1, sizeof *e))) return;
        *e = (struct host_entry){.key = key, .tokens = tokens, .blob = blob};
        host_blob_hold(blob);
        struct host_entry **bucket = bucket_of(h, key);
        e->next_in_bucket = *bucket;
        *bucket = e;
        link_newest(h, e);
        if (blob->entries++ == 0) h->bytes += h->page_bytes, h->pages++;
    }
    add_logits(h, e, logits);
    while (h->oldest && h->bytes > h->limit) {
        drop_entry(h, h->oldest);
        h->evicted++;
    }
}
