#include "bench/measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/estimate.h"

enum { REPEATS_MOST = 100 };
static const double prefix_share = 0.9, half_share = 0.5;

/* A number of sessions that are asked at once. */
struct crowd {
    struct qvl_session **sessions;
    struct qvl_generate *asked;
    struct qvl_result *results;
    struct err *errors;
    struct stamps *stamps;
    double *times;           /* (capacity * (answer_tokens + 1)) */
    int capacity, n;
    double start;
};

/* One repeat's figures, in the order of struct result. */
enum figure { PREFILL, DECODE, COLD, HALF, PREFIX, RESIDENT, FULL, PICTURE, PREFILL_J, DECODE_J, FIGURES };

struct repeats {
    double values[FIGURES][REPEATS_MOST];
    int count;
    double *gaps;            /* between tokens, of all repeats */
    int gap_count, gap_capacity;
    double memory_mib;
};

/* ---- statistics ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct measure measure_of(double *values, int count) {
    int n = 0;
    for (int i = 0; i < count; i++)
        if (isfinite(values[i])) values[n++] = values[i];
    if (n == 0) return (struct measure){NAN, NAN};
    qsort(values, (size_t)n, sizeof *values, by_value);
    double middle = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return (struct measure){middle, values[n - 1] - values[0]};
}

double percentile(const double *sorted, int count, double share) {
    if (count == 0) return NAN;
    int i = (int)ceil(share * count) - 1;
    return sorted[i < 0 ? 0 : i];
}

/* ---- asking ---- */

void stamps_on_token(void *user, const struct qvl_token *token, bool thinking) {
    struct stamps *s = user;
    (void)token;
    (void)thinking;
    if (s->count < s->capacity) s->at[s->count++] = clock_seconds();
}

static int crowd_open(struct crowd *c, int capacity, int answer_tokens, struct err *err) {
    size_t n = (size_t)capacity;
    *c = (struct crowd){.capacity = capacity};
    c->sessions = calloc(n, sizeof(struct qvl_session *));
    c->asked = calloc(n, sizeof *c->asked);
    c->results = calloc(n, sizeof *c->results);
    c->errors = calloc(n, sizeof *c->errors);
    c->stamps = calloc(n, sizeof *c->stamps);
    c->times = calloc(n * (size_t)(answer_tokens + 1), sizeof *c->times);
    if (!c->sessions || !c->asked || !c->results || !c->errors || !c->stamps || !c->times)
        return err_set(err, ERR_MEMORY, "out of memory for %d answers", capacity);
    for (int i = 0; i < capacity; i++)
        c->stamps[i] = (struct stamps){.at = c->times + (size_t)i * (size_t)(answer_tokens + 1), .capacity = answer_tokens + 1};
    return 0;
}

static void crowd_dismiss(struct crowd *c) {
    for (int i = 0; i < c->capacity && c->sessions; i++) {
        qvl_session_free(c->sessions[i]);
        c->sessions[i] = NULL;
    }
}

static void crowd_close(struct crowd *c) {
    crowd_dismiss(c);
    free(c->sessions);
    free(c->asked);
    free(c->results);
    free(c->errors);
    free(c->stamps);
    free(c->times);
}

/* Asks sessions 0 .. n - 1 for so many tokens each. The results' counters stay in place, their texts do not. */
static int ask(struct crowd *c, int n, int tokens, struct err *err) {
    c->n = n;
    for (int i = 0; i < n; i++) {
        c->stamps[i].count = 0;
        c->asked[i] = (struct qvl_generate){.sampling.seed = (uint64_t)i, .max_tokens = tokens, .no_append = true, .ignore_end = true,
                                            .on_token = stamps_on_token, .user = &c->stamps[i]};
    }
    c->start = clock_seconds();
    int r = qvl_generate_many(c->sessions, c->asked, c->results, c->errors, n);
    for (int i = 0; i < n; i++) {
        if (!r && c->stamps[i].count != tokens) r = err_set(err, ERR_STATE, "%d tokens were asked for, %d came", tokens, c->stamps[i].count);
        if (c->errors[i].code && err && !err->code) *err = c->errors[i];
        free(c->results[i].text);
        free(c->results[i].thinking);
        free(c->results[i].tokens);
        c->results[i].text = c->results[i].thinking = NULL;
        c->results[i].tokens = NULL;
    }
    return r;
}

static double first_token_ms(const struct crowd *c, double *last) {
    double *first = malloc((size_t)c->n * sizeof *first);
    *last = c->start;
    for (int i = 0; i < c->n && first; i++) {
        first[i] = 1e3 * (c->stamps[i].at[0] - c->start);
        if (c->stamps[i].at[0] > *last) *last = c->stamps[i].at[0];
    }
    double median = first ? measure_of(first, c->n).median : NAN;
    free(first);
    return median;
}

static double joules_since(const struct energy_meter *m, double before) {
    double used = energy_meter_read(m) - before;
    return used >= 0 ? used : NAN; /* the counter went round */
}

/* ---- one repeat ---- */

