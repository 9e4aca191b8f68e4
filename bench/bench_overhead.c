/* What `pmd-agent bench` itself adds to the figures it reports, shown on an empty model: a backend that computes nothing and picks
 * token 1, so that a decode step is the engine's driver and the benchmark's own work alone.
 *
 * In turn, ROUNDS times: so many answers through qvl_generate_many without a callback, and with the benchmark's (measure.h,
 * stamps_on_token). The least time of each is compared: other work on the machine only adds. The share is told of a step of the empty
 * model, the harshest that there can be, and of a step of the model with its own backend and as many answers.
 * Usage: bench_overhead MODEL_FOLDER */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/measure.h"
#include "engine/room.h"

enum { ROUNDS = 30, TOKENS = 400, REAL_TOKENS = 16, MOST = 64 };

static bool can_pick(const struct backend_model *m, const struct pick *p) {
    (void)m;
    (void)p;
    return true;
}

static int forward_nothing(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    (void)m;
    (void)err;
    for (int i = 0; i < count; i++)
        for (int k = 0; k < spans[i].pick_count; k++) spans[i].picked[k] = (struct picked){.id = 1, .logprob = -1};
    return 0;
}

struct trial {
    struct qvl_session *sessions[MOST];
    struct stamps stamps[MOST];
    double times[MOST][TOKENS];
};

/* Seconds of one round of n answers. */
static double answer(struct trial *t, int n, int tokens, bool stamped) {
    struct qvl_generate asked[MOST];
    struct qvl_result results[MOST];
    struct err errors[MOST];
    for (int i = 0; i < n; i++) {
        t->stamps[i] = (struct stamps){.at = t->times[i], .capacity = TOKENS};
        asked[i] = (struct qvl_generate){.sampling.greedy = true, .max_tokens = tokens, .no_append = true, .ignore_end = true};
        if (stamped) asked[i].on_token = stamps_on_token, asked[i].user = &t->stamps[i];
    }
    double start = clock_seconds();
    if (qvl_generate_many(t->sessions, asked, results, errors, n)) {
        for (int i = 0; i < n; i++)
            if (errors[i].code) fprintf(stderr, "bench_overhead: %s\n", errors[i].message);
        exit(1);
    }
    double seconds = clock_seconds() - start;
    for (int i = 0; i < n; i++) qvl_result_free(&results[i]);
    return seconds;
}

static double least(struct trial *t, int n, int tokens, int rounds, bool stamped, double best) {
    for (int r = 0; r < rounds; r++) {
        double s = answer(t, n, tokens, stamped);
        if (s < best) best = s;
    }
    return best;
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct qvl_model *m;
    const struct qvl_options options = {.threads = 1, .kv_bytes = (size_t)512 << 20};
    const char *folder = argc > 1 ? argv[1] : "models/tinywoods-vl";
    if (qvl_load(folder, &options, &m, &err)) return fprintf(stderr, "bench_overhead: %s\n", err.message), 1;
    struct trial *t = calloc(1, sizeof *t);
    int32_t ids[32];
    for (int i = 0; t && i < MOST; i++) {
        for (int k = 0; k < 32; k++) ids[k] = 2 + (i * 7 + k) % 50;
        if (qvl_session_new(m, &t->sessions[i], &err) || qvl_session_raw_ids(t->sessions[i], ids, 32, &err))
            return fprintf(stderr, "bench_overhead: %s\n", err.message), 1;
    }
    if (!t) return fprintf(stderr, "bench_overhead: out of memory\n"), 1;
    double real[3];
    int at = 0;
    for (int n = 1; n <= MOST; n *= 8) { /* the first round computes the prompts */
        answer(t, n, REAL_TOKENS, true);
        real[at++] = least(t, n, REAL_TOKENS, 3, true, 1e9) / REAL_TOKENS;
    }
    struct backend nothing = *m->backend;
    nothing.can_pick = can_pick;
    nothing.forward = forward_nothing;
    const struct backend *own = m->backend;
    m->backend = &nothing;
    printf("%s\n\n", folder);
    puts("| answers at once | empty step, us | a token without stamps, ns | with stamps, ns | overhead a token, ns | of the empty step | "
         "the model's own step, us | overhead of that |\n| --- | --- | --- | --- | --- | --- | --- | --- |");
    at = 0;
    for (int n = 1; n <= MOST; n *= 8, at++) {
        double plain = 1e9, stamped = 1e9;
        for (int r = 0; r < ROUNDS; r++) { /* in turn: whatever else the machine does meets both */
            plain = least(t, n, TOKENS, 1, false, plain);
            stamped = least(t, n, TOKENS, 1, true, stamped);
        }
        double tokens = (double)n * TOKENS, added = (stamped - plain) / tokens;
        printf("| %d | %.2f | %.0f | %.0f | %.0f | %.2f %% | %.0f | %.4f %% |\n", n, 1e6 * plain / TOKENS, 1e9 * plain / tokens,
               1e9 * stamped / tokens, 1e9 * added, 100 * added * n / (plain / TOKENS), 1e6 * real[at], 100 * added * n / real[at]);
    }
    m->backend = own;
    for (int i = 0; i < MOST; i++) qvl_session_free(t->sessions[i]);
    free(t);
    qvl_unload(m);
    return 0;
}
