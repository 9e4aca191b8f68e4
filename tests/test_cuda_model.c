/* The CUDA backend's ways against each other and against the CPU backend, on checkpoints with the proportions of the real ones (heads of
 * 128, every storage kind): one pass over a prompt, many small passes (decode steps as CUDA graphs), steps of many sequences at
 * once with and without a common beginning. */
#include "backend/cuda/cuda.h"
#include "backend/pick.h"
#include "golden.h"
#include "made_checkpoint.h"

enum { TOKENS = 150, SEQUENCES = 11 };

struct model {
    const struct backend *b;
    struct backend_model *m;
    int vocab;
};

static struct span span_of(const int32_t *ids, const int32_t *positions, int first, int count, const int32_t *pages) {
    return (struct span){.ids = ids + first, .count = count, .first = first, .positions = positions + 3 * first, .pages = pages, .page_count = (first + count + 31) / 32};
}

static void forward(const struct model *d, const struct span *s, int count) {
    struct err err = {0};
    if (d->b->forward(d->m, s, count, &err)) fail_msg("%s: %s", d->b->name, err.message);
}

/* The prompt in chunks, logits of every row; pages stay with the caller. */
static void run(const struct model *d, const int32_t *ids, const int32_t *positions, int n, int chunk, const int32_t *pages, float *logits) {
    int rows[TOKENS];
    for (int i = 0; i < TOKENS; i++) rows[i] = i;
    for (int at = 0; at < n; at += chunk) {
        int count = n - at < chunk ? n - at : chunk;
        struct span s = span_of(ids, positions, at, count, pages);
        s.logits_rows = rows, s.logits_count = count, s.logits = logits + (size_t)at * (size_t)d->vocab;
        forward(d, &s, 1);
    }
}

static void near(const char *what, const float *a, const float *b, size_t n, double limit) {
    double d = relative_distance(a, b, n);
    if (!(d <= limit)) fail_msg("%s: distance %.3g, expected at most %.3g", what, d, limit);
}

static struct model open_on(const struct backend *b, struct checkpoint *c, bool kv_fp8) {
    struct model d = {.b = b, .vocab = checkpoint_config(c)->text.vocab};
    struct err err = {0};
    struct backend_options o = {.threads = 2, .kv_bytes = 16 << 20, .kv_fp8 = kv_fp8};
    if (b->load(c, &o, &d.m, &err)) fail_msg("%s", err.message);
    return d;
}

