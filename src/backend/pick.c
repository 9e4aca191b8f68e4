#include "backend/pick.h"

#include <math.h>
#include <string.h>

struct candidate {
    int32_t id;
    float score;
};

size_t pick_work_bytes(int vocab) { return (size_t)vocab * (sizeof(struct candidate) + sizeof(float)); }

/* ---- the sum of the row's exponentials ----
 *
 * A vocabulary has 151,936 logits and every token reported carries a log-probability: with libm's exp this would take a millisecond
 * a token. exp by a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2] (Taylor; relative error 2e-7), sixteen lanes; the same operations in
 * the same order for every instruction set, so the same bits. */

enum { LANES = 16, BLOCK = LANES * 64 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t int_lanes __attribute__((vector_size(LANES * sizeof(int32_t))));

#define EXP_SUM_BLOCK                                                                                                  \
    const lanes low = {-87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87, -87};                \
    lanes sum = {0};                                                                                                   \
    for (int i = 0; i < BLOCK; i += LANES) {                                                                           \
        lanes x = *(const lanes *)(row + i) - most;                                                                    \
        int_lanes in = x > low; /* a NaN is not */                                                                     \
        x = (lanes)(((int_lanes)x & in) | ((int_lanes)low & ~in));                                                     \
        lanes t = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the integer part is in the low bits */                 \
        lanes n = t - 12582912.0f;                                                                                     \
        lanes r = (x - n * 0.693145752f) - n * 1.42860677e-6f;                                                         \
        lanes e = r * (1.0f / 720) + 1.0f / 120;                                                                       \
        e = e * r + 1.0f / 24;                                                                                         \
        e = e * r + 1.0f / 6;                                                                                          \
        e = e * r + 0.5f;                                                                                              \
        e = e * r + 1.0f;                                                                                              \
        e = e * r + 1.0f;                                                                                              \
        sum += (lanes)((int_lanes)e + ((int_lanes)t << 23));                                                           \
    }                                                                                                                  \
    double total = 0;                                                                                                  \
    for (int l = 0; l < LANES; l++) total += (double)sum[l];                                                           \
    return total

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double exp_sum_avx512(const float *row, float most) { EXP_SUM_BLOCK; }
__attribute__((target("avx2"))) static double exp_sum_avx2(const float *row, float most) { EXP_SUM_BLOCK; }
#endif
static double exp_sum_plain(const float *row, float most) { EXP_SUM_BLOCK; }

static double exp_sum(const float *row, int n, float most) {
    double (*block)(const float *, float) = exp_sum_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) block = exp_sum_avx512;
    else if (__builtin_cpu_supports("avx2")) block = exp_sum_avx2;
#endif
    double total = 0;
    int i = 0;
    for (; i + BLOCK <= n; i += BLOCK) total += block(row + i, most);
    for (; i < n; i++)
        if (row[i] > -INFINITY) total += exp((double)row[i] - (double)most);
    return total;
}

/* The largest of a block, or -infinity. */
#define MOST_BLOCK                                                                                                     \
    lanes most = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY,              \
                  -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};             \
    for (int i = 0; i < n; i += LANES) {                                                                               \
        lanes x = *(const lanes *)(row + i);                                                                           \
        int_lanes in = x > most;                                                                                       \
        most = (lanes)(((int_lanes)x & in) | ((int_lanes)most & ~in));                                                 \
    }                                                                                                                  \
    float best = most[0];                                                                                              \
    for (int l = 1; l < LANES; l++) best = most[l] > best ? most[l] : best;                                            \
    return best

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float most_avx512(const float *row, int n) { MOST_BLOCK; }
__attribute__((target("avx2"))) static float most_avx2(const float *row, int n) { MOST_BLOCK; }
#endif
static float most_plain(const float *row, int n) { MOST_BLOCK; }

/* ---- the first of a row ----
 *
 * The row is read once for the largest of each of at most RANK_BLOCKS pieces. The 64th largest of these is not above the row's 64th
 * number, so only pieces that reach it are looked into: about 64 of 1,187. */

enum { RANK_BLOCKS = 2048 };

static bool ranks_before(float a, int32_t i, float b, int32_t k) { return a > b || (a == b && i < k); }

