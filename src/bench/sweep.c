#include "bench/sweep.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/report.h"
#include "bench/subject.h"

struct progress {
    const struct sweep *s;
    struct cell *cells;          /* (count) */
    bool *done;                  /* (count) in the result files */
    double *seconds;             /* (count) estimates */
    size_t count, finished;
    double start, estimated, measured; /* of the cells of this run */
    struct results *results;
    struct frame_files frames;
    struct energy_meter energy;
    struct qvl_ceilings device;
    double device_at;            /* when that was measured */
    char machine[128];
};
static const double ceilings_age_s = 15; /* measured again before a cell when older: other work on the machine moves them */

static const char *model_name(const struct progress *p, size_t i) { return p->s->models[p->cells[i].model]; }

static void name_cell(const struct progress *p, size_t i, struct result *r) {
    const struct cell *c = &p->cells[i];
    result_clear(r);
    snprintf(r->model, sizeof r->model, "%s", model_name(p, i));
    snprintf(r->weights, sizeof r->weights, "%s", p->s->random_weights ? "random" : "file");
    snprintf(r->task, sizeof r->task, "%s", task_names[c->task]);
    r->picture_share = c->picture_share;
    r->context = c->context;
    r->batch = c->batch;
    r->best_of = c->best_of;
}

/* ---- result files ---- */

/* Takes a torn last line off, so that what is appended begins a line. */
static int mend(const char *path, const struct results *old, struct err *err) {
    if (!old->torn || !truncate(path, (off_t)old->whole_bytes)) return 0;
    return err_set(err, ERR_IO, "%s: cannot remove the torn last line: %s", path, strerror(errno));
}

/* Cells of the matrix that stand in `path` already. The last line about a cell counts; one that failed is tried again. */
static int take_old(struct progress *p, const char *path, bool *done, struct err *err) {
    struct results old = {0};
    struct stat st;
    if (stat(path, &st) || st.st_size == 0) return 0;
    if (!p->s->resume)
        return err_set(err, ERR_ARGUMENT, "%s: there already; --resume goes on with it, or name another file", path);
    int r = results_read(path, &old, err);
    if (!r) r = mend(path, &old, err);
    for (size_t i = 0; !r && i < p->count; i++) {
        struct result cell;
        const struct result *last = NULL;
        name_cell(p, i, &cell);
        for (size_t k = 0; k < old.count; k++)
            if (result_same_cell(&cell, &old.items[k])) last = &old.items[k];
        done[i] = last && strcmp(last->status, "failed");
        if (done[i] && !p->done[i]) r = results_add(p->results, last, err);
        p->done[i] = p->done[i] || done[i];
    }
    results_free(&old);
    return r;
}

/* A cell is done when every file has it. What only one has is copied to the other. */
static int resume(struct progress *p, struct err *err) {
    bool *in_json = calloc(p->count + 1, sizeof *in_json), *in_csv = calloc(p->count + 1, sizeof *in_csv);
    int r = in_json && in_csv ? 0 : err_set(err, ERR_MEMORY, "out of memory for %zu cells", p->count);
    if (!r && p->s->json) r = take_old(p, p->s->json, in_json, err);
    if (!r && p->s->csv) r = take_old(p, p->s->csv, in_csv, err);
    for (size_t i = 0; !r && p->s->json && p->s->csv && i < p->count; i++) {
        struct result cell;
        if (in_json[i] == in_csv[i]) continue;
        name_cell(p, i, &cell);
        for (size_t k = 0; !r && k < p->results->count; k++)
            if (result_same_cell(&cell, &p->results->items[k]))
                r = result_append(in_json[i] ? p->s->csv : p->s->json, in_json[i], &p->results->items[k], err);
    }
    free(in_json);
    free(in_csv);
    return r;
}

static int keep(struct progress *p, size_t i, const struct result *r, struct err *err) {
    int code = results_add(p->results, r, err);
    if (!code && p->s->json) code = result_append(p->s->json, false, r, err);
    if (!code && p->s->csv) code = result_append(p->s->csv, true, r, err);
    p->done[i] = true;
    p->finished++;
    return code;
}

/* ---- progress ---- */

/* How much longer cells take here than estimated. */
static double pace(const struct progress *p, double otherwise) {
    return p->estimated > 0 && p->measured > 0 ? p->measured / p->estimated : otherwise;
}

static double left_seconds(const struct progress *p) {
    double sum = 0;
    for (size_t i = 0; i < p->count; i++)
        if (!p->done[i]) sum += p->seconds[i];
    return sum * pace(p, 2);
}

