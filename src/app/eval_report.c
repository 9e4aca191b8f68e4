/* Results as a table for people, as JSON and as CSV. */
#include "app/eval.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void wilson(int hits, int count, double *low, double *high) {
    const double z = 1.959963984540054;
    *low = *high = NAN;
    if (count <= 0) return;
    double n = count, p = hits / n, middle = p + z * z / (2 * n), half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)), scale = 1 + z * z / n;
    *low = hits == 0 ? 0 : (middle - half) / scale;
    *high = hits == count ? 1 : (middle + half) / scale;
}

/* One setting's sums. */
struct sums {
    int played, cleared, floors;       /* floors: stood on, of all episodes */
    long long decisions, tokens, turns_cleared, asked, fallback; /* asked: decided by a model */
    double seconds, model_seconds, emulator_seconds, joules, work_seconds;
};

static bool is_cleared(const struct eval_episode *e) { return !strcmp(e->outcome, "cleared"); }

static struct sums add_up(const struct eval_results *r, int setting) {
    struct sums s = {0};
    int stretches = 0;
    for (int i = 0; i < r->episode_count; i++) {
        const struct eval_episode *e = &r->episodes[i];
        if (e->setting != setting) continue;
        s.played++;
        s.floors += e->floor_reached > 0 ? e->floor_reached : 1;
        s.cleared += is_cleared(e);
        if (is_cleared(e)) s.turns_cleared += e->turns;
        s.decisions += e->decisions;
        s.tokens += e->tokens;
        s.asked += e->decided[BY_MODEL];
        s.fallback += e->decided[BY_FALLBACK];
        s.seconds += e->seconds;
        s.model_seconds += e->model_seconds;
        s.emulator_seconds += e->emulator_seconds;
    }
    for (int i = 0; i < r->energy_count; i++) {
        if (r->energy[i].setting != setting) continue;
        stretches++;
        s.joules += r->energy[i].joules; /* NaN stays */
        s.work_seconds += r->energy[i].seconds;
    }
    if (!stretches) s.joules = NAN;
    return s;
}

static int by_size(const void *a, const void *b) { return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b); }

/* How many reached this floor (0: cleared), and the median decision at which they did; -1: none. */
static int reached(const struct eval_results *r, int setting, int floor, int *median) {
    int *at = malloc(((size_t)r->episode_count + 1) * sizeof *at), n = 0;
    *median = -1;
    for (int i = 0; at && i < r->episode_count; i++) {
        const struct eval_episode *e = &r->episodes[i];
        for (int k = 0; e->setting == setting && k < e->mark_count; k++)
            if (e->marks[k].floor == floor) at[n++] = e->marks[k].decision;
    }
    if (n) {
        qsort(at, (size_t)n, sizeof *at, by_size);
        *median = at[(n - 1) / 2];
    }
    free(at);
    return n;
}

static int highest_floor(const struct eval_results *r) {
    int most = 1;
    for (int i = 0; i < r->episode_count; i++)
        for (int k = 0; k < r->episodes[i].mark_count; k++)
            if (r->episodes[i].marks[k].floor > most) most = r->episodes[i].marks[k].floor;
    return most;
}

/* ---- table ---- */

static void cell(struct buf *b, double v, int digits) {
    if (isfinite(v)) buf_printf(b, " %.*f |", digits, v);
    else buf_str(b, " - |");
}

static void table_causes(const struct eval_results *r, int setting, struct buf *b) {
    struct { const char *cause; int count; } seen[64];
    int kinds = 0;
    for (int i = 0; i < r->episode_count; i++) {
        const struct eval_episode *e = &r->episodes[i];
        const char *cause = *e->cause ? e->cause : e->outcome;
        int k = 0;
        if (e->setting != setting || is_cleared(e)) continue;
        while (k < kinds && strcmp(seen[k].cause, cause)) k++;
        if (k == 64) continue;
        if (k == kinds) seen[kinds].cause = cause, seen[kinds++].count = 0;
        seen[k].count++;
    }
    for (int shown = 0; shown < kinds; shown++) { /* the most frequent first */
        int best = 0;
        for (int k = 1; k < kinds; k++)
            if (seen[k].count > seen[best].count) best = k;
        if (shown == 4) {
            buf_str(b, ", ...");
            break;
        }
        buf_printf(b, "%s%d x %s", shown ? ", " : "", seen[best].count, seen[best].cause);
        seen[best].count = -1;
    }
}

