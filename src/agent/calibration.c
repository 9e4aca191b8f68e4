#include "agent/calibration.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

enum { FILE_LIMIT = 1 << 20, BINS = 10 };

struct block { /* samples that share one value */
    double right, confidence; /* sums */
    size_t count;
};

static int by_confidence(const void *a, const void *b) {
    float x = ((const struct calibration_sample *)a)->confidence, y = ((const struct calibration_sample *)b)->confidence;
    return (x > y) - (x < y);
}

/* Neighbours out of order are merged until the means rise. Returns how many blocks are left. */
static size_t pool_violators(const struct calibration_sample *s, size_t n, struct block *blocks) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        blocks[k++] = (struct block){s[i].right, s[i].confidence, 1};
        while (k > 1 && (blocks[k - 1].right * (double)blocks[k - 2].count <= blocks[k - 2].right * (double)blocks[k - 1].count ||
                         blocks[k - 1].confidence * (double)blocks[k - 2].count <= blocks[k - 2].confidence * (double)blocks[k - 1].count)) {
            blocks[k - 2].right += blocks[k - 1].right;
            blocks[k - 2].confidence += blocks[k - 1].confidence;
            blocks[k - 2].count += blocks[k - 1].count;
            k--;
        }
    }
    return k;
}

/* As many points as fit; blocks beyond are merged evenly with their neighbours. samples must be sorted. */
static int fit_sorted(const struct calibration_sample *s, size_t n, struct calibration *c, struct err *err) {
    struct block *blocks = malloc((n ? n : 1) * sizeof *blocks);
    if (!blocks) return err_set(err, ERR_MEMORY, "out of memory for %zu decisions", n);
    size_t k = pool_violators(s, n, blocks), each = (k + CALIBRATION_POINTS - 1) / CALIBRATION_POINTS;
    c->count = 0;
    for (size_t i = 0; i < k; i += each) {
        struct block sum = {0};
        for (size_t j = i; j < i + each && j < k; j++) {
            sum.right += blocks[j].right;
            sum.confidence += blocks[j].confidence;
            sum.count += blocks[j].count;
        }
        c->raw[c->count] = (float)(sum.confidence / (double)sum.count);
        c->right[c->count++] = (float)(sum.right / (double)sum.count);
    }
    c->samples = (long)n;
    free(blocks);
    return 0;
}

float calibration_apply(const struct calibration *c, float confidence) {
    if (!c || !c->count || confidence <= 0) return confidence;
    if (confidence <= c->raw[0]) return c->right[0];
    for (int i = 1; i < c->count; i++) {
        if (confidence > c->raw[i]) continue;
        float t = (confidence - c->raw[i - 1]) / (c->raw[i] - c->raw[i - 1]);
        return c->right[i - 1] + t * (c->right[i] - c->right[i - 1]);
    }
    return c->right[c->count - 1];
}

double calibration_error(const struct calibration *c, const struct calibration_sample *samples, size_t count) {
    double sure[BINS] = {0}, right[BINS] = {0}, error = 0;
    for (size_t i = 0; i < count; i++) {
        float p = calibration_apply(c, samples[i].confidence);
        int bin = p >= 1 ? BINS - 1 : p <= 0 ? 0 : (int)(p * BINS);
        sure[bin] += p;
        right[bin] += samples[i].right;
    }
    for (int b = 0; b < BINS; b++) error += fabs(sure[b] - right[b]);
    return count ? error / (double)count : NAN;
}

