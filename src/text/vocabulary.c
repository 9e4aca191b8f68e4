/* Two open-addressing tables, at most two thirds full, so that a search always ends: bytes -> id, (left, right) -> merge. */
#include "text/vocabulary.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

enum { AHEAD = 16, HUGE_PAGE = 2 << 20 };

static uint64_t key_of(const char *bytes, size_t n) { return n <= 8 ? short_key(bytes, n) : XXH3_64bits(bytes, n); }

static uint32_t place_of(uint64_t key, size_t n) {
    uint64_t h = (key ^ n) * 0x9E3779B97F4A7C15u;
    return (uint32_t)((h ^ h >> 29) * 0xBF58476D1CE4E5B9u >> 32);
}

/* A power of two with room for entries at two thirds, and at least one free place. */
static size_t table_size(size_t entries) {
    size_t size = 1024;
    while (size * 2 < entries * 3) size *= 2;
    return size;
}

/* All bytes 0xFF. Large tables ask for huge pages: random access then rarely misses the TLB. */
static void *table_new(size_t bytes) {
    void *p = NULL;
    if (posix_memalign(&p, bytes >= HUGE_PAGE ? HUGE_PAGE : 64, bytes) != 0) return NULL;
    if (bytes >= HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE); /* a hint: refusal costs only speed */
    return memset(p, 0xFF, bytes);
}

static int grow_pieces(struct vocabulary *v, int32_t count) {
    int32_t cap = v->cap ? v->cap : 1024;
    while (cap < count) cap *= 2;
    struct piece *pieces = realloc(v->pieces, (size_t)cap * sizeof *pieces);
    if (!pieces) return ERR_MEMORY;
    memset(pieces + v->cap, 0, (size_t)(cap - v->cap) * sizeof *pieces);
    v->pieces = pieces;
    v->cap = cap;
    return 0;
}

int vocabulary_add(struct vocabulary *v, int32_t id, const char *bytes, size_t n, uint32_t flags) {
    if (id < 0 || id >= VOCABULARY_MAX_ID || n > UINT32_MAX / 2 || v->pool.len > UINT32_MAX / 2) return ERR_LIMIT;
    if (id >= v->cap && grow_pieces(v, id + 1)) return ERR_MEMORY;
    struct piece *p = &v->pieces[id];
    if (p->flags & PIECE_PRESENT) return ERR_FORMAT;
    *p = (struct piece){(uint32_t)v->pool.len, (uint32_t)n, flags | PIECE_PRESENT};
    buf_append(&v->pool, bytes, n);
    if (id >= v->count) v->count = id + 1;
    return v->pool.failed ? ERR_MEMORY : 0;
}

static bool same_piece(const struct vocabulary *v, const struct slot *s, uint64_t key, const char *bytes, size_t n) {
    return s->key == key && s->len == n && (n <= 8 || memcmp(piece_bytes(v, s->id), bytes, n) == 0);
}

int vocabulary_index(struct vocabulary *v, int32_t *twice) {
    size_t size = table_size((size_t)v->count);
    v->slots = table_new(size * sizeof *v->slots);
    if (!v->slots) return ERR_MEMORY;
    v->slot_mask = (uint32_t)size - 1;
    for (int32_t id = 0; id < v->count; id++) {
        if (id + AHEAD < v->count) vocabulary_prefetch(v, piece_bytes(v, id + AHEAD), v->pieces[id + AHEAD].len);
        const struct piece *p = &v->pieces[id];
        if (p->flags != PIECE_PRESENT) continue;
        uint64_t key = key_of(piece_bytes(v, id), p->len);
        uint32_t at = place_of(key, p->len) & v->slot_mask;
        for (; v->slots[at].id >= 0; at = (at + 1) & v->slot_mask)
            if (same_piece(v, &v->slots[at], key, piece_bytes(v, id), p->len)) return *twice = id, ERR_FORMAT;
        v->slots[at] = (struct slot){key, p->len, id};
    }
    return 0;
}

void vocabulary_prefetch(const struct vocabulary *v, const char *bytes, size_t n) {
    __builtin_prefetch(&v->slots[place_of(key_of(bytes, n), n) & v->slot_mask]);
}

int32_t vocabulary_find(const struct vocabulary *v, const char *bytes, size_t n) {
    uint64_t key = key_of(bytes, n);
    for (uint32_t at = place_of(key, n) & v->slot_mask; v->slots[at].id >= 0; at = (at + 1) & v->slot_mask)
        if (same_piece(v, &v->slots[at], key, bytes, n)) return v->slots[at].id;
    return -1;
}

int vocabulary_add_merges(struct vocabulary *v, const struct merge *merges, size_t count, size_t *twice) {
    if (count > UINT32_MAX / 4) return ERR_LIMIT;
    size_t size = table_size(count);
    v->pairs = table_new(size * sizeof *v->pairs);
    if (!v->pairs) return ERR_MEMORY;
    v->pair_mask = (uint32_t)size - 1;
    for (size_t i = 0; i < count; i++) {
        const struct merge *m = &merges[i];
        if (i + AHEAD < count) __builtin_prefetch(&v->pairs[pair_hash(m[AHEAD].left, m[AHEAD].right) & v->pair_mask], 1);
        uint32_t at = pair_hash(m->left, m->right) & v->pair_mask;
        for (; v->pairs[at].left >= 0; at = (at + 1) & v->pair_mask)
            if (v->pairs[at].left == m->left && v->pairs[at].right == m->right) return *twice = i, ERR_FORMAT;
        v->pairs[at] = (struct pair){m->left, m->right, m->merged, (uint32_t)i};
    }
    v->byte_pairs = table_new(65536 * sizeof *v->byte_pairs);
    if (!v->byte_pairs) return ERR_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const struct piece *left = &v->pieces[merges[i].left], *right = &v->pieces[merges[i].right];
        if (v->pieces[merges[i].merged].len != 2 || left->len != 1 || right->len != 1) continue;
        unsigned a = (unsigned char)v->pool.data[left->offset], b = (unsigned char)v->pool.data[right->offset];
        v->byte_pairs[a << 8 | b] = (struct byte_pair){merges[i].merged, (uint32_t)i};
    }
    return 0;
}

int vocabulary_finish(struct vocabulary *v, int *missing) {
    *missing = -1;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        v->byte_ids[b] = vocabulary_find(v, &byte, 1);
        if (v->byte_ids[b] < 0) return *missing = b, ERR_FORMAT;
    }
    v->whole = calloc((size_t)v->count, 1);
    return v->whole ? 0 : ERR_MEMORY;
}

void vocabulary_free(struct vocabulary *v) {
    buf_free(&v->pool);
    free(v->pieces);
    free(v->slots);
    free(v->pairs);
    free(v->byte_pairs);
    free((void *)v->whole);
    *v = (struct vocabulary){0};
}
