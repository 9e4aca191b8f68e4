/* Masks, forced text and progress of one constrained sequence.
 *
 * A token may come next if at least one configuration takes all its bytes; so the mask of a state is the union of its
 * configurations' masks, and those are remembered in the grammar. A mask is found by walking the trie of tokens; inside a string,
 * where nearly every token fits, the tokens that mean themselves are copied from a ready mask and only the few thousand others
 * are walked. */
#include "text/constraint.h"

#include <stdlib.h>
#include <string.h>

#include "text/grammar.h"

enum { FORCED_LIMIT = 4096, REMEMBER_FROM = 2000 };

struct constraint_state {
    const struct grammar *g;
    struct config_set set;
    struct buf forced;
};

static void copy_set(struct config_set *to, const struct config_set *from) {
    for (uint32_t i = 0; i < from->count; i++) set_add(to, &from->items[i]);
    to->failed |= from->failed;
}

struct constraint_state *constraint_new(const struct grammar *g) {
    struct constraint_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->g = g;
    grammar_start(g, &s->set);
    if (s->set.failed) return constraint_free(s), NULL;
    return s;
}

struct constraint_state *constraint_copy(const struct constraint_state *s) {
    struct constraint_state *copy = calloc(1, sizeof *copy);
    if (!copy) return NULL;
    copy->g = s->g;
    copy_set(&copy->set, &s->set);
    if (copy->set.failed) return constraint_free(copy), NULL;
    return copy;
}

void constraint_free(struct constraint_state *s) {
    if (!s) return;
    set_free(&s->set);
    buf_free(&s->forced);
    free(s);
}

/* One set of configurations for each byte of the token being walked. */
struct walk {
    const struct grammar *g;
    struct config_set *levels; /* (longest token + 1) */
    uint32_t *bits, visited;
    bool failed;
};

/* Steps every configuration of from by byte into to. */
static bool step_set(const struct grammar *g, const struct config_set *from, uint8_t byte, struct config_set *to) {
    to->count = 0;
    for (uint32_t i = 0; i < from->count; i++) config_step(g, &from->items[i], byte, to);
    return to->count != 0;
}

static void walk_trie(struct walk *w, const struct trie *trie) {
    uint32_t ends[TRIE_LONGEST]; /* where the subtree of each open level ends */
    uint32_t depth = 0;
    for (uint32_t i = 0; i < trie->count;) {
        while (depth && i >= ends[depth - 1]) depth--;
        const struct trie_node *node = &trie->nodes[i];
        w->visited++;
        if (!step_set(w->g, &w->levels[depth], node->byte, &w->levels[depth + 1])) {
            i = node->skip;
            continue;
        }
        w->failed |= w->levels[depth + 1].failed;
        if (node->token >= 0) w->bits[node->token / 32] |= 1u << (node->token % 32);
        ends[depth++] = node->skip;
        i++;
    }
}

static uint32_t count_bits(const uint32_t *bits, size_t words) {
    uint32_t count = 0;
    for (size_t i = 0; i < words; i++) count += (uint32_t)__builtin_popcount(bits[i]);
    return count;
}

static size_t mask_words(const struct grammar *g) { return ((size_t)g->trie->vocab + 31) / 32; }

/* Computes the mask of one configuration into bits (zeroed). */
static bool compute_mask(const struct grammar *g, const struct config *c, uint32_t *bits, uint32_t *visited) {
    const struct token_trie *trie = g->trie;
    int64_t room = config_string_room(g, c);
    if (room >= 0) {
        memcpy(bits, trie->easy_mask, mask_words(g) * sizeof *bits);
        for (size_t i = 0; i < trie->easy_count && trie->easy[i].characters > room; i++)
            bits[trie->easy[i].id / 32] &= ~(1u << (trie->easy[i].id % 32));
    }
    struct walk w = {.g = g, .bits = bits};
    w.levels = calloc((size_t)trie->longest + 2, sizeof *w.levels);
    if (!w.levels) return false;
    set_add(&w.levels[0], c);
    w.failed = w.levels[0].failed;
    if (!w.failed) walk_trie(&w, room >= 0 ? &trie->hard : &trie->all);
    for (int i = 0; i < trie->longest + 2; i++) set_free(&w.levels[i]);
    free(w.levels);
    *visited = w.visited + (room >= 0 ? REMEMBER_FROM : 0);
    return !w.failed;
}