static void check_format(enum made_format format, bool kv_fp8) {
    const double limit = kv_fp8 ? 0.1 : 0.03;
    struct err err = {0};
    struct checkpoint *c;
    char folder[64];
    made_checkpoint(format, folder);
    if (checkpoint_open(folder, &c, &err)) fail_msg("%s", err.message);
    struct model cpu = open_on(&backend_cpu, c, false), gpu = open_on(&backend_cuda, c, kv_fp8);
    int32_t ids[TOKENS], positions[TOKENS * 3], page[SEQUENCES][8];
    size_t vocab = (size_t)gpu.vocab, all = TOKENS * vocab;
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + i * i) % gpu.vocab, positions[i * 3] = i, positions[i * 3 + 1] = i / 2 + 3, positions[i * 3 + 2] = i + 1;
    for (int s = 0; s < SEQUENCES; s++)
        for (int i = 0; i < 8; i++) assert_true((page[s][i] = gpu.b->page_alloc(gpu.m)) >= 0);
    for (int i = 0; i < 8; i++) assert_true(cpu.b->page_alloc(cpu.m) >= 0);
    float *want = malloc(all * sizeof *want), *whole = malloc(all * sizeof *whole), *steps = malloc(all * sizeof *steps);
    run(&cpu, ids, positions, TOKENS, TOKENS, (int32_t[8]){0, 1, 2, 3, 4, 5, 6, 7}, want);
    memset(whole, 0xFF, all * sizeof *whole);
    run(&gpu, ids, positions, TOKENS, TOKENS, page[0], whole);
    near("one pass", whole, want, all, limit);
    memset(steps, 0xFF, all * sizeof *steps);
    run(&gpu, ids, positions, 70, 7, page[1], steps); /* few rows of one sequence */
    run(&gpu, ids, positions, 40, 40, page[2], steps);
    near("passes of 7", steps, want, 70 * vocab, limit);
    for (int at = 70; at < 130; at++) {
        int row = 0;
        struct span s = span_of(ids, positions, at, 1, page[1]);
        s.logits_rows = &row, s.logits_count = 1, s.logits = steps + (size_t)at * vocab;
        forward(&gpu, &s, 1);
    }
    near("steps", steps, want, 130 * vocab, limit);
    fprintf(stderr, "  %-10s%s from the CPU: one pass %.2e, steps %.2e\n", made_name[format], kv_fp8 ? " FP8 pages" : "", relative_distance(whole, want, all), relative_distance(steps, want, 130 * vocab));

    /* Sequences that stop at different lengths, then a step of all; the first six share their beginning with page[1]. */
    int length[SEQUENCES];
    struct span s[SEQUENCES];
    struct pick pick[SEQUENCES];
    struct picked picked[SEQUENCES], expected;
    float *logits = malloc(SEQUENCES * vocab * sizeof *logits);
    int row = 0;
    void *work = malloc(pick_work_bytes(gpu.vocab));
    for (int i = 0; i < SEQUENCES; i++) {
        length[i] = i < 6 ? 128 + i * 3 : 20 * i - 100;
        int own = i < 6 ? 4 : 0;
        int32_t pages[8];
        for (int k = 0; k < 8; k++) pages[k] = k < own ? page[1][k] : page[i == 1 ? 0 : i][k];
        memcpy(page[i == 1 ? 0 : i], pages, sizeof pages);
    }
    for (int i = 0; i < SEQUENCES; i++) {
        int32_t *mine = page[i == 1 ? 0 : i];
        if (i == 0 || i == 1) continue; /* hold it already */
        int from = i < 6 ? 128 : 0;
        if (length[i] > from) {
            struct span p = span_of(ids, positions, from, length[i] - from, mine);
            forward(&gpu, &p, 1);
        }
    }
    int count = 0;
    for (int i = 2; i < SEQUENCES; i++, count++) {
        s[count] = span_of(ids, positions, length[i], 1, page[i]);
        s[count].logits_rows = &row, s[count].logits_count = 1, s[count].logits = logits + (size_t)count * vocab;
        pick[count] = (struct pick){.sampled = i % 2, .temperature = 0.8f, .top_k = i % 3 ? 20 : 0, .top_p = 1, .draw = 0.37, .top = 5};
        s[count].picks = &pick[count], s[count].picked = &picked[count], s[count].pick_count = 1;
    }
    memset(logits, 0xFF, SEQUENCES * vocab * sizeof *logits);
    forward(&gpu, s, count);
    for (int k = 0; k < count; k++) {
        near("a step of many sequences", logits + (size_t)k * vocab, want + (size_t)length[k + 2] * vocab, vocab, limit);
        pick_from_logits(logits + (size_t)k * vocab, gpu.vocab, &pick[k], work, &expected);
        assert_int_equal(picked[k].id, expected.id);
        assert_int_equal(picked[k].top_id[4], expected.top_id[4]);
    }
    /* The same beside a prompt's chunk. */
    s[count] = span_of(ids, positions, 0, 90, page[0]);
    memset(logits, 0xFF, SEQUENCES * vocab * sizeof *logits);
    forward(&gpu, s, count + 1);
    for (int k = 0; k < count; k++) {
        near("a step beside a prompt", logits + (size_t)k * vocab, want + (size_t)length[k + 2] * vocab, vocab, limit);
        pick_from_logits(logits + (size_t)k * vocab, gpu.vocab, &pick[k], work, &expected);
        assert_int_equal(picked[k].id, expected.id);
    }
    /* More rows than one plan of attention takes, a chunk in front of them. */
    enum { MANY = 67 };
    struct span many[MANY + 1];
    float *each = malloc(MANY * vocab * sizeof *each);
    many[0] = s[count];
    for (int k = 0; k < MANY; k++) {
        many[k + 1] = s[k % count];
        many[k + 1].picks = NULL, many[k + 1].pick_count = 0, many[k + 1].logits = each + (size_t)k * vocab;
    }
    memset(each, 0xFF, MANY * vocab * sizeof *each);
    forward(&gpu, many, MANY + 1);
    for (int k = 0; k < MANY; k++) near("a step of very many sequences", each + (size_t)k * vocab, want + (size_t)length[k % count + 2] * vocab, vocab, limit);
    free(each);
    free(work), free(logits), free(want), free(whole), free(steps);
    gpu.b->unload(gpu.m);
    cpu.b->unload(cpu.m);
    checkpoint_close(c);
    made_remove(folder);
}

