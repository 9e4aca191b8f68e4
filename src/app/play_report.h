/* What many episodes add up to, printed as words or as one JSON object. */
#ifndef APP_PLAY_REPORT_H
#define APP_PLAY_REPORT_H

#include "agent/agent.h"
#include "record/counts.h"
#include "base/buf.h"

struct samples { /* one number a decision */
    float *values;
    size_t count, cap;
};
void samples_add(struct samples *s, double value);         /* out of memory: the sample is dropped */
void samples_join(struct samples *to, struct samples *from); /* empties from */
double samples_percentile(struct samples *s, double p);    /* sorts; NAN without samples */

enum { MAX_CAUSES = 64 };
struct play_totals {
    int episodes, cleared;
    long long turns_cleared, decisions, decided[DECIDED_BY_COUNT];
    struct run_counts counts;
    long long tokens;
    double model_seconds, emulator_seconds;
    struct samples decision_ms, overhead_ms; /* overhead: outside model and emulator */
    struct { char cause[96]; int count; } failures[MAX_CAUSES];
    int failure_count;
};
void totals_add(struct play_totals *t, const struct episode_result *r);
void totals_free(struct play_totals *t);

struct report_header {
    const char *policy, *model; /* model NULL: none was asked */
    uint32_t seed;
    int asked; /* episodes */
    bool watched; /* times are without drawing in the terminal, filming and keeping pace */
    int games;            /* at the same time */
    double seconds;       /* spent playing by this process, with so many decisions */
    long long decisions_here;
    const char *run_folder, *picture; /* NULL: not recorded; the real picture */
};
void report_text(struct play_totals *t, const struct report_header *h, struct buf *out);
void report_json(struct play_totals *t, const struct report_header *h, struct buf *out);

#endif
