/* The page table and the prefix cache of one model.
 *
 * A page holds the keys and values of up to 32 tokens. Its key is a hash over everything before its end: model identity, then
 * every token (ids; for visual tokens the picture's content and the row). A page is valid for a key iff its first `tokens` slots
 * hold what that key names; slots behind may hold anything, so one page can serve a shorter and a longer key at once.
 *
 * Sequences and cache entries hold references. Only a page's writer (the sequence that took it) may write, and only into slots
 * behind those it has published; everyone else copies first. Entries are dropped, least recently used first, when a page is
 * needed and the budget is used up. Callers hold the model's lock. */
#ifndef ENGINE_KV_STORE_H
#define ENGINE_KV_STORE_H

#include <stddef.h>

#include "backend/backend.h"
#include "engine/hash.h"
#include "engine/logits_row.h"

struct kv_entry {
    struct hash128 key;
    int32_t page;
    int tokens;
    struct logits_row *logits; /* of the last of these tokens, one reference held; or NULL */
    struct kv_entry *newer, *older, *next_in_bucket;
};

struct kv_page {
    int refs;
    const void *writer;
};

struct kv_store {
    const struct backend *backend;
    struct backend_model *device;
    struct kv_page *pages;  /* (page_limit) */
    int32_t page_limit, pages_used;
    struct kv_entry **buckets;
    size_t bucket_count, entry_count;
    struct kv_entry *newest, *oldest;
    struct logits_rows rows;
    size_t logits_bytes, logits_limit, logits_size;
    int64_t hit_tokens, miss_tokens, evicted;
};

int kv_store_init(struct kv_store *s, const struct backend *backend, struct backend_model *device, int32_t pages, int vocab,
                  size_t logits_limit, struct err *err);
void kv_store_free(struct kv_store *s);

/* A page with one reference, or -1 when every page is in use by a sequence. */
int32_t kv_page_take(struct kv_store *s, const void *writer);
void kv_page_hold(struct kv_store *s, int32_t page);
void kv_page_drop(struct kv_store *s, int32_t page);

/* The entry for key (now the most recently used), or NULL. */
struct kv_entry *kv_find(struct kv_store *s, struct hash128 key);
/* The same without counting as use. */
struct kv_entry *kv_peek(const struct kv_store *s, struct hash128 key);
/* Publishes a page under key; keeps an entry that exists. logits (filled; the entry takes a reference) may be NULL. Out of memory:
 * not cached. */
void kv_publish(struct kv_store *s, struct hash128 key, int32_t page, int tokens, struct logits_row *logits);
/* Drops logits, the least recently used first, until the rest is within logits_limit. */
void kv_trim_logits(struct kv_store *s);
/* Drops every entry (pages in use stay with their sequences). */
void kv_forget(struct kv_store *s);

#endif
