/* A compiled schema and the automaton over it. Private to this room.
 *
 * Nodes describe values. A configuration is a stack of frames, one for each value that is open, the innermost last; a state
 * is a set of configurations, since after some bytes several branches of anyOf may still be possible. An empty stack is a
 * finished document. */
#ifndef TEXT_GRAMMAR_H
#define TEXT_GRAMMAR_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "text/token_trie.h"

enum { GRAMMAR_MAX_DEPTH = 16, GRAMMAR_MAX_NODES = 65535, GRAMMAR_MAX_WIDTH = 512, GRAMMAR_CACHE = 256 };

enum node_kind { NODE_LITERALS, NODE_STRING, NODE_INTEGER, NODE_NUMBER, NODE_OBJECT, NODE_ARRAY, NODE_ANY };

struct text_slice {
    const char *text;
    uint32_t n;
};

struct node {
    enum node_kind kind;
    uint32_t count;                 /* literals; members of an object; branches of anyOf */
    const struct text_slice *texts; /* LITERALS: ordered, distinct. OBJECT: `{"a":`, `,"b":` ..., and one more, the end */
    const uint32_t *children;       /* OBJECT: values. ARRAY: one, the items. ANY: branches */
    int64_t low, high;              /* STRING: length in characters. INTEGER: value. ARRAY: items. high INT64_MAX: no limit */
    uint32_t width;                 /* most configurations that entering this node can make */
};

struct frame {
    uint32_t node, step; /* step: meaning by kind, see grammar_step.c */
    int64_t a, b;
};

struct config {
    uint32_t depth;
    struct frame frames[GRAMMAR_MAX_DEPTH + 1];
};

struct config_set {
    struct config *items;
    uint32_t count, cap;
    bool failed; /* out of memory or too many */
};

struct cached_mask {
    uint64_t key[2]; /* 128-bit hash of the canonical configuration */
    uint32_t *bits;
    uint32_t allowed;
    atomic_int users; /* that are reading bits: it stays */
};

struct grammar {
    struct arena arena;
    struct node *nodes;
    uint32_t node_count, root;
    const struct tokenizer *t;
    const struct token_trie *trie;
    pthread_mutex_t lock; /* of the cache */
    struct cached_mask cache[GRAMMAR_CACHE];
    uint32_t cache_next;
};

/* Puts the configurations that begin node root into set. */
void grammar_start(const struct grammar *g, struct config_set *set);
/* Adds to out the configurations after byte; none if c does not allow it. */
void config_step(const struct grammar *g, const struct config *c, uint8_t byte, struct config_set *out);
/* Whether the document may end here. */
bool config_may_end(const struct grammar *g, const struct config *c);
/* If c stands inside a string between two characters: how many more it may hold (INT64_MAX: no limit), else -1. */
int64_t config_string_room(const struct grammar *g, const struct config *c);
/* 128-bit key equal for configurations that allow the same tokens. */
void config_key(const struct grammar *g, const struct config *c, uint64_t key[2]);

/* Adds c unless an equal one is there. */
void set_add(struct config_set *set, const struct config *c);
void set_free(struct config_set *set);

#endif
