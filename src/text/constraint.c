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
    uint32_t *bits, visited;   /* bits: NULL: the first token that fits is enough */
    bool failed, found;
};

/* Steps every configuration of from by byte into to. */
static bool step_set(const struct grammar *g, const struct config_set *from, uint8_t byte, struct config_set *to) {
    to->count = 0;
    for (uint32_t i = 0; i < from->count; i++) config_step(g, &from->items[i], byte, to);
    return to->count != 0;
}

/* Over whole subtrees, nodes [from, to). */
static void walk_trie(struct walk *w, const struct trie_node *nodes, uint32_t from, uint32_t to) {
    uint32_t ends[TRIE_LONGEST]; /* where the subtree of each open level ends */
    uint32_t depth = 0;
    for (uint32_t i = from; i < to && !(w->found && !w->bits);) {
        while (depth && i >= ends[depth - 1]) depth--;
        const struct trie_node *node = &nodes[i];
        w->visited++;
        if (!step_set(w->g, &w->levels[depth], node->byte, &w->levels[depth + 1])) {
            i = node->skip;
            continue;
        }
        w->failed |= w->levels[depth + 1].failed;
        if (node->token >= 0) w->found = true;
        if (node->token >= 0 && w->bits) w->bits[node->token / 32] |= 1u << (node->token % 32);
        ends[depth++] = node->skip;
        i++;
    }
}

/* Plain arithmetic: portable builds have no popcnt, and this runs for every token of every answer. */
static uint32_t count_bits(const uint32_t *bits, size_t words) {
    uint64_t count = 0;
    for (size_t i = 0; i < words; i++) {
        uint64_t v = bits[i];
        if (i + 1 < words) v |= (uint64_t)bits[++i] << 32;
        v -= v >> 1 & 0x5555555555555555u;
        v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
        count += ((v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56;
    }
    return (uint32_t)count;
}

static size_t mask_words(const struct grammar *g) { return ((size_t)g->trie->vocab + 31) / 32; }

static bool walk_open(struct walk *w, const struct grammar *g, uint32_t *bits) {
    *w = (struct walk){.g = g, .bits = bits, .levels = calloc((size_t)g->trie->longest + 2, sizeof *w->levels)};
    return w->levels != NULL;
}

static void walk_close(struct walk *w) {
    for (int i = 0; i < w->g->trie->longest + 2; i++) set_free(&w->levels[i]);
    free(w->levels);
}

/* Computes the mask of one configuration into bits (zeroed). */
static bool compute_mask(const struct grammar *g, const struct config *c, uint32_t *bits, uint32_t *visited) {
    const struct token_trie *trie = g->trie;
    int64_t room = config_string_room(g, c);
    if (room >= 0) {
        memcpy(bits, trie->easy_mask, mask_words(g) * sizeof *bits);
        for (size_t i = 0; i < trie->easy_count && trie->easy[i].characters > room; i++)
            bits[trie->easy[i].id / 32] &= ~(1u << (trie->easy[i].id % 32));
    }
    struct walk w;
    if (!walk_open(&w, g, bits)) return false;
    const struct trie *part = room >= 0 ? &trie->hard : &trie->all;
    set_add(&w.levels[0], c);
    w.failed = w.levels[0].failed;
    if (!w.failed) walk_trie(&w, part->nodes, 0, part->count);
    walk_close(&w);
    *visited = w.visited + (room >= 0 ? REMEMBER_FROM : 0);
    return !w.failed;
}

/* The remembered mask, to be read without the lock and handed back by release: many sequences share a grammar and ask at the same time. */
static struct cached_mask *recall(struct grammar *g, const uint64_t key[2]) {
    struct cached_mask *found = NULL;
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < GRAMMAR_CACHE && !found; i++) {
        struct cached_mask *m = &g->cache[i];
        if (m->bits && m->key[0] == key[0] && m->key[1] == key[1]) found = m, atomic_fetch_add(&m->users, 1);
    }
    pthread_mutex_unlock(&g->lock);
    return found;
}

static void release(struct cached_mask *m) { atomic_fetch_sub(&m->users, 1); }

/* Takes over bits. */
static void remember(struct grammar *g, const uint64_t key[2], uint32_t *bits, uint32_t allowed) {
    pthread_mutex_lock(&g->lock);
    struct cached_mask *m = &g->cache[g->cache_next++ % GRAMMAR_CACHE];
    if (atomic_load(&m->users) == 0) { /* nobody comes to it while we hold the lock */
        free(m->bits);
        *m = (struct cached_mask){.key = {key[0], key[1]}, .bits = bits, .allowed = allowed};
        bits = NULL;
    }
    pthread_mutex_unlock(&g->lock);
    free(bits);
}

/* Adds c's mask; *allowed: how many bits of c's are set. */
static bool add_mask(struct grammar *g, const struct config *c, uint32_t *mask, bool first, uint32_t *allowed) {
    uint64_t key[2];
    config_key(g, c, key);
    size_t words = mask_words(g);
    struct cached_mask *known = recall(g, key);
    uint32_t *bits = known ? known->bits : calloc(words, sizeof *bits), visited = 0;
    if (!known) {
        if (!bits || !compute_mask(g, c, bits, &visited)) return free(bits), false;
        *allowed = count_bits(bits, words);
    } else {
        *allowed = known->allowed;
    }
    if (first) memcpy(mask, bits, words * sizeof *bits);
    else for (size_t i = 0; i < words; i++) mask[i] |= bits[i];
    if (known) release(known);
    else if (visited >= REMEMBER_FROM) remember(g, key, bits, *allowed);
    else free(bits);
    return true;
}

int constraint_mask(struct constraint_state *s, uint32_t *mask, bool *done) {
    /* The grammar is immutable but for its cache, which has a lock. */
    struct grammar *g = (struct grammar *)s->g;
    uint32_t configs = 0, allowed = 0;
    *done = false;
    for (uint32_t i = 0; i < s->set.count; i++) {
        const struct config *c = &s->set.items[i];
        *done |= config_may_end(g, c);
        if (c->depth && !add_mask(g, c, mask, configs++ == 0, &allowed)) return -1;
    }
    if (!configs) memset(mask, 0, mask_words(g) * sizeof *mask);
    return (int)(configs > 1 ? count_bits(mask, mask_words(g)) : allowed);
}

bool constraint_may_extend(const struct constraint_state *s, int32_t token) {
    const struct trie *trie = &s->g->trie->all;
    size_t n, k = 0;
    const char *bytes = tokenizer_piece(s->g->t, token, &n);
    uint32_t i = 0, end = trie->count;
    while (bytes && k < n && i < end) { /* to the token's own node: [i, end) is then what is below it */
        const struct trie_node *node = &trie->nodes[i];
        if (node->byte != (uint8_t)bytes[k]) {
            i = node->skip;
            continue;
        }
        k++;
        end = node->skip;
        i++;
    }
    struct walk w;
    if (!bytes || k < n || i == end || !walk_open(&w, s->g, NULL)) return false;
    copy_set(&w.levels[0], &s->set);
    struct config_set next = {0};
    bool alive = !w.levels[0].failed;
    for (k = 0; k < n && alive; k++) {
        alive = step_set(s->g, &w.levels[0], (uint8_t)bytes[k], &next) && !next.failed;
        struct config_set swap = w.levels[0];
        w.levels[0] = next, next = swap;
    }
    if (alive) walk_trie(&w, trie->nodes, i, end);
    set_free(&next);
    walk_close(&w);
    return w.found;
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
