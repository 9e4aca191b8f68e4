/* Measuring one cell on a loaded model. A repeat starts with empty caches and does four things:
 *   cold     the prompts of the batch, all at once, one token each: prefill speed, time to the first token, pictures encoded
 *   full     the same prompts again, best-of answers to each: time to the first token of a prompt seen before, decode speed, time
 *            between tokens
 *   resident the prompts and one token more: time to the first token when the keys and values of all but that one are on the device
 *   prefix   prompts that share their first nine tenths with those (a lone one also: its first half): time to the first token
 * Times are wall clock as the caller of the library sees them, sampling with the checkpoint's own settings included. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "bench/meter.h"
#include "bench/prompts.h"
#include "bench/result.h"

struct subject {
    struct qvl_model *m;
    struct prompt_maker maker;
    const struct energy_meter *energy;
    size_t decode_bytes, kv_token_bytes;
    double read_bytes;       /* a second: the device's, measured lately */
};

struct measure_settings {
    int repeats, answer_tokens;
    double budget_s;         /* no further repeat when it would end later; 0: none */
};

/* Fills the figures of out, whose cell and machine the caller has filled. A failure leaves status "failed" or, when the cell does
 * not fit, "skipped", with the reason. */
void measure_cell(const struct subject *s, const struct cell *c, const struct measure_settings *how, struct result *out);

/* When the tokens of one sequence came: all that the benchmark does while an answer is made (qvl_generate's on_token; user: a struct
 * stamps). bench/bench_overhead.c times it. */
struct stamps {
    double *at;
    int count, capacity;
};
void stamps_on_token(void *user, const struct qvl_token *token, bool thinking);

/* Median and largest less smallest of values that are numbers; NaN when there is none. Sorts them. */
struct measure measure_of(double *values, int count);
double percentile(const double *sorted, int count, double share);

#endif