/* The number-th largest of v, which it reorders; all of v when there are no more. */
static float nth_largest(float *v, int count, int number) {
    int low = 0, high = count - 1;
    if (count <= number) return -INFINITY;
    while (low < high) {
        float pivot = v[low + (high - low) / 2];
        int i = low, k = high;
        while (i <= k) {
            while (v[i] > pivot) i++;
            while (v[k] < pivot) k--;
            if (i > k) break;
            float t = v[i];
            v[i++] = v[k];
            v[k--] = t;
        }
        if (number - 1 <= k) high = k;
        else if (number - 1 >= i) low = i;
        else break;
    }
    return v[number - 1];
}

void pick_rank(const float *logits, int vocab, double norm, struct pick_ranked *out) {
    float (*most_of_block)(const float *, int) = most_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) most_of_block = most_avx512;
    else if (__builtin_cpu_supports("avx2")) most_of_block = most_avx2;
#endif
    int size = (vocab + RANK_BLOCKS - 1) / RANK_BLOCKS, count = 0;
    size = size < 128 ? 128 : (size + LANES - 1) / LANES * LANES;
    float most[RANK_BLOCKS], order[RANK_BLOCKS];
    for (int at = 0; at < vocab; at += size) {
        int n = vocab - at < size ? vocab - at : size, whole = n / LANES * LANES;
        float best = most_of_block(logits + at, whole);
        for (int i = whole; i < n; i++) best = logits[at + i] > best ? logits[at + i] : best;
        most[count++] = best;
    }
    memcpy(order, most, (size_t)count * sizeof *order);
    float least = nth_largest(order, count, PICK_RANKED);
    out->count = 0;
    for (int b = 0; b < count; b++) {
        if (!(most[b] >= least) || most[b] == -INFINITY) continue;
        int end = (b + 1) * size < vocab ? (b + 1) * size : vocab;
        for (int32_t i = b * size; i < end; i++) {
            float v = logits[i];
            if (!(v >= least) || v == -INFINITY) continue;
            int k = out->count;
            if (k == PICK_RANKED && !ranks_before(v, i, out->logit[k - 1], out->id[k - 1])) continue;
            if (k < PICK_RANKED) out->count++;
            else k--;
            for (; k > 0 && v > out->logit[k - 1]; k--) out->logit[k] = out->logit[k - 1], out->id[k] = out->id[k - 1];
            out->logit[k] = v, out->id[k] = i;
        }
    }
    out->norm = !isnan(norm) ? norm : out->count ? (double)out->logit[0] + log(exp_sum(logits, vocab, out->logit[0])) : -INFINITY;
}

/* ---- log-probabilities ---- */

static float most_of(const float *row, int n, int32_t *at) {
    float most = -INFINITY;
    *at = -1;
    for (int32_t i = 0; i < n; i++)
        if (row[i] > most) most = row[i], *at = i;
    return most;
}

/* The likeliest, as logits. */
static void top_of(const float *row, int n, int top, struct picked *out) {
    out->top_count = 0;
    for (int32_t i = 0; top > 0 && i < n; i++) {
        float v = row[i];
        if (!(v > -INFINITY) || (out->top_count == top && v <= out->top_logprob[top - 1])) continue;
        int k = out->top_count < top ? out->top_count++ : top - 1;
        for (; k > 0 && out->top_logprob[k - 1] < v; k--) {
            out->top_logprob[k] = out->top_logprob[k - 1];
            out->top_id[k] = out->top_id[k - 1];
        }
        out->top_logprob[k] = v;
        out->top_id[k] = i;
    }
}

/* Returns the logarithm of the sum of exponentials of a row whose largest is `most`. */
static double report(const float *row, int n, float most, int top, struct picked *out) {
    double norm = (double)most + log(exp_sum(row, n, most));
    top_of(row, n, top, out);
    for (int k = 0; k < out->top_count; k++) out->top_logprob[k] = (float)((double)out->top_logprob[k] - norm);
    return norm;
}

void pick_score(const float *logits, int vocab, int32_t id, int top, struct picked *out) {
    int32_t best;
    float most = most_of(logits, vocab, &best);
    double norm = report(logits, vocab, most, top, out);
    out->id = id;
    out->logprob = (float)((double)logits[id] - norm);
}

/* ---- the choice ---- */