static void say(const struct progress *p, const struct result *r) {
    size_t done = 0;
    char outcome[600];
    for (size_t i = 0; i < p->count; i++) done += p->done[i];
    if (!strcmp(r->status, "measured"))
        snprintf(outcome, sizeof outcome, "%.0f tok/s prefill, %.1f tok/s decode, first token %.1f ms", r->prefill_tok_s.median,
                 r->decode_tok_s.median, r->ttft_cold_ms.median);
    else snprintf(outcome, sizeof outcome, "%s: %s", r->status, r->reason);
    fprintf(stderr, "[%zu/%zu] %s %s %lld b%lld x%lld: %s; %.0f s, about %.0f s left\n", done, p->count, r->model, r->task,
            (long long)r->context, (long long)r->batch, (long long)r->best_of, outcome, clock_seconds() - p->start, left_seconds(p));
}

/* ---- cells ---- */

/* The device's limits anew when they are old. A GPU's do not move, and there may be no room to measure them beside a model: between
 * models. */
static void measure_device(struct progress *p) {
    struct qvl_ceilings now;
    if (clock_seconds() - p->device_at < ceilings_age_s) return;
    if (!qvl_device_ceilings(&p->s->load, &now, NULL)) p->device = now;
    p->device_at = clock_seconds();
}

