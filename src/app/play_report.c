#include "app/play_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void samples_add(struct samples *s, double value) {
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        float *grown = realloc(s->values, cap * sizeof *grown);
        if (!grown) return;
        s->values = grown;
        s->cap = cap;
    }
    s->values[s->count++] = (float)value;
}

void samples_join(struct samples *to, struct samples *from) {
    for (size_t i = 0; i < from->count; i++) samples_add(to, from->values[i]);
    free(from->values);
    *from = (struct samples){0};
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that at least p of all do not exceed. */
double samples_percentile(struct samples *s, double p) {
    if (!s->count) return NAN;
    qsort(s->values, s->count, sizeof *s->values, by_value);
    size_t rank = (size_t)ceil(p * (double)s->count);
    return s->values[rank ? rank - 1 : 0];
}

void totals_add(struct play_totals *t, const struct episode_result *r) {
    t->episodes++;
    t->decisions += r->decisions;
    counts_add(&t->counts, r);
    t->tokens += r->tokens;
    t->model_seconds += r->model_seconds;
    t->emulator_seconds += r->emulator_seconds;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) t->decided[i] += r->decided[i];
    if (r->outcome == OUTCOME_CLEARED) {
        t->cleared++;
        t->turns_cleared += r->turns;
        return;
    }
    const char *cause = *r->cause ? r->cause : outcome_name[r->outcome];
    for (int i = 0; i < t->failure_count; i++) {
        if (!strcmp(t->failures[i].cause, cause)) {
            t->failures[i].count++;
            return;
        }
    }
    if (t->failure_count == MAX_CAUSES) { /* the last place gathers what does not fit */
        snprintf(t->failures[MAX_CAUSES - 1].cause, sizeof t->failures->cause, "other");
        t->failures[MAX_CAUSES - 1].count++;
        return;
    }
    snprintf(t->failures[t->failure_count].cause, sizeof t->failures->cause, "%s", cause);
    t->failures[t->failure_count++].count = 1;
}

void totals_free(struct play_totals *t) {
    free(t->decision_ms.values);
    free(t->overhead_ms.values);
    *t = (struct play_totals){0};
}

static int by_count(const void *a, const void *b) {
    const struct { char cause[96]; int count; } *x = a, *y = b;
    return x->count != y->count ? y->count - x->count : strcmp(x->cause, y->cause);
}

static void sort_failures(struct play_totals *t) { qsort(t->failures, (size_t)t->failure_count, sizeof *t->failures, by_count); }

/* What the parts around the model did; nothing when they had nothing to do. */
static void report_parts(const struct run_counts *c, struct buf *out) {
    const struct part_counts *p = &c->parts;
    long long turns = 0;
    int stuck = 0;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) turns += c->turns_by[i];
    for (int i = 1; i < 5; i++) stuck += p->stuck[i];
    if (stuck) buf_printf(out, "\nstuck %d times: exploration forced %d times, for %.1f %% of the turns", stuck, p->forced, turns ? 100.0 * (double)c->turns_by[BY_STUCK] / (double)turns : 0);
    if (p->refused) buf_printf(out, "\ngatekeeper: %d answers refused, %d of them corrected when told why", p->refused, p->corrected);
    if (p->safeguards) buf_printf(out, "\nsafeguards: healed or ate %d times instead of what the model chose", p->safeguards);
    if (p->restored) buf_printf(out, "\nwatchdog: %d returns to an earlier state", p->restored);
    if (c->skill_count) buf_str(out, "\nskills (reached / run):");
    for (int i = 0; i < c->skill_count; i++) buf_printf(out, "%s %s %d/%d", i ? "," : "", c->skills[i].name, c->skills[i].succeeded, c->skills[i].used);
}