/* The row with -infinity wherever nothing can be chosen. */
static void allowed_row(const float *logits, int vocab, const uint32_t *mask, float *row) {
    for (int i = 0; i < vocab; i += 32) {
        uint32_t bits = mask ? mask[i >> 5] : ~0u;
        int n = vocab - i < 32 ? vocab - i : 32;
        if (bits == 0)
            for (int k = 0; k < n; k++) row[i + k] = -INFINITY;
        else
            for (int k = 0; k < n; k++) row[i + k] = bits >> k & 1 && logits[i + k] > -INFINITY ? logits[i + k] : -INFINITY;
    }
}

static inline bool before(const struct candidate *a, const struct candidate *b) {
    return a->score > b->score || (a->score == b->score && a->id < b->id);
}

/* Brings the k that come first to the front, in any order (quickselect). */
static void select_first(struct candidate *c, int n, int k) {
    int low = 0, high = n - 1;
    while (low < high) {
        struct candidate pivot = c[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (before(&c[i], &pivot)) i++;
            while (before(&pivot, &c[j])) j--;
            if (i <= j) {
                struct candidate t = c[i];
                c[i++] = c[j];
                c[j--] = t;
            }
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
}

static void sift_down(struct candidate *c, int n, int at) { /* the last in order at the root */
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(&c[child], &c[child + 1])) child++;
        if (!before(&c[at], &c[child])) break;
        struct candidate t = c[at];
        c[at] = c[child];
        c[child] = t;
    }
}

static void sort(struct candidate *c, int n) {
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(c, n, i);
    for (int end = n - 1; end > 0; end--) {
        struct candidate t = c[0];
        c[0] = c[end];
        c[end] = t;
        sift_down(c, end, 0);
    }
}

/* Candidates of which only as many are sorted as somebody looks at: with top-p most of a vocabulary is never looked at. */
struct ranking {
    struct candidate *c;
    int count, sorted;
    double top;          /* the first score */
};

static const struct candidate *ranked(struct ranking *r, int i) {
    while (i >= r->sorted) {
        int left = r->count - r->sorted, take = r->sorted ? r->sorted * 3 : 64;
        if (take > left) take = left;
        select_first(r->c + r->sorted, left, take);
        sort(r->c + r->sorted, take);
        r->sorted += take;
    }
    return &r->c[i];
}

static double weight(struct ranking *r, int i) { return exp((double)ranked(r, i)->score - r->top); }

/* Every candidate, or those that top-k leaves. A heap of the k best scores gives the cut in one pass over the row. */
static int collect(const float *row, int vocab, const struct pick *p, struct candidate *c) {
    float cut = -INFINITY;
    int k = p->top_k, n = 0;
    if (k > 0 && k < vocab) {
        for (int32_t i = 0; i < vocab; i++) {
            if (!(row[i] > cut)) continue;
            struct candidate one = {i, row[i]};
            if (n < k) c[n++] = one;
            else c[0] = one, sift_down(c, n, 0);
            if (n < k) continue;
            if (cut == -INFINITY)
                for (int at = k / 2 - 1; at >= 0; at--) sift_down(c, n, at);
            cut = c[0].score;
        }
        if (n < k) cut = -INFINITY;
        n = 0;
    }
    /* Scores that differ may become equal by the division: ties with the k-th are decided behind it. */
    float least = cut / p->temperature, near = cut - fabsf(cut) * 1e-6f;
    for (int32_t i = 0; i < vocab; i++) {
        if (!(row[i] >= near) || !(row[i] > -INFINITY)) continue;
        float score = row[i] / p->temperature;
        if (score >= least) c[n++] = (struct candidate){i, score};
    }
    return n;
}

/* One draw among candidates of which the first `sorted` are in order. */
static int32_t draw(struct candidate *c, int count, int sorted, const struct pick *p) {
    struct ranking r = {.c = c, .count = count, .sorted = sorted};
    if (r.count == 0) return -1;
    r.top = (double)ranked(&r, 0)->score;
    int n = r.count;
    double total = 0;
    for (int i = 0; i < n; i++) total += exp((double)c[i].score - r.top);
    if (p->top_p < 1) { /* the smallest set whose probability reaches p */
        double sum = 0, enough = (double)p->top_p * total;
        int kept = 0;
        while (kept < n && (kept == 0 || sum < enough)) sum += weight(&r, kept++);
        n = kept;
        total = sum;
    }
    if (p->min_p > 0) {
        double sum = 0;
        int kept = 0;
        while (kept < n && (kept == 0 || weight(&r, kept) >= (double)p->min_p)) sum += weight(&r, kept++);
        n = kept;
        total = sum;
    }
    double at = p->draw * total;
    for (int i = 0; i < n; i++)
        if ((at -= weight(&r, i)) < 0) return ranked(&r, i)->id;
    return ranked(&r, n - 1)->id;
}

