/* Compiled schemas, kept: an agent asks with the same few at every step. */
#include "engine/room.h"

int grammar_get(struct qvl_model *m, const char *schema, struct grammar **out, struct err *err) {
    size_t n = strlen(schema);
    struct hash128 key = hash_bytes(schema, n, 2);
    struct cached_grammar *oldest = NULL;
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < GRAMMARS_KEPT; i++) {
        struct cached_grammar *c = &m->grammars[i];
        if (c->grammar && hash_equal(c->key, key)) {
            c->users++;
            c->used = ++m->grammar_clock;
            *out = c->grammar;
            pthread_mutex_unlock(&m->lock);
            return 0;
        }
        if (c->users == 0 && (!oldest || c->used < oldest->used)) oldest = c;
    }
    struct grammar *g;
    int r = oldest ? grammar_compile(schema, n, m->tokenizer, &g, err)
                   : err_set(err, ERR_LIMIT, "more than %d JSON schemas in use at once", GRAMMARS_KEPT);
    if (!r) {
        grammar_free(oldest->grammar);
        *oldest = (struct cached_grammar){.key = key, .grammar = g, .users = 1, .used = ++m->grammar_clock};
        *out = g;
    }
    pthread_mutex_unlock(&m->lock);
    return r;
}

void grammar_put(struct qvl_model *m, struct grammar *g) {
    pthread_mutex_lock(&m->lock);
    for (int i = 0; i < GRAMMARS_KEPT; i++)
        if (m->grammars[i].grammar == g) m->grammars[i].users--;
    pthread_mutex_unlock(&m->lock);
}

void grammars_free(struct qvl_model *m) {
    for (int i = 0; i < GRAMMARS_KEPT; i++) grammar_free(m->grammars[i].grammar);
}