/* One pass over a prompt with quantised activations, as the CPU backend has them too; rounding moves values across e4m3's boundaries, so it is
 * the size of the difference that is compared with what quantising does. A step of few rows afterwards has bf16 activations. */
static void quantised(void **state) {
    (void)state;
    struct err err = {0};
    struct checkpoint *c;
    char folder[64];
    made_checkpoint(MADE_FP8, folder);
    if (checkpoint_open(folder, &c, &err)) fail_msg("%s", err.message);
    struct backend_options o = {.threads = 2, .kv_bytes = 16 << 20, .fp8_e4m3_activations = true};
    struct model plain = open_on(&backend_cpu, c, false), cpu = {.b = &backend_cpu, .vocab = plain.vocab}, gpu = {.b = &backend_cuda, .vocab = plain.vocab};
    if (cpu.b->load(c, &o, &cpu.m, &err) || gpu.b->load(c, &o, &gpu.m, &err)) fail_msg("%s", err.message);
    int32_t ids[TOKENS], positions[TOKENS * 3], page[3][8];
    size_t vocab = (size_t)gpu.vocab, all = TOKENS * vocab;
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + i * i) % gpu.vocab, positions[i * 3] = positions[i * 3 + 1] = positions[i * 3 + 2] = i;
    const struct model *on[3] = {&plain, &cpu, &gpu};
    float *logits[3];
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 8; k++) assert_true((page[i][k] = on[i]->b->page_alloc(on[i]->m)) >= 0);
        logits[i] = malloc(all * sizeof *logits[i]);
        memset(logits[i], 0xFF, all * sizeof *logits[i]);
        run(on[i], ids, positions, TOKENS, TOKENS, page[i], logits[i]);
    }
    double ours = relative_distance(logits[2], logits[1], all), effect = relative_distance(logits[1], logits[0], all), moved = relative_distance(logits[2], logits[0], all);
    fprintf(stderr, "  e4m3 activations: %.2e from the CPU's; quantising moves the CPU's by %.2e, ours by %.2e\n", ours, effect, moved);
    if (!(ours < 1.5 * effect && moved < 1.5 * effect && moved > 0.5 * effect)) /* products and quantisation alone: test_cuda_ops.cu */
        fail_msg("quantised activations: %.3g from the CPU's; moved by %.3g, the CPU's by %.3g (is cublasLt there?)", ours, moved, effect);
    for (int i = 0; i < 3; i++) free(logits[i]), on[i]->b->unload(on[i]->m);
    checkpoint_close(c);
    made_remove(folder);
}

static void bf16(void **state) { (void)state; check_format(MADE_BF16, false); }
static void fp8(void **state) { (void)state; check_format(MADE_FP8, false); }
static void nf4(void **state) { (void)state; check_format(MADE_NF4, false); }
static void fp8_pages(void **state) { (void)state; check_format(MADE_BF16, true); }
static void mixed(void **state) { (void)state; check_format(MADE_MIXED, false); }

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16), cmocka_unit_test(fp8), cmocka_unit_test(nf4), cmocka_unit_test(mixed), cmocka_unit_test(fp8_pages), cmocka_unit_test(quantised)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