void report_text(struct play_totals *t, const struct report_header *h, struct buf *out) {
    sort_failures(t);
    if (t->episodes == 1 && t->cleared) buf_printf(out, "Cleared: seed %u, %lld turns", h->seed, t->turns_cleared);
    else if (t->episodes == 1) buf_printf(out, "Not cleared: seed %u, %s", h->seed, t->failures[0].cause);
    else buf_printf(out, "%d of %d cleared (%.1f %%)", t->cleared, t->episodes, t->episodes ? 100.0 * t->cleared / t->episodes : 0);
    if (t->episodes > 1 && t->cleared) buf_printf(out, ", %.1f turns a cleared run", (double)t->turns_cleared / t->cleared);
    if (t->episodes < h->asked) buf_printf(out, "; stopped after %d of %d episodes", t->episodes, h->asked);
    buf_printf(out, "\n%lld decisions by", t->decisions);
    for (int i = 0; i < DECIDED_BY_COUNT; i++) {
        if (t->decided[i]) buf_printf(out, " %s %lld", decided_by_name[i], t->decided[i]);
    }
    if (h->model) buf_printf(out, " (%s)", h->model);
    if (h->picture) buf_printf(out, ", with %s picture", h->picture);
    report_parts(&t->counts, out);
    if (t->decision_ms.count) {
        buf_printf(out, "\n%.1f ms a decision in the median, %s (p95 %.1f ms); %.2f ms of it outside model and emulator\n",
                   samples_percentile(&t->decision_ms, 0.5), h->watched ? "drawing and pace left out" : "everything included",
                   samples_percentile(&t->decision_ms, 0.95), samples_percentile(&t->overhead_ms, 0.5));
    } else {
        buf_char(out, '\n');
    }
    if (h->games > 1 && h->seconds > 0) {
        buf_printf(out, "%.1f decisions/s in %d games at the same time (%lld in %.1f s, start and end of the games included)\n",
                   (double)h->decisions_here / h->seconds, h->games, h->decisions_here, h->seconds);
    }
    if (t->model_seconds > 0 && t->tokens > 0) buf_printf(out, "%.0f tokens/s in the model (computed ones, reused ones not counted)\n", (double)t->tokens / t->model_seconds);
    for (int i = 0; i < t->failure_count && t->episodes > 1; i++) buf_printf(out, "  %4d  %s\n", t->failures[i].count, t->failures[i].cause);
    if (h->run_folder) buf_printf(out, "Recorded in %s (pmd-agent replay %s plays it again and checks it)\n", h->run_folder, h->run_folder);
}

static void number(struct buf *out, double v, int digits) {
    if (isfinite(v)) buf_printf(out, "%.*f", digits, v);
    else buf_str(out, "null");
}

static void string(struct buf *out, const char *s) {
    if (s) buf_json_string(out, s, strlen(s));
    else buf_str(out, "null");
}

void report_json(struct play_totals *t, const struct report_header *h, struct buf *out) {
    sort_failures(t);
    buf_printf(out, "{\"episodes\":%d,\"cleared\":%d,\"clear_rate\":", t->episodes, t->cleared);
    number(out, t->episodes ? (double)t->cleared / t->episodes : NAN, 4);
    buf_str(out, ",\"turns_mean\":");
    number(out, t->cleared ? (double)t->turns_cleared / t->cleared : NAN, 2);
    buf_printf(out, ",\"decisions\":%lld,\"decision_ms\":{\"p50\":", t->decisions);
    number(out, samples_percentile(&t->decision_ms, 0.5), 3);
    buf_str(out, ",\"p95\":");
    number(out, samples_percentile(&t->decision_ms, 0.95), 3);
    buf_str(out, "},\"tokens_per_s\":");
    number(out, t->model_seconds > 0 && t->tokens > 0 ? (double)t->tokens / t->model_seconds : NAN, 1);
    buf_str(out, ",\"decided_by\":{");
    for (int i = 0; i < DECIDED_BY_COUNT; i++) buf_printf(out, "%s\"%s\":%lld", i ? "," : "", decided_by_name[i], t->decided[i]);
    buf_char(out, '}');
    counts_json(&t->counts, out);
    buf_str(out, ",\"policy\":");
    string(out, h->policy);
    buf_str(out, ",\"model\":");
    string(out, h->model);
    buf_printf(out, ",\"seeds\":{\"first\":%u,\"count\":%d},\"failures\":{", h->seed, t->episodes);
    for (int i = 0; i < t->failure_count; i++) {
        if (i) buf_char(out, ',');
        string(out, t->failures[i].cause);
        buf_printf(out, ":%d", t->failures[i].count);
    }
    buf_str(out, "},\"overhead_ms\":{\"p50\":");
    number(out, samples_percentile(&t->overhead_ms, 0.5), 3);
    buf_printf(out, "},\"games\":%d,\"decisions_per_s\":", h->games);
    number(out, h->seconds > 0 && h->decisions_here ? (double)h->decisions_here / h->seconds : NAN, 2);
    buf_str(out, "}\n");
}
