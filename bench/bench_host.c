/* The engine's own time: everything between the caller and the device, on a backend that computes nothing, at the vocabulary and the KV
 * pages of the real 2B shape (its weights are holes in a file, nothing reads them). What is printed is what the host adds to each decode
 * step, and to the first token of a prompt whose keys and values are on the device, or that was seen in full before.
 *
 * Least of several rounds: other work on the machine only adds.
 *
 * With a checkpoint the device computes, and what is printed is where a caller's time goes: within the device's forward and around it, medians.
 * Usage: bench_host [tokens of context, default 1024 [CHECKPOINT DEVICE]] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/random_checkpoint.h"
#include "engine/room.h"

enum { ROUNDS = 20, DEVICE_ROUNDS = 7, TOKENS = 64, MOST = 64 };

static float *row; /* (vocab) the logits of every row asked for */
static int vocab;

static bool can_pick(const struct backend_model *m, const struct pick *p) {
    (void)m;
    return !p->sampled || (p->top_k >= 1 && p->top_k <= 60);
}

static int forward_nothing(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    (void)m;
    (void)err;
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < spans[i].pick_count; k++) spans[i].picked[k] = (struct picked){.id = 1000 + (int)(spans[i].first % 1000), .logprob = -1};
        for (int k = 0; k < spans[i].logits_count; k++) memcpy(spans[i].logits + (size_t)k * (size_t)vocab, row, (size_t)vocab * sizeof *row);
    }
    return 0;
}

struct stamp {
    double at;
};
static void on_token(void *user, const struct qvl_token *t, bool thinking) {
    struct stamp *s = user;
    (void)t;
    (void)thinking;
    if (s->at == 0) s->at = clock_seconds();
}

struct trial {
    int32_t *ids; /* (MOST, context) prompts */
    int context;
    struct qvl_session *sessions[MOST];
    struct qvl_generate asked[MOST];
    struct qvl_result results[MOST];
    struct err errors[MOST];
    struct stamp stamps[MOST];
};

static void fail(const struct err *err) {
    fprintf(stderr, "bench_host: %s\n", err->message);
    exit(1);
}

/* Seconds of n answers, and to the first token of the last of them. */
static double answer(struct trial *t, int n, int tokens, const char *schema, double *first) {
    for (int i = 0; i < n; i++) {
        t->stamps[i].at = 0;
        t->asked[i] = (struct qvl_generate){.sampling = {.temperature = 0.7f, .top_k = 20, .top_p = 0.8f, .seed = (uint64_t)i}, .max_tokens = tokens,
                                            .no_append = true, .ignore_end = true, .json_schema = schema, .on_token = on_token, .user = &t->stamps[i]};
    }
    double start = clock_seconds();
    if (qvl_generate_many(t->sessions, t->asked, t->results, t->errors, n))
        for (int i = 0; i < n; i++)
            if (t->errors[i].code) fail(&t->errors[i]);
    double end = clock_seconds(), latest = start;
    for (int i = 0; i < n; i++) {
        if (t->stamps[i].at > latest) latest = t->stamps[i].at;
        qvl_result_free(&t->results[i]);
    }
    *first = latest - start;
    return end - start;
}

/* The same prompts in sessions that were never asked: what a caller sends. */
static void renew(struct qvl_model *m, struct trial *t, int n) {
    struct err err = {0};
    for (int i = 0; i < n; i++) {
        qvl_session_free(t->sessions[i]);
        if (qvl_session_new(m, &t->sessions[i], &err) || qvl_session_raw_ids(t->sessions[i], t->ids + (size_t)i * (size_t)t->context, (size_t)t->context, &err)) fail(&err);
    }
}

/* Lets the logits that the cache keeps go: the next first token needs a pass again. */
static void forget_logits(struct qvl_model *m) {
    size_t limit = m->kv.logits_limit;
    pthread_mutex_lock(&m->lock);
    m->kv.logits_limit = 0;
    kv_trim_logits(&m->kv);
    m->kv.logits_limit = limit;
    pthread_mutex_unlock(&m->lock);
}

/* ---- with a device that computes ---- */

static const struct backend *computing;
static struct {
    double first, first_end, inside; /* when the first pass began and ended; seconds within all */
} passes;

static int forward_timed(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    double start = clock_seconds();
    int r = computing->forward(m, spans, count, err);
    double end = clock_seconds();
    if (passes.first == 0) passes.first = start, passes.first_end = end;
    passes.inside += end - start;
    return r;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double v[DEVICE_ROUNDS]) {
    qsort(v, DEVICE_ROUNDS, sizeof *v, by_size);
    return v[DEVICE_ROUNDS / 2];
}

