#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static float or_default(float value, float otherwise) { return value != 0 ? value : otherwise; }

int sampler_init(struct sampler *s, const struct qvl_sampling *q, const struct sampling_config *d, int vocab,
                 const int32_t *prompt, int64_t prompt_count, struct err *err) {
    *s = (struct sampler){
        .greedy = q->greedy, .vocab = vocab, .state = q->seed,
        .temperature = or_default(q->temperature, d->temperature), .top_p = or_default(q->top_p, d->top_p),
        .min_p = or_default(q->min_p, d->min_p), .top_k = q->top_k ? q->top_k : d->top_k,
        .repetition_penalty = or_default(q->repetition_penalty, d->repetition_penalty),
        .presence_penalty = or_default(q->presence_penalty, d->presence_penalty), .frequency_penalty = q->frequency_penalty};
    if (!d->do_sample && q->temperature == 0 && q->top_k == 0 && q->top_p == 0 && q->min_p == 0) s->greedy = true;
    if (!(s->temperature >= 0) || !(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1) || s->top_k < 0 ||
        !(s->repetition_penalty >= 0) || isinf(s->temperature) || isinf(s->repetition_penalty) || !isfinite(s->presence_penalty) ||
        !isfinite(s->frequency_penalty))
        return err_set(err, ERR_ARGUMENT,
                       "sampling: temperature %g, top_p %g, min_p %g, top_k %d, repetition_penalty %g: expected "
                       "temperature >= 0, top_p and min_p between 0 and 1, top_k >= 0, a positive penalty",
                       (double)s->temperature, (double)s->top_p, (double)s->min_p, s->top_k, (double)s->repetition_penalty);
    if (s->repetition_penalty == 0) s->repetition_penalty = 1;
    if (s->temperature == 0) s->temperature = 1;
    if (s->top_p == 0) s->top_p = 1;
    s->candidates = malloc((size_t)vocab * sizeof *s->candidates);
    bool penalties = s->repetition_penalty != 1 || s->presence_penalty != 0;
    if (penalties) s->seen = calloc((size_t)vocab, 1);
    if (s->frequency_penalty != 0) s->times = calloc((size_t)vocab, sizeof *s->times);
    if (!s->candidates || (penalties && !s->seen) || (s->frequency_penalty != 0 && !s->times)) {
        sampler_free(s);
        return err_set(err, ERR_MEMORY, "out of memory for sampling");
    }
    for (int64_t i = 0; s->seen && i < prompt_count; i++) s->seen[prompt[i]] |= 1;
    return 0;
}

void sampler_free(struct sampler *s) {
    free(s->seen);
    free(s->times);
    s->times = NULL;
    free(s->candidates);
    s->seen = NULL;
    s->candidates = NULL;
}

void sampler_accept(struct sampler *s, int32_t id) {
    if (s->seen) s->seen[id] |= 3;
    if (s->times) s->times[id]++;
}

static inline bool allowed(const uint32_t *mask, int32_t id) { return !mask || (mask[id >> 5] >> (id & 31) & 1); }

static float penalised(const struct sampler *s, const float *logits, int32_t i) {
    float v = s->times ? logits[i] - s->frequency_penalty * (float)s->times[i] : logits[i];
    if (!s->seen || !s->seen[i]) return v;
    v = v < 0 ? v * s->repetition_penalty : v / s->repetition_penalty;
    return s->seen[i] & 2 ? v - s->presence_penalty : v;
}

static int by_score(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* uniform in [0, 1) */
static double draw(struct sampler *s) {
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* The k-th largest score, by quickselect on the candidates. */
static float kth_score(struct candidate *c, int n, int k) {
    int low = 0, high = n - 1;
    while (low < high) {
        float pivot = c[low + (high - low) / 2].score;
        int i = low, j = high;
        while (i <= j) {
            while (c[i].score > pivot) i++;
            while (c[j].score < pivot) j--;
            if (i <= j) {
                struct candidate t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return c[k - 1].score;
}

int32_t sampler_pick(struct sampler *s, const float *logits, const uint32_t *mask) {
    int n = 0;
    int32_t best = -1;
    float most = 0;
    for (int32_t i = 0; i < s->vocab; i++) {
        if (!allowed(mask, i) || isnan(logits[i])) continue;
        float v = penalised(s, logits, i);
        if (best < 0 || v > most) best = i, most = v;
        if (!s->greedy) s->candidates[n++] = (struct candidate){i, v / s->temperature};
    }
    if (s->greedy || n <= 1) return best;
    if (s->top_k > 0 && s->top_k < n) {
        float least = kth_score(s->candidates, n, s->top_k);
        int kept = 0;
        for (int i = 0; i < n; i++)
            if (s->candidates[i].score >= least) s->candidates[kept++] = s->candidates[i];
        n = kept;
    }
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_score);
    double top = s->candidates[0].score, total = 0;
    for (int i = 0; i < n; i++) total += exp(s->candidates[i].score - top);
    if (s->top_p < 1) { /* the smallest set whose probability reaches p */
        double sum = 0;
        int kept = 0;
        while (kept < n && (kept == 0 || sum < s->top_p * total)) sum += exp(s->candidates[kept++].score - top);
        n = kept;
        total = sum;
    }
    if (s->min_p > 0) {
        int kept = 0;
        double sum = 0;
        while (kept < n && (kept == 0 || exp(s->candidates[kept].score - top) >= s->min_p))
            sum += exp(s->candidates[kept++].score - top);
        n = kept;
        total = sum;
    }
    double at = draw(s) * total;
    for (int i = 0; i < n; i++)
        if ((at -= exp(s->candidates[i].score - top)) < 0) return s->candidates[i].id;
    return s->candidates[n - 1].id;
}

void logprobs_of(const float *logits, int vocab, const uint32_t *mask, int32_t id, int top, struct qvl_token *out) {
    float most = -INFINITY;
    for (int32_t i = 0; i < vocab; i++)
        if (allowed(mask, i) && logits[i] > most) most = logits[i];
    double total = 0;
    out->top_count = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (!allowed(mask, i) || isnan(logits[i])) continue;
        total += exp((double)logits[i] - most);
        if (top == 0 || (out->top_count == top && logits[i] <= out->top_logprob[top - 1])) continue;
        int k = out->top_count < top ? out->top_count++ : top - 1;
        for (; k > 0 && out->top_logprob[k - 1] < logits[i]; k--) {
            out->top_logprob[k] = out->top_logprob[k - 1];
            out->top_id[k] = out->top_id[k - 1];
        }
        out->top_logprob[k] = logits[i];
        out->top_id[k] = i;
    }
    double norm = most + log(total);
    for (int k = 0; k < out->top_count; k++) out->top_logprob[k] = (float)(out->top_logprob[k] - norm);
    out->id = id;
    out->logprob = (float)(logits[id] - norm);
}
