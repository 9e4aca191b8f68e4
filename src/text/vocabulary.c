/* Two open-addressing tables, at most half full, so that a search always ends: bytes -> id, (left, right) -> merge. */
#include "text/vocabulary.h"

#define XXH_INLINE_ALL
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static uint32_t hash_bytes(const char *bytes, size_t n) { return (uint32_t)XXH3_64bits(bytes, n); }

static int grow_slots(struct vocabulary *v, size_t want) {
    size_t size = 1024;
    while (size < want * 2) size *= 2;
    struct slot *slots = malloc(size * sizeof *slots);
    if (!slots) return ERR_MEMORY;
    memset(slots, 0xFF, size * sizeof *slots);
    uint32_t mask = (uint32_t)size - 1;
    for (uint32_t i = 0; v->slots && i <= v->slot_mask; i++) {
        if (v->slots[i].id < 0) continue;
        uint32_t at = v->slots[i].hash & mask;
        while (slots[at].id >= 0) at = (at + 1) & mask;
        slots[at] = v->slots[i];
    }
    free(v->slots);
    v->slots = slots;
    v->slot_mask = mask;
    return 0;
}

static int grow_pairs(struct vocabulary *v, size_t want) {
    size_t size = 1024;
    while (size < want * 2) size *= 2;
    struct pair *pairs = malloc(size * sizeof *pairs);
    if (!pairs) return ERR_MEMORY;
    memset(pairs, 0xFF, size * sizeof *pairs);
    uint32_t mask = (uint32_t)size - 1;
    for (uint32_t i = 0; v->pairs && i <= v->pair_mask; i++) {
        if (v->pairs[i].left < 0) continue;
        uint32_t at = pair_hash(v->pairs[i].left, v->pairs[i].right) & mask;
        while (pairs[at].left >= 0) at = (at + 1) & mask;
        pairs[at] = v->pairs[i];
    }
    free(v->pairs);
    v->pairs = pairs;
    v->pair_mask = mask;
    return 0;
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

int vocabulary_reserve(struct vocabulary *v, size_t pieces, size_t merges) {
    int code = 0;
    if (!v->slots || pieces * 2 > (size_t)v->slot_mask + 1) code = grow_slots(v, pieces);
    if (!code && (!v->pairs || merges * 2 > (size_t)v->pair_mask + 1)) code = grow_pairs(v, merges);
    if (!code && pieces > (size_t)v->cap && pieces <= VOCABULARY_MAX_ID) code = grow_pieces(v, (int32_t)pieces);
    return code;
}

int vocabulary_add(struct vocabulary *v, int32_t id, const char *bytes, size_t n, uint32_t flags) {
    if (id < 0 || id >= VOCABULARY_MAX_ID || n > UINT32_MAX / 2 || v->pool.len > UINT32_MAX / 2) return ERR_LIMIT;
    if (id >= v->cap && grow_pieces(v, id + 1)) return ERR_MEMORY;
    struct piece *p = &v->pieces[id];
    if (p->flags & PIECE_PRESENT) return ERR_FORMAT;
    if (!(flags & (PIECE_VERBATIM | PIECE_ADDED))) {
        if ((size_t)v->slot_used * 2 + 2 > (size_t)v->slot_mask + 1 || !v->slots)
            if (grow_slots(v, (size_t)v->slot_used * 2 + 512)) return ERR_MEMORY;
        uint32_t hash = hash_bytes(bytes, n), at = hash & v->slot_mask;
        for (; v->slots[at].id >= 0; at = (at + 1) & v->slot_mask) {
            const struct slot *s = &v->slots[at];
            if (s->hash == hash && v->pieces[s->id].len == n && memcmp(piece_bytes(v, s->id), bytes, n) == 0) return ERR_FORMAT;
        }
        v->slots[at] = (struct slot){hash, id};
        v->slot_used++;
    }
    *p = (struct piece){(uint32_t)v->pool.len, (uint32_t)n, flags | PIECE_PRESENT};
    buf_append(&v->pool, bytes, n);
    if (id >= v->count) v->count = id + 1;
    return v->pool.failed ? ERR_MEMORY : 0;
}

int32_t vocabulary_find(const struct vocabulary *v, const char *bytes, size_t n) {
    if (!v->slots) return -1;
    uint32_t hash = hash_bytes(bytes, n);
    for (uint32_t at = hash & v->slot_mask; v->slots[at].id >= 0; at = (at + 1) & v->slot_mask) {
        const struct slot *s = &v->slots[at];
        if (s->hash == hash && v->pieces[s->id].len == n && memcmp(piece_bytes(v, s->id), bytes, n) == 0) return s->id;
    }
    return -1;
}

int vocabulary_add_merge(struct vocabulary *v, int32_t left, int32_t right, int32_t merged, uint32_t rank) {
    if (!v->pairs || (size_t)v->pair_used * 2 + 2 > (size_t)v->pair_mask + 1)
        if (grow_pairs(v, (size_t)v->pair_used * 2 + 512)) return ERR_MEMORY;
    uint32_t at = pair_hash(left, right) & v->pair_mask;
    for (; v->pairs[at].left >= 0; at = (at + 1) & v->pair_mask)
        if (v->pairs[at].left == left && v->pairs[at].right == right) return ERR_FORMAT;
    v->pairs[at] = (struct pair){left, right, merged, rank};
    v->pair_used++;
    return 0;
}

int vocabulary_finish(struct vocabulary *v, int *missing) {
    *missing = -1;
    if (vocabulary_reserve(v, 1, 1)) return ERR_MEMORY; /* so that searches need no check for absent tables */
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
    free((void *)v->whole);
    *v = (struct vocabulary){0};
}