/* Scores that differ may become equal by the division: those that do are ordered by id again. */
static int32_t sample_ranked(const struct pick_ranked *r, const struct pick *p, bool *known) {
    struct candidate c[PICK_RANKED];
    int n = 0, sorted = 0;
    bool all = r->count < PICK_RANKED;
    *known = all || (p->top_k >= 1 && p->top_k < r->count && r->logit[p->top_k - 1] / p->temperature > r->logit[r->count - 1] / p->temperature);
    if (!*known) return -1;
    int k = p->top_k >= 1 && p->top_k < r->count ? p->top_k : r->count;
    float least = k ? r->logit[k - 1] / p->temperature : 0;
    for (int i = 0; i < r->count; i++) {
        struct candidate one = {r->id[i], r->logit[i] / p->temperature};
        if (!(one.score >= least)) break;
        int at = n++;
        for (; at > 0 && before(&one, &c[at - 1]); at--) c[at] = c[at - 1];
        c[at] = one;
    }
    sorted = n;
    return draw(c, n, sorted, p);
}

bool pick_from_ranked(const struct pick_ranked *r, const struct pick *p, struct picked *out) {
    int top = p->top < 0 ? 0 : p->top > PICK_TOP_MOST ? PICK_TOP_MOST : p->top;
    bool known = true;
    if (p->mask || p->adjust_count) return false;
    *out = (struct picked){.id = -1};
    if (r->count == 0) return true;
    int32_t id = p->sampled ? sample_ranked(r, p, &known) : r->id[0];
    if (!known) return false;
    out->top_count = r->count < top ? r->count : top;
    for (int i = 0; i < r->count; i++) {
        float logprob = (float)((double)r->logit[i] - r->norm);
        if (i < out->top_count) out->top_id[i] = r->id[i], out->top_logprob[i] = logprob;
        if (r->id[i] == id) out->id = id, out->logprob = logprob;
    }
    return true;
}

void pick_from_logits(const float *logits, int vocab, const struct pick *p, void *work, struct picked *out) {
    struct candidate *candidates = work;
    float *row = (float *)(candidates + vocab);
    int32_t best;
    if (!p->mask && !p->adjust_count && (!p->sampled || (p->top_k >= 1 && p->top_k < PICK_RANKED))) { /* the row as it is, read twice */
        struct pick_ranked first;
        pick_rank(logits, vocab, NAN, &first);
        if (pick_from_ranked(&first, p, out)) return;
    }
    allowed_row(logits, vocab, p->mask, row);
    for (int i = 0; i < p->adjust_count; i++) row[p->adjust[i].id] += p->adjust[i].bias;
    float most = most_of(row, vocab, &best);
    *out = (struct picked){.id = -1};
    if (best < 0) return;
    int top = p->top < 0 ? 0 : p->top > PICK_TOP_MOST ? PICK_TOP_MOST : p->top;
    double norm = report(row, vocab, most, top, out);
    bool penalties = false;
    for (int i = 0; i < p->adjust_count; i++) {
        const struct pick_adjust *a = &p->adjust[i];
        if (a->minus == 0 && a->factor == 1 && a->then_minus == 0) continue;
        float v = row[a->id] - a->minus;
        row[a->id] = (v < 0 ? v * a->factor : v / a->factor) - a->then_minus;
        penalties = true;
    }
    if (p->sampled) out->id = draw(candidates, collect(row, vocab, p, candidates), 0, p);
    else if (penalties) most_of(row, vocab, &out->id);
    else out->id = best;
    if (out->id < 0) return;
    float chosen = logits[out->id];
    for (int i = 0; i < p->adjust_count; i++)
        if (p->adjust[i].id == out->id) chosen += p->adjust[i].bias;
    out->logprob = (float)((double)chosen - norm);
}