static void describe(const struct progress *p, const struct subject *s, struct result *r) {
    struct qvl_info info;
    time_t now = time(NULL);
    struct tm tm;
    qvl_model_info(s->m, &info);
    snprintf(r->storage, sizeof r->storage, "%s", info.storage);
    snprintf(r->device, sizeof r->device, "%s", info.device);
    snprintf(r->kernels, sizeof r->kernels, "%s", info.kernels);
    snprintf(r->machine, sizeof r->machine, "%s", p->machine);
    snprintf(r->version, sizeof r->version, "%s", p->s->version);
    strftime(r->date, sizeof r->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
}

static void refuse(struct result *r, const char *status, const char *why) {
    snprintf(r->status, sizeof r->status, "%s", status);
    snprintf(r->reason, sizeof r->reason, "%s", why);
}

static int run_cell(struct progress *p, struct subject *s, size_t i, int64_t kv_tokens, struct err *err) {
    const struct cell *c = &p->cells[i];
    struct result r;
    char why[400];
    int64_t need = cell_kv_tokens(c, p->s->how.answer_tokens);
    double expected = p->seconds[i] * pace(p, 1); /* nothing is faster than the roofline */
    name_cell(p, i, &r);
    describe(p, s, &r);
    if (need > kv_tokens) {
        snprintf(why, sizeof why, "does not fit: %.0f MiB of keys and values are needed, there is room for %.0f MiB",
                 (double)need * (double)s->kv_token_bytes / 1048576, (double)kv_tokens * (double)s->kv_token_bytes / 1048576);
        refuse(&r, "skipped", why);
    } else if (p->s->how.budget_s > 0 && expected > p->s->how.budget_s) {
        snprintf(why, sizeof why, "one repeat should take %.0f s (estimate), the budget of a cell is %.0f s", expected,
                 p->s->how.budget_s);
        refuse(&r, "skipped", why);
    } else {
        if (!strcmp(p->device.device, "cpu")) measure_device(p);
        s->read_bytes = p->device.read_bytes;
        measure_cell(s, c, &p->s->how, &r);
        if (!strcmp(r.status, "measured")) {
            p->estimated += p->seconds[i];
            p->measured += r.wall_s / (double)r.repeats;
        }
    }
    int code = keep(p, i, &r, err);
    if (!code) say(p, &r);
    return code;
}

static bool time_is_up(const struct progress *p, size_t i) {
    double repeats = p->s->how.repeats > 1 ? p->s->how.repeats : 1, expected = p->seconds[i] * pace(p, 1) * repeats;
    if (p->s->how.budget_s > 0 && expected > p->s->how.budget_s) expected = p->s->how.budget_s;
    return p->s->max_wall_s > 0 && clock_seconds() - p->start + expected > p->s->max_wall_s;
}

/* Cells [from, to) are one model's. */
static int run_model(struct progress *p, size_t from, size_t to, struct err *err) {
    struct subject s = {.energy = &p->energy, .maker.frames = &p->frames};
    struct err own = {0};
    int64_t kv_tokens = 0;
    int r = 0;
    bool any = false;
    for (size_t i = from; i < to; i++) any = any || (!p->done[i] && !time_is_up(p, i));
    if (!any) return 0;
    measure_device(p);
    fprintf(stderr, "%s: loading%s\n", model_name(p, from), p->s->random_weights ? " random weights of its shape" : "");
    if (subject_open(p->s, model_name(p, from), p->cells + from, to - from, &s, &kv_tokens, &own)) {
        fprintf(stderr, "%s: %s\n", model_name(p, from), own.message);
        for (size_t i = from; !r && i < to; i++) {
            struct result failed;
            if (p->done[i]) continue;
            name_cell(p, i, &failed);
            snprintf(failed.device, sizeof failed.device, "%s", p->device.device);
            refuse(&failed, own.code == ERR_LIMIT ? "skipped" : "failed", "");
            snprintf(failed.reason, sizeof failed.reason, "%.470s", own.message);
            r = keep(p, i, &failed, err);
        }
        return r;
    }
    for (size_t i = from; !r && i < to; i++)
        if (!p->done[i] && !time_is_up(p, i)) r = run_cell(p, &s, i, kv_tokens, err);
    subject_close(&s);
    return r;
}

/* Seconds of one repeat of every cell, for the pace. A model whose headers cannot be read will say so when it is loaded. */
static void estimate_all(struct progress *p) {
    int known = -1;
    struct model_facts f = {0};
    for (size_t i = 0; i < p->count; i++) {
        struct cell_estimate e;
        if (p->done[i]) continue;
        if (p->cells[i].model != known) {
            known = p->cells[i].model;
            if (subject_facts(p->s, p->s->models[known], &f, NULL)) f = (struct model_facts){0};
        }
        if (f.decode_bytes == 0) continue;
        cell_estimate(&p->cells[i], p->s->how.answer_tokens, &f, &p->device, &e);
        p->seconds[i] = e.total_s;
    }
}

static int run_all(struct progress *p, struct err *err) {
    bool remaining = false;
    int r = resume(p, err);
    for (size_t i = 0; i < p->count; i++) remaining = remaining || !p->done[i];
    if (r || !remaining) return r;
    if ((r = qvl_device_ceilings(&p->s->load, &p->device, err))) return r;
    p->device_at = clock_seconds();
    energy_meter_open(&p->energy, p->s->load.card, !strcmp(p->device.device, "cpu") ? 0 : p->s->load.replicas > 1 ? p->s->load.replicas : 1);
    if (p->energy.card[0]) snprintf(p->machine, sizeof p->machine, "%s", p->energy.card);
    frame_files_read(p->s->pictures, &p->frames);
    fprintf(stderr, "%s (%s): reads %.1f GB/s, bf16 products %.3g TFLOP/s, measured now; %zu cells, set \"%s\"\n", p->machine,
            p->device.device, p->device.read_bytes / 1e9, p->device.product_flops / 1e12, p->count, matrix_name(&p->s->matrix));
    estimate_all(p);
    for (size_t from = 0, to; !r && from < p->count; from = to) {
        for (to = from; to < p->count && p->cells[to].model == p->cells[from].model;) to++;
        r = run_model(p, from, to, err);
    }
    frame_files_free(&p->frames);
    energy_meter_close(&p->energy);
    return r;
}

int sweep_run(const struct sweep *s, struct results *results, size_t *left, struct err *err) {
    struct progress p = {.s = s, .results = results, .start = clock_seconds()};
    *results = (struct results){0};
    *left = 0;
    int r = matrix_cells(&s->matrix, s->model_count, &p.cells, &p.count, err);
    if (r) return r;
    p.done = calloc(p.count + 1, sizeof *p.done);
    p.seconds = calloc(p.count + 1, sizeof *p.seconds);
    meter_machine_name(p.machine, sizeof p.machine);
    r = p.done && p.seconds ? run_all(&p, err) : err_set(err, ERR_MEMORY, "out of memory for %zu cells", p.count);
    for (size_t i = 0; !r && i < p.count; i++) *left += !p.done[i];
    free(p.cells);
    free(p.done);
    free(p.seconds);
    return r;
}

int sweep_dry_run(const struct sweep *s, struct err *err) {
    struct cell *cells;
    size_t count;
    struct qvl_ceilings device;
    struct model_facts f = {0};
    int r = matrix_cells(&s->matrix, s->model_count, &cells, &count, err), known = -1;
    if (r) return r;
    if (!(r = qvl_device_ceilings(&s->load, &device, err))) report_plan_heading(s, &device, count);
    double total = 0;
    for (size_t i = 0; !r && i < count; i++) {
        struct cell_estimate e;
        if (cells[i].model != known) {
            known = cells[i].model;
            r = subject_facts(s, s->models[known], &f, err);
        }
        if (r) break;
        cell_estimate(&cells[i], s->how.answer_tokens, &f, &device, &e);
        report_plan_cell(s, &cells[i], &f, &e);
        total += e.total_s * (s->how.repeats > 1 ? s->how.repeats : 1);
    }
    if (!r) report_plan_end(total);
    free(cells);
    return r;
}
