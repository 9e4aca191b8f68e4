/* The second level of the prefix cache: pages in host memory, for devices with memory of their own. Least recently used within
 * a budget; a blob is shared by the keys that name one page. Callers hold the model's lock. */
#ifndef ENGINE_HOST_PAGES_H
#define ENGINE_HOST_PAGES_H

#include <pthread.h>

#include "backend/backend.h"
#include "engine/hash.h"

/* The bytes of one page as the backend exports them. */
struct host_blob {
    int refs, entries;      /* entries: of the refs, those of keys */
    void *bytes;
    struct host_blob *next; /* among the free ones */
};
struct host_slab;           /* memory of many blobs: pinning is slow, and letting go of pinned memory waits for the device */

struct host_entry {
    struct hash128 key;
    int tokens;
    struct host_blob *blob;
    float *logits;          /* (vocab) or NULL */
    struct host_entry *newer, *older, *next_in_bucket;
};

struct host_pages {
    const struct backend *backend;
    struct backend_model *device;
    size_t page_bytes, logits_bytes, limit, bytes;
    struct host_entry **buckets;
    size_t bucket_count;
    struct host_entry *newest, *oldest;
    int64_t pages, evicted;
    pthread_mutex_t pool;   /* guards the two below; taken last */
    struct host_blob *free;
    struct host_slab *slabs;
};

/* limit 0: a level that holds nothing. */
int host_pages_init(struct host_pages *h, const struct backend *backend, struct backend_model *device, int vocab, size_t limit,
                    struct err *err);
void host_pages_free(struct host_pages *h);
/* Drops every entry (blobs in use stay with their users). */
void host_pages_forget(struct host_pages *h);

/* Memory for a page with one reference, pinned where the backend offers that; NULL when the level is off or memory is short. Needs no
 * lock. */
struct host_blob *host_blob_new(struct host_pages *h);
void host_blob_hold(struct host_blob *b);
void host_blob_drop(struct host_pages *h, struct host_blob *b); /* b may be NULL */

/* The entry for key, now the most recently used; NULL. */
struct host_entry *host_pages_find(struct host_pages *h, struct hash128 key);
bool host_pages_has(const struct host_pages *h, struct hash128 key);
/* Keeps a filled blob (a reference of its own) under key. logits (copied) may be NULL. Out of memory: not kept. */
void host_pages_put(struct host_pages *h, struct hash128 key, int tokens, struct host_blob *blob, const float *logits);

#endif
