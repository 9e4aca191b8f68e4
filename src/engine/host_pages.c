#include "engine/host_pages.h"

#include <stdlib.h>

int host_pages_init(struct host_pages *h, const struct backend *backend, struct backend_model *device, int vocab, size_t limit,
                    struct err *err) {
    *h = (struct host_pages){.backend = backend, .device = device, .page_bytes = backend->page_bytes(device),
                             .logits_bytes = (size_t)vocab * sizeof(float), .limit = limit, .bucket_count = 4096};
    if (limit == 0) return 0;
    pthread_mutex_init(&h->pool, NULL);
    h->buckets = calloc(h->bucket_count, sizeof(struct host_entry *));
    return h->buckets ? 0 : err_set(err, ERR_MEMORY, "out of memory for a table of host pages");
}

/* ---- memory ---- */

enum { SLAB_BYTES = 64 << 20 };

struct host_slab {
    struct host_slab *next;
    char *memory;
    struct host_blob blobs[];
};

/* A slab more: of at most an eighth of the budget. The pool's lock is held. */
static void add_slab(struct host_pages *h) {
    size_t count = SLAB_BYTES / h->page_bytes, most = h->limit / 8 / h->page_bytes;
    if (count > most) count = most;
    if (count < 1) count = 1;
    struct host_slab *s = calloc(1, sizeof *s + count * sizeof *s->blobs);
    void *memory = NULL;
    if (!s) return;
    if (h->backend->host_alloc) memory = h->backend->host_alloc(h->device, count * h->page_bytes);
    else if (posix_memalign(&memory, 4096, count * h->page_bytes)) memory = NULL;
    if (!(s->memory = memory)) {
        free(s);
        return;
    }
    for (size_t i = count; i-- > 0;) {
        s->blobs[i] = (struct host_blob){.bytes = s->memory + i * h->page_bytes, .next = h->free};
        h->free = &s->blobs[i];
    }
    s->next = h->slabs;
    h->slabs = s;
}

struct host_blob *host_blob_new(struct host_pages *h) {
    if (h->limit < h->page_bytes) return NULL;
    pthread_mutex_lock(&h->pool);
    if (!h->free) add_slab(h);
    struct host_blob *b = h->free;
    if (b) {
        h->free = b->next;
        *b = (struct host_blob){.bytes = b->bytes, .refs = 1};
    }
    pthread_mutex_unlock(&h->pool);
    return b;
}

void host_blob_hold(struct host_blob *b) { b->refs++; }

void host_blob_drop(struct host_pages *h, struct host_blob *b) {
    if (!b || --b->refs > 0) return;
    pthread_mutex_lock(&h->pool);
    b->next = h->free;
    h->free = b;
    pthread_mutex_unlock(&h->pool);
}

static void slabs_free(struct host_pages *h) {
    for (struct host_slab *s = h->slabs, *next; s; s = next) {
        next = s->next;
        if (h->backend->host_alloc) h->backend->host_free(h->device, s->memory);
        else free(s->memory);
        free(s);
    }
}

/* ---- entries ---- */

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
    if (h->limit > 0) {
        slabs_free(h);
        pthread_mutex_destroy(&h->pool);
    }
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
