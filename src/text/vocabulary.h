/* The vocabulary of a byte-level BPE: pieces by id, ids by bytes, and the merges. Immutable once loaded, except for
 * `whole`, a memo that threads may fill in any order. Private to this room. */
#ifndef TEXT_VOCABULARY_H
#define TEXT_VOCABULARY_H

#include <stdatomic.h>
#include <string.h>

#include "text/tokenizer.h"

enum { VOCABULARY_MAX_ID = 1 << 22, PIECE_ADDED = 1, PIECE_SPECIAL = 2, PIECE_PRESENT = 4, PIECE_VERBATIM = 8 };

struct piece {
    uint32_t offset, len; /* in pool */
    uint32_t flags;       /* VERBATIM: has characters outside the byte alphabet, so no text can reach it */
};

/* Pieces of up to 8 bytes, the bulk of what text asks for, are compared within the slot: one cache miss a search. */
struct slot {
    uint64_t key; /* len <= 8: short_key; else a hash of the bytes */
    uint32_t len;
    int32_t id; /* < 0: free */
};

struct pair { /* left < 0: free */
    int32_t left, right, merged;
    uint32_t rank;
};

struct byte_pair { /* merged < 0: none */
    int32_t merged;
    uint32_t rank;
};

struct vocabulary {
    struct buf pool;
    struct piece *pieces; /* (count) */
    int32_t count, cap;   /* highest id + 1 */
    struct slot *slots;
    uint32_t slot_mask;
    struct pair *pairs;
    uint32_t pair_mask;
    struct byte_pair *byte_pairs; /* [left byte << 8 | right byte]: the merges of two bytes again, for the start of a fragment */
    int32_t byte_ids[256];
    bool ignore_merges;
    _Atomic uint8_t *whole; /* by id: 0 not known yet, 1 merging its bytes gives the piece itself, 2 it does not */
};

/* Loading, in this order: pieces, index, merges, finish. Searches in tables of several MiB are cache misses; done in batches
 * with the memory asked for ahead of time, loading takes half as long. Each returns 0 or a negative err_code; the caller names the
 * file. */
int vocabulary_add(struct vocabulary *v, int32_t id, const char *bytes, size_t n, uint32_t flags);
/* Makes the pieces searchable. ERR_FORMAT when two have the same bytes; *twice is the second one's id. Added tokens and verbatim
 * pieces are left out. */
int vocabulary_index(struct vocabulary *v, int32_t *twice);
/* count merges, rank = position. ERR_FORMAT when a pair occurs twice; *twice is its position. */
struct merge {
    int32_t left, right, merged;
};
int vocabulary_add_merges(struct vocabulary *v, const struct merge *merges, size_t count, size_t *twice);
/* After the last piece and merge: byte_ids and the memo. ERR_FORMAT when one of the 256 bytes has no piece; *missing names it. */
int vocabulary_finish(struct vocabulary *v, int *missing);
void vocabulary_free(struct vocabulary *v);

/* Id of the piece with these bytes, -1 when there is none. */
int32_t vocabulary_find(const struct vocabulary *v, const char *bytes, size_t n);
/* Asks the memory for what vocabulary_find will need. */
void vocabulary_prefetch(const struct vocabulary *v, const char *bytes, size_t n);

/* Appends the ids of one fragment of text (byte-pair merging, facts §7.3). */
int bpe_encode(const struct vocabulary *v, const char *bytes, size_t n, struct token_list *out);

/* n <= 8 bytes in a word: different for different bytes of one length. */
static inline uint64_t short_key(const char *bytes, size_t n) {
    uint64_t word = 0;
    uint32_t low, high;
    if (n == 8) return memcpy(&word, bytes, 8), word;
    if (n >= 4) {
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + n - 4, 4);
        return (uint64_t)high << 32 | low;
    }
    const unsigned char *u = (const unsigned char *)bytes;
    return n ? u[0] | (uint32_t)u[n / 2] << 8 | (uint32_t)u[n - 1] << 16 : 0;
}

static inline const char *piece_bytes(const struct vocabulary *v, int32_t id) { return v->pool.data + v->pieces[id].offset; }

static inline uint32_t pair_hash(int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)(key * 0x9E3779B97F4A7C15u >> 32);
}

static inline const struct pair *pair_find(const struct vocabulary *v, int32_t left, int32_t right) {
    for (uint32_t i = pair_hash(left, right) & v->pair_mask;; i = (i + 1) & v->pair_mask) {
        const struct pair *p = &v->pairs[i];
        if (p->left == left && p->right == right) return p;
        if (p->left < 0) return NULL;
    }
}

#endif
