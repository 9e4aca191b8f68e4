#include "bench/compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double least_difference = 0.01; /* of the first figure: less is not worth a word */

static const struct {
    const char *name;
    size_t offset;
    bool more_is_better;
} figures[] = {{"prefill tok/s", offsetof(struct result, prefill_tok_s), true},
               {"decode tok/s", offsetof(struct result, decode_tok_s), true},
               {"first token, cold, ms", offsetof(struct result, ttft_cold_ms), false},
               {"first token, half reused, ms", offsetof(struct result, ttft_half_ms), false},
               {"first token, 9/10 reused, ms", offsetof(struct result, ttft_prefix_ms), false},
               {"first token, one token new, ms", offsetof(struct result, ttft_resident_ms), false},
               {"first token, all reused, ms", offsetof(struct result, ttft_full_ms), false}};
enum { FIGURES = sizeof figures / sizeof *figures };

static const char *const verdict_names[] = {"faster", "slower", "within noise", "not comparable"};

enum verdict compare_measures(struct measure a, struct measure b, bool more_is_better) {
    if (!isfinite(a.median) || !isfinite(b.median)) return VERDICT_NONE;
    double difference = b.median - a.median, noise = a.spread + b.spread;
    if (!isfinite(noise)) noise = 0;
    if (fabs(difference) <= noise || fabs(difference) <= least_difference * fabs(a.median)) return VERDICT_NOISE;
    return (difference > 0) == more_is_better ? VERDICT_FASTER : VERDICT_SLOWER;
}

static const struct result *last_of(const struct results *l, const struct result *cell) {
    const struct result *found = NULL;
    for (size_t i = 0; i < l->count; i++)
        if (result_same_cell(&l->items[i], cell)) found = &l->items[i];
    return found;
}

static void name_of(const struct result *r, char out[300]) {
    char share[16] = "";
    if (r->picture_share > 0) snprintf(share, sizeof share, " %.2g", r->picture_share);
    snprintf(out, 300, "%s%s %s%s %lld b%lld x%lld", r->model, strcmp(r->weights, "random") ? "" : " (random weights)", r->task, share,
             (long long)r->context, (long long)r->batch, (long long)r->best_of);
}

static void compare_cell(const struct result *a, const struct result *b, struct comparison *c) {
    char name[300];
    bool first = true;
    name_of(a, name);
    c->cells++;
    if (strcmp(a->status, "measured") || strcmp(b->status, "measured")) {
        printf("| %s | %s against %s | | | | not comparable |\n", name, a->status, b->status);
        c->unmeasured++;
        return;
    }
    for (int i = 0; i < FIGURES; i++) {
        struct measure x = *(const struct measure *)((const char *)a + figures[i].offset);
        struct measure y = *(const struct measure *)((const char *)b + figures[i].offset);
        enum verdict v = compare_measures(x, y, figures[i].more_is_better);
        if (v == VERDICT_NONE) continue;
        printf("| %s | %s | %.4g ±%.2g | %.4g ±%.2g | %+.1f %% | %s |\n", first ? name : "", figures[i].name, x.median, x.spread, y.median,
               y.spread, 100 * (y.median - x.median) / x.median, verdict_names[v]);
        first = false;
        c->faster += v == VERDICT_FASTER;
        c->slower += v == VERDICT_SLOWER;
        c->noise += v == VERDICT_NOISE;
    }
}

/* The same cell on another machine, device or storage is compared all the same, but said. */
static void note_differences(const struct result *a, const struct result *b) {
    if (strcmp(a->machine, b->machine)) printf("machine: A \"%s\", B \"%s\"\n", a->machine, b->machine);
    if (strcmp(a->device, b->device) || strcmp(a->kernels, b->kernels))
        printf("device: A %s (%s), B %s (%s)\n", a->device, a->kernels, b->device, b->kernels);
    if (a->answer_tokens != b->answer_tokens)
        printf("answer tokens: A %lld, B %lld\n", (long long)a->answer_tokens, (long long)b->answer_tokens);
}

static void compare_lists(const struct results *a, const struct results *b, struct comparison *out) {
    bool noted = false;
    for (size_t i = 0; i < a->count; i++) {
        const struct result *x = &a->items[i], *y = last_of(b, x);
        if (last_of(a, x) != x) continue;
        if (!y) {
            out->only_a++;
            continue;
        }
        if (!noted) {
            note_differences(x, y);
            puts("| cell | figure | A | B | B against A | verdict |\n| --- | --- | --- | --- | --- | --- |");
            noted = true;
        }
        compare_cell(x, y, out);
    }
    for (size_t i = 0; i < b->count; i++)
        if (last_of(b, &b->items[i]) == &b->items[i] && !last_of(a, &b->items[i])) out->only_b++;
}

int compare_files(const char *a, const char *b, struct comparison *out, struct err *err) {
    struct results first = {0}, second = {0};
    *out = (struct comparison){0};
    int r = results_read(a, &first, err);
    if (!r) r = results_read(b, &second, err);
    if (!r) {
        printf("A: %s\nB: %s\n", a, b);
        compare_lists(&first, &second, out);
        if (out->cells == 0) r = err_set(err, ERR_ARGUMENT, "%s and %s have no cell in common", a, b);
        else
            printf("\n%d cells in both files: %d figures faster, %d slower, %d within noise; %d cells not comparable; %d only in A, %d "
                   "only in B.\nNoise: no further apart than both spreads together, or less than 1 %%.\n",
                   out->cells, out->faster, out->slower, out->noise, out->unmeasured, out->only_a, out->only_b);
    }
    results_free(&first);
    results_free(&second);
    return r;
}
