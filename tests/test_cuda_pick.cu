/* Picks on the device against backend/pick.h: random rows with ties, masks, biases, penalties, every way of choosing. */
#include <math.h>

extern "C" {
#include "backend/pick.h"
#include "test.h"
#include "ops_data.h"
}
#include "backend/cuda/room.h"

static void ok(cudaError_t e, int line) {
    if (e) fail_msg("line %d: %s", line, cudaGetErrorString(e));
}
#define OK(call) ok(call, __LINE__)

enum { ROWS = 6 };

static void check_vocab(int vocab) {
    struct backend_model *m = (struct backend_model *)calloc(1, sizeof *m);
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    m->arch = p.major * 10 + p.minor, m->w.config.text.vocab = vocab;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    size_t n = (size_t)vocab, words = (n + 31) / 32;
    float *logits = (float *)malloc(ROWS * n * 4), *device;
    uint32_t *mask = (uint32_t *)malloc(words * 4);
    void *work = malloc(pick_work_bytes(vocab));
    OK(cudaMalloc((void **)&device, ROWS * n * 4));
    for (int turn = 0; turn < 12; turn++) {
        struct pick_adjust adjust[3][5];
        struct pick pick[ROWS];
        struct picked got[ROWS], want;
        struct pick_place place[ROWS];
        for (size_t i = 0; i < ROWS * n; i++) logits[i] = turn % 3 == 1 ? (float)(int)(random_float() * 20) : random_float() * 12; /* many equals, or few */
        if (turn == 2) logits[7] = INFINITY * 0, logits[n + 3] = -INFINITY;
        for (size_t i = 0; i < words; i++) mask[i] = turn % 4 == 3 ? 0 : random_bits() & random_bits();
        if (turn % 4 == 3) mask[words / 2] = 1 << 5;
        for (size_t i = 0; turn % 4 == 2 && i < words; i++) mask[i] = i >= words / 3 && i <= words / 3 + words / 40 ? ~0u : 0; /* few pieces hold all */
        for (int r = 0; r < ROWS; r++) {
            struct pick k = {};
            k.top_p = 1, k.temperature = 0.7f;
            k.sampled = r >= 3, k.top_k = r == 3 ? 1 : 20, k.draw = (double)random_bits() / 4294967296.0, k.top = (turn + r) % 3 * 10;
            if (r >= 4) k.top_p = 0.8f;
            if (r == 5) k.min_p = 0.05f;
            if ((turn + r) % 2) k.mask = mask;
            if (r % 2 == turn % 2) {
                int a = r / 2;
                for (int i = 0; i < 5; i++) {
                    adjust[a][i] = {(int32_t)(random_bits() % n), random_float() * 4, 0, 1, 0};
                    if (turn % 5 > 1) adjust[a][i].factor = 1.3f, adjust[a][i].then_minus = 0.5f, adjust[a][i].minus = 0.1f;
                    for (int q = 0; q < i; q++)
                        if (adjust[a][q].id == adjust[a][i].id) adjust[a][i].id = (int32_t)((adjust[a][i].id + 1) % n), q = -1;
                }
                k.adjust = adjust[a], k.adjust_count = 5;
            }
            pick[r] = k;
            place[r] = {&pick[r], &got[r], r};
            assert_true(cuda_can_pick(m, &pick[r]));
        }
        OK(cudaMemcpy(device, logits, ROWS * n * 4, cudaMemcpyHostToDevice));
        OK(cudaDeviceSynchronize()); /* the backend's stream does not wait for this one */
        struct err err = {};
        memset(got, 0xFF, sizeof got);
        if (picks_run(m, place, ROWS, device, &err)) fail_msg("%s", err.message);
        for (int r = 0; r < ROWS; r++) {
            pick_from_logits(logits + (size_t)r * n, vocab, &pick[r], work, &want);
            if (got[r].id != want.id) fail_msg("vocabulary %d, turn %d, row %d: picked %d, expected %d", vocab, turn, r, got[r].id, want.id);
            if (want.id >= 0) assert_true(fabsf(got[r].logprob - want.logprob) < 1e-4f);
            assert_int_equal(got[r].top_count, want.top_count);
            for (int i = 0; i < want.top_count; i++) {
                assert_int_equal(got[r].top_id[i], want.top_id[i]);
                assert_true(fabsf(got[r].top_logprob[i] - want.top_logprob[i]) < 1e-4f);
            }
        }
    }
    /* More than one launch takes, on two rows. */
    enum { MANY = 70 };
    static struct pick many[MANY];
    static struct picked got[MANY];
    static struct pick_place place[MANY];
    for (size_t i = 0; i < 2 * n; i++) logits[i] = random_float() * 12;
    OK(cudaMemcpy(device, logits, 2 * n * 4, cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < MANY; i++) {
        many[i] = {};
        many[i].sampled = i % 5 != 0, many[i].temperature = 0.9f, many[i].top_k = 1 + i * 2, many[i].top_p = 0.95f, many[i].draw = (double)random_bits() / 4294967296.0, many[i].top = i % 21;
        assert_true(cuda_can_pick(m, &many[i]));
        place[i] = {&many[i], &got[i], i % 2};
    }
    struct err err = {};
    if (picks_run(m, place, MANY, device, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < MANY; i++) {
        struct picked want;
        pick_from_logits(logits + (size_t)(i % 2) * n, vocab, &many[i], work, &want);
        if (got[i].id != want.id || got[i].top_count != want.top_count) fail_msg("pick %d: %d, expected %d", i, got[i].id, want.id);
    }
    struct pick k = {};
    k.sampled = true, k.temperature = 1, k.top_p = 1;
    assert_true(cuda_can_pick(m, &k)); /* the whole vocabulary */
    k.top_k = 201;
    assert_int_equal(cuda_can_pick(m, &k), vocab <= 201);
    cudaFree(device);
    cudaFree(m->buffer[BUFFER_PICKS].data);
    cudaFreeHost(m->pinned[PINNED_PICKS].data);
    cudaStreamDestroy(m->stream);
    free(logits), free(mask), free(work), free(m);
}

static bool emulated() {
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    return !strcmp(p.name, "emulated");
}

/* ---- the whole vocabulary ---- */

struct ordered {
    float score;
    int32_t id;
};
static int by_score(const void *x, const void *y) {
    const struct ordered *a = (const struct ordered *)x, *b = (const struct ordered *)y;
    return a->score != b->score ? (a->score < b->score ? 1 : -1) : (a->id > b->id) - (a->id < b->id);
}

/* What pick.h allows: the token at whose share the draw falls, or one nearer to it than 1e-5 of what is kept, whose end may be that far off, too. */
static bool allowed_choice(const float *row, int vocab, const struct pick *p, int32_t id, struct ordered *c, double *upto) {
    const double near = 1e-5;
    int n = 0, own = -1;
    for (int i = 0; i < vocab; i++)
        if (row[i] > -INFINITY && (!p->mask || p->mask[i / 32] >> i % 32 & 1)) c[n++] = {row[i] / p->temperature, i};
    if (n == 0) return id == -1;
    qsort(c, (size_t)n, sizeof *c, by_score);
    double all = 0;
    for (int i = 0; i < n; i++) {
        upto[i] = all += exp((double)c[i].score - (double)c[0].score);
        if (c[i].id == id) own = i;
    }
    if (own < 0) return false;
    for (int side = -1; side <= 1; side++) { /* the end of what is kept, and a little to either side */
        int kept = n;
        if (p->top_p < 1)
            for (kept = 1; kept < n && upto[kept - 1] < (p->top_p + side * near) * all; kept++) {}
        double least = p->min_p * (1 + side * near);
        for (int i = 1; p->min_p > 0 && i < kept; i++)
            if (exp((double)c[i].score - (double)c[0].score) < least) kept = i;
        double total = upto[kept - 1], at = p->draw * total, from = own ? upto[own - 1] : 0;
        if (own < kept && at >= from - near * total && at <= upto[own] + near * total) return true;
    }
    return false;
}

static void check_whole(int vocab, int seeds) {
    struct backend_model *m = (struct backend_model *)calloc(1, sizeof *m);
    cudaDeviceProp prop;
    OK(cudaGetDeviceProperties(&prop, 0));
    m->arch = prop.major * 10 + prop.minor, m->w.config.text.vocab = vocab;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    enum { KINDS = 7, EACH = 12 };
    size_t n = (size_t)vocab, words = (n + 31) / 32;
    float *logits = (float *)malloc(n * 4), *device;
    uint32_t *mask = (uint32_t *)malloc(words * 4);
    struct ordered *c = (struct ordered *)malloc(n * sizeof *c);
    double *upto = (double *)malloc(n * sizeof *upto);
    void *work = malloc(pick_work_bytes(vocab));
    OK(cudaMalloc((void **)&device, n * 4));
    int equal = 0, all = 0;
    for (int kind = 0; kind < KINDS; kind += emulated() && vocab > 100000 ? 3 : 1)
        for (int seed = 0; seed < seeds; seed++) {
            for (size_t i = 0; i < n; i++) {
                float sum = 0;
                for (int k = 0; k < 4; k++) sum += random_float();
                /* Rows as models make them; flat ones; many equals; a peak; nearly all in a few bins, which are cut again; tails far below. */
                logits[i] = kind == 0 ? sum * 3 : kind == 1 ? random_float() * 12 : kind == 2 ? (float)(int)(random_float() * 20) : kind == 3 ? sum + (i == n / 2 ? 14 : 0)
                          : kind == 4 ? 5 + random_float() * 0.02f : kind == 5 ? 1e-3f * random_float() + 1e-6f * random_float() : sum * 40;
            }
            if (seed % 3 == 1 && n > 10) logits[3] = NAN, logits[7] = -INFINITY;
            for (size_t i = 0; i < words; i++) mask[i] = random_bits() | random_bits() | (seed % 2 ? 0 : random_bits());
            if (seed % 5 == 4) memset(mask, 0, words * 4);
            struct pick pick[EACH] = {};
            struct picked got[EACH], again[EACH], want;
            struct pick_place place[EACH];
            for (int i = 0; i < EACH; i++) {
                struct pick *p = &pick[i];
                p->sampled = true, p->temperature = i % 3 == 0 ? 1 : i % 3 == 1 ? 0.6f : 2.5f;
                p->top_p = i % 4 == 1 ? 0.9f : i % 4 == 3 ? 0.5f : 1, p->min_p = i % 4 >= 2 ? (i % 3 ? 0.02f : 0.3f) : 0, p->top_k = i == 7 ? vocab : 0;
                if (i == 10) p->top_p = 1e-6f;
                p->draw = i == 11 ? 1 - 0x1p-53 : i == 8 ? 0 : (double)random_bits() / 4294967296.0, p->top = i % 4, p->mask = i >= 5 && i < 8 ? mask : NULL;
                place[i] = {p, &got[i], 0};
                assert_true(cuda_can_pick(m, p));
            }
            struct err err = {};
            for (int turn = 0; turn < 2; turn++) {
                OK(cudaMemcpy(device, logits, n * 4, cudaMemcpyHostToDevice));
                OK(cudaDeviceSynchronize());
                memset(got, 0xFF, sizeof got);
                /* Alone or among others: the same. */
                if (turn ? picks_run(m, place, EACH, device, &err) : picks_run(m, place + EACH / 2, EACH - EACH / 2, device, &err) || picks_run(m, place, EACH / 2, device, &err))
                    fail_msg("%s", err.message);
                if (turn == 0) memcpy(again, got, sizeof got);
            }
            for (int i = 0; i < EACH; i++) {
                pick_from_logits(logits, vocab, &pick[i], work, &want);
                assert_int_equal(got[i].id, again[i].id);
                equal += got[i].id == want.id, all++;
                if (got[i].id != want.id && !allowed_choice(logits, vocab, &pick[i], got[i].id, c, upto))
                    fail_msg("vocabulary %d, kind %d, seed %d, pick %d: %d, expected %d (draw %.17g)", vocab, kind, seed, i, got[i].id, want.id, pick[i].draw);
                if (got[i].id >= 0 && got[i].id == want.id) assert_true(fabsf(got[i].logprob - want.logprob) < 1e-4f);
                assert_int_equal(got[i].top_count, want.top_count);
                for (int k = 0; k < want.top_count; k++) assert_int_equal(got[i].top_id[k], want.top_id[k]);
            }
        }
    fprintf(stderr, "  vocabulary %d: %d of %d choices as the CPU's, the others at a border\n", vocab, equal, all);
    assert_true(equal > all - all / 20);
    /* Biases and penalties: the log-probability is of the logit before penalties. */
    for (int turn = 0; turn < 8; turn++) {
        for (size_t i = 0; i < n; i++) logits[i] = random_float() * 6;
        struct pick_adjust adjust[4] = {{1, 9, 0.5f, 1.2f, 0.1f}, {(int32_t)n / 2, 8.5f, 0, turn % 2 ? 1.5f : 1, 0}, {5, -100, 0, 1, 0}, {(int32_t)n - 1, 9, 0, 1, turn % 2 ? 3.0f : 0}};
        struct pick p = {};
        p.sampled = true, p.temperature = 0.5f, p.top_p = 0.9f, p.draw = (turn + 0.5) / 8, p.adjust = adjust, p.adjust_count = 4, p.top = 3;
        struct picked got, want;
        struct pick_place place = {&p, &got, 0};
        struct err err = {};
        OK(cudaMemcpy(device, logits, n * 4, cudaMemcpyHostToDevice));
        OK(cudaDeviceSynchronize());
        if (picks_run(m, &place, 1, device, &err)) fail_msg("%s", err.message);
        pick_from_logits(logits, vocab, &p, work, &want);
        assert_int_equal(got.id, want.id);
        assert_true(fabsf(got.logprob - want.logprob) < 1e-4f);
        assert_int_equal(got.top_id[2], want.top_id[2]);
    }
    cudaFree(device);
    cudaFree(m->buffer[BUFFER_PICKS].data);
    cudaFreeHost(m->pinned[PINNED_PICKS].data);
    cudaStreamDestroy(m->stream);
    free(logits), free(mask), free(c), free(upto), free(work), free(m);
}

static void whole_vocabulary(void **) {
    check_whole(349, emulated() ? 4 : 20);
    check_whole(5000, emulated() ? 2 : 20);
    check_whole(151936, emulated() ? 1 : 4);
}

static void picks(void **) {
    check_vocab(349);
    check_vocab(5000);
    check_vocab(151936);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(picks), cmocka_unit_test(whole_vocabulary)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