static int make_prompts(const struct subject *s, const struct cell *c, int64_t prompt, uint64_t seed, int64_t kept, uint64_t tail,
                        struct crowd *w, int *pictures, struct err *err) {
    int r = 0;
    for (int i = 0; !r && i < c->batch; i++)
        r = prompt_maker_make(&s->maker, c, prompt, seed + (uint64_t)i, kept, tail + (uint64_t)i, &w->sessions[i], pictures, err);
    return r;
}

static int cold(const struct subject *s, const struct cell *c, int64_t prompt, int pictures, struct crowd *w, double *out,
                struct err *err) {
    double before = energy_meter_read(s->energy), last, images = 0;
    int r = ask(w, c->batch, 1, err);
    if (r) return r;
    out[PREFILL_J] = joules_since(s->energy, before) / ((double)prompt * c->batch);
    out[COLD] = first_token_ms(w, &last);
    for (int i = 0; i < c->batch; i++) images += w->results[i].image_seconds;
    out[PREFILL] = (double)prompt * c->batch / (last - w->start - images);
    if (pictures) out[PICTURE] = 1e3 * images / ((double)pictures * c->batch);
    return 0;
}

static int add_gap(struct repeats *all, double ms) {
    if (all->gap_count == all->gap_capacity) {
        int want = all->gap_capacity ? 2 * all->gap_capacity : 1024;
        double *more = realloc(all->gaps, (size_t)want * sizeof *more);
        if (!more) return -1;
        all->gaps = more;
        all->gap_capacity = want;
    }
    all->gaps[all->gap_count++] = ms;
    return 0;
}

static int full(const struct subject *s, const struct cell *c, int answer_tokens, struct crowd *w, struct repeats *all, double *out,
                struct err *err) {
    int n = c->batch * c->best_of, r = 0;
    struct qvl_info info;
    qvl_model_info(s->m, &info);
    /* A first token and answer_tokens more, or one less where the cell is the model's whole context. */
    if (c->context >= info.context && answer_tokens > 1) answer_tokens = (int)(info.context - (c->context - answer_tokens)) - 1;
    for (int i = c->batch; !r && i < n; i++) r = qvl_session_fork(w->sessions[i % c->batch], &w->sessions[i], err);
    double before = energy_meter_read(s->energy), first, end = 0;
    if (!r) r = ask(w, n, answer_tokens + 1, err);
    if (r) return r;
    double tokens = (double)n * answer_tokens;
    out[DECODE_J] = joules_since(s->energy, before) / tokens;
    out[FULL] = first_token_ms(w, &first);
    for (int i = 0; i < n; i++) {
        const struct stamps *t = &w->stamps[i];
        if (w->results[i].cached_tokens < w->results[i].prompt_tokens - 1) out[FULL] = NAN; /* pushed out by others */
        if (t->at[answer_tokens] > end) end = t->at[answer_tokens];
        for (int k = 1; k <= answer_tokens; k++)
            if (add_gap(all, 1e3 * (t->at[k] - t->at[k - 1]))) return err_set(err, ERR_MEMORY, "out of memory for times");
    }
    out[DECODE] = isfinite(out[FULL]) ? tokens / (end - first) : NAN; /* else prompts were computed in between */
    return 0;
}

/* Prompts of `tokens` tokens that share their first `kept` with those of the seed, of which at least `found` must be known. */
static int reused(const struct subject *s, const struct cell *c, int64_t tokens, uint64_t seed, int64_t kept, int64_t found, struct crowd *w,
                  double *out, struct err *err) {
    int pictures;
    double last;
    crowd_dismiss(w);
    int r = make_prompts(s, c, tokens, seed, kept, ~seed - (uint64_t)kept, w, &pictures, err);
    if (!r) r = ask(w, c->batch, 1, err);
    if (r) return r;
    *out = first_token_ms(w, &last);
    for (int i = 0; i < c->batch; i++)
        if (w->results[i].cached_tokens < found) *out = NAN;
    return 0;
}

/* A prompt of which everything but a last token is known to the cache: one row to compute. Pictures may be laid out otherwise in a
 * longer prompt. */
static int resident(const struct subject *s, const struct cell *c, int64_t prompt, int answer_tokens, uint64_t seed, struct crowd *w,
                    double *out, struct err *err) {
    if (c->task == TASK_MIXED || answer_tokens < 2) return 0;
    return reused(s, c, prompt + 1, seed, prompt + 1, prompt, w, out, err);
}

/* What the cell takes of the device: a GPU's pages lie there whether they are used or not, those not used are left out. */
static double device_memory_mib(const struct subject *s) {
    struct qvl_info info;
    struct qvl_stats stats;
    qvl_model_info(s->m, &info);
    qvl_model_stats(s->m, &stats);
    double page = (double)s->kv_token_bytes * stats.page_tokens;
    return ((double)info.memory_bytes - page * (stats.pages_total - stats.pages_used)) / 1048576;
}

