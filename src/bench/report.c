#include "bench/report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* "1234 ±12" with as many digits as the figure deserves; "-" when not measured. */
static const char *shown(struct measure m, char out[40]) {
    int digits = m.median >= 100 ? 0 : m.median >= 10 ? 1 : 2;
    if (!isfinite(m.median)) return "-";
    snprintf(out, 40, "%.*f ±%.*f", digits, m.median, digits, m.spread);
    return out;
}

static const char *plain(double v, char out[40]) {
    if (!isfinite(v)) return "-";
    snprintf(out, 40, "%.*f", v >= 100 ? 0 : v >= 10 ? 1 : 2, v);
    return out;
}

static void report_row(const struct result *r) {
    char a[40], b[40], c[40], d[40], e[40], f[40], g[40], h[40], k[40], l[40], n[40], task[40];
    if (r->picture_share > 0) snprintf(task, sizeof task, "%s %.2g", r->task, r->picture_share);
    else snprintf(task, sizeof task, "%s", r->task);
    printf("| %s%s | %s | %lld | %lld x %lld | ", r->model, strcmp(r->weights, "random") ? "" : " (random weights)", task,
           (long long)r->context, (long long)r->batch, (long long)r->best_of);
    if (strcmp(r->status, "measured")) {
        printf("%s: %s | | | | | | | | | | | |\n", r->status, r->reason);
        return;
    }
    printf("%s | %s | %s | %.0f %% | %s | %s | %s | %s | %s / %s / %s | %s | %s | %lld |\n", shown(r->prefill_tok_s, a),
           shown(r->decode_tok_s, b), plain(r->floor_tok_s, c), 100 * r->floor_share, shown(r->ttft_cold_ms, d),
           shown(r->ttft_prefix_ms, e), shown(r->ttft_resident_ms, n), shown(r->ttft_full_ms, f), plain(r->token_p50_ms, g), plain(r->token_p95_ms, h),
           plain(r->token_p99_ms, k), plain(r->memory_mib, l), plain(r->decode_j_token, (char[40]){0}), (long long)r->repeats);
}

void report_results(const struct results *l) {
    puts("| model | task | context | batch x best-of | prefill tok/s | decode tok/s | byte floor tok/s | of floor | first token cold ms | "
         "9/10 reused ms | one token new ms | all reused ms | between tokens p50 / p95 / p99 ms | memory MiB | J a token | repeats |\n"
         "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (size_t i = 0; i < l->count; i++) report_row(&l->items[i]);
    puts("\nFigures are medians of the repeats, ± the largest less the smallest. The byte floor is reckoned from the bytes that a step must\n"
         "read and the read bandwidth measured beside the cell.");
}

void report_plan_heading(const struct sweep *s, const struct qvl_ceilings *device, size_t cells) {
    printf("%zu cells (set \"%s\") on %s, which reads %.1f GB/s and multiplies %.3g TFLOP/s in bf16 (measured now).\n"
           "Nothing was loaded or measured beyond that: every column under `estimate` is reckoned, not measured.\n\n"
           "| model | weights | task | context | batch x best-of | estimate: prefill tok/s | estimate: decode tok/s | estimate: first "
           "token cold ms | estimate: memory MiB | estimate: seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
           cells, matrix_name(&s->matrix), device->device, device->read_bytes / 1e9, device->product_flops / 1e12);
}

void report_plan_cell(const struct sweep *s, const struct cell *c, const struct model_facts *f, const struct cell_estimate *e) {
    printf("| %s | %s, %s | %s", s->models[c->model], f->storage, s->random_weights ? "random" : "file", task_names[c->task]);
    if (c->picture_share > 0) printf(" %.2g", c->picture_share);
    printf(" | %lld | %d x %d | %.0f | %.1f | %.0f | %.0f | %.1f |\n", (long long)c->context, c->batch, c->best_of, e->prefill_tok_s,
           e->decode_tok_s, e->cold_ms, e->memory_mib, e->total_s * (s->how.repeats > 1 ? s->how.repeats : 1));
}

void report_plan_end(double seconds) {
    printf("\nestimate of the whole sweep: %.0f s at the roofline, loading aside; real runs take longer.\n", seconds);
}
