#include "text/token_trie.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/parts.h"

struct entry {
    uint64_t head; /* the first 8 bytes, big-endian: settles nearly every comparison without a cache miss */
    const char *bytes;
    uint32_t len;
    int32_t id;
};

static uint64_t head_of(const char *bytes, size_t n) {
    uint64_t head = 0;
    memcpy(&head, bytes, n < 8 ? n : 8);
    return __builtin_bswap64(head);
}

static int by_bytes(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->head != y->head) return x->head < y->head ? -1 : 1;
    int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

static int by_characters(const void *a, const void *b) {
    const struct easy_token *x = a, *y = b;
    return x->characters != y->characters ? (y->characters > x->characters) - (y->characters < x->characters)
                                          : (x->id > y->id) - (x->id < y->id);
}

/* Number of characters, or -1 when the token is not easy. */
static int32_t easy_characters(const char *bytes, size_t n) {
    int32_t count = 0;
    for (size_t i = 0; i < n; count++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c < 0x20 || c == '"' || c == '\\') return -1;
        int len = utf8_length(bytes + i, n - i);
        if (len <= 0) return -1;
        i += (size_t)len;
    }
    return count;
}

/* Entries are ordered and distinct. skip of an open node is filled in when its subtree ends. */
static bool build(struct trie *trie, const struct entry *entries, size_t count, int longest) {
    size_t nodes = 0;
    for (size_t i = 0; i < count; i++) nodes += entries[i].len;
    trie->nodes = malloc((nodes + 1) * sizeof *trie->nodes);
    uint32_t *open = malloc(((size_t)longest + 1) * sizeof *open);
    if (!trie->nodes || !open || nodes > UINT32_MAX / 2) return free(open), false;
    uint32_t depth = 0, n = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t common = 0;
        if (i)
            while (common < entries[i - 1].len && common < entries[i].len &&
                   entries[i - 1].bytes[common] == entries[i].bytes[common])
                common++;
        while (depth > common) trie->nodes[open[--depth]].skip = n;
        for (uint32_t k = common; k < entries[i].len; k++) {
            open[depth++] = n;
            trie->nodes[n++] = (struct trie_node){0, -1, (uint8_t)entries[i].bytes[k]};
        }
        trie->nodes[open[depth - 1]].token = entries[i].id;
    }
    while (depth) trie->nodes[open[--depth]].skip = n;
    trie->count = n;
    struct trie_node *fit = realloc(trie->nodes, ((size_t)n + 1) * sizeof *fit);
    if (fit) trie->nodes = fit;
    free(open);
    return true;
}

static struct token_trie *trie_new(const struct vocabulary *v) {
    struct token_trie *t = calloc(1, sizeof *t);
    struct entry *entries = malloc(((size_t)v->count + 1) * sizeof *entries);
    if (!t || !entries) goto failed;
    t->vocab = v->count;
    t->easy = malloc(((size_t)v->count + 1) * sizeof *t->easy);
    t->easy_mask = calloc(((size_t)v->count + 31) / 32, sizeof *t->easy_mask);
    if (!t->easy || !t->easy_mask) goto failed;
    size_t count = 0, hard = 0;
    for (int32_t id = 0; id < v->count; id++) {
        const struct piece *p = &v->pieces[id];
        if (p->flags != PIECE_PRESENT || p->len == 0 || p->len > TRIE_LONGEST)
            continue; /* added tokens never belong into a document */
        entries[count++] = (struct entry){head_of(piece_bytes(v, id), p->len), piece_bytes(v, id), p->len, id};
        if ((int)p->len > t->longest) t->longest = (int)p->len;
    }
    qsort(entries, count, sizeof *entries, by_bytes);
    if (!build(&t->all, entries, count, t->longest)) goto failed;
    for (size_t i = 0; i < count; i++) {
        int32_t characters = easy_characters(entries[i].bytes, entries[i].len);
        if (characters < 0) {
            entries[hard++] = entries[i];
            continue;
        }
        t->easy[t->easy_count++] = (struct easy_token){entries[i].id, characters};
        t->easy_mask[entries[i].id / 32] |= 1u << (entries[i].id % 32);
    }
    qsort(t->easy, t->easy_count, sizeof *t->easy, by_characters);
    if (!build(&t->hard, entries, hard, t->longest)) goto failed;
    free(entries);
    return t;
failed:
    free(entries);
    token_trie_free(t);
    return NULL;
}

const struct token_trie *token_trie_of(const struct tokenizer *t) {
    struct token_trie_once *once = t->trie;
    pthread_mutex_lock(&once->lock);
    if (!once->trie) once->trie = trie_new(&t->v);
    const struct token_trie *trie = once->trie;
    pthread_mutex_unlock(&once->lock);
    return trie;
}

void token_trie_free(struct token_trie *t) {
    if (!t) return;
    free(t->all.nodes);
    free(t->hard.nodes);
    free(t->easy_mask);
    free(t->easy);
    free(t);
}
