/* Models with a prompt cache on disk, and conversations whose answers are compared to the last bit. */
#ifndef CACHED_MODEL_H
#define CACHED_MODEL_H

#include "disk_faults.h"
#include "engine/session.h"
#include "engine/spill.h"
#include "golden_session.h"

static const struct qvl_options plain = {.threads = 1, .kv_bytes = 32 << 20};
static const struct qvl_generate greedy12 = {.sampling.greedy = true, .max_tokens = 12, .no_append = true};

static inline void notice(void *user, const char *text) {
    (void)user;
    fprintf(stderr, "%s\n", text);
}

static inline struct qvl_options cached(const char *folder) {
    struct qvl_options o = plain;
    o.cache_dir = folder;
    o.cache_always = true; /* these models compute faster than any disk reads */
    if (getenv("PMD_SHOW_NOTICES")) o.on_notice = notice;
    return o;
}

static inline struct qvl_model *cached_open(const char *folder) {
    struct qvl_options o = cached(folder);
    return golden_model("tiny-a", &o);
}

/* Conversation `n` of a family with common beginnings: lengths from a few tokens to several pages. */
static inline struct qvl_session *talk(struct qvl_model *m, int n) {
    struct err err = {0};
    struct qvl_session *s;
    char text[2000] = "";
    size_t at = 0;
    for (int i = 0; i <= n % 13; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "room %d of family %d has %d doors. ", i, n / 13, (i * 7 + n / 13) % 5);
    if (qvl_session_new(m, &s, &err) ||
        qvl_session_message(s, QVL_SYSTEM, &(struct qvl_part){.text = "you walk in a dungeon"}, 1, &err) ||
        qvl_session_message(s, QVL_USER, &(struct qvl_part){.text = text}, 1, &err))
        fail_msg("%s", err.message);
    return s;
}

static inline struct qvl_result answer_of(struct qvl_session *s, struct qvl_generate g) {
    struct err err = {0};
    struct qvl_result r;
    if (qvl_generate(s, &g, &r, &err)) fail_msg("%s", err.message);
    return r;
}

static inline struct qvl_result ask(struct qvl_model *m, int n) {
    struct qvl_session *s = talk(m, n);
    struct qvl_result r = answer_of(s, greedy12);
    qvl_session_free(s);
    return r;
}

static inline bool same_answer(const struct qvl_result *a, const struct qvl_result *b) {
    if (a->token_count != b->token_count || strcmp(a->text, b->text)) return false;
    for (size_t i = 0; i < a->token_count; i++)
        if (a->tokens[i].id != b->tokens[i].id || memcmp(&a->tokens[i].logprob, &b->tokens[i].logprob, sizeof(float))) return false;
    return true;
}

static inline struct qvl_stats stats_of(struct qvl_model *m) {
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    return s;
}

#endif