static void table(const struct eval_results *r, struct buf *b) {
    int floors = highest_floor(r);
    buf_printf(b, "Seeds %u to %u, begun %s on %s\n\n", r->seed_first, r->seed_first + (uint32_t)r->seed_count - 1, r->started_at, r->machine);
    buf_str(b, "| setting | played | cleared | rate | 95 % (Wilson) | turns, if cleared | decisions | by model | fallback | why not |\n"
               "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < r->setting_count; i++) {
        struct sums s = add_up(r, i);
        double low, high;
        wilson(s.cleared, s.played, &low, &high);
        buf_printf(b, "| %s | %d | %d |", r->settings[i].name, s.played, s.cleared);
        if (s.played) buf_printf(b, " %.1f %% | %.1f to %.1f %% |", 100.0 * s.cleared / s.played, 100 * low, 100 * high);
        else buf_str(b, " - | - |");
        cell(b, s.cleared ? (double)s.turns_cleared / s.cleared : NAN, 1);
        buf_printf(b, " %lld | %lld | %lld | ", s.decisions, s.asked, s.fallback);
        table_causes(r, i, b);
        buf_str(b, " |\n");
    }
    buf_str(b, "\nPer floor stood on:\n\n| setting | decisions | tokens computed | seconds of the game's process | of it model | of it emulator | joules |\n"
               "| --- | --- | --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < r->setting_count; i++) {
        struct sums s = add_up(r, i);
        double n = s.floors ? s.floors : NAN;
        buf_printf(b, "| %s |", r->settings[i].name);
        cell(b, (double)s.decisions / n, 1);
        cell(b, (double)s.tokens / n, 0);
        cell(b, s.seconds / n, 3);
        cell(b, s.model_seconds / n, 3);
        cell(b, s.emulator_seconds / n, 3);
        if (isfinite(s.joules)) cell(b, s.joules / n, 2);
        else buf_str(b, " not available |");
        buf_char(b, '\n');
    }
    buf_str(b, "\nMilestones: how many, and the decision at which it was (median):\n\n| setting |");
    for (int f = 2; f <= floors; f++) buf_printf(b, " floor %d |", f);
    buf_str(b, " cleared |\n| --- |");
    for (int f = 1; f <= floors; f++) buf_str(b, " --- |");
    buf_char(b, '\n');
    for (int i = 0; i < r->setting_count; i++) {
        buf_printf(b, "| %s |", r->settings[i].name);
        for (int f = 2; f <= floors + 1; f++) {
            int median, n = reached(r, i, f <= floors ? f : 0, &median);
            if (n) buf_printf(b, " %d at %d |", n, median);
            else buf_str(b, " 0 |");
        }
        buf_char(b, '\n');
    }
}

/* ---- JSON, CSV ---- */

static void field(struct buf *b, const char *name, double v) {
    buf_printf(b, ",\"%s\":", name);
    buf_json_number(b, v); /* not finite: null */
}

static void json(const struct eval_results *r, struct buf *b) {
    int floors = highest_floor(r);
    buf_printf(b, "{\"format\":1,\"started_at\":\"%s\",\"machine\":", r->started_at);
    buf_json_string(b, r->machine, strlen(r->machine));
    buf_printf(b, ",\"rom_hash\":\"%s\",\"seeds\":{\"first\":%u,\"count\":%d},\"settings\":[", r->rom_hash, r->seed_first, r->seed_count);
    for (int i = 0; i < r->setting_count; i++) {
        struct sums s = add_up(r, i);
        double low, high, n = s.floors ? s.floors : NAN;
        wilson(s.cleared, s.played, &low, &high);
        buf_printf(b, "%s{\"name\":\"%s\",\"options\":", i ? "," : "", r->settings[i].name);
        buf_json_string(b, r->settings[i].options, strlen(r->settings[i].options));
        buf_printf(b, ",\"played\":%d,\"cleared\":%d", s.played, s.cleared);
        field(b, "clear_rate", s.played ? (double)s.cleared / s.played : NAN);
        field(b, "wilson_low", low);
        field(b, "wilson_high", high);
        field(b, "turns_mean_cleared", s.cleared ? (double)s.turns_cleared / s.cleared : NAN);
        buf_printf(b, ",\"floors\":%d,\"decisions\":%lld,\"by_model\":%lld,\"fallback\":%lld,\"tokens\":%lld", s.floors, s.decisions, s.asked, s.fallback, s.tokens);
        field(b, "seconds", s.seconds);
        field(b, "model_seconds", s.model_seconds);
        field(b, "emulator_seconds", s.emulator_seconds);
        field(b, "joules", s.joules);
        field(b, "wall_seconds", s.work_seconds);
        buf_str(b, ",\"per_floor\":{\"decisions\":");
        buf_json_number(b, (double)s.decisions / n);
        field(b, "tokens", (double)s.tokens / n);
        field(b, "seconds", s.seconds / n);
        field(b, "joules", s.joules / n);
        buf_str(b, "},\"milestones\":[");
        for (int f = 2; f <= floors + 1; f++) {
            int median, hits = reached(r, i, f <= floors ? f : 0, &median);
            buf_printf(b, "%s{\"floor\":%d,\"reached\":%d,\"median_decision\":", f > 2 ? "," : "", f <= floors ? f : 0, hits);
            buf_printf(b, hits ? "%d}" : "null}", median);
        }
        buf_str(b, "]}");
    }
    buf_str(b, "]}\n");
}

static void csv_text(struct buf *b, const char *s) {
    buf_char(b, '"');
    for (; *s; s++) {
        if (*s == '"') buf_char(b, '"');
        buf_char(b, *s);
    }
    buf_char(b, '"');
}

/* One line an episode. */
static void csv(const struct eval_results *r, struct buf *b) {
    buf_str(b, "setting,seed,outcome,cause,floor_reached,turns,decisions,by_model,fallback,tokens,seconds,model_seconds,emulator_seconds,end_hash\n");
    for (int i = 0; i < r->episode_count; i++) {
        const struct eval_episode *e = &r->episodes[i];
        buf_printf(b, "%s,%u,%s,", r->settings[e->setting].name, e->seed, e->outcome);
        csv_text(b, e->cause);
        buf_printf(b, ",%d,%d,%d,%d,%d,%lld,%.3f,%.3f,%.3f,%s\n", e->floor_reached, e->turns, e->decisions, e->decided[BY_MODEL], e->decided[BY_FALLBACK],
                   (long long)e->tokens, e->seconds, e->model_seconds, e->emulator_seconds, e->end_hash);
    }
}

void eval_report(const struct eval_results *r, enum eval_form form, struct buf *out) {
    if (form == EVAL_JSON) json(r, out);
    else if (form == EVAL_CSV) csv(r, out);
    else table(r, out);
}