static int repeat(const struct subject *s, const struct cell *c, int answer_tokens, uint64_t seed, struct crowd *w,
                  struct repeats *all, struct err *err) {
    int64_t prompt = c->context - answer_tokens;
    double out[FIGURES];
    int pictures;
    for (int i = 0; i < FIGURES; i++) out[i] = NAN;
    qvl_model_forget(s->m);
    int r = make_prompts(s, c, prompt, seed, prompt, 0, w, &pictures, err);
    if (!r) r = cold(s, c, prompt, pictures, w, out, err);
    if (!r) r = full(s, c, answer_tokens, w, all, out, err);
    if (!r) r = resident(s, c, prompt, answer_tokens, seed, w, &out[RESIDENT], err);
    int64_t half = (int64_t)(half_share * (double)prompt), most = (int64_t)(prefix_share * (double)prompt);
    /* whole pages are shared: up to one page less */
    if (!r && c->batch == 1 && c->best_of == 1) r = reused(s, c, prompt, seed, half, half - 32, w, &out[HALF], err);
    if (!r) r = reused(s, c, prompt, seed, most, most - 32, w, &out[PREFIX], err);
    crowd_dismiss(w);
    if (r) return r;
    double held = device_memory_mib(s);
    if (held > all->memory_mib) all->memory_mib = held;
    for (int i = 0; i < FIGURES; i++) all->values[i][all->count] = out[i];
    all->count++;
    return 0;
}

/* ---- the cell ---- */

static void summarise(const struct subject *s, const struct cell *c, int answer_tokens, struct repeats *all, struct result *out) {
    struct measure *const places[] = {[PREFILL] = &out->prefill_tok_s, [DECODE] = &out->decode_tok_s, [COLD] = &out->ttft_cold_ms,
                                      [HALF] = &out->ttft_half_ms, [PREFIX] = &out->ttft_prefix_ms, [RESIDENT] = &out->ttft_resident_ms, [FULL] = &out->ttft_full_ms};
    for (int i = PREFILL; i <= FULL; i++) *places[i] = measure_of(all->values[i], all->count);
    out->picture_ms = measure_of(all->values[PICTURE], all->count).median;
    out->prefill_j_token = measure_of(all->values[PREFILL_J], all->count).median;
    out->decode_j_token = measure_of(all->values[DECODE_J], all->count).median;
    qsort(all->gaps, (size_t)all->gap_count, sizeof *all->gaps, by_value);
    out->token_p50_ms = percentile(all->gaps, all->gap_count, 0.5);
    out->token_p95_ms = percentile(all->gaps, all->gap_count, 0.95);
    out->token_p99_ms = percentile(all->gaps, all->gap_count, 0.99);
    out->host_mib = host_memory_peak_mib();
    out->memory_mib = strcmp(out->device, "cpu") ? all->memory_mib : out->host_mib;
    out->repeats = all->count;
    double weights, prefix, suffix;
    decode_bytes(c, c->context - answer_tokens, answer_tokens, s->decode_bytes, s->kv_token_bytes, &weights, &prefix, &suffix);
    out->weight_mb = weights / 1e6;
    out->prefix_mb = prefix / 1e6;
    out->suffix_mb = suffix / 1e6;
    out->read_gb_s = s->read_bytes / 1e9;
    out->floor_tok_s = c->batch * c->best_of * s->read_bytes / (weights + prefix + suffix);
    out->floor_share = out->decode_tok_s.median / out->floor_tok_s;
}

void measure_cell(const struct subject *s, const struct cell *c, const struct measure_settings *how, struct result *out) {
    struct err err = {0};
    struct crowd crowd = {0};
    struct repeats all = {0};
    int64_t prompt = c->context - how->answer_tokens;
    int wanted = how->repeats < REPEATS_MOST ? how->repeats : REPEATS_MOST, r = 0;
    double start = clock_seconds();
    out->prompt_tokens = prompt;
    out->answer_tokens = how->answer_tokens;
    snprintf(out->energy, sizeof out->energy, "%s", s->energy->source);
    if (prompt < 1) r = err_set(&err, ERR_LIMIT, "a context of %lld tokens has no room for an answer of %d", (long long)c->context,
                                how->answer_tokens);
    host_memory_reset();
    if (!r) r = crowd_open(&crowd, c->batch * c->best_of, how->answer_tokens, &err);
    for (int i = 0; !r && i < wanted; i++) {
        uint64_t seed = (uint64_t)(i + 1) << 40 | (uint64_t)(uint32_t)c->context << 12 | (uint64_t)c->task << 9;
        double took = clock_seconds() - start;
        if (i > 0 && how->budget_s > 0 && took + took / i > how->budget_s) break;
        r = repeat(s, c, how->answer_tokens, seed, &crowd, &all, &err);
    }
    crowd_close(&crowd);
    if (all.count > 0 && !r) {
        summarise(s, c, how->answer_tokens, &all, out);
        snprintf(out->status, sizeof out->status, "measured");
    } else {
        snprintf(out->status, sizeof out->status, "%s", r == ERR_LIMIT ? "skipped" : "failed");
        snprintf(out->reason, sizeof out->reason, "%.470s", err.message);
    }
    out->wall_s = clock_seconds() - start;
    free(all.gaps);
}
