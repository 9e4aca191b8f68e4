/* Answers of many sessions from one thread, one forward pass a step: every sequence that decodes takes part in every pass, and
 * chunks of prompts fill it up. Sequences with a common beginning (forks, a shared system prompt) compute it once: the later ones
 * wait until the first has published what they share, then take its pages. */
#include <stdlib.h>

#include "base/clock.h"
#include "engine/generation.h"

struct runner {
    struct generation x;
    enum { RUNNER_WAITS, RUNNER_RUNS, RUNNER_OVER } state;
    bool asking;               /* next has stopped at a choice */
    int wait_for;              /* whose pages it waits for */
    int64_t wait_until;        /* tokens that it must have computed */
};

struct crowd {
    struct qvl_model *m;
    struct runner *runners;    /* (n) */
    struct qvl_result *results;
    struct err *errors;
    int n, left;
    void *work;                /* of a choice made here */
    struct span *spans;        /* (n) of the pass */
    int *who;                  /* (n) whose they are */
    int span_count;
    int failed;                /* code of the first failure */
};

static void over(struct crowd *c, int i, int r) {
    struct runner *u = &c->runners[i];
    if (c->left == 1) turns_goodbye(c->m);
    if (!r) r = generation_result(&u->x, &c->results[i], &c->errors[i]);
    if (r && !c->failed) c->failed = r;
    if (r) c->errors[i].code = r;
    generation_close(&u->x);
    u->state = RUNNER_OVER;
    c->left--;
    __atomic_sub_fetch(&c->m->answers, 1, __ATOMIC_RELAXED);
}

/* ---- common beginnings ---- */

/* How many tokens of its own pages `ahead` will have published that `x` can take: whole pages, or its whole prompt. */
static int64_t can_share(const struct generation *ahead, const struct generation *x) {
    const struct prompt *a = &ahead->sequence.prompt, *b = &x->sequence.prompt;
    int64_t most = a->count < b->count ? a->count : b->count, same = 0;
    while (same < most && hash_equal(a->keys[same], b->keys[same])) same++;
    if (same >= ahead->prompt_tokens && ahead->prompt_tokens == a->count) return a->count;
    return same / BACKEND_PAGE_TOKENS * BACKEND_PAGE_TOKENS;
}

static bool has_published(const struct runner *u, int64_t tokens) {
    if (u->state == RUNNER_OVER) return true; /* whatever became of it */
    return u->state == RUNNER_RUNS && u->x.sequence.computed >= tokens;
}

/* Starts i, or lets it wait for one before it that is about to compute what it needs. */
static int start(struct crowd *c, int i) {
    struct runner *u = &c->runners[i];
    u->state = RUNNER_RUNS;
    int64_t best = 0;
    for (int k = 0; k < i; k++) {
        const struct runner *ahead = &c->runners[k];
        if (ahead->state == RUNNER_OVER || ahead->x.prefilled) continue;
        int64_t share = can_share(&ahead->x, &u->x);
        if (share <= best || has_published(ahead, share)) continue;
        best = u->wait_until = share;
        u->wait_for = k;
        u->state = RUNNER_WAITS;
    }
    return u->state == RUNNER_WAITS ? 0 : sequence_match(&u->x.sequence, &c->errors[i]);
}

/* ---- the wheel ---- */

