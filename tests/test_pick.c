/* From logits to a token: pick_from_logits against the same rules written down naively (sort everything), and what must hold at
 * the edges: masks, NaN, ties, penalties, log-probabilities, the share of the draws. */
#include <math.h>

#include "backend/pick.h"
#include "test.h"

enum { VOCAB = 5003 };

static uint64_t random_state = 7;
static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* Bell-shaped; coarse: many equal values. */
static void random_row(float *row, bool coarse) {
    for (int i = 0; i < VOCAB; i++) {
        double v = (uniform() + uniform() + uniform() + uniform() - 2) * 8;
        row[i] = (float)(coarse ? round(v) : v);
    }
}

static double round_to(double v, double step) { return round(v / step) * step; }

struct scored {
    int32_t id;
    float score;
    double weight;
};
static int by_score(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The definition, with no shortcut. */
static int32_t naive(const float *logits, const struct pick *p, double *logprob) {
    static struct scored c[VOCAB];
    double all = 0;
    int n = 0;
    static float biased[VOCAB];
    for (int32_t i = 0; i < VOCAB; i++) {
        if ((p->mask && !(p->mask[i >> 5] >> (i & 31) & 1)) || isnan(logits[i])) continue;
        float v = logits[i];
        for (int k = 0; k < p->adjust_count; k++)
            if (p->adjust[k].id == i) v += p->adjust[k].bias;
        biased[i] = v;
        all += exp((double)v);
        for (int k = 0; k < p->adjust_count; k++) {
            const struct pick_adjust *a = &p->adjust[k];
            if (a->id != i) continue;
            v -= a->minus;
            v = v < 0 ? v * a->factor : v / a->factor;
            v -= a->then_minus;
        }
        c[n++] = (struct scored){i, p->sampled ? v / p->temperature : v, 0};
    }
    if (n == 0) return -1;
    qsort(c, (size_t)n, sizeof *c, by_score);
    int32_t id = c[0].id;
    if (p->sampled) {
        if (p->top_k > 0)
            while (n > p->top_k && c[n - 1].score < c[p->top_k - 1].score) n--;
        double total = 0, sum = 0;
        for (int i = 0; i < n; i++) total += c[i].weight = exp((double)c[i].score - (double)c[0].score);
        if (p->top_p < 1) {
            int kept = 0;
            while (kept < n && (kept == 0 || sum < (double)p->top_p * total)) sum += c[kept++].weight;
            n = kept;
            total = sum;
        }
        while (n > 1 && c[n - 1].weight < (double)p->min_p) total -= c[--n].weight;
        double at = p->draw * total;
        int i = 0;
        while (i < n - 1 && (at -= c[i].weight) >= 0) i++;
        id = c[i].id;
    }
    *logprob = (double)biased[id] - log(all);
    return id;
}

static void equals_the_definition(void **state) {
    (void)state;
    static float row[VOCAB];
    void *work = malloc(pick_work_bytes(VOCAB));
    uint32_t mask[(VOCAB + 31) / 32];
    for (int round = 0; round < 600; round++) {
        struct pick_adjust adjust[40];
        static const int top_ks[] = {0, 1, 2, 20, 100, 4000, VOCAB + 5};
        static const float top_ps[] = {1, 0.8f, 0.95f, 0.01f}, min_ps[] = {0, 0, 0.05f}, temperatures[] = {1, 0.7f, 0.1f, 3};
        random_row(row, round % 3 == 0);
        for (int i = 0; i < 20; i++) row[(int)(uniform() * VOCAB)] = NAN;
        for (size_t i = 0; i < sizeof mask / sizeof *mask; i++)
            mask[i] = round % 5 == 1 ? (uint32_t)(uniform() * 4294967296.0) : round % 5 == 2 && i % 40 ? 0 : ~0u;
        struct pick p = {.sampled = round % 4 != 0, .temperature = temperatures[round % 4], .top_k = top_ks[round % 7],
                         .top_p = top_ps[round / 4 % 4], .min_p = min_ps[round % 3], .draw = uniform(),
                         .mask = round % 2 ? mask : NULL, .adjust = adjust, .adjust_count = round % 6 == 0 ? 40 : 0};
        for (int k = 0; k < 40; k++)
            adjust[k] = (struct pick_adjust){.id = k * 120 + (int)(uniform() * 100), .bias = (float)(uniform() * 8 - 4),
                                             .minus = (float)uniform(), .factor = 1 + (float)uniform(), .then_minus = 0.5f};
        double logprob = 0;
        struct picked got;
        int32_t want = naive(row, &p, &logprob);
        pick_from_logits(row, VOCAB, &p, work, &got);
        if (got.id != want) fail_msg("round %d: picked %d, expected %d", round, got.id, want);
        if (want >= 0 && fabs((double)got.logprob - logprob) > 1e-5)
            fail_msg("round %d: log-probability %.7f, expected %.7f", round, (double)got.logprob, logprob);
    }
    free(work);
}

/* The ranked beginning of rows of a real vocabulary, against a sort of everything; with it choices are those of the whole row. */
static void ranked_is_the_beginning(void **state) {
    (void)state;
    enum { REAL = 151936 };
    float *row = malloc(REAL * sizeof *row);
    struct scored *sorted = malloc(REAL * sizeof *sorted);
    void *work = malloc(pick_work_bytes(REAL));
    static uint32_t everything[REAL / 32];
    struct pick_ranked r;
    int answered = 0;
    assert_true(row && sorted && work);
    memset(everything, 0xff, sizeof everything);
    for (int round = 0; round < 12; round++) {
        int vocab = round % 4 == 3 ? 40 + round : REAL - round * 7, n = 0;
        double sum = 0;
        for (int i = 0; i < vocab; i++) {
            double v = (uniform() + uniform() + uniform() + uniform() - 2) * 8;
            row[i] = i % 97 == 3 ? NAN : i % 89 == 5 ? -INFINITY : (float)(round % 3 == 1 ? round_to(v, 0.25) : v);
            if (row[i] > -INFINITY) sorted[n++] = (struct scored){i, row[i], 0}, sum += exp((double)row[i]);
        }
        qsort(sorted, (size_t)n, sizeof *sorted, by_score);
        pick_rank(row, vocab, round % 2 ? NAN : log(sum), &r);
        assert_int_equal(r.count, n < PICK_RANKED ? n : PICK_RANKED);
        for (int i = 0; i < r.count; i++)
            if (r.id[i] != sorted[i].id || r.logit[i] != sorted[i].score) fail_msg("round %d: place %d holds %d, expected %d", round, i, r.id[i], sorted[i].id);
        assert_true(fabs(r.norm - log(sum)) < 1e-5);
        for (int k = 0; k < 40; k++) {
            struct pick p = {.sampled = k % 5 != 0, .temperature = 0.7f, .top_k = k % 4 ? 20 : 60, .top_p = k % 2 ? 0.8f : 1, .draw = uniform(), .top = k % 3 * 5};
            struct picked a, b;
            if (!pick_from_ranked(&r, &p, &a)) continue; /* ties may go on behind what is ranked */
            answered++;
            p.mask = everything; /* the way of the whole row */
            pick_from_logits(row, vocab, &p, work, &b);
            if (a.id != b.id) fail_msg("round %d: picked %d, from the whole row %d", round, a.id, b.id);
            assert_true(fabsf(a.logprob - b.logprob) < 1e-5f);
            assert_int_equal(a.top_count, b.top_count);
            for (int i = 0; i < a.top_count; i++) assert_true(a.top_id[i] == b.top_id[i] && fabsf(a.top_logprob[i] - b.top_logprob[i]) < 1e-5f);
        }
        struct pick masked = {.temperature = 1, .top_p = 1, .mask = everything};
        struct picked unused;
        assert_false(pick_from_ranked(&r, &masked, &unused));
    }
    assert_true(answered > 200);
    for (int i = 0; i < REAL; i++) row[i] = 1; /* equals behind what is ranked: only the row can tell */
    pick_rank(row, REAL, NAN, &r);
    struct pick p = {.sampled = true, .temperature = 1, .top_k = 20, .top_p = 1, .draw = 0.999};
    struct picked got;
    assert_false(pick_from_ranked(&r, &p, &got));
    pick_from_logits(row, REAL, &p, work, &got);
    assert_true(got.id > REAL * 0.99 && got.id < REAL);
    free(row);
    free(sorted);
    free(work);
}

static void alternatives_are_the_likeliest(void **state) {
    (void)state;
    static float row[VOCAB];
    void *work = malloc(pick_work_bytes(VOCAB));
    random_row(row, true);
    struct pick p = {.temperature = 1, .top_p = 1, .top = PICK_TOP_MOST};
    struct picked got;
    pick_from_logits(row, VOCAB, &p, work, &got);
    assert_int_equal(got.top_count, PICK_TOP_MOST);
    assert_int_equal(got.top_id[0], got.id);
    assert_true(got.top_logprob[0] == got.logprob);
    for (int k = 1; k < PICK_TOP_MOST; k++) {
        float a = row[got.top_id[k - 1]], b = row[got.top_id[k]];
        assert_true(a > b || (a == b && got.top_id[k - 1] < got.top_id[k]));
    }
    int better = 0;
    for (int i = 0; i < VOCAB; i++) better += row[i] > row[got.top_id[PICK_TOP_MOST - 1]];
    assert_true(better < PICK_TOP_MOST);
    free(work);
}

static void nothing_to_pick(void **state) {
    (void)state;
    static float row[VOCAB];
    static uint32_t none[(VOCAB + 31) / 32];
    void *work = malloc(pick_work_bytes(VOCAB));
    struct picked got;
    random_row(row, false);
    pick_from_logits(row, VOCAB, &(struct pick){.temperature = 1, .top_p = 1, .mask = none}, work, &got);
    assert_int_equal(got.id, -1);
    for (int i = 0; i < VOCAB; i++) row[i] = NAN;
    pick_from_logits(row, VOCAB, &(struct pick){.sampled = true, .temperature = 1, .top_p = 1, .draw = 0.5}, work, &got);
    assert_int_equal(got.id, -1);
    free(work);
}

/* Over many draws each token comes as often as its probability says. */
static void draws_follow_the_probabilities(void **state) {
    (void)state;
    static float row[VOCAB];
    void *work = malloc(pick_work_bytes(VOCAB));
    for (int i = 0; i < VOCAB; i++) row[i] = -50;
    row[17] = logf(0.5f), row[400] = logf(0.3f), row[4999] = logf(0.2f);
    int count[3] = {0};
    enum { DRAWS = 4000 };
    for (int i = 0; i < DRAWS; i++) {
        struct pick p = {.sampled = true, .temperature = 1, .top_p = 1, .draw = uniform()};
        struct picked got;
        pick_from_logits(row, VOCAB, &p, work, &got);
        assert_true(got.id == 17 || got.id == 400 || got.id == 4999);
        count[got.id == 17 ? 0 : got.id == 400 ? 1 : 2]++;
    }
    static const double share[] = {0.5, 0.3, 0.2};
    for (int k = 0; k < 3; k++) assert_true(fabs(count[k] - share[k] * DRAWS) < 5 * sqrt(DRAWS * share[k] * (1 - share[k])));
    free(work);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(equals_the_definition), cmocka_unit_test(ranked_is_the_beginning), cmocka_unit_test(alternatives_are_the_likeliest),
                                       cmocka_unit_test(nothing_to_pick), cmocka_unit_test(draws_follow_the_probabilities)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
