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
    assert_false(cuda_can_pick(m, &k)); /* the whole vocabulary */
    cudaFree(device);
    cudaFree(m->buffer[BUFFER_PICKS].data);
    cudaFreeHost(m->pinned[PINNED_PICKS].data);
    cudaStreamDestroy(m->stream);
    free(logits), free(mask), free(work), free(m);
}

static void picks(void **) {
    check_vocab(349);
    check_vocab(5000);
    check_vocab(151936);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(picks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