/* As far as i comes without a forward pass. */
static void advance(struct crowd *c, int i) {
    struct runner *u = &c->runners[i];
    int r = 0;
    if (u->state == RUNNER_WAITS && generation_cancelled(&u->x)) u->state = RUNNER_RUNS;
    else if (u->state == RUNNER_WAITS && has_published(&c->runners[u->wait_for], u->wait_until)) r = start(c, i);
    while (!r && u->state == RUNNER_RUNS) {
        bool done = false;
        if (u->asking && generation_cancelled(&u->x)) u->asking = false;
        if (!u->asking) {
            r = generation_next(&u->x, &done, &c->errors[i]);
            if (!r && done) return over(c, i, 0);
            u->asking = true;
        }
        if (r || !generation_ready(&u->x)) break;
        u->asking = false;
        r = generation_choose(&u->x, c->work, &c->errors[i]);
    }
    if (r) over(c, i, r);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void join(struct crowd *c, int i, int64_t most, int64_t *rows) {
    int r = generation_prepare(&c->runners[i].x, most, &c->errors[i]);
    if (r) return over(c, i, r);
    c->who[c->span_count] = i;
    c->spans[c->span_count++] = c->runners[i].x.pass.span;
    *rows += c->runners[i].x.pass.span.count;
}

/* Who takes part: first those that decode (or have little left of their prompt), then as many chunks of prompts as fit. With fixed
 * cuts chunks are not cut smaller, so while more than BATCH_ROWS - PREFILL_CHUNK sequences decode, new prompts wait.
 *
 * How many rows: BATCH_ROWS while anybody decodes, which bounds the time between two tokens by one such pass; and while another caller's
 * answers are made, who would wait as long. Prompts that have the device to themselves go in the largest passes it takes: a weight is
 * then read (and unpacked) an eighth as often. */
static void gather(struct crowd *c) {
    const struct qvl_model *m = c->m;
    int64_t rows = 0, limit = BATCH_ROWS;
    bool others = __atomic_load_n(&m->answers, __ATOMIC_RELAXED) > c->left;
    c->span_count = 0;
    for (int chunks = 0; chunks < 2; chunks++) {
        if (chunks && !m->fixed_cuts) {
            limit = others || rows > 0 ? least(m->alone_rows, BATCH_ROWS) : m->alone_rows;
            if (limit < rows + 2 * BACKEND_PAGE_TOKENS) limit = rows + 2 * BACKEND_PAGE_TOKENS; /* prompts get on, too */
        }
        for (int i = 0; i < c->n; i++) {
            const struct sequence *s = &c->runners[i].x.sequence;
            if (c->runners[i].state != RUNNER_RUNS) continue;
            int64_t all = s->prompt.count - s->computed, count = sequence_next(s, limit - rows) - s->computed;
            if (((m->fixed_cuts ? count : all) > BACKEND_PAGE_TOKENS) != chunks || (rows > 0 && rows + count > limit)) continue;
            if (chunks && !m->fixed_cuts && rows > 0 && limit - rows < 2 * BACKEND_PAGE_TOKENS) break; /* crumbs are not worth a span */
            join(c, i, limit - rows, &rows);
        }
    }
}

static void pass(struct crowd *c) {
    struct err err = {0};
    double start = clock_seconds();
    int r = batch_forward(c->m, c->spans, c->span_count, &err);
    double took = clock_seconds() - start;
    for (int k = 0; k < c->span_count; k++) {
        int i = c->who[k];
        int own = r;
        /* One that fails must not fail its neighbours. */
        if (r && c->span_count > 1) {
            own = batch_forward(c->m, &c->spans[k], 1, &c->errors[i]);
            took = clock_seconds() - start;
        } else if (r) c->errors[i] = err;
        generation_commit(&c->runners[i].x, own == 0, took);
        if (own) over(c, i, own);
    }
}

static int open_all(struct crowd *c, struct qvl_session *const *sessions, const struct qvl_generate *generates, struct err *err) {
    double now = clock_seconds();
    int n = c->n;
    __atomic_add_fetch(&c->m->answers, n, __ATOMIC_RELAXED);
    c->runners = calloc((size_t)n, sizeof *c->runners);
    c->spans = calloc((size_t)n, sizeof *c->spans);
    c->who = calloc((size_t)n, sizeof *c->who);
    c->work = malloc(pick_work_bytes(c->m->config->text.vocab));
    if (!c->runners || !c->spans || !c->who || !c->work) return err_set(err, ERR_MEMORY, "out of memory for %d answers", n);
    for (int i = 0; i < n; i++) {
        int r = generation_open(&c->runners[i].x, sessions[i], &generates[i], now, &c->errors[i]);
        if (!r) r = start(c, i);
        if (r) over(c, i, r);
    }
    return 0;
}

int qvl_generate_many(struct qvl_session *const *sessions, const struct qvl_generate *generates, struct qvl_result *results,
                      struct err *errors, int n) {
    if (n < 1) return n ? ERR_ARGUMENT : 0;
    memset(results, 0, (size_t)n * sizeof *results);
    memset(errors, 0, (size_t)n * sizeof *errors);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (sessions[i] == sessions[k] || sessions[i]->m->front != sessions[k]->m->front)
                return err_set(&errors[i], ERR_ARGUMENT, "answers %d and %d: expected different sessions of one model", k, i);
    for (int i = 1; i < n; i++)
        if (sessions[i]->m != sessions[0]->m) return replicas_generate(sessions, generates, results, errors, n);
    struct crowd c = {.m = sessions[0]->m, .results = results, .errors = errors, .n = n, .left = n};
    int r = open_all(&c, sessions, generates, &errors[0]);
    while (!r && c.left > 0) {
        for (int i = 0; i < n; i++) advance(&c, i);
        gather(&c);
        if (c.span_count > 0) pass(&c);
    }
    __atomic_sub_fetch(&c.m->answers, c.left, __ATOMIC_RELAXED); /* those that never began */
    free(c.runners);
    free(c.spans);
    free(c.who);
    free(c.work);
    return r ? r : c.failed;
}

int qvl_generate(struct qvl_session *s, const struct qvl_generate *g, struct qvl_result *out, struct err *err) {
    struct err own;
    int r = qvl_generate_many(&s, g, out, &own, 1);
    if (r && err) *err = own;
    return r;
}

void qvl_result_free(struct qvl_result *r) {
    free(r->text);
    free(r->thinking);
    free(r->tokens);
    memset(r, 0, sizeof *r);
}