static void measure_device(struct qvl_model *m, struct trial *t, int n) {
    double step[DEVICE_ROUNDS], within[DEVICE_ROUNDS], first_token[DEVICE_ROUNDS], before[DEVICE_ROUNDS], pass[DEVICE_ROUNDS], first;
    answer(t, n, 1, NULL, &first);
    for (int r = 0; r < DEVICE_ROUNDS; r++) {
        passes.inside = passes.first = 0;
        double whole = answer(t, n, TOKENS + 1, NULL, &first);
        step[r] = (whole - first) / TOKENS, within[r] = passes.inside / TOKENS;
        forget_logits(m);
        passes.first = 0;
        renew(m, t, n);
        double start = clock_seconds();
        answer(t, n, 1, NULL, &first_token[r]);
        before[r] = passes.first - start, pass[r] = passes.first_end - passes.first;
    }
    double s = median(step), w = median(within), f = median(first_token), b = median(before), p = median(pass);
    printf("| %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", n, 1e6 * s, 1e6 * w, 1e6 * f, 1e6 * b, 1e6 * p, 1e6 * (f - b - p));
    fflush(stdout);
}

/* ---- without ---- */

static void measure(struct qvl_model *m, struct trial *t, int n) {
    double step = 1e9, full = 1e9, resident = 1e9, first;
    answer(t, n, 1, NULL, &first);
    for (int r = 0; r < ROUNDS; r++) {
        double whole = answer(t, n, TOKENS + 1, NULL, &first);
        if (first < full) full = first;
        if ((whole - first) / TOKENS < step) step = (whole - first) / TOKENS;
        forget_logits(m);
        renew(m, t, n);
        answer(t, n, 1, NULL, &first);
        if (first < resident) resident = first;
    }
    printf("| %d | %.1f | %.3f | %.3f |\n", n, 1e6 * step, 1e3 * full, 1e3 * resident);
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct qvl_model *m;
    char folder[] = "/tmp/bench-host-XXXXXX";
    int context = argc > 1 ? atoi(argv[1]) : 1024, most = MOST;
    if (context < 1) return fprintf(stderr, "usage: bench_host [tokens of context]\n"), 2;
    while (most > 1 && (int64_t)most * (context + 128) * 114688 > (int64_t)9 << 30) most /= 8;
    const char *model = argc > 3 ? argv[2] : NULL;
    const struct qvl_options options = {.device = model ? argv[3] : "cpu", .threads = 1, .kv_bytes = (size_t)10 << 30};
    if (!model && !mkdtemp(folder)) return perror("bench_host"), 1;
    int r = model ? 0 : random_checkpoint_write(folder, shape_find("2b"), SHAPE_FP8, true, &err);
    if (!r) r = qvl_load(model ? model : folder, &options, &m, &err);
    if (!model) random_checkpoint_remove(folder);
    if (r) fail(&err);
    struct trial *t = calloc(1, sizeof *t);
    int32_t *ids = malloc((size_t)context * (size_t)most * sizeof *ids);
    vocab = m->config->text.vocab;
    row = malloc((size_t)vocab * sizeof *row);
    if (!t || !ids || !row) return fprintf(stderr, "bench_host: out of memory\n"), 1;
    uint32_t state = 1;
    for (int i = 0; i < vocab; i++) {
        float sum = 0; /* nearly normal */
        for (int k = 0; k < 6; k++) sum += (float)((state = state * 1664525 + 1013904223) >> 8) / (1 << 24) - 0.5f;
        row[i] = 3 * sum;
    }
    for (int i = 0; i < most; i++) {
        for (int k = 0; k < context; k++) ids[(size_t)i * (size_t)context + (size_t)k] = (int32_t)((state = state * 1664525 + 1013904223) >> 8) % 100000;
    }
    t->ids = ids, t->context = context;
    renew(m, t, most);
    struct backend nothing = *m->backend;
    const struct backend *own = m->backend;
    if (!model) nothing.can_pick = can_pick;
    nothing.forward = model ? forward_timed : forward_nothing;
    computing = own;
    m->backend = &nothing;
    if (model)
        printf("%s, %d tokens of context, us\n\n| answers at once | a decode step | within forward | first token, keys and values known | before its pass | its pass | behind it |\n"
               "| --- | --- | --- | --- | --- | --- | --- |\n", model, context);
    else
        printf("2B shape, %d tokens of context; the host's time alone\n\n| answers at once | a decode step, us | first token, seen in full, ms | keys and values "
               "known (one page copied), ms |\n| --- | --- | --- | --- |\n", context);
    for (int n = 1; n <= most; n *= 8) {
        if (model) measure_device(m, t, n);
        else measure(m, t, n);
    }
    m->backend = own;
    for (int i = 0; i < most; i++) qvl_session_free(t->sessions[i]);
    free(ids);
    free(row);
    free(t);
    qvl_unload(m);
    return 0;
}