/* Fitted on the groups of one parity, tested on the others; both ways, weighted. */
static int cross_validate(const struct calibration_sample *samples, size_t count, struct calibration *c, struct err *err) {
    struct calibration_sample *fit = malloc(count * sizeof *fit), *test = malloc(count * sizeof *test);
    struct calibration half;
    double before = 0, after = 0;
    int code = fit && test ? 0 : err_set(err, ERR_MEMORY, "out of memory for %zu decisions", count);
    for (int odd = 0; odd < 2 && !code; odd++) {
        size_t n = 0, m = 0;
        for (size_t i = 0; i < count; i++) {
            if ((samples[i].group & 1) == odd) fit[n++] = samples[i];
            else test[m++] = samples[i];
        }
        if (!n || !m) {
            before = after = NAN;
            break;
        }
        code = fit_sorted(fit, n, &half, err);
        before += calibration_error(NULL, test, m) * (double)m / (double)count;
        after += calibration_error(&half, test, m) * (double)m / (double)count;
    }
    c->error_before = before;
    c->error_after = after;
    free(fit);
    free(test);
    return code;
}

int calibration_fit(struct calibration_sample *samples, size_t count, struct calibration *out, struct err *err) {
    *out = (struct calibration){.error_before = NAN, .error_after = NAN};
    if (count < CALIBRATION_LEAST) {
        return err_set(err, ERR_ARGUMENT, "%zu decisions with a confidence and the oracle's action: at least %d are needed", count, CALIBRATION_LEAST);
    }
    qsort(samples, count, sizeof *samples, by_confidence);
    int code = cross_validate(samples, count, out, err);
    return code ? code : fit_sorted(samples, count, out, err);
}

void calibration_write(const struct calibration *c, struct buf *out) {
    buf_str(out, "{\"format\":1,\"model\":"), buf_json_string(out, c->model, strlen(c->model));
    buf_printf(out, ",\"samples\":%ld,\"error_before\":", c->samples), buf_json_number(out, c->error_before);
    buf_str(out, ",\"error_after\":"), buf_json_number(out, c->error_after);
    buf_str(out, ",\"points\":[");
    for (int i = 0; i < c->count; i++) buf_printf(out, "%s[%.6f,%.6f]", i ? "," : "", (double)c->raw[i], (double)c->right[i]);
    buf_str(out, "]}\n");
}

int calibration_read(const char *path, struct calibration *out, struct err *err) {
    struct arena arena = {0};
    *out = (struct calibration){.error_before = NAN, .error_after = NAN};
    const struct json *j = json_parse_file(path, FILE_LIMIT, &arena, err), *points = json_get(j, "points");
    int code = j ? 0 : err->code;
    if (!code && json_as_integer(json_get(j, "format"), -1) != 1) code = err_set(err, ERR_FORMAT, "%s: field format: expected 1", path);
    if (!code && (!points || points->type != JSON_ARRAY || points->count < 1 || points->count > CALIBRATION_POINTS)) {
        code = err_set(err, ERR_FORMAT, "%s: field points: expected an array of 1 to %d pairs", path, CALIBRATION_POINTS);
    }
    for (uint32_t i = 0; !code && i < points->count; i++) {
        const struct json *pair = points->items[i];
        bool is_pair = pair->type == JSON_ARRAY && pair->count == 2;
        double raw = is_pair ? json_as_number(pair->items[0], -1) : -1, right = is_pair ? json_as_number(pair->items[1], -1) : -1;
        bool rises = i == 0 || (raw > (double)out->raw[i - 1] && right >= (double)out->right[i - 1]);
        if (!(raw >= 0 && raw <= 1 && right >= 0 && right <= 1 && rises)) {
            code = err_set(err, ERR_FORMAT, "%s: field points, pair %u: expected two numbers from 0 to 1, both above those before", path, i);
        } else {
            out->raw[i] = (float)raw;
            out->right[i] = (float)right;
            out->count = (int)i + 1;
        }
    }
    if (!code) {
        snprintf(out->model, sizeof out->model, "%s", json_as_string(json_get(j, "model"), ""));
        out->samples = (long)json_as_integer(json_get(j, "samples"), 0);
        out->error_before = json_as_number(json_get(j, "error_before"), NAN);
        out->error_after = json_as_number(json_get(j, "error_after"), NAN);
    }
    arena_free(&arena);
    return code;
}
