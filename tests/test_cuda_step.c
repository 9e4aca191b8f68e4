/* A decode step as one kernel (persist.cu) against the graph of step.cu: every storage kind, 1 to 8 rows of several lengths, steps one after the
 * other (the exchange of one is wiped by the one before), cut as on a large model and finer, so that passes, pieces, chunks and a short ring come
 * up at this size. Where one row's logits alone are wanted, in pinned memory, the kernel stores them there itself. */
#include "backend/cuda/cuda.h"
#include "golden.h"
#include "made_checkpoint.h"

enum { SEQUENCES = 8, LENGTH = 351, PAGES = 12, STEPS = 4 };
static const char *const ways[] = {"graph", "persistent", "pass=2,piece=1,chunk=1024,slots=16,ahead=64,pace=0", "pass=3,piece=2,chunk=4096,slots=9", "shares=1,pass=1,chunk=4096,slots=4"};

/* Logits of all steps, (STEPS, SEQUENCES, vocab). */
static float *run(struct checkpoint *c, const char *way, size_t *vocab) {
    struct err err = {0};
    struct backend_model *m;
    struct backend_options o = {.threads = 2, .kv_bytes = 16 << 20};
    static const int rows_of[STEPS] = {8, 1, 5, 2}, longer[SEQUENCES] = {175, 0, 31, 33, 1, 20, 7, 12}; /* the first: several shares when alone, more pages than warps and slots beside others */
    assert_int_equal(setenv("PMD_CUDA_STEP", way, 1), 0);
    if (backend_cuda.load(c, &o, &m, &err)) fail_msg("%s", err.message);
    struct backend_info info;
    backend_cuda.describe(m, &info);
    if (strstr(info.kernels, "sm_90")) assert_true((strcmp(way, "graph") != 0) == (strstr(info.kernels, "one kernel a step") != NULL)); /* or nothing is compared */
    *vocab = (size_t)checkpoint_config(c)->text.vocab;
    float *logits = malloc(STEPS * SEQUENCES * *vocab * sizeof *logits);
    memset(logits, 0xFF, STEPS * SEQUENCES * *vocab * sizeof *logits);
    int32_t ids[SEQUENCES][LENGTH + STEPS], positions[(LENGTH + STEPS) * 3], pages[SEQUENCES][PAGES];
    int length[SEQUENCES], row = 0;
    float *pinned = backend_cuda.host_alloc(m, *vocab * sizeof *pinned);
    assert_non_null(pinned);
    for (int i = 0; i < LENGTH + STEPS; i++) positions[i * 3] = i, positions[i * 3 + 1] = i / 2, positions[i * 3 + 2] = i + 2;
    for (int s = 0; s < SEQUENCES; s++) {
        length[s] = 1 + longer[s] * 2 < LENGTH ? 1 + longer[s] * 2 : LENGTH;
        for (int i = 0; i < LENGTH + STEPS; i++) ids[s][i] = (i * 29 + s * 101 + i * i) % (int)*vocab;
        for (int i = 0; i < PAGES; i++) assert_true((pages[s][i] = backend_cuda.page_alloc(m)) >= 0);
        struct span p = {.ids = ids[s], .count = length[s], .positions = positions, .pages = pages[s], .page_count = PAGES};
        if (backend_cuda.forward(m, &p, 1, &err)) fail_msg("%s", err.message);
    }
    for (int t = 0; t < STEPS; t++) {
        struct span span[SEQUENCES];
        for (int s = 0; s < rows_of[t]; s++) {
            span[s] = (struct span){.ids = ids[s] + length[s], .count = 1, .first = length[s], .positions = positions + 3 * length[s], .pages = pages[s], .page_count = PAGES};
            span[s].logits_rows = &row, span[s].logits_count = 1, span[s].logits = logits + ((size_t)t * SEQUENCES + (size_t)s) * *vocab;
            length[s]++;
        }
        bool alone = t == 1 || t == STEPS - 1; /* of one row, and of the second of two */
        const int last = rows_of[t] - 1;
        struct pick pick = {.row = 0};
        struct picked picked = {.id = -1};
        if (alone) {
            for (int s = 0; s < last; s++) memset(span[s].logits, 0, *vocab * sizeof *logits), span[s].logits_count = 0;
            memset(pinned, 0xFF, *vocab * sizeof *pinned);
            span[last].logits = pinned, span[last].picks = &pick, span[last].picked = &picked, span[last].pick_count = 1;
        }
        if (backend_cuda.forward(m, span, rows_of[t], &err)) fail_msg("%s", err.message);
        if (alone) {
            memcpy(logits + ((size_t)t * SEQUENCES + (size_t)last) * *vocab, pinned, *vocab * sizeof *logits);
            assert_in_range(picked.id, 0, *vocab - 1);
            for (size_t k = 0; k < *vocab; k++) assert_true(pinned[k] <= pinned[picked.id]);
        }
        for (int s = rows_of[t]; s < SEQUENCES; s++) memset(logits + ((size_t)t * SEQUENCES + (size_t)s) * *vocab, 0, *vocab * sizeof *logits);
    }
    backend_cuda.host_free(m, pinned);
    backend_cuda.unload(m);
    unsetenv("PMD_CUDA_STEP"); /* slots and shares are asked for at every step */
    return logits;
}

static void check_format(enum made_format format) {
    struct err err = {0};
    struct checkpoint *c;
    char folder[64];
    size_t vocab;
    made_checkpoint(format, folder);
    if (checkpoint_open(folder, &c, &err)) fail_msg("%s", err.message);
    float *want = run(c, ways[0], &vocab);
    for (size_t w = 1; w < sizeof ways / sizeof *ways; w++) {
        float *got = run(c, ways[w], &vocab);
        for (int i = 0; i < STEPS * SEQUENCES; i++) {
            const float *a = got + (size_t)i * vocab, *b = want + (size_t)i * vocab;
            double d = relative_distance(a, b, vocab);
            bool unused = true;
            for (size_t k = 0; k < vocab; k++) unused = unused && b[k] == 0;
            if (!unused && !(d <= 0.02)) fail_msg("%s, %s, step %d, row %d: distance %.3g from the graph", made_name[format], ways[w], i / SEQUENCES, i % SEQUENCES, d);
        }
        fprintf(stderr, "  %-6s %-36s from the graph: %.2e\n", made_name[format], ways[w], relative_distance(got, want, STEPS * SEQUENCES * vocab));
        free(got);
    }
    free(want);
    checkpoint_close(c);
    made_remove(folder);
}

static void bf16(void **state) { (void)state; check_format(MADE_BF16); }
static void fp8(void **state) { (void)state; check_format(MADE_FP8); }
static void nf4(void **state) { (void)state; check_format(MADE_NF4); }
static void mixed(void **state) { (void)state; check_format(MADE_MIXED); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16), cmocka_unit_test(fp8), cmocka_unit_test(nf4), cmocka_unit_test(mixed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