static bool recall(struct grammar *g, const uint64_t key[2], uint32_t *mask) {
    bool found = false;
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < GRAMMAR_CACHE && !found; i++) {
        const struct cached_mask *m = &g->cache[i];
        if (!m->bits || m->key[0] != key[0] || m->key[1] != key[1]) continue;
        found = true;
        for (size_t k = 0, n = mask_words(g); k < n; k++) mask[k] |= m->bits[k];
    }
    pthread_mutex_unlock(&g->lock);
    return found;
}

static void remember(struct grammar *g, const uint64_t key[2], uint32_t *bits) {
    pthread_mutex_lock(&g->lock);
    struct cached_mask *m = &g->cache[g->cache_next++ % GRAMMAR_CACHE];
    free(m->bits);
    *m = (struct cached_mask){{key[0], key[1]}, bits, 0};
    pthread_mutex_unlock(&g->lock);
}

static bool add_mask(struct grammar *g, const struct config *c, uint32_t *mask) {
    uint64_t key[2];
    config_key(g, c, key);
    if (recall(g, key, mask)) return true;
    size_t words = mask_words(g);
    uint32_t *bits = calloc(words, sizeof *bits), visited = 0;
    if (!bits || !compute_mask(g, c, bits, &visited)) return free(bits), false;
    for (size_t i = 0; i < words; i++) mask[i] |= bits[i];
    if (visited >= REMEMBER_FROM) remember(g, key, bits);
    else free(bits);
    return true;
}

int constraint_mask(struct constraint_state *s, uint32_t *mask, bool *done) {
    /* The grammar is immutable but for its cache, which has a lock. */
    struct grammar *g = (struct grammar *)s->g;
    memset(mask, 0, mask_words(g) * sizeof *mask);
    *done = false;
    for (uint32_t i = 0; i < s->set.count; i++) {
        const struct config *c = &s->set.items[i];
        *done |= config_may_end(g, c);
        if (c->depth && !add_mask(g, c, mask)) return -1;
    }
    return (int)count_bits(mask, mask_words(g));
}

size_t constraint_forced(struct constraint_state *s, const char **bytes) {
    struct config_set now = {0}, next = {0};
    buf_clear(&s->forced);
    copy_set(&now, &s->set);
    while (s->forced.len < FORCED_LIMIT && now.count && !now.failed) {
        bool may_end = false;
        for (uint32_t i = 0; i < now.count; i++) may_end |= config_may_end(s->g, &now.items[i]);
        if (may_end) break;
        int only = -1, choices = 0;
        for (int b = 0; b < 256 && choices < 2; b++)
            if (step_set(s->g, &now, (uint8_t)b, &next)) only = b, choices++;
        if (choices != 1) break;
        step_set(s->g, &now, (uint8_t)only, &next);
        struct config_set swap = now;
        now = next, next = swap;
        buf_char(&s->forced, (char)only);
    }
    bool failed = now.failed || next.failed || s->forced.failed;
    set_free(&now);
    set_free(&next);
    *bytes = s->forced.data;
    return failed ? 0 : s->forced.len;
}

int constraint_accept(struct constraint_state *s, int32_t token) {
    size_t n;
    const char *bytes = tokenizer_is_added(s->g->t, token) ? NULL : tokenizer_piece(s->g->t, token, &n);
    if (!bytes || n == 0 || n > TRIE_LONGEST) return -1;
    struct config_set now = {0}, next = {0};
    copy_set(&now, &s->set);
    bool allowed = !now.failed;
    for (size_t i = 0; i < n && allowed; i++) {
        allowed = step_set(s->g, &now, (uint8_t)bytes[i], &next) && !next.failed;
        struct config_set swap = now;
        now = next, next = swap;
    }
    set_free(&next);
    if (!allowed) return set_free(&now), -1;
    set_free(&s->set);
    s->set = now;
    return 0;
}
