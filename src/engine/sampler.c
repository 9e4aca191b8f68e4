#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/err.h"

static float or_default(float value, float otherwise) { return value != 0 ? value : otherwise; }

static int make_places(struct sampler *s, int vocab, struct err *err) {
    if (s->place) return 0;
    s->place = malloc((size_t)vocab * sizeof *s->place);
    if (!s->place) return err_set(err, ERR_MEMORY, "out of memory for sampling");
    for (int i = 0; i < vocab; i++) s->place[i] = -1;
    return 0;
}

/* The entry of id, made if there is none. NULL: out of memory. */
static struct pick_adjust *entry(struct sampler *s, int32_t id, struct err *err) {
    if (s->place[id] >= 0) return &s->adjust[s->place[id]];
    if (s->adjust_count == s->adjust_capacity) {
        int want = s->adjust_capacity ? 2 * s->adjust_capacity : 64;
        struct pick_adjust *more = realloc(s->adjust, (size_t)want * sizeof *more);
        if (!more) {
            err_set(err, ERR_MEMORY, "out of memory for sampling");
            return NULL;
        }
        s->adjust = more;
        s->adjust_capacity = want;
    }
    s->place[id] = s->adjust_count;
    struct pick_adjust *a = &s->adjust[s->adjust_count++];
    *a = (struct pick_adjust){.id = id, .factor = 1};
    return a;
}

int sampler_init(struct sampler *s, const struct qvl_sampling *q, const struct sampling_config *d, int vocab,
                 const int32_t *prompt, int64_t prompt_count, struct err *err) {
    *s = (struct sampler){
        .greedy = q->greedy, .state = q->seed,
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
    if (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0) return 0;
    int r = make_places(s, vocab, err);
    for (int64_t i = 0; !r && s->repetition_penalty != 1 && i < prompt_count; i++) {
        struct pick_adjust *a = entry(s, prompt[i], err);
        if (a) a->factor = s->repetition_penalty;
        else r = ERR_MEMORY;
    }
    return r;
}

int sampler_bias(struct sampler *s, int vocab, int32_t id, float bias, struct err *err) {
    int r = make_places(s, vocab, err);
    struct pick_adjust *a = r ? NULL : entry(s, id, err);
    if (!a) return ERR_MEMORY;
    a->bias += bias;
    return 0;
}

void sampler_free(struct sampler *s) {
    free(s->place);
    free(s->adjust);
    s->place = NULL;
    s->adjust = NULL;
}

int sampler_accept(struct sampler *s, int32_t id, struct err *err) {
    if (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0) return 0;
    struct pick_adjust *a = entry(s, id, err);
    if (!a) return ERR_MEMORY;
    a->factor = s->repetition_penalty;
    a->then_minus = s->presence_penalty;
    a->minus += s->frequency_penalty;
    return 0;
}

/* uniform in [0, 1) */
static double draw(struct sampler *s) {
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

struct pick sampler_request(struct sampler *s, const uint32_t *mask, int top) {
    return (struct pick){.sampled = !s->greedy, .temperature = s->temperature, .top_k = s->top_k, .top_p = s->top_p,
                         .min_p = s->min_p, .draw = s->greedy ? 0 : draw(s), .top = top, .mask = mask, .adjust = s->adjust,
                         .adjust_count = s->adjust_count};
}
