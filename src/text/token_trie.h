/* All ordinary tokens of a vocabulary as a trie over their bytes, built once per tokenizer on first use. Private to this room. */
#ifndef TEXT_TOKEN_TRIE_H
#define TEXT_TOKEN_TRIE_H

#include <pthread.h>

#include "text/vocabulary.h"

enum { TRIE_LONGEST = 1023 }; /* bytes; longer tokens (no real vocabulary has any) are never offered */

/* Preorder: the children of node i start at i + 1; what follows its whole subtree is at skip. A walk is one pass over the array
 * that jumps where a byte does not fit. */
struct trie_node {
    uint32_t skip;
    int32_t token; /* -1: only a prefix */
    uint8_t byte;
};

struct trie {
    struct trie_node *nodes;
    uint32_t count;
};

/* A token is easy when inside a JSON string it means itself: whole characters of valid UTF-8, no quote, backslash or control. */
struct easy_token {
    int32_t id;
    int32_t characters;
};

struct token_trie {
    struct trie all, hard;   /* hard: the tokens that are not easy */
    uint32_t *easy_mask;     /* one bit per token */
    struct easy_token *easy; /* ordered by characters, most first */
    size_t easy_count;
    int32_t vocab;
    int longest; /* bytes of the longest token */
};

struct token_trie_once {
    pthread_mutex_t lock;
    struct token_trie *trie;
};

/* NULL when out of memory. Thread-safe; lives as long as t. */
const struct token_trie *token_trie_of(const struct tokenizer *t);
void token_trie_free(struct token_trie *trie);

#endif
