/* Bicubic resampling with antialiasing, bit-exact at uint8 to torchvision's uint8 CPU path and to Pillow (facts §5.3).
 *
 * Both are the same algorithm: per axis a table of taps (first source index, integer weights that sum to about 2^bits), the
 * horizontal pass first, its result rounded to uint8, then the vertical pass; an axis that keeps its size is skipped. They differ
 * only in the bits of a weight: Pillow uses 22, torch the most (up to 22) at which the largest weight of the axis fits an
 * int16. Sums stay within int32: 255 * 2^22 * the sum of |weights| (at most 1.3) < 2^31.
 *
 * The horizontal pass works on a pixel as four int32 lanes, two rows at a time; the vertical pass adds whole rows. Both are
 * plain loops over gcc vectors, compiled for AVX2 and for the baseline and chosen at run time. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vision/image.h"

static double cubic(double x) { /* Keys' kernel, a = -0.5 */
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
}

void resize_taps_free(struct resize_taps *t) {
    free(t->first);
    free(t->count);
    free(t->weight);
    memset(t, 0, sizeof *t); /* resize_taps_new frees on failure, and its caller frees again */
}

int resize_taps_new(struct resize_taps *t, int in, int out, enum resampler kind, struct err *err) {
    double scale = (double)in / out, widen = scale < 1 ? 1 : scale, support = 2 * widen, inverse = 1.0 / widen;
    memset(t, 0, sizeof *t);
    t->most = (int)ceil(support) * 2 + 1;
    size_t cells = (size_t)out * (size_t)t->most;
    t->first = malloc(sizeof(int) * (size_t)out);
    t->count = malloc(sizeof(int) * (size_t)out);
    t->weight = calloc(cells, sizeof(int32_t));
    double *exact = calloc(cells, sizeof(double));
    if (!t->first || !t->count || !t->weight || !exact) {
        resize_taps_free(t);
        free(exact);
        return err_set(err, ERR_MEMORY, "image resize: out of memory for the weights of %d -> %d pixels", in, out);
    }
    double largest = 0;
    for (int i = 0; i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0, *w = exact + (size_t)i * t->most;
        int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (end > in) end = in;
        for (int j = first; j < end; j++) sum += w[j - first] = cubic((j - centre + 0.5) * inverse);
        for (int j = first; j < end && sum != 0; j++) {
            w[j - first] /= sum;
            if (w[j - first] > largest) largest = w[j - first];
        }
        t->first[i] = first;
        t->count[i] = end - first;
    }
    t->bits = 22;
    if (kind == RESAMPLE_TORCHVISION) /* int16 weights: stop before the largest would need the sign bit */
        for (t->bits = 0; t->bits < 22 && (int)(0.5 + largest * (1 << (t->bits + 1))) < 1 << 15;) t->bits++;
    for (size_t k = 0; k < cells; k++) {
        double v = exact[k] * (1 << t->bits);
        t->weight[k] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    free(exact);
    return 0;
}

typedef int32_t lanes4 __attribute__((vector_size(16)));
typedef int32_t lanes8 __attribute__((vector_size(32)));

static inline uint8_t clamp8(int32_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* Rows of `in` pixels -> rows of `out` pixels. */
static inline __attribute__((always_inline)) void horizontal(const uint8_t *src, int in, uint8_t *dst, int out, int rows,
                                                             const struct resize_taps *t) {
    int32_t half = 1 << (t->bits - 1);
    int y = 0;
    for (; y + 1 < rows; y += 2) {
        const uint8_t *a = src + (size_t)y * in * 3, *b = a + (size_t)in * 3;
        uint8_t *da = dst + (size_t)y * out * 3, *db = da + (size_t)out * 3;
        for (int i = 0; i < out; i++) {
            const int32_t *w = t->weight + (size_t)i * t->most;
            size_t at = (size_t)t->first[i] * 3;
            lanes8 sum = {half, half, half, 0, half, half, half, 0};
            for (int j = 0; j < t->count[i]; j++, at += 3) {
                lanes8 v = {a[at], a[at + 1], a[at + 2], 0, b[at], b[at + 1], b[at + 2], 0};
                sum += v * w[j];
            }
            for (int c = 0; c < 3; c++) {
                da[i * 3 + c] = clamp8(sum[c] >> t->bits);
                db[i * 3 + c] = clamp8(sum[4 + c] >> t->bits);
            }
        }
    }
    for (; y < rows; y++) {
        const uint8_t *a = src + (size_t)y * in * 3;
        for (int i = 0; i < out; i++) {
            const int32_t *w = t->weight + (size_t)i * t->most;
            size_t at = (size_t)t->first[i] * 3;
            lanes4 sum = {half, half, half, 0};
            for (int j = 0; j < t->count[i]; j++, at += 3) sum += (lanes4){a[at], a[at + 1], a[at + 2], 0} * w[j];
            for (int c = 0; c < 3; c++) dst[((size_t)y * out + i) * 3 + c] = clamp8(sum[c] >> t->bits);
        }
    }
}

enum { STRIP = 768 }; /* columns of int32 sums that stay in the L1 cache */

static inline __attribute__((always_inline)) void vertical(const uint8_t *src, uint8_t *dst, int out, size_t row_bytes,
                                                           const struct resize_taps *t) {
    int32_t sum[STRIP], half = 1 << (t->bits - 1);
    for (int i = 0; i < out; i++) {
        const int32_t *w = t->weight + (size_t)i * t->most;
        for (size_t x0 = 0; x0 < row_bytes; x0 += STRIP) {
            int n = row_bytes - x0 < STRIP ? (int)(row_bytes - x0) : STRIP, count = t->count[i], j = 0;
            const uint8_t *row = src + (size_t)t->first[i] * row_bytes + x0;
            for (int x = 0; x < n; x++) sum[x] = half;
            for (; j + 4 <= count; j += 4, row += 4 * row_bytes) {
                const uint8_t *r1 = row + row_bytes, *r2 = r1 + row_bytes, *r3 = r2 + row_bytes;
                int32_t w0 = w[j], w1 = w[j + 1], w2 = w[j + 2], w3 = w[j + 3];
                for (int x = 0; x < n; x++) sum[x] += row[x] * w0 + r1[x] * w1 + r2[x] * w2 + r3[x] * w3;
            }
            for (; j < count; j++, row += row_bytes)
                for (int x = 0; x < n; x++) sum[x] += row[x] * w[j];
            uint8_t *to = dst + (size_t)i * row_bytes + x0;
            for (int x = 0; x < n; x++) to[x] = clamp8(sum[x] >> t->bits);
        }
    }
}

#define FAST __attribute__((optimize("O3")))
FAST static void horizontal_baseline(const uint8_t *src, int in, uint8_t *dst, int out, int rows, const struct resize_taps *t) {
    horizontal(src, in, dst, out, rows, t);
}
FAST static void vertical_baseline(const uint8_t *src, uint8_t *dst, int out, size_t row_bytes, const struct resize_taps *t) {
    vertical(src, dst, out, row_bytes, t);
}
#if defined(__x86_64__)
FAST __attribute__((target("avx2"))) static void horizontal_avx2(const uint8_t *src, int in, uint8_t *dst, int out, int rows,
                                                                 const struct resize_taps *t) {
    horizontal(src, in, dst, out, rows, t);
}
FAST __attribute__((target("avx2"))) static void vertical_avx2(const uint8_t *src, uint8_t *dst, int out, size_t row_bytes,
                                                               const struct resize_taps *t) {
    vertical(src, dst, out, row_bytes, t);
}
#endif

int image_resize(const uint8_t *src, int sh, int sw, uint8_t *dst, int dh, int dw, enum resampler kind, struct err *err) {
    if (sh < 1 || sw < 1 || dh < 1 || dw < 1)
        return err_set(err, ERR_ARGUMENT, "image resize: expected sides of at least 1, found %d x %d -> %d x %d", sw, sh, dw, dh);
    if (sh == dh && sw == dw) {
        memcpy(dst, src, (size_t)sh * sw * 3);
        return 0;
    }
    struct resize_taps across = {0}, down = {0};
    uint8_t *between = NULL;
    int code = 0;
    if (sw != dw) code = resize_taps_new(&across, sw, dw, kind, err);
    if (!code && sh != dh) code = resize_taps_new(&down, sh, dh, kind, err);
    if (!code && sw != dw && sh != dh) {
        between = malloc((size_t)sh * dw * 3);
        if (!between) code = err_set(err, ERR_MEMORY, "image resize: out of memory for %d x %d pixels", dw, sh);
    }
    if (!code) {
        const uint8_t *now = src;
        bool avx2 = false;
#if defined(__x86_64__)
        avx2 = __builtin_cpu_supports("avx2");
        if (avx2 && sw != dw) horizontal_avx2(now, sw, between ? between : dst, dw, sh, &across);
#endif
        if (!avx2 && sw != dw) horizontal_baseline(now, sw, between ? between : dst, dw, sh, &across);
        if (between) now = between;
#if defined(__x86_64__)
        if (avx2 && sh != dh) vertical_avx2(now, dst, dh, (size_t)dw * 3, &down);
#endif
        if (!avx2 && sh != dh) vertical_baseline(now, dst, dh, (size_t)dw * 3, &down);
    }
    resize_taps_free(&across);
    resize_taps_free(&down);
    free(between);
    return code;
}
